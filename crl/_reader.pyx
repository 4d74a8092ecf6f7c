"""Reads CRLs strictly and compares them, without a Python object for each entry. See _reader.pyi."""

cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport INT64_MIN, int64_t, uint8_t
from libc.string cimport memcpy, memset

cdef extern from "crl_walk.h" nogil:
    enum:
        WALK_OK, WALK_SHORT, WALK_TAG, WALK_LENGTH, WALK_INTEGER, WALK_TIME, WALK_EXTENSION, WALK_TRAILING
        ENTRY_CRITICAL, ENTRY_TIME_FORM
        FOUND_KINDS
    ctypedef struct walk_span:
        const uint8_t *p
        const uint8_t *end
    ctypedef struct walk_entry:
        walk_span serial
        int64_t revoked_s, invalidity_s
        int reason
        unsigned flags
    ctypedef struct walk_fact:
        uint8_t serial[20]
        uint8_t length, kind, moving, state, reason, known
        int64_t seq, revoked_s, invalidity_s, not_after_ms
    ctypedef int (*walk_found)(void *, int, const uint8_t *, size_t) noexcept nogil
    int walk_take(walk_span *, uint8_t, walk_span *)
    int walk_time(walk_span *, int64_t *, int *)
    int walk_integer(walk_span *, walk_span *)
    int walk_next(walk_span *, walk_entry *)
    int walk_order(const walk_span *, const walk_span *)
    size_t walk_facts_sort(walk_fact *, size_t)
    void walk_compare(walk_span, walk_span, const walk_fact *, size_t, int64_t, walk_found, void *)
    void walk_compare_delta(walk_span, walk_span, const walk_fact *, size_t, int64_t, walk_found, void *)
    void walk_contradictions(walk_span, walk_span, walk_found, void *)
    void walk_common(walk_span, walk_span, walk_found, void *)

Finds = dict  # see _reader.pyi

cdef int64_t NO_TIME = INT64_MIN
cdef int FAULTS_MAX = 10
_WHY = {
    WALK_SHORT: "it ends early",
    WALK_TAG: "an element of another kind than belongs there",
    WALK_LENGTH: "a length that is indefinite, too long or not minimal",
    WALK_INTEGER: "an INTEGER that is empty, padded, negative or too long",
    WALK_TIME: "a time that RFC 5280 does not know",
    WALK_EXTENSION: "an extension that is malformed or there twice",
    WALK_TRAILING: "something follows where nothing belongs",
}


cdef int check(int error) except -1:
    if error:
        raise ValueError(_WHY.get(error, "it cannot be read"))
    return 0


cdef inline bytes octets(walk_span span):
    return span.p[:span.end - span.p]


cdef inline object serial_of(const uint8_t *p, size_t n):
    return int.from_bytes(p[:n], "big")


cdef walk_span whole(walk_span *at, uint8_t tag) except *:
    """The next element with its header."""
    cdef walk_span element, body
    element.p = at.p
    check(walk_take(at, tag, &body))
    element.end = at.p
    return element


