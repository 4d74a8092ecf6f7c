"""To-be-signed certificates assembled around constant parts, and plain certificate requests taken apart.

See _template.pyi.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef enum:
    SERIAL = 16
    POINT = 65
    IDENTIFIER = 20

# SubjectPublicKeyInfo of an SM2 key up to the point: SEQUENCE { { id-ecPublicKey, sm2p256v1 }, BIT STRING of 65 octets }
cdef bytes SPKI_HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
# SM2 with SM3, parameters absent and NULL.
cdef bytes ALGORITHM = bytes.fromhex("300a06082a811ccf55018375")
cdef bytes ALGORITHM_NULL = bytes.fromhex("300c06082a811ccf550183750500")


cdef inline size_t length_size(size_t n) noexcept nogil:
    """Octets of a definite length; what is written here stays below 2^24."""
    return 1 if n < 0x80 else 2 if n < 0x100 else 3 if n < 0x10000 else 4


cdef inline uint8_t *put_head(uint8_t *to, uint8_t tag, size_t n) noexcept nogil:
    cdef size_t octets = length_size(n) - 1, i
    to[0] = tag
    if octets == 0:
        to[1] = <uint8_t>n
        return to + 2
    to[1] = <uint8_t>(0x80 | octets)
    for i in range(octets):
        to[2 + i] = <uint8_t>(n >> (8 * (octets - 1 - i)))
    return to + 2 + octets


cdef inline size_t integer_size(uint64_t value) noexcept nogil:
    """Octets of a non-negative INTEGER's contents."""
    cdef size_t n = 1
    while value >= 0x80:
        value >>= 8
        n += 1
    return n


cdef inline uint8_t *put_integer(uint8_t *to, uint64_t value) noexcept nogil:
    cdef size_t n = integer_size(value), i
    to[0] = 0x02
    to[1] = <uint8_t>n
    for i in range(n):
        to[2 + i] = 0 if 8 * (n - 1 - i) >= 64 else <uint8_t>(value >> (8 * (n - 1 - i)))
    return to + 2 + n


