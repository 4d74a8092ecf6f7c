"""The compiled part of the load generator: schedules, records of what was measured, and the open-loop HTTP driver.

Owns the C structures and their memory. Knows bytes, addresses and nanoseconds; nothing of what a request means.
"""

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import os
import socket


cdef extern from "record.h" nogil:
    enum:
        LT_WHOLE_BITS
        LT_PART_BITS
        LT_WRONG
        LT_ERRORS
    enum lt_error:
        pass
    struct lt_kind:
        uint64_t errors[8]
        uint64_t max_ns, sum_ns, bytes
        uint64_t whole[1]
    struct lt_part:
        uint32_t offered, done, errors
        uint32_t counts[1]
    struct lt_record:
        size_t kinds, parts
        uint64_t part_ns
        lt_kind *kind
        lt_part *part
        uint64_t lag[1]
        uint64_t lag_max_ns
    size_t LT_BUCKETS(unsigned bits)
    size_t lt_bucket(uint64_t value, unsigned bits)
    uint64_t lt_bucket_top(size_t bucket, unsigned bits)
    int lt_record_open(lt_record *record, size_t kinds, size_t parts, uint64_t part_ns)
    void lt_record_close(lt_record *record)
    void lt_offer(lt_record *record, size_t kind, uint64_t at_ns, uint64_t noticed_ns)
    void lt_follow(lt_record *record, size_t kind, uint64_t at_ns)
    void lt_finish(lt_record *record, size_t kind, uint64_t at_ns, uint64_t latency_ns, lt_error error, uint64_t octets)

cdef extern from "schedule.h" nogil:
    struct lt_schedule:
        double end
    void lt_schedule_open(lt_schedule *schedule, const double *second, const double *rate, size_t points, double end,
                          int poisson, uint64_t seed)
    uint64_t lt_schedule_next(lt_schedule *schedule)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef extern from "<stdatomic.h>" nogil:
    ctypedef struct atomic_int:
        pass
    ctypedef struct atomic_ullong:
        pass
    void atomic_store(void *place, int value)
    unsigned long long atomic_load(void *place)

cdef extern from "driver.h" nogil:
    struct lt_request:
        const uint8_t *data
        uint32_t length, patch_at, patch_length, size_min, size_max
        uint16_t kind, listener, status
    struct lt_sample:
        lt_sample *next
        uint32_t request, status, patch_length, length
        uint64_t sent_ns, done_ns
        uint8_t octets[1]
    struct lt_options:
        const lt_request *request
        size_t requests, listeners
        const sockaddr_in *listener
        size_t connections
        uint64_t timeout_ns
        uint32_t sample_every
        size_t sample_bytes
        int closed
    struct lt_driver:
        lt_options options
        lt_record *record
        lt_schedule *schedule
        atomic_int stop
        atomic_ullong done, faults, left_out
        uint64_t start_ns
        uint64_t connect_failures
        uint32_t odd_status
        pthread_mutex_t lock
        lt_sample *first
        lt_sample **last
        size_t held
    int lt_driver_run(lt_driver *driver)


WHOLE_BITS = LT_WHOLE_BITS
PART_BITS = LT_PART_BITS


def bucket(value, unsigned bits):
    """The bucket of a histogram of that precision that a value falls into."""
    return lt_bucket(value, bits)


def bucket_top(size_t number, unsigned bits):
    """The largest value of a bucket."""
    return lt_bucket_top(number, bits)


cdef dict sparse64(const uint64_t *counts, unsigned bits):
    cdef size_t at
    return {at: counts[at] for at in range(LT_BUCKETS(bits)) if counts[at]}


