"""The compiled part of signing's hot path: gathers plain requests of one pass, and writes their answers.

Owns the requests that wait for the end of the pass, sorted by who asks, for which key and in which form. Knows the
plain forms of `POST /v1/sign` and `POST /v1/keys/{key}/sign` (signer.signing.http) and the fields of an HTTP answer;
not callers, keys or signatures. What is written in any other than the plain form is handed to `otherwise`, unjudged.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int8_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

cdef enum:
    DIGEST = 32
    SIGNATURE = 64
    ID_MAX = 64     # of a key (signer.engine.keystore)
    BASE64 = 44     # of a digest, its "=" included
    DER_MAX = 72    # of a signature: two INTEGERs of at most 33 octets
    TEXT_MAX = 96   # of that in base64
    PREFIX = 9      # "/v1/keys/"
    SUFFIX = 5      # "/sign"

cdef bytes KEYS = b"/v1/keys/"
cdef bytes SIGN = b"/sign"
cdef bytes OCTETS = b"application/octet-stream"
cdef bytes JSON_FIELDS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
cdef bytes OCTETS_FIELDS = JSON_FIELDS.replace(b"application/json", OCTETS)
cdef bytes BEFORE = b'{"signature":"'
cdef bytes AFTER = b'","algorithm":"sm2-with-sm3"}'
cdef const char *ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

cdef int8_t sextets[256]  # of base64's letters; -1 for everything else
cdef uint8_t in_id[256]   # whether a key's id may have it


cdef int make_tables() except -1:
    cdef int i
    for i in range(256):
        sextets[i] = -1
        in_id[i] = 0
    for i in range(64):
        sextets[<uint8_t>ALPHABET[i]] = <int8_t>i
        in_id[<uint8_t>ALPHABET[i]] = 1 if i < 62 else 0
    for c in b"._-":
        in_id[<int>c] = 1
    return 0


make_tables()


# ---- reading


ctypedef struct Plain:
    Py_ssize_t key, key_size  # where the key's id stands
    uint8_t digest[DIGEST]


cdef Py_ssize_t space(const uint8_t *p, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    """Where JSON's white space (RFC 8259 §2) ends."""
    while at < n and (p[at] == c' ' or p[at] == c'\n' or p[at] == c'\r' or p[at] == c'\t'):
        at += 1
    return at


