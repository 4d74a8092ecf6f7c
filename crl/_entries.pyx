"""The entries of one scope's CRL, kept encoded and sorted; and CRLs made of them in one pass. See _entries.pyi."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MIN, SIZE_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **, Py_ssize_t) except -1

cdef extern from "crl_encode.h" nogil:
    enum:
        CRL_SERIAL_MAX
        CRL_ENTRY_MAX
    ctypedef struct crl_serial:
        uint8_t octets[20]
        uint8_t length
    ctypedef struct crl_change:
        crl_serial serial
        uint8_t entry_length
        uint8_t entry[96]
        uint32_t end_s
    ctypedef struct crl_merge:
        uint8_t *out
        uint32_t *ends
        size_t length, count
        const crl_change *next
        const crl_change *last
        uint32_t kept_from_s
    void crl_expect(void *, size_t)
    int crl_serial_set(crl_serial *, const uint8_t *, size_t)
    int crl_serial_compare(const crl_serial *, const crl_serial *)
    size_t crl_entry(uint8_t *, const crl_serial *, int64_t, int, int64_t)
    size_t crl_changes_sort(crl_change *, size_t)
    void crl_merge_run(crl_merge *, const uint8_t *, size_t, const uint32_t *, size_t)
    void crl_merge_finish(crl_merge *)

Row = tuple  # see _entries.pyi

cdef int64_t NO_TIME = INT64_MIN
cdef size_t SIGNATURE_MAX = 72  # SM2Signature: two INTEGERs of at most 33 octets
cdef bytes COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"


cdef uint32_t bounded(int64_t seconds) noexcept:
    """notAfter as it is kept; what is too late for 32 bits never ends."""
    return 0 if seconds < 0 else 0xFFFFFFFF if seconds > 0xFFFFFFFF else <uint32_t>seconds


cdef struct Run:  # entries whose serials have the same number of octets, ascending
    uint8_t *data
    size_t length, room
    uint32_t *ends
    size_t count, ends_room
    crl_serial last


cdef int run_reserve(Run *run, size_t octets, size_t count) except -1:
    cdef size_t room
    cdef void *moved
    if run.length + octets > run.room:
        room = max(run.length + octets, run.room + run.room // 2, <size_t>4096)
        moved = PyMem_RawRealloc(run.data, room)
        if moved == NULL:
            raise MemoryError
        run.data, run.room = <uint8_t *>moved, room
    if run.count + count > run.ends_room:
        room = max(run.count + count, run.ends_room + run.ends_room // 2, <size_t>256)
        moved = PyMem_RawRealloc(run.ends, room * sizeof(uint32_t))
        if moved == NULL:
            raise MemoryError
        run.ends, run.ends_room = <uint32_t *>moved, room
    return 0


@cython.final
cdef class Entries:
    """See _entries.pyi."""

    cdef Run runs[21]  # by octets of the serial; where `whole` is there it has them all and these are empty
    cdef bytes whole
    cdef size_t whole_start, whole_length, whole_count
    cdef uint32_t *whole_ends
    cdef bytes carry
    cdef bint begun

    def __cinit__(self):
        self.carry = b""

    def __dealloc__(self):
        self._drop()

    cdef void _drop(self) noexcept:
        cdef int i
        for i in range(21):
            PyMem_RawFree(self.runs[i].data)
            PyMem_RawFree(self.runs[i].ends)
            memset(&self.runs[i], 0, sizeof(Run))
        PyMem_RawFree(self.whole_ends)
        self.whole_ends = NULL
        self.whole = None
        self.whole_count = self.whole_length = 0

    def __len__(self):
        cdef size_t n = self.whole_count
        for i in range(21):
            n += self.runs[i].count
        return n

    cdef int _append(self, const uint8_t *serial, size_t n, int64_t stamp, int64_t end_s, int64_t invalidity_s) except -1:
        cdef crl_serial number
        cdef Run *run
        cdef size_t length
        if crl_serial_set(&number, serial, n) < 0:
            raise ValueError("a serial is positive and fits 20 octets")
        run = &self.runs[number.length - (number.octets[0] == 0)]
        if run.count and crl_serial_compare(&run.last, &number) >= 0:
            raise ValueError("entries are to be loaded in ascending order of their octets")
        run_reserve(run, CRL_ENTRY_MAX, 1)
        length = crl_entry(run.data + run.length, &number, stamp >> 4, stamp & 15, invalidity_s)
        if length == 0:
            raise ValueError("a time is outside the years that a CRL can tell")
        run.length += length
        run.ends[run.count] = bounded(end_s)
        run.count += 1
        run.last = number
        return 0

    def load_rows(self, list rows not None) -> None:
        cdef bytes serial
        if self.whole is not None:
            raise ValueError("these entries are loaded already")
        for row in rows:
            serial = row[0]
            self._append(
                <const uint8_t *>PyBytes_AS_STRING(serial), len(serial), row[1], row[2],
                NO_TIME if row[3] is None else row[3],
            )

    def load_copy(self, bytes piece not None) -> None:
        """See _entries.pyi. The format: PostgreSQL's manual, COPY, Binary Format."""
        cdef bytes data = self.carry + piece if self.carry else piece
        cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef const uint8_t *p = start
        cdef const uint8_t *end = start + len(data)
        cdef const uint8_t *q
        cdef const uint8_t *at[4]
        cdef int64_t size[4]
        cdef int i
        if not self.begun:
            if end - p < 19:
                self.carry = data
                return
            if data[:11] != COPY_SIGNATURE or <int64_t>number(p + 11, 4) or <int64_t>number(p + 15, 4):
                raise ValueError("not what COPY sends")
            p += 19
            self.begun = True
        while end - p >= 2:
            if number(p, 2) == -1:
                p = end
                break
            if number(p, 2) != 4:
                raise ValueError("not the columns asked for")
            q = p + 2
            for i in range(4):
                if end - q < 4:
                    q = NULL
                    break
                size[i] = number(q, 4)
                q += 4
                at[i] = q
                if size[i] > 0:
                    if end - q < size[i]:
                        q = NULL
                        break
                    q += size[i]
            if q == NULL:
                break
            if size[0] < 0 or size[1] != 8 or size[2] != 8 or (size[3] != 8 and size[3] != -1):
                raise ValueError("not the columns asked for")
            self._append(
                at[0], <size_t>size[0], number(at[1], 8), number(at[2], 8),
                NO_TIME if size[3] < 0 else number(at[3], 8),
            )
            p = q
        self.carry = data[p - start:]

    def draft(self, bytes head not None, bytes tail not None, bytes algorithm not None,
              list changes not None, int64_t kept_from_s) -> Draft:
        cdef crl_change *made = NULL
        cdef size_t n = 0
        try:
            if changes:
                made = <crl_change *>PyMem_RawMalloc(len(changes) * sizeof(crl_change))
                if made == NULL:
                    raise MemoryError
                n = encode_changes(made, changes)
            return self._draft(head, tail, algorithm, made, n, bounded(kept_from_s))
        finally:
            PyMem_RawFree(made)

    cdef Draft _draft(self, bytes head, bytes tail, bytes algorithm, crl_change *changes, size_t n, uint32_t kept):
        cdef size_t room = self.whole_length, count = self.whole_count, i, before
        cdef crl_merge merge
        cdef Draft draft = Draft.__new__(Draft)
        for i in range(21):
            room += self.runs[i].length
            count += self.runs[i].count
        for i in range(n):
            room += changes[i].entry_length
        before = room_before(head, room, len(tail) + len(algorithm))
        draft.ends = <uint32_t *>PyMem_RawMalloc((count + n + 1) * sizeof(uint32_t))
        if draft.ends == NULL:
            raise MemoryError
        draft.data = PyBytes_FromStringAndSize(
            NULL, before + room + len(tail) + len(algorithm) + 3 + SIGNATURE_MAX
        )
        crl_expect(PyBytes_AS_STRING(draft.data), len(draft.data))
        crl_expect(draft.ends, (count + n + 1) * sizeof(uint32_t))
        cdef const uint8_t *whole = NULL
        if self.whole is not None:
            whole = <const uint8_t *>PyBytes_AS_STRING(self.whole) + self.whole_start
        merge.out = <uint8_t *>PyBytes_AS_STRING(draft.data) + before
        merge.ends = draft.ends
        merge.length = merge.count = 0
        merge.next, merge.last, merge.kept_from_s = changes, changes + n, kept
        with nogil:
            if self.whole_count:
                crl_merge_run(&merge, whole, self.whole_length, self.whole_ends, self.whole_count)
            for i in range(21):
                crl_merge_run(&merge, self.runs[i].data, self.runs[i].length, self.runs[i].ends, self.runs[i].count)
            crl_merge_finish(&merge)
        draft.count = merge.count
        draft._close(head, before, merge.length, tail, algorithm)
        return draft

    def settle(self, Draft draft not None) -> None:
        if draft.sealed is None or draft.ends == NULL:
            raise ValueError("only a sealed draft can be settled, and once")
        self._drop()
        self.whole = draft.sealed
        self.whole_start, self.whole_length = draft.entries_start, draft.entries_length
        self.whole_ends, self.whole_count = draft.ends, draft.count
        draft.ends = NULL

    def __reduce__(self):
        raise TypeError("cannot pickle entries")