cdef class Record:
    """Histograms and counters of one process; see record.h."""

    cdef lt_record raw

    def __cinit__(self, size_t kinds, size_t parts, uint64_t part_ns):
        if not 0 < kinds <= 64 or not 0 < parts <= 3600 or part_ns == 0:
            raise ValueError("a record takes 1 to 64 kinds and 1 to 3600 intervals")
        if lt_record_open(&self.raw, kinds, parts, part_ns) != 0:
            raise MemoryError

    def __dealloc__(self):
        lt_record_close(&self.raw)

    cdef int known(self, size_t kind) except -1:
        if kind >= self.raw.kinds:
            raise IndexError("no such kind")
        return 0

    def offer(self, size_t kind, uint64_t at_ns, uint64_t noticed_ns):
        """An arrival that was due at `at_ns` and that the generator noticed at `noticed_ns`."""
        self.known(kind)
        lt_offer(&self.raw, kind, at_ns, noticed_ns)

    def follow(self, size_t kind, uint64_t at_ns):
        """A call that was due when the one before it had ended."""
        self.known(kind)
        lt_follow(&self.raw, kind, at_ns)

    def finish(self, size_t kind, uint64_t at_ns, uint64_t latency_ns, unsigned error, uint64_t octets):
        """Its end; `error`: its place in ERRORS."""
        self.known(kind)
        if error >= LT_WRONG:
            raise ValueError("no such error of a request")
        lt_finish(&self.raw, kind, at_ns, latency_ns, <lt_error>error, octets)

    def wrong(self, size_t kind):
        """An answer that was counted as good turned out to be wrong. Only this writes that counter."""
        self.known(kind)
        self.raw.kind[kind].errors[LT_WRONG] += 1

    def kind(self, size_t kind):
        """(counts by error, max_ns, sum_ns, octets, {bucket: count} of the whole run)."""
        self.known(kind)
        cdef lt_kind *one = &self.raw.kind[kind]
        errors = [one.errors[at] for at in range(LT_ERRORS)]
        errors[0] -= min(errors[0], errors[LT_WRONG])
        return errors, one.max_ns, one.sum_ns, one.bytes, sparse64(one.whole, LT_WHOLE_BITS)

    def part(self, size_t kind, size_t place):
        """(offered, done, errors, {bucket: count}) of one interval."""
        self.known(kind)
        if place >= self.raw.parts:
            raise IndexError("no such interval")
        cdef lt_part *one = &self.raw.part[kind * self.raw.parts + place]
        cdef size_t at
        counts = {}
        if one.offered or one.done:
            counts = {at: one.counts[at] for at in range(LT_BUCKETS(LT_PART_BITS)) if one.counts[at]}
        return one.offered, one.done, one.errors, counts

    def lag(self):
        """({bucket: count}, max_ns): how late the generator itself was."""
        return sparse64(self.raw.lag, LT_WHOLE_BITS), self.raw.lag_max_ns


cdef class Schedule:
    """Moments of arrival; see schedule.h. points: (second, requests/s), the first at second 0."""

    cdef lt_schedule raw
    cdef double *second
    cdef double *rate

    def __cinit__(self, points, double end, *, bint poisson=True, uint64_t seed=1):
        cdef size_t at, n = len(points)
        if n == 0 or points[0][0] != 0 or any(a[0] >= b[0] for a, b in zip(points, points[1:])):
            raise ValueError("a schedule's points ascend from second 0")
        if any(rate < 0 for _, rate in points) or end <= 0:
            raise ValueError("a schedule's rates are not negative, and it lasts")
        self.second = <double *>calloc(n, sizeof(double))
        self.rate = <double *>calloc(n, sizeof(double))
        if self.second == NULL or self.rate == NULL:
            raise MemoryError
        for at in range(n):
            self.second[at], self.rate[at] = points[at]
        lt_schedule_open(&self.raw, self.second, self.rate, n, end, poisson, seed)

    def __dealloc__(self):
        free(self.second)
        free(self.rate)

    def __iter__(self):
        return self

    def __next__(self):
        """Nanoseconds from the start to the next arrival."""
        cdef uint64_t at = lt_schedule_next(&self.raw)
        if at == <uint64_t>-1:
            raise StopIteration
        return at


