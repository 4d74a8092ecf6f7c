"""`_lookup.PythonIndex`, compiled: the same answers for one certificate or for many, without the GIL in between.

Knows the table and the records; not files, times or signatures. The table is copied, so nothing has to outlive it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef enum:
    GOOD = 1
    REVOKED = 2
    HELD = 3
    UNKNOWN = 4
    NOT_COVERED = 5
    RECORD_BYTES = 16
    MOST_MONTHS = 1200  # between the first space and the last: a hundred years

cdef struct Space:
    uint64_t first
    uint64_t count
    uint64_t offset

cdef struct Record:
    uint32_t month
    uint32_t index
    int64_t not_before


cdef class FastIndex:
    cdef Space *_spaces
    cdef uint32_t _month
    cdef uint32_t _months
    cdef bytes _revoked
    cdef bytes _held
    cdef int64_t _as_of

    def __cinit__(self, table):
        cdef uint64_t offset = 0
        cdef Py_ssize_t at
        self._spaces = NULL
        self._months = 0
        self._revoked = table.revoked
        self._held = table.held
        self._as_of = table.as_of
        spaces = table.spaces
        if not spaces:
            return
        self._month = spaces[0][0]
        if spaces[-1][0] - spaces[0][0] >= MOST_MONTHS:
            raise ValueError("the spaces lie too far apart")
        self._months = spaces[-1][0] - spaces[0][0] + 1
        self._spaces = <Space *>malloc(self._months * sizeof(Space))
        if self._spaces == NULL:
            raise MemoryError
        for at in range(self._months):
            self._spaces[at].first = self._spaces[at].count = self._spaces[at].offset = 0
        for month, first, following in spaces:
            at = month - spaces[0][0]
            self._spaces[at].first = first
            self._spaces[at].count = following - first
            self._spaces[at].offset = offset
            offset += following - first
        if len(self._revoked) < (offset + 7) // 8 or len(self._held) < (offset + 7) // 8:
            raise ValueError("a bitmap is too short")

    def __dealloc__(self):
        free(self._spaces)

    def __reduce__(self):
        raise TypeError("not picklable")

    cdef inline uint8_t _find(
        self, const uint8_t *revoked, const uint8_t *held, uint32_t month, uint64_t index, int64_t not_before,
        bint stale
    ) noexcept nogil:
        cdef uint32_t at = month - self._month
        cdef uint64_t place
        cdef uint8_t bit
        if at >= self._months or not_before > self._as_of:
            return NOT_COVERED
        place = index - self._spaces[at].first  # wraps past count where index is below first
        if place >= self._spaces[at].count:
            return NOT_COVERED
        place += self._spaces[at].offset
        bit = 1 << (place & 7)
        if revoked[place >> 3] & bit:
            return REVOKED
        if stale:
            return UNKNOWN
        return HELD if held[place >> 3] & bit else GOOD

    def find(self, month, index, not_before, stale):
        """A Status for one certificate. `stale`: the set is past its nextUpdate."""
        if not 0 <= month < 1 << 32 or not 0 <= index < 1 << 63:
            return NOT_COVERED
        return self._find(self._revoked, self._held, month, index, not_before, stale)

    def find_many(self, const uint8_t[::1] records, bint stale):
        """A Status octet for each record of 16 octets."""
        cdef Py_ssize_t count = records.shape[0] // RECORD_BYTES
        cdef Py_ssize_t at
        cdef Record record
        cdef const uint8_t *source
        cdef const uint8_t *revoked = self._revoked
        cdef const uint8_t *held = self._held
        cdef bytes out
        cdef uint8_t *answers
        if records.shape[0] % RECORD_BYTES:
            raise ValueError(f"records are {RECORD_BYTES} octets each")
        if count == 0:
            return b""
        out = PyBytes_FromStringAndSize(NULL, count)
        answers = <uint8_t *><char *>out
        source = &records[0]
        with nogil:
            for at in range(count):
                memcpy(&record, source + at * RECORD_BYTES, RECORD_BYTES)
                answers[at] = self._find(revoked, held, record.month, record.index, record.not_before, stale)
        return out
