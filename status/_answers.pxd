from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef class Asked:
    cdef readonly object slot
    cdef readonly bytes octets, issuer, cert_id, serial, nonce
    cdef public bint answered


cdef class Gathered:
    cdef object soon, turn
    cdef Py_ssize_t max_waiting
    cdef readonly Py_ssize_t waiting
    cdef list asked

    cpdef bint add(self, Asked asked) except -1


cdef class Entry:
    cdef bytes der, validators
    cdef tuple post, get
    cdef int64_t this_update_ms, refresh_ms, max_age_s
    cdef readonly bytes etag
    cdef readonly object owner

    cdef bytes caching(self, int64_t max_age_s)
    cdef tuple got(self, int64_t max_age_s)
    cdef tuple unchanged(self, int64_t max_age_s)


cdef class AnswerTable:
    cdef dict young, old, owners
    cdef object check, miss, odd_path, matches, soon
    cdef public Gathered live
    cdef Py_ssize_t half, young_bytes, old_bytes, max_request_bytes
    cdef readonly int64_t now_ms
    cdef int64_t max_age_s
    cdef double checked_at, check_every_s
    cdef double looked_at  # when `current` was asked last, on the monotonic clock
    cdef bint checked
    cdef readonly uint64_t checks
    cdef uint64_t hits

    cdef tuple kept(self, bint posted, const uint8_t *data, Py_ssize_t n)
    cdef tuple got(self, request, Entry entry)
    cdef int64_t age_s(self, Entry entry) noexcept
    cdef Entry find(self, bytes octets)
    cpdef bint current(self) except -1
    cdef Py_ssize_t cost(self, bytes octets, Entry entry)
    cdef int place(self, bytes octets, Entry entry) except -1
    cdef int disown(self, bytes octets, Entry entry) except -1
    cdef int forget(self, bytes octets) except -1
