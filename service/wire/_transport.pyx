"""A plain TCP transport without layers: what the kernel says is ready is read, and answered, in one pass.

Owns a listening socket, its connections' descriptors, and one epoll descriptor that the event loop watches. Knows
sockets and asyncio's transports and protocols; not HTTP. Only the event-loop thread uses it.

Theory of operation. When the epoll descriptor is readable the loop calls `wake`, which takes so many events at
most, and reads once for each, into one buffer that all connections use. A protocol that is a `Receiver` is
handed those octets where they lie, any other gets bytes. What is written goes to the kernel at once; what the kernel
does not take is kept, and the protocol is asked to pause past a bound. Readiness is level-triggered: what one wake leaves
is there in the next, after everybody else's turn. A descriptor is closed in the pass after its end, and an event is
believed only if it names the connection that has the descriptor now.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, ECONNABORTED, ECONNRESET, EINTR, EPROTO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libc.time cimport time_t

import asyncio
import os
import socket
from asyncio.trsock import TransportSocket
from collections import deque

cdef extern from "<time.h>" nogil:
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)
    int CLOCK_MONOTONIC

cdef extern from "<errno.h>" nogil:
    int EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPERM

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    int epoll_wait(int, epoll_event *, int, int)
    enum:
        EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        uint16_t sa_family
    int accept4(int, sockaddr *, uint32_t *, int)
    int getpeername(int, sockaddr *, uint32_t *)
    int getsockname(int, sockaddr *, uint32_t *)
    Py_ssize_t recv(int, void *, size_t, int)
    Py_ssize_t c_send "send"(int, const void *, size_t, int)
    int shutdown(int, int)
    enum:
        SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_NOSIGNAL, SHUT_WR, AF_INET, AF_INET6

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int)

cdef enum:
    EVENTS = 256         # the most that is served in one wake
    MANY = 8             # so many at once, and there will be more: they are looked for in the same wake
    ACCEPTS = 64         # new connections in one go
    READ = 1 << 16       # octets of one connection
    HIGH = 1 << 16       # octets kept for one that does not read: then its protocol is to pause

#: How long nothing is accepted when the process has no descriptor left.
ACCEPT_PAUSE_S = 0.5


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + 1e-9 * <double>now.tv_nsec


cdef object os_error(int number):
    return OSError(number, os.strerror(number))


cdef object address_of(const uint8_t *raw, uint32_t size):
    """As socket's methods write an address; None for what is none of IPv4 and IPv6."""
    cdef uint16_t family = 0
    cdef uint32_t scope = 0
    if size < 16:
        return None
    memcpy(&family, raw, 2)
    port = raw[2] << 8 | raw[3]
    if family == AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
    if family == AF_INET6 and size >= 28:
        memcpy(&scope, raw + 24, 4)
        flow = int.from_bytes(raw[4:8], "big")
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, flow, scope
    return None


cdef class Receiver:
    """A protocol that takes octets where they lie."""

    cdef int arrived(self, const uint8_t *data, Py_ssize_t n) except -1:
        """As data_received; `data` is the transport's until this returns."""
        raise NotImplementedError


