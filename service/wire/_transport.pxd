from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data


cdef class Receiver:
    cdef int arrived(self, const uint8_t *data, Py_ssize_t n) except -1


cdef class Poller:
    cdef object loop, factory, troubled, listening
    cdef int epoll, accepting
    cdef list transports, ended
    cdef readonly Py_ssize_t count
    cdef uint32_t generations
    cdef epoll_event *events
    cdef uint8_t *buffer
    cdef object pause
    cdef bint waking, closed
    cdef readonly double now

    cdef int serve(self, epoll_event *event) except -1
    cdef int report(self, error, str message, Transport transport) except -1
    cdef int control(self, int what, uint32_t events) except -1
    cdef int accept_some(self) except -1
    cdef int rest(self, error) except -1
    cdef int begin(self, Transport transport, int fd) except -1
    cdef int end(self, Transport transport, error) except -1
    cdef int finish(self) except -1
    cdef int release(self) except -1


cdef class Transport:
    cdef Poller poller
    cdef object protocol, kept, sock
    cdef Receiver receiver
    cdef int fd, watched
    cdef uint32_t generation
    cdef Py_ssize_t kept_at, kept_size, high, low
    cdef readonly bint closing
    cdef bint registered, ended, writing_paused, reading_paused, eof_came, eof_asked
    cdef uint8_t address[28]
    cdef uint32_t address_size

    cdef int let_go(self) except -1
    cdef int ask_to_pause(self) except -1
    cdef int send(self, const char *data, Py_ssize_t n) except -1
    cdef int keep(self, bytes rest) except -1
    cdef int flush(self) except -1
    cdef int ready(self, uint32_t events) except -1
    cdef int read(self) except -1
    cdef int watch(self) except -1
    cdef int drop(self, error) except -1
