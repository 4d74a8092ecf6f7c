"""The compiled part of OCSP's hot path: reads the plain form of a request, finds kept answers, writes signed ones.

Owns a table of answers ready to send, bounded in bytes. Knows DER octets and the fields of an HTTP answer; not the
store, keys or who may be answered. A request that is written in any other than the plain form is left to
status.request; what is read here is read there alike.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int8_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy
from libc.time cimport time_t

cdef extern from "<time.h>" nogil:
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)
    int CLOCK_MONOTONIC

cdef bytes NONCE_OID = bytes.fromhex("06092b0601050507300102")
cdef bytes BASIC_OID = bytes.fromhex("06092b0601050507300101")
cdef bytes SM3_WITH_SM2 = bytes.fromhex("300a06082a811ccf55018375")
cdef bytes POST_FIELDS = b"HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nContent-Length: "
cdef bytes NO_STORE = POST_FIELDS.replace(b"Content-Length", b"Cache-Control: no-store\r\nContent-Length")

cdef enum:
    NONCE_MAX = 128  # RFC 9654 §2.1
    SERIAL_MAX = 20  # RFC 5280 §4.1.2.2
    PREFIX = 6       # "/ocsp/"

cdef Py_ssize_t OVERHEAD = 1000  # what an entry costs beside its key and its DER


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + 1e-9 * <double>now.tv_nsec


# ---- reading


cdef Py_ssize_t enter(const uint8_t *p, Py_ssize_t *at, Py_ssize_t end, uint8_t tag) noexcept nogil:
    """Moves *at to the contents of the element with `tag`, which must lie before `end`; returns where they end, or -1.

    Definite lengths of at most two octets, minimal (X.690 §10.1).
    """
    cdef Py_ssize_t i = at[0], n
    if end - i < 2 or p[i] != tag:
        return -1
    n = p[i + 1]
    i += 2
    if n == 0x81:
        if end - i < 1 or p[i] < 0x80:
            return -1
        n = p[i]
        i += 1
    elif n == 0x82:
        if end - i < 2 or p[i] == 0:
            return -1
        n = p[i] << 8 | p[i + 1]
        i += 2
    elif n >= 0x80:
        return -1
    if end - i < n:
        return -1
    at[0] = i
    return i + n


cdef Py_ssize_t whole(const uint8_t *p, Py_ssize_t *at, Py_ssize_t end, uint8_t tag) noexcept nogil:
    """As `enter`, for an element that must fill its parent to the end."""
    return end if enter(p, at, end, tag) == end else -1


cdef int read_nonce(const uint8_t *p, Py_ssize_t at, Py_ssize_t end, Py_ssize_t *start, Py_ssize_t *n) noexcept:
    """[2] {SEQUENCE {SEQUENCE {id-pkix-ocsp-nonce, OCTET STRING {OCTET STRING}}}} and nothing else; 0 where not."""
    cdef Py_ssize_t oid = PyBytes_GET_SIZE(NONCE_OID)
    if whole(p, &at, end, 0xA2) < 0 or whole(p, &at, end, 0x30) < 0 or whole(p, &at, end, 0x30) < 0:
        return 0
    if end - at < oid or memcmp(p + at, PyBytes_AS_STRING(NONCE_OID), oid) != 0:
        return 0
    at += oid
    if whole(p, &at, end, 0x04) < 0 or whole(p, &at, end, 0x04) < 0 or not 1 <= end - at <= NONCE_MAX:
        return 0
    start[0], n[0] = at, end - at
    return 1


ctypedef struct Plain:
    Py_ssize_t issuer, issuer_end  # within the CertID
    Py_ssize_t first, serial, end  # the CertID, the serial's octets, and where both end
    Py_ssize_t nonce, nonce_size   # 0: none


cdef bint read_request(const uint8_t *p, Py_ssize_t end, Plain *out) noexcept:
    """Whether the request is written in the plain form (see read_plain), and where its parts are."""
    cdef Py_ssize_t at = 0, tbs, stop
    cdef int i
    if whole(p, &at, end, 0x30) < 0:
        return False
    tbs = whole(p, &at, end, 0x30)
    if tbs < 0:
        return False
    end = enter(p, &at, tbs, 0x30)
    if end < 0 or whole(p, &at, end, 0x30) < 0:
        return False
    out.first = at
    if whole(p, &at, end, 0x30) < 0:
        return False
    out.issuer = at
    for i in range(3):
        stop = enter(p, &at, end, 0x30 if i == 0 else 0x04)
        if stop < 0:
            return False
        at = stop
    out.issuer_end = at
    if whole(p, &at, end, 0x02) < 0:
        return False
    out.serial, out.end = at, end
    if not 1 <= end - at <= SERIAL_MAX or p[at] >= 0x80:
        return False
    if p[at] == 0 and end - at > 1 and p[at + 1] < 0x80:
        return False
    out.nonce = out.nonce_size = 0
    return end == tbs or read_nonce(p, end, tbs, &out.nonce, &out.nonce_size)


cdef inline bytes part(const uint8_t *p, Py_ssize_t at, Py_ssize_t end):
    return PyBytes_FromStringAndSize(<const char *>p + at, end - at)


def read_plain(bytes der not None):
    """(issuer part of the CertID, CertID, serial's octets, nonce or None) of a request about one certificate.

    None where the request is not written in the plain form: version 1 unsaid, no requestor name, no signature, no
    extension but a nonce, a positive serial of at most 20 octets.
    """
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(der)
    cdef Plain plain
    if not read_request(p, PyBytes_GET_SIZE(der), &plain):
        return None
    return (
        part(p, plain.issuer, plain.issuer_end),
        part(p, plain.first, plain.end),
        part(p, plain.serial, plain.end),
        part(p, plain.nonce, plain.nonce + plain.nonce_size) if plain.nonce_size else None,
    )


cdef class Asked:
    """A plain request with a nonce. `octets`: as it came. `answered`: or given to the general way."""



cpdef Asked read_asked(slot, bytes octets):
    """The request, where it is plain and has a nonce; else None."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(octets)
    cdef Plain plain
    cdef Asked asked
    if not read_request(p, PyBytes_GET_SIZE(octets), &plain) or plain.nonce_size == 0:
        return None
    asked = Asked.__new__(Asked)
    asked.slot, asked.octets = slot, octets
    asked.issuer, asked.cert_id = part(p, plain.issuer, plain.issuer_end), part(p, plain.first, plain.end)
    asked.serial = part(p, plain.serial, plain.end)
    asked.nonce = part(p, plain.nonce, plain.nonce + plain.nonce_size)
    return asked


cdef class Gathered:
    """Requests that wait for the end of the pass, at most `max_waiting` with those that were taken and are not done.

    turn() is called once, by `soon`, after the first has come.
    """

    def __init__(self, *, Py_ssize_t max_waiting, soon, turn):
        self.max_waiting, self.soon, self.turn = max_waiting, soon, turn
        self.asked = []

    def __len__(self):
        return len(self.asked)

    cpdef bint add(self, Asked asked) except -1:
        """Whether there was room."""
        if self.waiting >= self.max_waiting:
            return False
        self.waiting += 1
        self.asked.append(asked)
        if len(self.asked) == 1:
            self.soon(self.turn)
        return True

    def take(self, Py_ssize_t most):
        """The first `most`; where some are left, a turn is asked for again."""
        cdef list taken = self.asked
        self.asked = []
        if len(taken) > most:
            taken, self.asked = taken[:most], taken[most:]
            self.soon(self.turn)
        return taken

    def done(self, list asked not None):
        """These are answered."""
        cdef Asked one
        self.waiting -= len(asked)
        for one in asked:
            one.answered = True


def pair_up(list batch not None, dict by_cert_id not None, dict statuses not None):
    """(signer, pairs, rest): requests whose issuer is the first one's, with their statuses; and all the others.

    by_cert_id: issuers (`id`, `signer`) by the issuer part of a CertID. statuses: by (issuer's id, serial's octets).
    """
    cdef Asked asked
    cdef bytes known = None
    cdef list pairs = [], rest = []
    signer = identity = None
    for asked in batch:
        if known is None:
            issuer = by_cert_id.get(asked.issuer)
            if issuer is not None and issuer.signer is not None:
                known, signer, identity = asked.issuer, issuer.signer, issuer.id
        if known is not None and asked.issuer == known:
            status = statuses.get((identity, asked.serial))
            if status is not None:
                pairs.append((asked, status))
                continue
        rest.append(asked)
    return signer, pairs, rest


cdef int8_t sextets[256]  # of base64's letters; -1 for everything else


cdef int make_sextets() except -1:
    cdef int i
    cdef const char *letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for i in range(256):
        sextets[i] = -1
    for i in range(64):
        sextets[<uint8_t>letters[i]] = <int8_t>i
    return 0


make_sextets()


cdef int nibble(uint8_t c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    c |= 0x20
    return c - c'a' + 10 if c'a' <= c <= c'f' else -1


cdef bytes from_path(const uint8_t *p, Py_ssize_t end):
    """The request in "/ocsp/{base64}"; None where its octets are not just base64's, plain or percent-encoded."""
    cdef Py_ssize_t at = PREFIX, n = 0, padding = 0
    cdef uint8_t *to
    cdef uint64_t bits = 0
    cdef int value, have = 0, high, low
    cdef uint8_t c
    if end <= at:
        return None
    out = PyBytes_FromStringAndSize(NULL, ((end - at) * 3 >> 2) + 3)
    to = <uint8_t *>PyBytes_AS_STRING(out)
    while at < end:
        while have == 0 and padding == 0 and end - at >= 4:  # four letters at a time, up to one that is something else
            if (sextets[p[at]] | sextets[p[at + 1]] | sextets[p[at + 2]] | sextets[p[at + 3]]) < 0:
                break
            bits = (<uint64_t>sextets[p[at]] << 18 | <uint64_t>sextets[p[at + 1]] << 12
                    | <uint64_t>sextets[p[at + 2]] << 6 | <uint64_t>sextets[p[at + 3]])
            to[n], to[n + 1], to[n + 2] = <uint8_t>(bits >> 16), <uint8_t>(bits >> 8), <uint8_t>bits
            at += 4
            n += 3
        if at == end:
            break
        c = p[at]
        at += 1
        if c == c'%':
            if end - at < 2:
                return None
            high, low = nibble(p[at]), nibble(p[at + 1])
            if high < 0 or low < 0:
                return None
            c = <uint8_t>(high << 4 | low)
            at += 2
        if c == c'=':
            padding += 1
            if padding > 2:
                return None
            continue
        value = sextets[c]
        if value < 0 or padding:
            return None
        bits = bits << 6 | <uint64_t>value
        have += 6
        if have >= 8:
            have -= 8
            to[n] = <uint8_t>(bits >> have)
            n += 1
    if have == 6 or n == 0:
        return None
    return out[:n]


def decode_path(bytes target not None):
    """See from_path; for tests."""
    return from_path(<const uint8_t *>PyBytes_AS_STRING(target), PyBytes_GET_SIZE(target))


# ---- writing


cdef Py_ssize_t head_size(Py_ssize_t n) noexcept nogil:
    return 2 if n < 0x80 else 3 if n < 0x100 else 4 if n < 0x10000 else 5


cdef uint8_t *head(uint8_t *to, uint8_t tag, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t octets = head_size(n) - 2, i
    to[0] = tag
    if octets == 0:
        to[1] = <uint8_t>n
        return to + 2
    to[1] = <uint8_t>(0x80 | octets)
    for i in range(octets):
        to[2 + i] = <uint8_t>(n >> (8 * (octets - 1 - i)))
    return to + 2 + octets


cdef uint8_t *copy(uint8_t *to, bytes data) noexcept:
    memcpy(to, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return to + PyBytes_GET_SIZE(data)


cdef Py_ssize_t tlv(Py_ssize_t n) noexcept nogil:
    return head_size(n) + n


cpdef bytes response_data(bytes responder_id, bytes produced, bytes cert_id, bytes status, bytes until, bytes extensions,
                          bytes nonce):
    """ResponseData about one certificate (RFC 6960 §4.2.1), thisUpdate being producedAt.

    All but nonce as DER: `status` the CertStatus, `until` [0] nextUpdate, `extensions` [1] singleExtensions or nothing.
    """
    if responder_id is None or produced is None or cert_id is None or status is None or until is None or extensions is None:
        raise TypeError("only the nonce may be None")
    cdef Py_ssize_t single = (PyBytes_GET_SIZE(cert_id) + PyBytes_GET_SIZE(status) + PyBytes_GET_SIZE(produced)
                              + PyBytes_GET_SIZE(until) + PyBytes_GET_SIZE(extensions))
    cdef Py_ssize_t size = PyBytes_GET_SIZE(responder_id) + PyBytes_GET_SIZE(produced) + tlv(tlv(single))
    cdef Py_ssize_t inner = 0, outer = 0, extension = 0
    cdef uint8_t *to
    if nonce is not None:
        inner = tlv(PyBytes_GET_SIZE(nonce))
        extension = PyBytes_GET_SIZE(NONCE_OID) + tlv(inner)
        outer = tlv(extension)
        size += tlv(tlv(outer))
    out = PyBytes_FromStringAndSize(NULL, tlv(size))
    to = head(<uint8_t *>PyBytes_AS_STRING(out), 0x30, size)
    to = copy(copy(to, responder_id), produced)
    to = head(head(to, 0x30, tlv(single)), 0x30, single)
    to = copy(copy(copy(copy(copy(to, cert_id), status), produced), until), extensions)
    if nonce is not None:
        to = head(head(head(to, 0xA1, tlv(outer)), 0x30, outer), 0x30, extension)
        to = copy(to, NONCE_OID)
        to = copy(head(head(to, 0x04, inner), 0x04, PyBytes_GET_SIZE(nonce)), nonce)
    return out


def responses_data(list pairs not None, bytes responder_id not None, bytes produced not None, bytes until not None,
                   bytes unknown_until not None):
    """ResponseData (see response_data) of each (request, status); `unknown_until` for what was never issued."""
    cdef list out = []
    cdef tuple pair
    cdef Asked asked
    cdef bytes written = None, extensions = None, ends = None
    last = None
    for pair in pairs:
        asked = pair[0]
        status = pair[1]
        if status is not last:
            last, written, extensions = status, status.status, status.extensions
            ends = until if status.known else unknown_until
        out.append(response_data(responder_id, produced, asked.cert_id, written, ends, extensions, asked.nonce))
    return out


cdef Py_ssize_t positive(const uint8_t *number, const uint8_t **start, int *zero) noexcept nogil:
    """The minimal contents of an INTEGER for 32 octets, big-endian: their number, where they start, a zero before."""
    cdef Py_ssize_t skip = 0
    while skip < 31 and number[skip] == 0:
        skip += 1
    start[0] = number + skip
    zero[0] = 1 if number[skip] >= 0x80 else 0
    return 32 - skip + zero[0]


cdef uint8_t *integer(uint8_t *to, const uint8_t *start, int zero, Py_ssize_t n) noexcept nogil:
    to = head(to, 0x02, n)
    if zero:
        to[0] = 0
        to += 1
    memcpy(to, start, n - zero)
    return to + n - zero


cdef bytes response(bytes tbs, const uint8_t *signature, bytes certificates):
    """A successful OCSPResponse: r ‖ s of 64 octets over `tbs`; `certificates` is [0] of BasicOCSPResponse."""
    cdef const uint8_t *r
    cdef const uint8_t *s
    cdef int r_zero, s_zero
    cdef Py_ssize_t r_n = positive(signature, &r, &r_zero), s_n = positive(signature + 32, &s, &s_zero)
    cdef Py_ssize_t pair = tlv(r_n) + tlv(s_n)
    cdef Py_ssize_t bits = 1 + tlv(pair)
    cdef Py_ssize_t basic = (PyBytes_GET_SIZE(tbs) + PyBytes_GET_SIZE(SM3_WITH_SM2) + tlv(bits)
                             + PyBytes_GET_SIZE(certificates))
    cdef Py_ssize_t octets = tlv(basic)
    cdef Py_ssize_t typed = PyBytes_GET_SIZE(BASIC_OID) + tlv(octets)
    cdef Py_ssize_t size = 3 + tlv(tlv(typed))
    cdef uint8_t *to
    out = PyBytes_FromStringAndSize(NULL, tlv(size))
    to = head(head(<uint8_t *>PyBytes_AS_STRING(out), 0x30, size), 0x0A, 1)
    to[0] = 0
    to = copy(head(head(to + 1, 0xA0, tlv(typed)), 0x30, typed), BASIC_OID)
    to = copy(copy(head(head(to, 0x04, octets), 0x30, basic), tbs), SM3_WITH_SM2)
    to = head(to, 0x03, bits)
    to[0] = 0
    to = integer(integer(head(to + 1, 0x30, pair), r, r_zero, r_n), s, s_zero, s_n)
    copy(to, certificates)
    return out


def finish(list data not None, bytes signatures not None, bytes certificates not None):
    """The HTTP answers to ResponseDatas with their signatures (64 octets each): not to be stored by anyone."""
    cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(signatures)
    cdef list out = []
    cdef bytes body, fields = None
    cdef Py_ssize_t size = -1, i
    if PyBytes_GET_SIZE(signatures) != 64 * len(data):
        raise ValueError("as many signatures as ResponseDatas are needed")
    for i in range(len(data)):
        body = response(data[i], raw + 64 * i, certificates)
        if PyBytes_GET_SIZE(body) != size:
            size = PyBytes_GET_SIZE(body)
            fields = no_store(size)
        out.append((200, fields, body))
    return out


cpdef bytes no_store(Py_ssize_t size):
    """The fields of an answer of `size` octets that nobody may keep."""
    return NO_STORE + b"%d\r\n" % size


# ---- the table


cdef class Entry:
    """An answer ready to send. `validator`: the ETag in quotes; dates as HTTP writes them."""

    def __init__(self, bytes der not None, owner, int64_t this_update_ms, int64_t refresh_ms, bytes etag not None,
                 bytes last_modified not None, bytes expires not None):
        self.der, self.owner, self.etag = der, owner, etag
        self.this_update_ms, self.refresh_ms = this_update_ms, refresh_ms
        self.post = (200, POST_FIELDS + b"%d\r\n" % len(der), der)
        self.validators = b"ETag: " + etag + b"\r\nLast-Modified: " + last_modified + b"\r\nExpires: " + expires + b"\r\n"
        self.max_age_s = -1

    cdef bytes caching(self, int64_t max_age_s):
        return (b"Cache-Control: max-age=%d, public, no-transform, must-revalidate\r\n" % max_age_s) + self.validators

    cdef tuple got(self, int64_t max_age_s):
        """The answer to a GET."""
        if max_age_s != self.max_age_s:
            self.get = (200, (<bytes>self.post[1]) + self.caching(max_age_s), self.der)
            self.max_age_s = max_age_s
        return self.get

    cdef tuple unchanged(self, int64_t max_age_s):
        """The answer to a GET whose If-None-Match names this answer."""
        return (304, b"HTTP/1.1 304 Not Modified\r\n" + self.caching(max_age_s), b"")


cdef class AnswerTable:
    """Answers by request octets, bounded in bytes, and the two handlers that look there first.

    check() is called before a kept answer is given, once in a pass of the event loop and again where a pass lasts
    longer than `check_every_s`: it returns the time in ms, or -1 where nothing kept may be given. Plain requests with a
    nonce go to `live`, where that has room; miss(request, octets) and odd_path(request) answer what is not here. matches(field, etag) judges If-None-Match. soon: the loop's
    call_soon. Two generations share the bound: what is asked for moves to the younger, and when that is full the older
    one is forgotten.
    """

    def __init__(self, *, Py_ssize_t max_bytes, Py_ssize_t max_request_bytes, int64_t max_age_s,
                 double check_every_s, check, miss, odd_path, matches, soon):
        self.young, self.old, self.owners = {}, {}, {}
        self.max_request_bytes = max_request_bytes
        self.half, self.max_age_s, self.check_every_s = max_bytes // 2, max_age_s, check_every_s
        self.check, self.miss, self.odd_path, self.matches, self.soon = check, miss, odd_path, matches, soon

    def __len__(self):
        return len(self.young) + len(self.old)

    @property
    def size_bytes(self):
        """Memory held, about."""
        return self.young_bytes + self.old_bytes

    def take_hits(self):
        """How often an answer was found since the last call."""
        hits, self.hits = self.hits, 0
        return hits

    # handlers

    def post(self, request):
        """POST /ocsp."""
        cdef bytes octets = request.body
        cdef Entry entry = self.find(octets)
        cdef Asked asked
        if entry is not None:
            return entry.post
        if self.live is not None:
            asked = read_asked(request, octets)
            if asked is not None and self.live.add(asked):
                return request
        return self.miss(request, octets)

    def get(self, request):
        """GET /ocsp/{base64}."""
        cdef bytes target = request.target, octets = None
        cdef Entry entry
        if PyBytes_GET_SIZE(target) - PREFIX <= 4 * self.max_request_bytes:
            octets = from_path(<const uint8_t *>PyBytes_AS_STRING(target), PyBytes_GET_SIZE(target))
        if octets is None:
            return self.odd_path(request)
        entry = self.find(octets)
        if entry is None:
            return self.miss(request, octets)
        return self.got(request, entry)

    def give(self, request, Entry entry not None):
        """The answer of `entry`, which is fresh now, to `request`."""
        return entry.post if request.method == "POST" else self.got(request, entry)

    cdef tuple kept(self, bint posted, const uint8_t *data, Py_ssize_t n):
        """What `post` (`data` the body) or `get` (the target) says where it has the answer; None where it has not.

        For a GET without If-None-Match.
        """
        cdef Entry entry
        cdef bytes octets
        if posted:
            octets = PyBytes_FromStringAndSize(<const char *>data, n)
        elif n - PREFIX <= 4 * self.max_request_bytes:
            octets = from_path(data, n)
        else:
            return None
        if octets is None:
            return None
        entry = self.find(octets)
        if entry is None:
            return None
        return entry.post if posted else entry.got(self.age_s(entry))

    cdef int64_t age_s(self, Entry entry) noexcept:
        """How long a GET's answer may be kept by others."""
        cdef int64_t left_s = (entry.refresh_ms - self.now_ms) // 1000
        return 0 if left_s < 0 else left_s if left_s < self.max_age_s else self.max_age_s

    cdef tuple got(self, request, Entry entry):
        cdef int64_t max_age_s = self.age_s(entry)
        wanted = request.if_none_match
        if wanted is not None and self.matches(wanted, entry.etag):
            return entry.unchanged(max_age_s)
        return entry.got(max_age_s)

    # what is kept

    cdef Entry find(self, bytes octets):
        cdef Entry entry
        if not self.current():
            return None
        kept = self.young.get(octets)
        if kept is None:
            kept = self.old.get(octets)
            if kept is None:
                return None
            entry = kept
            del self.old[octets]
            self.old_bytes -= self.cost(octets, entry)
            self.place(octets, entry)
        entry = kept
        if not entry.this_update_ms <= self.now_ms < entry.refresh_ms:
            return None
        self.hits += 1
        return entry

    cpdef bint current(self) except -1:
        """Whether what is kept may be relied on now."""
        cdef double now = monotonic()
        cdef int64_t now_ms
        self.looked_at = now
        if self.checked and now - self.checked_at < self.check_every_s:
            return True
        self.checks += 1
        now_ms = self.check()
        if now_ms < 0:
            return False
        self.now_ms, self.checked_at = now_ms, now
        if not self.checked:
            self.checked = True
            self.soon(self._pass_ended)
        return True

    def _pass_ended(self):
        self.checked = False

    cdef Py_ssize_t cost(self, bytes octets, Entry entry):
        return PyBytes_GET_SIZE(octets) + PyBytes_GET_SIZE(entry.der) + OVERHEAD

    def put(self, bytes octets not None, Entry entry not None):
        """Keeps `entry` under `octets`."""
        if self.cost(octets, entry) > self.half:
            return
        self.forget(octets)
        self.owners[entry.owner] = (*self.owners.get(entry.owner, ()), octets)
        self.place(octets, entry)

    cdef int place(self, bytes octets, Entry entry) except -1:
        cdef Py_ssize_t cost = self.cost(octets, entry)
        cdef dict gone
        if self.young_bytes + cost > self.half:
            gone, self.old, self.young = self.old, self.young, {}
            self.old_bytes, self.young_bytes = self.young_bytes, 0
            for key, entry_gone in gone.items():
                self.disown(key, entry_gone)
        self.young[octets] = entry
        self.young_bytes += cost
        return 0

    cdef int disown(self, bytes octets, Entry entry) except -1:
        cdef tuple rest = tuple([other for other in self.owners[entry.owner] if other != octets])
        if rest:
            self.owners[entry.owner] = rest
        else:
            del self.owners[entry.owner]
        return 0

    cdef int forget(self, bytes octets) except -1:
        cdef Entry entry = self.young.pop(octets, None)
        if entry is not None:
            self.young_bytes -= self.cost(octets, entry)
        else:
            entry = self.old.pop(octets, None)
            if entry is None:
                return 0
            self.old_bytes -= self.cost(octets, entry)
        return self.disown(octets, entry)

    def drop(self, owner):
        """Forgets every answer about one certificate."""
        cdef bytes octets
        for octets in self.owners.get(owner, ()):
            self.forget(octets)

    def clear(self):
        """Forgets everything."""
        self.young, self.old, self.owners = {}, {}, {}
        self.young_bytes = self.old_bytes = 0