cdef inline int64_t number(const uint8_t *p, int octets) noexcept:
    """A big-endian number in two's complement."""
    cdef uint64_t value = 0
    cdef int i
    for i in range(octets):
        value = value << 8 | p[i]
    if octets < 8 and p[0] & 0x80:
        value |= (<uint64_t>0xFFFFFFFFFFFFFFFF) << (8 * octets)
    return <int64_t>value


cdef size_t encode_changes(crl_change *made, list changes) except? <size_t>-1:
    cdef size_t n = 0
    cdef crl_change *change
    cdef bytes serial
    cdef int64_t stamp
    for row in changes:
        change = made + n
        n += 1
        serial = row[0]
        if crl_serial_set(&change.serial, <const uint8_t *>PyBytes_AS_STRING(serial), len(serial)) < 0:
            raise ValueError("a serial is positive and fits 20 octets")
        change.entry_length = 0
        if row[1] is None:
            continue
        stamp = row[1]
        change.end_s = bounded(row[2])
        change.entry_length = <uint8_t>crl_entry(
            change.entry, &change.serial, stamp >> 4, stamp & 15, NO_TIME if row[3] is None else row[3]
        )
        if change.entry_length == 0:
            raise ValueError("a time is outside the years that a CRL can tell")
    n = crl_changes_sort(made, n)
    if n == SIZE_MAX:
        raise MemoryError
    return n