cdef class Poller:
    """The connections of one listener in one event loop. `close`, `adopt` and `wake` are for its owner.

    factory: makes a connection's protocol. troubled(error): is told why nothing is accepted for a while. now: when the
    connection that is being served had its turn, on the monotonic clock.
    """

    def __cinit__(self):
        self.epoll = self.accepting = -1

    def __init__(self, loop, factory, troubled):
        self.loop, self.factory, self.troubled = loop, factory, troubled
        self.transports, self.ended = [], []
        self.events = <epoll_event *>PyMem_Malloc(EVENTS * sizeof(epoll_event))
        self.buffer = <uint8_t *>PyMem_Malloc(READ)
        if self.events == NULL or self.buffer == NULL:
            raise MemoryError
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise os_error(errno)
        loop.add_reader(self.epoll, self.wake)

    def __dealloc__(self):
        PyMem_Free(self.events)
        PyMem_Free(self.buffer)
        if self.epoll >= 0:
            c_close(self.epoll)

    def __len__(self):
        """How many connections are open."""
        return self.count

    # ---- the listening socket

    def listen(self, sock):
        """Accepts on a bound, listening socket, which is ours from now on."""
        sock.setblocking(False)
        # Linux hands both on to every connection that is accepted.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.listening, self.accepting = sock, sock.fileno()
        self.control(EPOLL_CTL_ADD, EPOLLIN)

    cdef int control(self, int what, uint32_t events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.u64 = <uint64_t>self.accepting
        if epoll_ctl(self.epoll, what, self.accepting, &event) != 0:
            raise os_error(errno)
        return 0

    def close(self):
        """Takes what the kernel has accepted for us, then listens no more; what is open goes on to its own end."""
        self.closed = True
        if self.listening is not None:
            while self.accept_some() == ACCEPTS:
                pass
            if self.pause is not None:
                self.pause.cancel()
                self.pause = None
            self.control(EPOLL_CTL_DEL, 0)
            self.accepting = -1
            self.listening.close()
            self.listening = None
        self.release()

    cdef int accept_some(self) except -1:
        """How many were accepted, or gave up before they were."""
        cdef uint8_t address[28]
        cdef uint32_t size
        cdef int fd, seen = 0, trouble
        cdef Transport transport
        while seen < ACCEPTS:
            size = sizeof(address)
            fd = accept4(self.accepting, <sockaddr *>address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                trouble = errno
                if trouble == EAGAIN:
                    return seen
                # accept(2): what had happened to the connection before.
                if trouble in (EINTR, ECONNABORTED, EPERM, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET,
                               EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH):
                    seen += 1
                    continue
                self.rest(os_error(trouble))
                return seen
            seen += 1
            transport = Transport.__new__(Transport)
            transport.address_size = min(size, <uint32_t>sizeof(address))
            memcpy(transport.address, address, sizeof(address))
            self.begin(transport, fd)
        return seen

    cdef int rest(self, error) except -1:
        """Accepts nothing for a while: what lacks is not there at the next look either, and the kernel keeps asking."""
        if self.pause is None:
            self.control(EPOLL_CTL_MOD, 0)
            self.pause = self.loop.call_later(ACCEPT_PAUSE_S, self._go_on)
            self.troubled(error)
        return 0

    def _go_on(self):
        self.pause = None
        if self.accepting >= 0:
            self.control(EPOLL_CTL_MOD, EPOLLIN)

    # ---- connections

    def adopt(self, sock):
        """Takes over a connected socket; returns its transport. Raises RuntimeError after `close`."""
        if self.closed:
            raise RuntimeError("nothing is adopted after close")
        cdef Transport transport = Transport.__new__(Transport)
        sock.setblocking(False)
        transport.address_size = sizeof(transport.address)
        if getpeername(sock.fileno(), <sockaddr *>transport.address, &transport.address_size) != 0:
            transport.address_size = 0
        transport.address_size = min(transport.address_size, <uint32_t>sizeof(transport.address))
        self.begin(transport, sock.detach())
        return transport

    cdef int begin(self, Transport transport, int fd) except -1:
        cdef Py_ssize_t lacking = fd + 1 - len(self.transports)
        if lacking > 0:
            self.transports.extend([None] * (lacking + 32))
        self.generations = self.generations + 1 or 1  # 0 is the listening socket's
        transport.poller, transport.fd, transport.generation = self, fd, self.generations
        transport.closing = transport.ended = False
        self.transports[fd] = transport
        self.count += 1
        self.now = monotonic()
        try:
            transport.set_protocol(self.factory())
            transport.protocol.connection_made(transport)
            if not transport.closing and not transport.reading_paused:
                transport.read()  # mostly the request is here already; where it is answered and done, epoll never hears
            transport.watch()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.report(error, "a new connection failed", transport)
        return 0

    def wake(self):
        """Serves what is ready, a bounded part of it; the rest is ready in the next wake."""
        cdef int i, n = MANY, left = EVENTS
        if self.waking:
            return
        self.waking = True
        try:
            while n >= MANY and left > 0 and self.epoll >= 0:  # while some were served others have become ready
                n = epoll_wait(self.epoll, self.events, left, 0)
                if n < 0 and errno != EINTR:
                    raise os_error(errno)
                for i in range(n):
                    self.serve(&self.events[i])
                left -= n
        finally:
            self.waking = False

    cdef int serve(self, epoll_event *event) except -1:
        cdef uint64_t name = event.data.u64
        cdef uint32_t fd = <uint32_t>name
        cdef Transport transport
        if name == <uint64_t>self.accepting:
            self.accept_some()
            return 0
        transport = self.transports[fd]
        if transport is None or transport.generation != name >> 32:
            return 0
        try:
            transport.ready(event.events)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.report(error, "a connection's protocol failed", transport)
        return 0

    cdef int report(self, error, str message, Transport transport) except -1:
        """Nobody foresaw it: the loop's handler gets the cause, and the connection ends."""
        if not isinstance(error, OSError):
            self.loop.call_exception_handler(
                {"message": message, "exception": error, "transport": transport, "protocol": transport.protocol}
            )
        return transport.drop(error)

    cdef int end(self, Transport transport, error) except -1:
        """From here on no event is for this one; its protocol hears of it in the next pass."""
        self.transports[transport.fd] = None
        if transport.registered:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, transport.fd, NULL)
            transport.registered = False
        if not self.ended:
            self.loop.call_soon(self._finish)
        self.ended.append((transport, error))
        return 0

    def _finish(self):
        self.finish()

    cdef int finish(self) except -1:
        """Tells the protocols of those that ended, and closes their descriptors."""
        cdef Transport transport
        cdef list ended = self.ended
        self.ended = []
        for transport, error in ended:
            try:
                if transport.protocol is not None:
                    transport.protocol.connection_lost(error)
            except Exception as mistake:
                self.loop.call_exception_handler(
                    {"message": "connection_lost failed", "exception": mistake, "transport": transport}
                )
            transport.let_go()
            self.count -= 1
        return self.release()

    cdef int release(self) except -1:
        """Leaves the event loop with the last connection."""
        if self.closed and not self.count and self.epoll >= 0:
            self.loop.remove_reader(self.epoll)
            c_close(self.epoll)
            self.epoll = -1
        return 0


cdef class Transport:
    """One connection, an asyncio transport; made by a Poller. Protocols are plain or Receivers, not buffered ones."""

    def __cinit__(self):
        self.fd = -1
        self.closing = self.ended = True
        self.high, self.low = HIGH, HIGH // 4

    cdef int let_go(self) except -1:
        if self.sock is not None:
            self.sock.detach()
            self.sock = None
        c_close(self.fd)
        self.fd = -1
        self.protocol = self.receiver = None
        return 0

    # ---- asyncio.BaseTransport

    def get_extra_info(self, str name not None, default=None):
        """peername, sockname, socket."""
        cdef uint8_t address[28]
        cdef uint32_t size = sizeof(address)
        if name == "peername":
            found = address_of(self.address, self.address_size)
            return default if found is None else found
        if self.fd < 0:
            return default
        if name == "sockname":
            if getsockname(self.fd, <sockaddr *>address, &size) != 0 or size > sizeof(address):
                return default
            found = address_of(address, size)
            return default if found is None else found
        if name == "socket":
            if self.sock is None:
                self.sock = socket.socket(fileno=self.fd)
            return TransportSocket(self.sock)
        return default

    def set_protocol(self, protocol):
        """From now on this one is told."""
        if isinstance(protocol, asyncio.BufferedProtocol):
            raise TypeError("a protocol with buffers of its own cannot have this transport")
        self.protocol = protocol
        self.receiver = protocol if isinstance(protocol, Receiver) else None

    def get_protocol(self):
        """Who is told."""
        return self.protocol

    def is_closing(self):
        """Whether it ends, or has ended."""
        return self.closing

    def close(self):
        """Reads no more, and ends when what was written has left."""
        if self.closing:
            return
        self.closing = True
        if self.kept_size:
            self.watch()
        else:
            self.drop(None)

    def abort(self):
        """Ends, whatever is unsent."""
        self.drop(None)

    cdef int drop(self, error) except -1:
        """Ends now; the protocol hears of it once, in the next pass."""
        self.closing = True
        if self.ended:
            return 0
        self.ended = True
        self.kept, self.kept_size, self.kept_at = None, 0, 0
        return self.poller.end(self, error)

    # ---- asyncio.ReadTransport

    def is_reading(self):
        """Whether the protocol may hear of new octets."""
        return not self.closing and not self.reading_paused

    def pause_reading(self):
        """Until resume_reading nothing is read."""
        self.reading_paused = True
        self.watch()

    def resume_reading(self):
        """Reads again."""
        self.reading_paused = False
        self.watch()

    cdef int read(self) except -1:
        """Reads once: what else there is has its turn in the next wake."""
        cdef Receiver receiver = self.receiver
        cdef Py_ssize_t n = recv(self.fd, self.poller.buffer, READ, 0)
        if n > 0:
            if receiver is not None:
                return receiver.arrived(self.poller.buffer, n)
            self.protocol.data_received(PyBytes_FromStringAndSize(<const char *>self.poller.buffer, n))
        elif n < 0:
            if errno != EAGAIN and errno != EINTR:
                self.drop(os_error(errno))
        else:
            self.eof_came = True
            if self.protocol.eof_received():
                self.watch()
            else:
                self.close()
        return 0

    # ---- asyncio.WriteTransport

    def write(self, data):
        """Sends it; what the kernel does not take at once is kept. After the end nothing happens."""
        if self.eof_asked:
            raise RuntimeError("write after write_eof")
        if not isinstance(data, bytes):
            if not isinstance(data, (bytearray, memoryview)):
                raise TypeError(f"octets are written, not {type(data).__name__}")
            data = bytes(data)
        self.send(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def writelines(self, parts):
        """All of them, in one piece."""
        self.write(b"".join(parts))

    def can_write_eof(self):
        """It can."""
        return True

    def write_eof(self):
        """Says that nothing more comes, after what was written."""
        if self.closing or self.eof_asked:
            return
        self.eof_asked = True
        if not self.kept_size:
            shutdown(self.fd, SHUT_WR)

    def get_write_buffer_size(self):
        """Octets that the kernel has not taken."""
        return self.kept_size

    def get_write_buffer_limits(self):
        """(low, high)."""
        return self.low, self.high

    def set_write_buffer_limits(self, high=None, low=None):
        """Past `high` the protocol is to pause, down at `low` it may go on."""
        if high is None:
            high = HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) is at least low ({low}), which is not negative")
        self.high, self.low = high, low
        self.ask_to_pause()

    cdef int send(self, const char *data, Py_ssize_t n) except -1:
        """As write."""
        cdef Py_ssize_t sent = 0
        if self.closing or n == 0:
            return 0
        if not self.kept_size:
            sent = c_send(self.fd, data, n, MSG_NOSIGNAL)
            if sent == n:
                return 0
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self.drop(os_error(errno))
                sent = 0
        return self.keep(PyBytes_FromStringAndSize(data + sent, n - sent))

    cdef int keep(self, bytes rest) except -1:
        if self.kept is None:
            self.kept = deque()
        self.kept.append(rest)
        self.kept_size += PyBytes_GET_SIZE(rest)
        self.watch()
        return self.ask_to_pause()

    cdef int ask_to_pause(self) except -1:
        if self.kept_size > self.high and not self.writing_paused:
            self.writing_paused = True
            self.protocol.pause_writing()
        return 0

    cdef int flush(self) except -1:
        """Sends of what is kept as much as the kernel takes."""
        cdef bytes first
        cdef Py_ssize_t sent, whole
        while self.kept_size:
            first = self.kept[0]
            whole = PyBytes_GET_SIZE(first) - self.kept_at
            sent = c_send(self.fd, PyBytes_AS_STRING(first) + self.kept_at, whole, MSG_NOSIGNAL)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self.drop(os_error(errno))
                break
            self.kept_size -= sent
            self.kept_at += sent
            if sent < whole:
                break
            self.kept.popleft()
            self.kept_at = 0
        if self.writing_paused and self.kept_size <= self.low:
            self.writing_paused = False
            self.protocol.resume_writing()  # may write, or close
        if self.kept_size or self.ended:
            return 0
        self.kept = None
        if self.closing:
            return self.drop(None)
        if self.eof_asked:
            shutdown(self.fd, SHUT_WR)
        return self.watch()

    # ---- the poller's side

    cdef int watch(self) except -1:
        """Says to the kernel what is waited for."""
        cdef epoll_event event
        cdef int wanted = EPOLLOUT if self.kept_size else 0
        if self.ended:
            return 0
        if not self.closing and not self.reading_paused and not self.eof_came:
            wanted |= EPOLLIN
        if self.registered and wanted == self.watched:
            return 0
        event.events = wanted
        event.data.u64 = <uint64_t>self.generation << 32 | <uint32_t>self.fd
        if epoll_ctl(self.poller.epoll, EPOLL_CTL_MOD if self.registered else EPOLL_CTL_ADD, self.fd, &event) != 0:
            return self.drop(os_error(errno))
        self.registered, self.watched = True, wanted
        return 0

    cdef int ready(self, uint32_t events) except -1:
        if events & EPOLLOUT and self.kept_size:
            self.flush()
        if self.ended:
            return 0
        if self.watched & EPOLLIN:
            if events & (EPOLLIN | EPOLLERR | EPOLLHUP):
                self.poller.now = monotonic()
                return self.read()
        elif events & EPOLLERR:
            return self.drop(os_error(ECONNRESET))
        elif events & EPOLLHUP:  # reported whether it is waited for or not: to be heard of again when we read or write
            epoll_ctl(self.poller.epoll, EPOLL_CTL_DEL, self.fd, NULL)
            self.registered = False
        return 0