@cython.final
cdef class Listing:
    """See _reader.pyi."""

    cdef const uint8_t[::1] held
    cdef object owner  # keeps the bytes there for a thread that still reads them after `release`
    cdef walk_span entries
    cdef size_t count
    cdef readonly tuple tbs, algorithms
    cdef readonly bytes signature, issuer
    cdef readonly object version, this_update_ms, next_update_ms
    cdef readonly list extensions, faults

    def __init__(self, crl not None):
        cdef walk_span rest, outer, body, tbs, bits, inner
        self.held = self.owner = crl
        if self.held.shape[0] == 0:
            raise ValueError(_WHY.get(WALK_SHORT))
        rest.p, rest.end = &self.held[0], &self.held[0] + self.held.shape[0]
        check(walk_take(&rest, 0x30, &outer))
        nothing_left(rest)
        tbs = whole(&outer, 0x30)
        self.tbs = tbs.p - &self.held[0], tbs.end - &self.held[0]
        inner = whole(&outer, 0x30)
        check(walk_take(&outer, 0x03, &bits))
        nothing_left(outer)
        if bits.end - bits.p < 1 or bits.p[0] != 0:
            raise ValueError("a BIT STRING that is not whole octets")
        bits.p += 1
        self.signature = octets(bits)
        check(walk_take(&tbs, 0x30, &body))
        self._read(body, octets(inner))

    cdef int _read(self, walk_span at, bytes outer_algorithm) except -1:
        """The fields of TBSCertList (RFC 5280 section 5.1)."""
        cdef walk_span number
        cdef int64_t seconds
        cdef int form_wrong
        self.faults = []
        self.version = None
        if at.p < at.end and at.p[0] == 0x02:
            check(walk_integer(&at, &number))
            self.version = serial_of(number.p, number.end - number.p)
        self.algorithms = octets(whole(&at, 0x30)), outer_algorithm
        self.issuer = octets(whole(&at, 0x30))
        check(walk_time(&at, &seconds, &form_wrong))
        if form_wrong:
            self.faults.append(("crl_time_form", 0))
        self.this_update_ms = seconds * 1000
        self.next_update_ms = None
        if at.p < at.end and at.p[0] in (0x17, 0x18):
            check(walk_time(&at, &seconds, &form_wrong))
            if form_wrong:
                self.faults.append(("crl_time_form", 0))
            self.next_update_ms = seconds * 1000
        self.entries.p = self.entries.end = at.p
        if at.p < at.end and at.p[0] == 0x30:
            check(walk_take(&at, 0x30, &self.entries))
            if self.entries.p == self.entries.end:
                raise ValueError("revokedCertificates that are there and empty")
            self._walk()
        self.extensions = None
        if at.p < at.end:
            self._read_extensions(&at)
        nothing_left(at)
        return 0

    cdef int _read_extensions(self, walk_span *at) except -1:
        cdef walk_span tagged, all_of_them, one, oid, flag, value
        cdef bint critical
        check(walk_take(at, 0xA0, &tagged))
        check(walk_take(&tagged, 0x30, &all_of_them))
        nothing_left(tagged)
        self.extensions = []
        while all_of_them.p < all_of_them.end:
            check(walk_take(&all_of_them, 0x30, &one))
            check(walk_take(&one, 0x06, &oid))
            critical = False
            if one.p < one.end and one.p[0] == 0x01:
                check(walk_take(&one, 0x01, &flag))
                if flag.end - flag.p != 1 or flag.p[0] != 0xFF:
                    raise ValueError(_WHY.get(WALK_EXTENSION))
                critical = True
            check(walk_take(&one, 0x04, &value))
            nothing_left(one)
            if any(known[0] == octets(oid) for known in self.extensions):
                raise ValueError(_WHY.get(WALK_EXTENSION))
            self.extensions.append((octets(oid), critical, octets(value)))
        return 0

    cdef int _walk(self) except -1:
        """Reads every entry once; counts; notes what is wrong."""
        cdef walk_span at = self.entries, last
        cdef walk_entry entry
        cdef int error = WALK_OK, order
        last.p = last.end = NULL
        with nogil:
            while at.p < at.end:
                error = walk_next(&at, &entry)
                if error:
                    break
                order = -1 if last.p == NULL else walk_order(&last, &entry.serial)
                last = entry.serial
                self.count += 1
                if order >= 0 or entry.flags or (last.end - last.p == 1 and last.p[0] == 0):
                    with gil:
                        self._fault(&entry, order)
        return check(error)

    cdef int _fault(self, walk_entry *entry, int order) except -1:
        serial = serial_of(entry.serial.p, entry.serial.end - entry.serial.p)
        codes = (
            ("crl_duplicate", order == 0),
            ("crl_unsorted", order > 0),
            ("crl_entry_critical", entry.flags & ENTRY_CRITICAL),
            ("crl_time_form", entry.flags & ENTRY_TIME_FORM),
            ("crl_serial", serial == 0),
        )
        for code, there in codes:
            if there and len(self.faults) < FAULTS_MAX:
                self.faults.append((code, serial))
        return 0

    def release(self):
        self.held = None

    def __len__(self):
        return self.count

    def find(self, serial):
        cdef bytes wanted = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
        cdef walk_span at = self.entries, number
        cdef walk_entry entry
        number.p = <const uint8_t *>wanted
        number.end = number.p + len(wanted)
        while at.p < at.end and walk_next(&at, &entry) == WALK_OK:
            if walk_order(&entry.serial, &number) == 0:
                return entry.revoked_s, entry.reason, None if entry.invalidity_s == NO_TIME else entry.invalidity_s
        return None

    def rows(self):
        cdef walk_span at = self.entries
        cdef walk_entry entry
        found = []
        while at.p < at.end and walk_next(&at, &entry) == WALK_OK:
            found.append((
                serial_of(entry.serial.p, entry.serial.end - entry.serial.p), entry.revoked_s, entry.reason,
                None if entry.invalidity_s == NO_TIME else entry.invalidity_s,
            ))
        return found

    def __reduce__(self):
        raise TypeError("cannot pickle a listing")