cdef Py_ssize_t id_end(const uint8_t *p, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    while at < n and in_id[p[at]]:
        at += 1
    return at


cdef Py_ssize_t read_digest(const uint8_t *p, Py_ssize_t at, Py_ssize_t n, uint8_t *to) noexcept nogil:
    """Reads 32 octets in base64, "/" plain or as JSON may escape it; returns where they end, or -1."""
    cdef uint32_t bits = 0
    cdef int i, have = 0, value
    for i in range(BASE64 - 1):
        if at + 1 >= n:
            return -1
        if p[at] == c'\\' and p[at + 1] == c'/':
            at += 1
        value = sextets[p[at]]
        if value < 0:
            return -1
        at += 1
        bits = bits << 6 | <uint32_t>value
        have += 6
        if have >= 8:
            have -= 8
            to[0] = <uint8_t>(bits >> have)
            to += 1
    if bits & 3 or at >= n or p[at] != c'=':
        return -1
    return at + 1


cdef bint read_plain(const uint8_t *p, Py_ssize_t n, Plain *out) noexcept nogil:
    """Whether it is an object of "key", a key's id, and "digest", 32 octets in base64, in either order and no more."""
    cdef Py_ssize_t at = space(p, 0, n), end
    cdef int member, seen = 0
    if at >= n or p[at] != c'{':
        return False
    at += 1
    for member in range(2):
        at = space(p, at, n)
        if n - at > 5 and seen != 1 and memcmp(p + at, b'"key"', 5) == 0:
            seen, at = 1 if member == 0 else 3, at + 5
        elif n - at > 8 and seen != 2 and memcmp(p + at, b'"digest"', 8) == 0:
            seen, at = 2 if member == 0 else 4, at + 8
        else:
            return False
        at = space(p, at, n)
        if at >= n or p[at] != c':':
            return False
        at = space(p, at + 1, n)
        if at >= n or p[at] != c'"':
            return False
        at += 1
        if seen == 1 or seen == 3:
            end = id_end(p, at, n)
            if not 1 <= end - at <= ID_MAX:
                return False
            out.key, out.key_size = at, end - at
        else:
            end = read_digest(p, at, n, out.digest)
            if end < 0:
                return False
        if end >= n or p[end] != c'"':
            return False
        at = space(p, end + 1, n)
        if at >= n or p[at] != (c',' if member == 0 else c'}'):
            return False
        at += 1
    return space(p, at, n) == n


def read_body(bytes body not None):
    """(key, digest) of a plain body of /v1/sign, or None. For tests."""
    cdef Plain plain
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(body)
    if not read_plain(p, PyBytes_GET_SIZE(body), &plain):
        return None
    return (PyBytes_FromStringAndSize(<const char *>p + plain.key, plain.key_size),
            PyBytes_FromStringAndSize(<const char *>plain.digest, DIGEST))


def read_path(bytes target not None):
    """The key's id in "/v1/keys/{key}/sign", where it is written plainly; else None."""
    cdef const char *p = PyBytes_AS_STRING(target)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(target), end = n - SUFFIX
    if not 1 <= end - PREFIX <= ID_MAX or memcmp(p, PyBytes_AS_STRING(KEYS), PREFIX) != 0:
        return None
    if memcmp(p + end, PyBytes_AS_STRING(SIGN), SUFFIX) != 0:
        return None
    if id_end(<const uint8_t *>p, PREFIX, n) != end:
        return None
    return PyBytes_FromStringAndSize(p + PREFIX, end - PREFIX)


# ---- gathering


cdef class Group:
    """Requests of one pass with one caller, key and form, and their digests. `counts`: how many each has.

    authorization: the header as it was sent, or None. certificate: what `certificate(request)` said.
    """

    cdef readonly bytes authorization, key
    cdef readonly object certificate
    cdef readonly bint octets
    cdef readonly list requests, counts
    cdef readonly Py_ssize_t count
    cdef uint8_t *data
    cdef Py_ssize_t room

    def __dealloc__(self):
        PyMem_Free(self.data)

    @property
    def digests(self):
        """All of them, 32 octets each."""
        return PyBytes_FromStringAndSize(<const char *>self.data, self.count * DIGEST)

    def digests_of(self, Py_ssize_t which):
        """Those of one request."""
        cdef Py_ssize_t at = 0, i
        if not 0 <= which < len(self.counts):
            raise IndexError(which)
        for i in range(which):
            at += <Py_ssize_t>self.counts[i]
        return PyBytes_FromStringAndSize(<const char *>self.data + at * DIGEST, <Py_ssize_t>self.counts[which] * DIGEST)

    cdef bint is_for(self, object authorization, object certificate, bint octets, const uint8_t *key, Py_ssize_t n):
        if octets != self.octets or n != PyBytes_GET_SIZE(self.key) or certificate is not self.certificate:
            return False
        return memcmp(key, PyBytes_AS_STRING(self.key), n) == 0 and authorization == self.authorization

    cdef int add(self, request, const uint8_t *digests, Py_ssize_t count) except -1:
        cdef uint8_t *grown
        cdef Py_ssize_t room
        if self.count + count > self.room:
            room = (self.count + count) * 2 + 16
            grown = <uint8_t *>PyMem_Realloc(self.data, room * DIGEST)
            if grown == NULL:
                raise MemoryError
            self.data, self.room = grown, room
        memcpy(self.data + self.count * DIGEST, digests, count * DIGEST)
        self.count += count
        self.requests.append(request)
        self.counts.append(count)
        return 0


cdef class Gatherer:
    """Handlers for service.wire's routes: `json` for /v1/sign, `octets` for /v1/keys/{key}/sign.

    turn() is called once, by `soon`, when the first request of a pass has come; it is to `take` all groups. No group
    has more than `limit` digests, whatever comes. otherwise(request, key) answers what is not plain (key is None for
    /v1/sign) as a route's handler does. full(request) answers where `max_waiting` digests wait; who took a group says
    when it is `done`. certificate(request), or None, tells what certificate came with the connection.
    """

    cdef object turn, soon, otherwise, full, certificate
    cdef Py_ssize_t limit, max_waiting
    cdef readonly Py_ssize_t waiting
    cdef list groups
    cdef dict open
    cdef Group last

    def __init__(self, *, Py_ssize_t limit, Py_ssize_t max_waiting, turn, soon, otherwise, full, certificate=None):
        self.limit, self.max_waiting = limit, max_waiting
        self.turn, self.soon, self.otherwise, self.full, self.certificate = turn, soon, otherwise, full, certificate
        self.groups, self.open = [], {}

    def json(self, request):
        """POST /v1/sign."""
        cdef Plain plain
        cdef bytes body = request.body
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(body)
        if not read_plain(p, PyBytes_GET_SIZE(body), &plain):
            return self.otherwise(request, None)
        return self.gather(request, False, p + plain.key, plain.key_size, plain.digest, 1)

    def octets(self, request):
        """POST /v1/keys/{key}/sign; None where the path or the media type is not the plain one."""
        cdef bytes key = read_path(request.target)
        cdef bytes body
        cdef Py_ssize_t n
        if key is None or request.content_type != OCTETS:
            return None
        body = request.body
        n = PyBytes_GET_SIZE(body)
        if n == 0 or n % DIGEST or n // DIGEST > self.limit:
            return self.otherwise(request, key)
        return self.gather(request, True, <const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
                           <const uint8_t *>PyBytes_AS_STRING(body), n // DIGEST)

    cdef object gather(self, request, bint octets, const uint8_t *key, Py_ssize_t n, const uint8_t *digests,
                       Py_ssize_t count):
        cdef Group group = self.last
        cdef bytes authorization
        if self.waiting + count > self.max_waiting:
            return self.full(request)
        authorization = request.authorization
        certificate = None if self.certificate is None else self.certificate(request)
        if (group is None or group.count + count > self.limit
                or not group.is_for(authorization, certificate, octets, key, n)):
            group = self.find(authorization, certificate, octets, PyBytes_FromStringAndSize(<const char *>key, n), count)
        group.add(request, digests, count)
        self.waiting += count
        return request

    cdef Group find(self, bytes authorization, certificate, bint octets, bytes key, Py_ssize_t count):
        """The group that so many more digests go to, which is the last one from now on."""
        cdef tuple name = (authorization, certificate, octets, key)
        cdef Group group = self.open.get(name)
        if group is None or group.count + count > self.limit:
            group = Group.__new__(Group)
            group.authorization, group.certificate, group.octets, group.key = name
            group.requests, group.counts = [], []
            if not self.groups:
                self.soon(self.turn)
            self.open[name] = group
            self.groups.append(group)
        self.last = group
        return group

    def take(self):
        """The groups that have come, in order."""
        taken = self.groups
        self.groups, self.open, self.last = [], {}, None
        return taken

    def done(self, Py_ssize_t count):
        """So many digests wait no more."""
        self.waiting -= count


# ---- writing


cdef Py_ssize_t positive(const uint8_t *number, uint8_t *to) noexcept nogil:
    """Writes 32 octets, big-endian, as an INTEGER (X.690 §8.3); returns its size."""
    cdef Py_ssize_t skip = 0, zero
    while skip < 31 and number[skip] == 0:
        skip += 1
    zero = 1 if number[skip] >= 0x80 else 0
    to[0], to[1], to[2] = 0x02, <uint8_t>(32 - skip + zero), 0
    memcpy(to + 2 + zero, number + skip, 32 - skip)
    return 2 + zero + 32 - skip


cdef Py_ssize_t encode(const uint8_t *raw, char *to) noexcept nogil:
    """Writes r ‖ s as SM2Signature (GM/T 0009 §7.3) in base64; returns its size."""
    cdef uint8_t der[DER_MAX + 2]
    cdef Py_ssize_t n = 2, i = 0, size = 0
    cdef uint32_t bits
    n += positive(raw, der + n)
    n += positive(raw + 32, der + n)
    der[0], der[1] = 0x30, <uint8_t>(n - 2)
    der[n] = 0
    der[n + 1] = 0
    while i < n:
        bits = <uint32_t>der[i] << 16 | <uint32_t>der[i + 1] << 8 | der[i + 2]
        to[size] = ALPHABET[bits >> 18]
        to[size + 1] = ALPHABET[bits >> 12 & 63]
        to[size + 2] = ALPHABET[bits >> 6 & 63] if i + 1 < n else c'='
        to[size + 3] = ALPHABET[bits & 63] if i + 2 < n else c'='
        size += 4
        i += 3
    return size


cdef bytes json_body(const uint8_t *raw):
    cdef char text[TEXT_MAX]
    cdef Py_ssize_t size = encode(raw, text)
    cdef Py_ssize_t before = PyBytes_GET_SIZE(BEFORE), after = PyBytes_GET_SIZE(AFTER)
    out = PyBytes_FromStringAndSize(NULL, before + size + after)
    cdef char *to = PyBytes_AS_STRING(out)
    memcpy(to, PyBytes_AS_STRING(BEFORE), before)
    memcpy(to + before, text, size)
    memcpy(to + before + size, PyBytes_AS_STRING(AFTER), after)
    return out


def json_fields(Py_ssize_t size):
    """The fields of an answer of `size` octets of JSON."""
    return JSON_FIELDS % size


def octets_fields(Py_ssize_t size):
    """The fields of an answer of `size` octets of signatures."""
    return OCTETS_FIELDS % size


def answers(Group group not None, bytes signatures not None):
    """The answers to a group's requests, of their signatures (64 octets each)."""
    cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(signatures)
    cdef list out = []
    cdef bytes body, fields = None
    cdef Py_ssize_t size = -1, at = 0, count, i
    if PyBytes_GET_SIZE(signatures) != SIGNATURE * group.count:
        raise ValueError("as many signatures as digests are needed")
    for i in range(len(group.counts)):
        count = group.counts[i]
        if group.octets:
            body = PyBytes_FromStringAndSize(<const char *>raw + SIGNATURE * at, SIGNATURE * count)
        else:
            body = json_body(raw + SIGNATURE * at)
        if PyBytes_GET_SIZE(body) != size:
            size = PyBytes_GET_SIZE(body)
            fields = (OCTETS_FIELDS if group.octets else JSON_FIELDS) % size
        out.append((200, fields, body))
        at += count
    return out