cdef size_t put_header(uint8_t *out, uint8_t tag, size_t length) noexcept nogil:
    """out := tag and minimal length; returns how many octets that takes. With NULL only counts."""
    cdef size_t octets = 0, rest = length, i
    if length >= 0x80:
        while rest:
            octets += 1
            rest >>= 8
    if out != NULL:
        out[0] = tag
        out[1] = <uint8_t>(0x80 | octets) if octets else <uint8_t>length
        for i in range(octets):
            out[2 + i] = <uint8_t>(length >> (8 * (octets - 1 - i)))
    return 2 + octets


cdef size_t room_before(bytes head, size_t entries, size_t after) noexcept:
    """What stands before entries of that length or a little less: then the CRL begins where the room does."""
    cdef size_t mine = len(head) + (put_header(NULL, 0x30, entries) if entries else 0)
    cdef size_t headers = put_header(NULL, 0x30, mine + entries + after)
    return mine + headers + put_header(NULL, 0x30, headers + mine + entries + after + 3 + SIGNATURE_MAX)


@cython.final
cdef class Draft:
    """See _entries.pyi. `data`: room for headers, head, entries, tail, algorithm and signature, in that order."""

    cdef bytes data
    cdef readonly bytes sealed
    cdef uint32_t *ends
    cdef readonly size_t count
    cdef size_t start, tbs_start, tbs_end, body_start, size, entries_start, entries_length
    cdef size_t algorithm_length
    cdef int views

    def __dealloc__(self):
        PyMem_RawFree(self.ends)

    def __len__(self):
        return self.size

    cdef int _close(self, bytes head, size_t entries_at, size_t entries_length, bytes tail, bytes algorithm) except -1:
        """Puts everything that is not an entry around the entries; they stay where they are."""
        cdef uint8_t *data = <uint8_t *>PyBytes_AS_STRING(self.data)
        cdef size_t at = entries_at, end = entries_at + entries_length, length
        self.entries_start, self.entries_length = entries_at, entries_length
        if entries_length:  # RFC 5280 section 5.1.2.6: left out where there are none
            at -= put_header(NULL, 0x30, entries_length)
            put_header(data + at, 0x30, entries_length)
        memcpy(data + end, PyBytes_AS_STRING(tail), len(tail))
        end += len(tail)
        at -= len(head)
        memcpy(data + at, PyBytes_AS_STRING(head), len(head))
        length = end - at
        at -= put_header(NULL, 0x30, length)
        put_header(data + at, 0x30, length)
        self.tbs_start, self.tbs_end, self.algorithm_length = at, end, len(algorithm)
        memcpy(data + end, PyBytes_AS_STRING(algorithm), len(algorithm))
        self._finish(b"\0" * SIGNATURE_MAX)
        return 0

    cdef int _finish(self, bytes signature) except -1:
        """Writes the signature and the outermost header; moves the rest where that has another size than it had room."""
        cdef uint8_t *data = <uint8_t *>PyBytes_AS_STRING(self.data)
        cdef size_t n = len(signature), at = self.tbs_end + self.algorithm_length
        data[at] = 0x03
        data[at + 1] = <uint8_t>(n + 1)
        data[at + 2] = 0
        memcpy(data + at + 3, PyBytes_AS_STRING(signature), n)
        cdef size_t end = at + 3 + n, length = end - self.tbs_start
        self.start = self.tbs_start - put_header(NULL, 0x30, length)
        put_header(data + self.start, 0x30, length)
        self.size = end - self.start
        return 0

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.data is None:
            raise BufferError("the draft is sealed")
        PyBuffer_FillInfo(view, self, PyBytes_AS_STRING(self.data) + self.start, self.size, 1, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1

    @property
    def tbs(self):
        """(start, end) of the TBSCertList within the draft."""
        return self.tbs_start - self.start, self.tbs_end - self.start

    def seal(self, bytes signature not None) -> bytes:
        cdef PyObject *data
        cdef size_t start
        if self.data is None:
            raise ValueError("the draft is sealed already")
        if self.views:
            raise BufferError("somebody still looks at the draft")
        if not 0 < len(signature) <= SIGNATURE_MAX:
            raise ValueError("an SM2 signature has at most 72 octets")
        self._finish(signature)
        start = self.start
        if start:
            memmove(PyBytes_AS_STRING(self.data), PyBytes_AS_STRING(self.data) + start, self.size)
        self.entries_start -= start
        # The one reference, taken out of the attribute, so that the bytes may be cut to their length in place.
        data = <PyObject *>self.data
        take(data)
        self.data = None
        _PyBytes_Resize(&data, self.size)
        self.sealed = <bytes>data
        give(data)
        return self.sealed

    def __reduce__(self):
        raise TypeError("cannot pickle a draft")


cdef extern from "Python.h":
    void take "Py_INCREF" (PyObject *)
    void give "Py_DECREF" (PyObject *)