cdef int nothing_left(walk_span at) except -1:
    if at.p != at.end:
        raise ValueError(_WHY.get(WALK_TRAILING))
    return 0


@cython.final
cdef class Facts:
    """See _reader.pyi."""

    cdef walk_fact *facts
    cdef size_t count, room
    cdef bint sorted

    def __dealloc__(self):
        PyMem_RawFree(self.facts)

    def __len__(self):
        return self.count

    cpdef add(self, bytes serial, int64_t seq, uint8_t kind, bint moving, uint8_t state, int64_t revoked_s,
            uint8_t reason, invalidity_s, int64_t not_after_ms):
        cdef size_t room, n
        cdef void *moved
        cdef walk_fact *fact
        cdef const uint8_t *p
        if serial is None:
            raise TypeError("a serial is octets")
        n = len(serial)
        p = <const uint8_t *>serial
        if n < 1 or n > 20 or (p[0] & 0x80 and n > 19) or p[0] == 0:
            raise ValueError("a serial is positive and fits 20 octets")
        if self.count == self.room:
            room = max(self.room * 2, <size_t>64)
            moved = PyMem_RawRealloc(self.facts, room * sizeof(walk_fact))
            if moved == NULL:
                raise MemoryError
            self.facts, self.room = <walk_fact *>moved, room
        fact = self.facts + self.count
        memset(fact, 0, sizeof(walk_fact))
        fact.length = <uint8_t>(n + (p[0] >> 7))
        memcpy(fact.serial + (p[0] >> 7), p, n)
        fact.seq, fact.kind, fact.moving, fact.state, fact.reason = seq, 0 if moving else kind, moving, state, reason
        fact.known = 1
        fact.revoked_s, fact.not_after_ms = revoked_s, not_after_ms
        fact.invalidity_s = NO_TIME if invalidity_s is None else invalidity_s
        self.count += 1
        self.sorted = False

    def add_changes(self, rows not None, int64_t feed_seq, int64_t fresh_after_seq):
        cdef int64_t seq, revoked_ms
        cdef list fresh = []
        for row in rows:
            seq = row[0]
            if len(row) == 4:
                self.add(row[2], seq, 2 if row[1] == "released" else 1, seq > feed_seq, 0, 0, 0, None, 0)
                self.facts[self.count - 1].known = 0
                if fresh_after_seq < seq <= feed_seq:
                    fresh.append(row[3])
                continue
            revoked_ms = 0 if row[3] is None else row[3]
            self.add(
                row[2], seq, 2 if row[1] == "released" else 1, seq > feed_seq, 1 if row[3] is None else 2,
                revoked_ms // 1000, 0 if row[4] is None else row[4], None if row[5] is None else row[5] // 1000, row[6],
            )
            if fresh_after_seq < seq <= feed_seq:
                fresh.append(row[7])
        return fresh

    def add_states(self, rows not None):
        cdef int64_t revoked_ms
        for row in rows:
            revoked_ms = row[1]
            self.add(
                row[0], 0, 0, False, 2, revoked_ms // 1000, row[2], None if row[3] is None else row[3] // 1000, row[4],
            )

    def without_state(self):
        cdef size_t i
        self.order()
        return [
            serial_of(self.facts[i].serial, self.facts[i].length) for i in range(self.count) if not self.facts[i].known
        ]

    def drop_without_state(self):
        cdef size_t i, kept = 0
        self.order()
        for i in range(self.count):
            if self.facts[i].known:
                self.facts[kept] = self.facts[i]
                kept += 1
        self.count = kept

    cdef void order(self) noexcept:
        if not self.sorted:
            with nogil:
                self.count = walk_facts_sort(self.facts, self.count)
            self.sorted = True

    def __reduce__(self):
        raise TypeError("cannot pickle facts")