cdef inline uint8_t *put(uint8_t *to, bytes data) noexcept:
    memcpy(to, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return to + PyBytes_GET_SIZE(data)


cdef class Template:
    cdef bytes before_serial, before_times, between_times, before_point, before_identifier, after_identifier, status_oid
    cdef Py_ssize_t time_begin, time_end

    def __init__(self, *, bytes before_serial not None, bytes before_times not None, bytes between_times not None,
                 bytes before_point not None, bytes before_identifier not None, bytes after_identifier not None,
                 bytes status_oid not None, int time_begin, int time_end):
        self.before_serial = before_serial
        self.before_times = before_times
        self.between_times = between_times
        self.before_point = before_point
        self.before_identifier = before_identifier
        self.after_identifier = after_identifier
        self.status_oid = status_oid
        self.time_begin = time_begin
        self.time_end = time_end

    def assemble(self, bytes serial not None, bytes begin not None, bytes end not None, bytes subject not None,
                 bytes point not None, bytes identifier not None, bytes more not None, uint64_t month, uint64_t index):
        cdef size_t pair, value, status, extensions, wrapped, body
        cdef uint8_t *to
        if (len(serial) != SERIAL or len(point) != POINT or len(identifier) != IDENTIFIER
                or len(begin) != self.time_begin or len(end) != self.time_end):
            raise ValueError("a part of another length than the template's")
        if len(subject) > 1 << 20 or len(more) > 1 << 20:
            raise ValueError("a part that is too long for a certificate")
        pair = 4 + integer_size(month) + integer_size(index)
        value = 2 + pair
        status = PyBytes_GET_SIZE(self.status_oid) + 2 + value
        extensions = (PyBytes_GET_SIZE(self.before_identifier) + IDENTIFIER + PyBytes_GET_SIZE(self.after_identifier)
                      + PyBytes_GET_SIZE(more) + 1 + length_size(status) + status)
        wrapped = 1 + length_size(extensions) + extensions
        body = (PyBytes_GET_SIZE(self.before_serial) + SERIAL + PyBytes_GET_SIZE(self.before_times)
                + self.time_begin + PyBytes_GET_SIZE(self.between_times) + self.time_end + PyBytes_GET_SIZE(subject)
                + PyBytes_GET_SIZE(self.before_point) + POINT + 1 + length_size(wrapped) + wrapped)
        out = PyBytes_FromStringAndSize(NULL, 1 + length_size(body) + body)
        to = put_head(<uint8_t *>PyBytes_AS_STRING(out), 0x30, body)
        to = put(put(put(put(to, self.before_serial), serial), self.before_times), begin)
        to = put(put(put(to, self.between_times), end), subject)
        to = put(put(to, self.before_point), point)
        to = put_head(put_head(to, 0xA3, wrapped), 0x30, extensions)
        to = put(put(put(put(to, self.before_identifier), identifier), self.after_identifier), more)
        to = put(put_head(to, 0x30, status), self.status_oid)
        to = put_head(put_head(to, 0x04, value), 0x30, pair)
        to = put_integer(put_integer(to, month), index)
        assert to == <uint8_t *>PyBytes_AS_STRING(out) + PyBytes_GET_SIZE(out)
        return out


cdef struct Span:
    const uint8_t *at
    const uint8_t *end


cdef inline bint take(Span *within, uint8_t tag, Span *content) noexcept nogil:
    """The next element's contents, where it has that tag and a minimal definite length (X.690 10.1); False elsewhere."""
    cdef const uint8_t *p = within.at
    cdef size_t n, octets, i
    if within.end - p < 2 or p[0] != tag:
        return False
    n = p[1]
    p += 2
    if n >= 0x80:
        octets = n & 0x7F
        if octets < 1 or octets > 3 or <size_t>(within.end - p) < octets:
            return False
        n = 0
        for i in range(octets):
            n = n << 8 | p[i]
        if n < 0x80 or n < (<size_t>1) << (8 * (octets - 1)):
            return False
        p += octets
    if n > <size_t>(within.end - p):
        return False
    content.at = p
    content.end = p + n
    within.at = p + n
    return True


cdef inline bytes of(Span span):
    return PyBytes_FromStringAndSize(<const char *>span.at, span.end - span.at)


cdef inline bint same(const uint8_t *from_, const uint8_t *end, bytes expected) noexcept:
    return (end - from_ == PyBytes_GET_SIZE(expected)
            and memcmp(from_, PyBytes_AS_STRING(expected), PyBytes_GET_SIZE(expected)) == 0)


cdef list name_of(Span names):
    """(OID contents, string tag, contents) of each attribute of a Name with one in each RDN; None for another one."""
    cdef Span rdn, pair, dotted, value
    cdef uint8_t tag
    cdef list found = []
    while names.at < names.end:
        if not take(&names, 0x31, &rdn) or not take(&rdn, 0x30, &pair) or rdn.at != rdn.end:
            return None
        if not take(&pair, 0x06, &dotted) or pair.at == pair.end:
            return None
        tag = pair.at[0]
        if tag != 0x0C and tag != 0x13:
            return None
        if not take(&pair, tag, &value) or pair.at != pair.end:
            return None
        found.append((of(dotted), tag, of(value)))
    return found


def split_request(bytes encoded not None):
    cdef Span whole, request, info, part, names, wrapped, signature
    cdef const uint8_t *begin
    cdef const uint8_t *head
    whole.at = <const uint8_t *>PyBytes_AS_STRING(encoded)
    whole.end = whole.at + PyBytes_GET_SIZE(encoded)
    if not take(&whole, 0x30, &request) or whole.at != whole.end:
        return None
    begin = request.at
    if not take(&request, 0x30, &info):
        return None
    tbs = PyBytes_FromStringAndSize(<const char *>begin, request.at - begin)
    if not take(&info, 0x02, &part) or part.end - part.at != 1 or part.at[0] != 0:
        return None
    if not take(&info, 0x30, &names):
        return None
    head = info.at
    if not take(&info, 0x30, &part) or info.at - head != PyBytes_GET_SIZE(SPKI_HEAD) + POINT:
        return None
    if memcmp(head, PyBytes_AS_STRING(SPKI_HEAD), PyBytes_GET_SIZE(SPKI_HEAD)) != 0:
        return None
    point = PyBytes_FromStringAndSize(<const char *>head + PyBytes_GET_SIZE(SPKI_HEAD), POINT)
    if point[0] != 4:
        return None
    if not take(&info, 0xA0, &wrapped) or wrapped.at != wrapped.end or info.at != info.end:
        return None
    begin = request.at
    if not take(&request, 0x30, &part):
        return None
    if not same(begin, request.at, ALGORITHM) and not same(begin, request.at, ALGORITHM_NULL):
        return None
    if not take(&request, 0x03, &signature) or request.at != request.end:
        return None
    if signature.at == signature.end or signature.at[0] != 0:
        return None
    signature.at += 1
    attributes = name_of(names)
    if not attributes:
        return None
    return tbs, attributes, point, of(signature)