cdef class Driver:
    """One run of prepared requests.

    requests: (octets, patch_at, patch_length, size_min, size_max, kind, listener, status); listeners: (IPv4, port).
    """

    cdef lt_driver raw
    cdef lt_request *requests
    cdef sockaddr_in *addresses
    cdef object record, schedule, kept

    def __cinit__(self, Record record, Schedule schedule, list requests, list listeners, *, size_t connections,
                  double timeout_s, uint32_t sample_every, size_t sample_bytes=64 << 20, bint closed=False):
        cdef size_t at
        if not requests or not listeners or connections == 0:
            raise ValueError("a driver needs requests, listeners and connections")
        self.record, self.schedule = record, schedule
        self.kept = [one[0] for one in requests]
        self.requests = <lt_request *>calloc(len(requests), sizeof(lt_request))
        self.addresses = <sockaddr_in *>calloc(len(listeners), sizeof(sockaddr_in))
        if self.requests == NULL or self.addresses == NULL:
            raise MemoryError
        for at, (octets, patch_at, patch_length, low, high, kind, listener, status) in enumerate(requests):
            if patch_at + patch_length > len(octets) or listener >= len(listeners) or kind >= record.raw.kinds:
                raise ValueError("a prepared request points outside of what there is")
            self.requests[at].data = <const uint8_t *>PyBytes_AsString(octets)
            self.requests[at].length = len(octets)
            self.requests[at].patch_at, self.requests[at].patch_length = patch_at, patch_length
            self.requests[at].size_min, self.requests[at].size_max = low, high
            self.requests[at].kind, self.requests[at].listener = kind, listener
            self.requests[at].status = status
        for at, (host, port) in enumerate(listeners):
            self.addresses[at].sin_family = socket.AF_INET
            self.addresses[at].sin_port = htons(port)
            memcpy(&self.addresses[at].sin_addr.s_addr, PyBytes_AsString(socket.inet_aton(host)), 4)
        self.raw.options = lt_options(
            self.requests, len(requests), len(listeners), self.addresses, connections, <uint64_t>(timeout_s * 1e9),
            sample_every, sample_bytes, closed)
        self.raw.record, self.raw.schedule = &record.raw, &schedule.raw
        self.raw.last = &self.raw.first
        pthread_mutex_init(&self.raw.lock, NULL)

    def __dealloc__(self):
        cdef lt_sample *one = self.raw.first
        cdef lt_sample *after
        while one != NULL:
            after = one.next
            free(one)
            one = after
        pthread_mutex_destroy(&self.raw.lock)
        free(self.requests)
        free(self.addresses)

    def run(self):
        """Blocks to the end of the run, without the interpreter's lock. Raises OSError."""
        cdef int error
        with nogil:
            error = lt_driver_run(&self.raw)
        if error != 0:
            raise OSError(error, os.strerror(error))

    def stop(self):
        """No more arrivals; `run` returns when what is under way has ended."""
        atomic_store(&self.raw.stop, 1)

    @property
    def progress(self):
        """(ended, of them faulty, samples left out)."""
        return atomic_load(&self.raw.done), atomic_load(&self.raw.faults), atomic_load(&self.raw.left_out)

    @property
    def start_ns(self):
        """CLOCK_MONOTONIC at the start."""
        return self.raw.start_ns

    @property
    def troubles(self):
        """(connections that could not be made, the last status that was not expected or 0)."""
        return self.raw.connect_failures, self.raw.odd_status

    def samples(self):
        """Answers kept since the last call: (request, status, sent_ns, done_ns, patch, body)."""
        cdef lt_sample *one
        cdef lt_sample *after
        with nogil:
            pthread_mutex_lock(&self.raw.lock)
        one, self.raw.first, self.raw.last, self.raw.held = self.raw.first, NULL, &self.raw.first, 0
        pthread_mutex_unlock(&self.raw.lock)
        found = []
        while one != NULL:
            after = one.next
            octets = PyBytes_FromStringAndSize(<const char *>one.octets, one.length)
            found.append((one.request, one.status, one.sent_ns, one.done_ns, octets[:one.patch_length],
                          octets[one.patch_length:]))
            free(one)
            one = after
        return found