cdef struct Tally:
    size_t counts[4]
    size_t named
    uint8_t *names  # FOUND_KINDS times `named` of 21 octets, the first one the length


cdef int note(void *context, int kind, const uint8_t *serial, size_t n) noexcept nogil:
    cdef Tally *tally = <Tally *>context
    cdef uint8_t *name
    if tally.counts[kind] < tally.named:
        name = tally.names + 21 * (<size_t>kind * tally.named + tally.counts[kind])
        name[0] = <uint8_t>n
        memcpy(name + 1, serial, n)
    tally.counts[kind] += 1
    return 0


_KINDS = ("lost", "missing", "wrong", "unknown")


cdef tally_begin(Tally *tally, size_t named):
    memset(tally, 0, sizeof(Tally))
    tally.named = max(named, <size_t>1)
    tally.names = <uint8_t *>PyMem_RawMalloc(FOUND_KINDS * tally.named * 21)
    if tally.names == NULL:
        raise MemoryError


cdef dict tally_end(Tally *tally):
    cdef uint8_t *name
    cdef size_t i, kind
    found = {}
    for kind in range(4):
        serials = []
        for i in range(tally.counts[kind] if tally.counts[kind] < tally.named else tally.named):
            name = tally.names + 21 * (kind * tally.named + i)
            serials.append(serial_of(name + 1, name[0]))
        found[_KINDS[kind]] = (tally.counts[kind], serials)
    PyMem_RawFree(tally.names)
    return found


def compare(Listing now not None, Listing before, Facts facts not None, int64_t kept_from_ms, size_t named):
    cdef Tally tally
    cdef walk_span old
    facts.order()
    old.p = old.end = NULL
    if before is not None:
        old = before.entries
    tally_begin(&tally, named)
    with nogil:
        walk_compare(now.entries, old, facts.facts, facts.count, kept_from_ms, note, &tally)
    return tally_end(&tally)


def compare_delta(Listing delta not None, Listing full not None, Facts facts not None, int64_t kept_from_ms,
                  size_t named):
    cdef Tally tally
    facts.order()
    tally_begin(&tally, named)
    with nogil:
        walk_compare_delta(delta.entries, full.entries, facts.facts, facts.count, kept_from_ms, note, &tally)
    return tally_end(&tally)


def contradictions(Listing delta not None, Listing full not None, size_t named):
    cdef Tally tally
    tally_begin(&tally, named)
    with nogil:
        walk_contradictions(delta.entries, full.entries, note, &tally)
    return tally_end(&tally)


def common(Listing a not None, Listing b not None, size_t named):
    cdef Tally tally
    tally_begin(&tally, named)
    with nogil:
        walk_common(a.entries, b.entries, note, &tally)
    return tally_end(&tally)
