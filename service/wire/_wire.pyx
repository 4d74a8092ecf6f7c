"""The compiled connection: reads plain requests out of what arrives, asks a route, writes the answers at once.

Owns the bytes of its connections between the socket and a route, the order of answers, and the counts. Knows HTTP/1.1
framing (csrc/wire_head.c) and asyncio's transports, and two short ways: our own transport (_transport), and a table that
may have the answer to a request's octets (status._answers). Not OCSP, keys or the store. Whatever is not a plain
request for one of its routes goes, from that request's first byte on and for good, to the protocol that `fallback` makes.

Theory of operation. `data_received` parses as many whole requests as there are. A route answers a request at once, or
keeps it and answers later, or declines it. Answers leave in the order of the requests: one that is ready early waits
in its slot. All that one call makes leaves in one write. A connection is only ever handed over between two requests
and with no slot open, so that no byte is read twice and none by nobody.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from libc.time cimport time_t

from service.wire._transport cimport Receiver, Transport
from status._answers cimport AnswerTable

from collections import deque
from email.utils import formatdate

cdef extern from "<time.h>" nogil:
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME

cdef extern from "wire_head.h" nogil:
    int WIRE_PARTIAL, WIRE_WHOLE, WIRE_FOREIGN, WIRE_ODD
    int WIRE_GET, WIRE_POST
    ctypedef struct wire_span:
        uint32_t at
        uint32_t length
        int present
    ctypedef struct wire_head:
        int method
        wire_span target
        uint32_t length
        uint32_t body
        int close
        wire_span if_none_match
        wire_span request_id
        wire_span authorization
        wire_span content_type
    int WIRE_HEAD_MAX
    int wire_head_parse(const uint8_t *, size_t, size_t, unsigned, wire_head *)

cdef enum:
    BUCKETS = 16

cdef Py_ssize_t OUT_STEP = 1 << 18  # past so many bytes of answers the connection writes before it goes on
cdef Py_ssize_t OUT_KEPT = 1 << 21  # a larger buffer is given back


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + 1e-9 * <double>now.tv_nsec


cdef bytes span(const uint8_t *data, wire_span where):
    return PyBytes_FromStringAndSize(<const char *>data + where.at, where.length) if where.present else None


cdef bint harmless(const uint8_t *data, wire_span where) noexcept nogil:
    """Whether a request id may be repeated: 1 to 64 letters, digits, '-', '_', '.'."""
    cdef uint32_t i
    cdef uint8_t c
    if not where.present or where.length < 1 or where.length > 64:
        return False
    for i in range(where.length):
        c = data[where.at + i]
        if not (c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c'0' <= c <= c'9' or c == c'-' or c == c'_' or c == c'.'):
            return False
    return True


HEAD_MAX = WIRE_HEAD_MAX


def parse_head(bytes data not None, *, Py_ssize_t max_bytes=WIRE_HEAD_MAX, int max_fields=64):
    """What wire_head_parse says of `data`: (verdict, fields or None). For tests of the parser."""
    cdef wire_head head
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef int verdict = wire_head_parse(start, PyBytes_GET_SIZE(data), max_bytes, max_fields, &head)
    if verdict != WIRE_WHOLE:
        return verdict, None
    return verdict, {
        "method": "GET" if head.method == WIRE_GET else "POST",
        "target": span(start, head.target),
        "length": head.length,
        "body": head.body,
        "close": bool(head.close),
        "if_none_match": span(start, head.if_none_match),
        "request_id": span(start, head.request_id),
        "authorization": span(start, head.authorization),
        "content_type": span(start, head.content_type),
    }


cdef class _Out:
    """Bytes to be written, in one buffer that all connections use in turn."""

    cdef char *start
    cdef Py_ssize_t size, room

    def __dealloc__(self):
        PyMem_Free(self.start)

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef char *grown
        cdef Py_ssize_t room
        if self.size + more > self.room:
            room = (self.size + more) * 2 + 4096
            grown = <char *>PyMem_Realloc(self.start, room)
            if grown == NULL:
                raise MemoryError
            self.start, self.room = grown, room
        return 0

    cdef void put(self, const char *data, Py_ssize_t n) noexcept:
        """Appends; the room was reserved."""
        memcpy(self.start + self.size, data, n)
        self.size += n

    cdef int cut(self, Py_ssize_t begin) except -1:
        """Removes what stands from `begin` on."""
        self.size = begin
        if begin == 0 and self.room > OUT_KEPT:
            PyMem_Free(self.start)
            self.start, self.room = NULL, 0
        return 0


cdef class _Series:
    """Answers of one route with one status, by time taken."""

    cdef uint64_t buckets[BUCKETS]
    cdef double seconds

    def __cinit__(self):
        cdef int i
        for i in range(BUCKETS):
            self.buckets[i] = 0


cdef class Route:
    """One method and path, exact or (`prefix`) with something after it. `pattern` names it in metrics and the log.

    handler(request) returns (status, fields, body) to answer at once: `fields` the status line and field lines of the
    answer in bytes, each with its CRLF, Content-Length among them and without X-Request-Id, Server, Date and
    Connection, which are added here. Or it returns the request, to answer later by `request.answer(...)`; or None: not
    mine, and nothing was done. A request with more than `max_body` bytes is never asked about. table: asked before
    the handler, without a Request, and says what the handler would.
    """

    cdef readonly str method, pattern
    cdef readonly bytes path
    cdef readonly bint prefix
    cdef readonly object handler
    cdef AnswerTable table
    cdef readonly uint32_t max_body
    cdef int code
    cdef dict series
    cdef _Series usual

    def __init__(self, str method not None, bytes path not None, handler, *, str pattern not None, bint prefix=False,
                 uint32_t max_body=0, AnswerTable table=None):
        if method not in ("GET", "POST"):
            raise ValueError("a route is for GET or POST")
        self.method, self.path, self.handler, self.pattern = method, path, handler, pattern
        self.code = WIRE_GET if method == "GET" else WIRE_POST
        self.prefix, self.max_body, self.table = prefix, max_body, table
        self.series = {}
        self.usual = None

    cdef bint matches(self, int code, const uint8_t *target, Py_ssize_t n) noexcept:
        cdef Py_ssize_t own = PyBytes_GET_SIZE(self.path)
        if code != self.code or n < own or (n > own) != self.prefix:
            return False
        return memcmp(target, PyBytes_AS_STRING(self.path), own) == 0

    cdef int count(self, int status, double seconds, const double *bounds, int n) except -1:
        cdef _Series series = self.usual
        cdef int i = 0
        if status != 200 or series is None:
            series = self.series.get(status)
            if series is None:
                series = self.series[status] = _Series()
            if status == 200:
                self.usual = series
        while i < n and seconds > bounds[i]:
            i += 1
        series.buckets[i] += 1
        series.seconds += seconds
        return 0


cdef class Request:
    """A whole request, and the slot of its answer.

    target: as it was sent. The named fields are those that a route may want; None where the request has none. caller:
    for a route to name whose request it is, in the log.
    """

    cdef Connection connection
    cdef Route route
    cdef readonly bytes target, body, if_none_match, authorization, content_type
    cdef public str caller
    cdef bytes id
    cdef bint close, filled
    cdef double began
    cdef int status
    cdef bytes fields, answer_body

    @property
    def method(self):
        """"GET" or "POST"."""
        return self.route.method

    @property
    def request_id(self):
        """What the answer says in X-Request-Id."""
        if self.id is None:
            self.id = self.connection.server.next_id()
        return self.id

    @property
    def gone(self):
        """Whether nobody waits for the answer any more."""
        return self.connection.transport is None

    @property
    def answered(self):
        """Whether the answer is given."""
        return self.filled

    @property
    def remote(self):
        """The client's address, as aiohttp's Request.remote has it."""
        peer = self.get_extra_info("peername")
        return None if peer is None else str(peer[0] if isinstance(peer, (list, tuple)) else peer)

    @property
    def context(self):
        """What a route has kept with the connection; None at first."""
        return self.connection.context

    @context.setter
    def context(self, value):
        self.connection.context = value

    def get_extra_info(self, str name not None):
        """What the connection's transport says; None where it is gone."""
        transport = self.connection.transport
        return None if transport is None else transport.get_extra_info(name)

    def answer(self, int status, bytes fields not None, bytes body not None):
        """Answers a request that the route kept; once."""
        self.fill(status, fields, body)
        self.connection.slots_changed()

    @staticmethod
    def answer_many(list requests not None, list answers not None):
        """Answers many; `answers`: (status, fields, body) each. Each connection writes once."""
        cdef Request request
        cdef tuple answer
        cdef Connection last = None
        cdef list connections = []
        for request, answer in zip(requests, answers):
            request.fill(answer[0], answer[1], answer[2])
            if request.connection is not last:
                last = request.connection
                if not last.dirty:
                    last.dirty = True
                    connections.append(last)
        for last in connections:
            last.dirty = False
            last.slots_changed()

    cdef int fill(self, int status, bytes fields, bytes body) except -1:
        if self.filled:
            raise RuntimeError("this request was answered before")
        self.status, self.fields, self.answer_body, self.filled = status, fields, body, True
        return 0


cdef class Server:
    """What the connections of one listener share. `factory` is what `loop.create_server` is given.

    routes: list of Route. fallback: makes the protocol that a connection is handed to. elsewhere: whoever has those handed
    over (service.guard.Guard: `connections`, `idle_longest_s`, `make_room`). drain: counted up while any slot is open (service.drain). bounds: of the seconds' buckets, ascending, at most 15. log: is called with (request
    id, method, pattern, status, seconds, caller) for each answer, or None. failed: is called with what a route raised.
    """

    cdef tuple routes
    cdef object fallback, elsewhere, drain, log, failed
    cdef double bounds[BUCKETS]
    cdef int n_bounds
    cdef double keepalive_s, head_s, body_s
    cdef Py_ssize_t max_slots, max_connections, max_head
    cdef unsigned max_fields
    cdef set connections
    cdef Py_ssize_t open
    cdef bytes id_prefix, server_line
    cdef uint64_t ids
    cdef int64_t date_at
    cdef bytes date_line
    cdef _Out out
    cdef readonly bint draining
    cdef readonly uint64_t late, gave_way, refused

    def __init__(self, routes, fallback, elsewhere, drain, *, bounds, bytes id_prefix not None, double keepalive_s, double head_s,
                 double body_s, Py_ssize_t max_slots, Py_ssize_t max_connections, Py_ssize_t max_head, int max_fields,
                 failed, log=None):
        cdef int i
        self.routes = tuple(routes)
        if len(bounds) >= BUCKETS:
            raise ValueError("too many buckets")
        self.n_bounds = len(bounds)
        for i in range(self.n_bounds):
            self.bounds[i] = bounds[i]
        self.fallback, self.elsewhere, self.drain = fallback, elsewhere, drain
        self.log, self.failed = log, failed
        self.keepalive_s, self.head_s, self.body_s = keepalive_s, head_s, body_s
        self.max_slots, self.max_connections = max_slots, max_connections
        self.max_head, self.max_fields = max_head, max_fields
        self.connections = set()
        self.id_prefix = id_prefix
        self.server_line = b"\r\nServer: qianyan\r\n"
        self.date_at = -1
        self.out = _Out()

    def factory(self):
        """A new connection."""
        return Connection.__new__(Connection, self)

    def __len__(self):
        """How many connections are here: those that were handed over are not."""
        return len(self.connections)

    @property
    def open_slots(self):
        """How many requests wait for their answer."""
        return self.open

    def take_counts(self):
        """(pattern, status, counts by bucket, seconds) of what was answered since the last call."""
        cdef Route route
        cdef _Series series
        out = []
        for route in self.routes:
            for status, series in route.series.items():
                counts = []
                for i in range(self.n_bounds + 1):
                    counts.append(series.buckets[i])
                out.append((route.pattern, status, counts, series.seconds))
            route.series, route.usual = {}, None
        return out

    def unfinished(self, bint heads):
        """How many connections have a request under way: a slot that is open, a head whose body lacks something, or
        (`heads`) the beginning of a head."""
        cdef Connection connection
        cdef Py_ssize_t found = 0
        for connection in self.connections:
            if connection.n_open or connection.tail is not None and (heads or connection.body_lacking):
                found += 1
        return found

    def silent(self):
        """Whether a connection has not sent anything yet."""
        cdef Connection connection
        for connection in self.connections:
            if connection.served == 0 and connection.tail is None and not connection.n_open:
                return True
        return False

    def begin_drain(self):
        """From here on each answer closes its connection."""
        self.draining = True

    def close(self):
        """Closes every connection, what was answered written out first."""
        cdef Connection connection
        for connection in list(self.connections):
            connection.closing = True
            if connection.transport is not None:
                connection.transport.close()

    cdef bint has_room(self) except -1:
        """Whether one more connection may come; those idle longest are closed where that makes room for it."""
        cdef Connection connection
        cdef Py_ssize_t count = len(self.connections) + len(self.elsewhere.connections)
        if count < self.max_connections:
            return True
        idle = []
        for connection in self.connections:
            if not connection.n_open and not connection.body_lacking:
                idle.append((connection.heard, id(connection), connection))
        idle.sort()
        longest = self.elsewhere.idle_longest_s()
        if longest is not None and (not idle or longest < idle[0][0]):
            self.elsewhere.make_room()
            return len(self.connections) + len(self.elsewhere.connections) < self.max_connections
        for _, _, connection in idle[:max(1, self.max_connections // 64)]:
            self.connections.discard(connection)
            self.gave_way += 1
            count -= 1
            connection.closing = True
            connection.transport.abort()
        return count < self.max_connections

    def sweep(self, double lapse_s=0.0):
        """Enforces the time limits; to be called about once a second.

        lapse_s: for how long this process did not run: what was sent meanwhile is not read yet, and nobody's fault.
        """
        cdef Connection connection
        cdef double now = monotonic()
        for connection in list(self.connections):
            if lapse_s > 0:
                connection.heard = min(connection.heard + lapse_s, now)
                connection.began = min(connection.began + lapse_s, now)
            connection.look(now)

    cdef bytes next_id(self):
        self.ids += 1
        return self.id_prefix + b"%x" % self.ids

    cdef int refresh_date(self) except -1:
        """Writes the Date line anew where the second has changed."""
        cdef timespec now
        clock_gettime(CLOCK_REALTIME, &now)
        if <int64_t>now.tv_sec != self.date_at:
            self.date_at = <int64_t>now.tv_sec
            self.date_line = b"Date: " + formatdate(self.date_at, usegmt=True).encode() + b"\r\n"
        return 0

    cdef int put_id(self, const uint8_t *own, Py_ssize_t n_own) except -1:
        """Appends the request id: the client's own, or a new one in lower-case hexadecimal after our prefix."""
        cdef _Out out = self.out
        cdef char digits[16]
        cdef int n = 16
        cdef uint64_t value
        if n_own:
            out.put(<const char *>own, n_own)
            return 0
        self.ids += 1
        value = self.ids
        while value:
            n -= 1
            digits[n] = b"0123456789abcdef"[value & 15]
            value >>= 4
        out.put(PyBytes_AS_STRING(self.id_prefix), PyBytes_GET_SIZE(self.id_prefix))
        out.put(digits + n, 16 - n)
        return 0

    cdef int put(self, bytes fields, bytes body, const uint8_t *own_id, Py_ssize_t n_id, bint close) except -1:
        """Appends a whole answer to the buffer; n_id: 0 where the client gave its request no id."""
        cdef _Out out = self.out
        out.reserve(PyBytes_GET_SIZE(fields) + PyBytes_GET_SIZE(body) + 320)
        out.put(PyBytes_AS_STRING(fields), PyBytes_GET_SIZE(fields))
        out.put("X-Request-Id: ", 14)
        self.put_id(own_id, n_id)
        out.put(PyBytes_AS_STRING(self.server_line), PyBytes_GET_SIZE(self.server_line))
        out.put(PyBytes_AS_STRING(self.date_line), PyBytes_GET_SIZE(self.date_line))
        if close:
            out.put("Connection: close\r\n", 19)
        out.put("\r\n", 2)
        out.put(PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        return 0

    cdef int put_answer(self, Request request, int status, bytes fields, bytes body) except -1:
        """Appends a whole answer to the buffer, counts and logs it."""
        cdef bytes own = request.id if self.log is None else request.request_id
        cdef double seconds
        if own is None:
            self.put(fields, body, NULL, 0, request.close)
        else:
            self.put(fields, body, <const uint8_t *>PyBytes_AS_STRING(own), PyBytes_GET_SIZE(own), request.close)
        seconds = monotonic() - request.began
        request.route.count(status, seconds, self.bounds, self.n_bounds)
        if self.log is not None:
            self.log(request.request_id.decode(), request.route.method, request.route.pattern, status, seconds,
                     request.caller)
        return 0


cdef class Connection(Receiver):
    """One connection, an asyncio protocol; made by Server.factory."""

    cdef Server server
    cdef object transport, context
    cdef Transport direct     # the transport, where it is our own
    cdef bytes tail           # what has arrived and is not consumed
    cdef object slots         # deque of requests whose answers have not left, in order; None until one is needed
    cdef Py_ssize_t n_open
    cdef bint write_paused, read_paused, held, closing, foreign, body_lacking, busy, dirty
    cdef uint64_t served
    cdef double heard, began

    def __cinit__(self, Server server not None):
        self.server = server

    # ---- what the transport says

    def connection_made(self, transport):
        self.transport = transport
        self.direct = transport if isinstance(transport, Transport) else None
        self.heard = monotonic()
        if not self.server.has_room():
            self.closing = True
            self.server.refused += 1
            transport.abort()
            return
        self.server.connections.add(self)

    def connection_lost(self, exc):
        self.transport = self.direct = None
        self.closing = True
        self.tail = None
        self.server.connections.discard(self)
        if self.slots is not None:
            self.server_less(self.n_open)
            self.n_open = 0
            self.slots = None

    def pause_writing(self):
        self.write_paused = True

    def resume_writing(self):
        self.write_paused = False
        self.heard = monotonic()
        self.go_on()

    def eof_received(self):
        if self.n_open and not self.foreign:
            self.tail = None
            self.closing = True  # what was asked is answered; slots_changed closes
            return True
        return False

    def data_received(self, bytes data not None):
        self.heard = monotonic()
        self.take(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)

    cdef int arrived(self, const uint8_t *data, Py_ssize_t n) except -1:
        self.heard = self.direct.poller.now
        return self.take(data, n, None)

    # ---- reading

    cdef int take(self, const uint8_t *data, Py_ssize_t n, bytes owner) except -1:
        """What has arrived; `owner`: the same, where it is an object already."""
        cdef Py_ssize_t before = self.server.out.size
        if self.closing:
            return 0
        if self.tail is not None or self.foreign or self.busy:
            if owner is None:
                owner = PyBytes_FromStringAndSize(<const char *>data, n)
            if self.tail is not None:
                owner = self.tail + owner
                self.tail = None
            else:
                self.began = self.heard
            if self.foreign or self.busy:
                self.tail = owner
                return 0
            data, n = <const uint8_t *>PyBytes_AS_STRING(owner), PyBytes_GET_SIZE(owner)
        else:
            self.began = self.heard
        self.consume(data, n, owner)
        return self.settle(before)

    cdef int consume(self, const uint8_t *start, Py_ssize_t n, bytes owner) except -1:
        """Answers the whole requests in it; keeps or hands over the rest. Answers go to the shared buffer."""
        cdef Py_ssize_t at = 0
        cdef wire_head head
        cdef Server server = self.server
        cdef Route route
        cdef Py_ssize_t before = server.out.size
        cdef int verdict
        self.body_lacking = self.held = False
        self.busy = True
        server.refresh_date()
        try:
            while at < n and not self.closing:
                if self.write_paused or self.n_open >= server.max_slots:
                    self.held = True
                    break
                verdict = wire_head_parse(start + at, n - at, server.max_head, server.max_fields, &head)
                if verdict == WIRE_PARTIAL:
                    break
                route = self.route_of(start + at, &head) if verdict == WIRE_WHOLE else None
                if route is None:
                    self.foreign = True
                    break
                if n - at < <Py_ssize_t>head.length + <Py_ssize_t>head.body:
                    self.body_lacking = True
                    break
                if not self.give_kept(route, start + at, &head) and not self.ask(self.request(route, start + at, &head)):
                    self.foreign = True
                    break
                at += head.length + head.body
                self.served += 1
                self.began = self.heard
                if head.close:
                    self.closing = True
                if server.out.size - before > OUT_STEP:
                    self.write_from(before)
        finally:
            self.busy = False
        if self.transport is None:
            return 0
        if at < n and not self.closing:
            if owner is None:
                self.tail = PyBytes_FromStringAndSize(<const char *>start + at, n - at)
            else:
                self.tail = owner[at:] if at else owner
        if self.foreign and not self.closing:
            self.write_from(before)
            self.hand_over()
        return 0

    cdef Route route_of(self, const uint8_t *start, wire_head *head):
        """Who answers such a request; None where nobody here does."""
        cdef Route route
        for route in self.server.routes:
            if route.matches(head.method, start + head.target.at, head.target.length) and head.body <= route.max_body:
                return route
        return None

    cdef bint give_kept(self, Route route, const uint8_t *start, wire_head *head) except -1:
        """Answers from the route's table, where that has it and the answer may leave now."""
        cdef Server server = self.server
        cdef tuple now = None
        cdef bint posted = head.method == WIRE_POST
        cdef bint close = head.close or server.draining
        if route.table is None or self.n_open or server.log is not None or head.if_none_match.present:
            return False
        try:
            if posted:
                now = route.table.kept(True, start + head.length, head.body)
            else:
                now = route.table.kept(False, start + head.target.at, head.target.length)
        except Exception as error:
            server.failed(error)
        if now is None:
            return False
        if close:
            self.closing = True
        server.put(now[1], now[2], start + head.request_id.at,
                   head.request_id.length if harmless(start, head.request_id) else 0, close)
        route.count(200, route.table.looked_at - self.heard, server.bounds, server.n_bounds)
        return True

    cdef Request request(self, Route route, const uint8_t *start, wire_head *head):
        """A whole request for the route's handler."""
        cdef Request request
        request = Request.__new__(Request)
        request.connection, request.route = self, route
        request.target = span(start, head.target) if route.prefix else route.path
        request.body = PyBytes_FromStringAndSize(<const char *>start + head.length, head.body)
        if head.if_none_match.present:
            request.if_none_match = span(start, head.if_none_match)
        if head.authorization.present:
            request.authorization = span(start, head.authorization)
        if head.content_type.present:
            request.content_type = span(start, head.content_type)
        if harmless(start, head.request_id):
            request.id = span(start, head.request_id)
        request.close = head.close or self.server.draining
        request.began = self.heard
        return request

    cdef bint ask(self, Request request) except -1:
        """Whether the route took the request: its answer is in the buffer or in a slot, or will be."""
        cdef Server server = self.server
        cdef tuple now
        try:
            answer = request.route.handler(request)
        except Exception as error:
            server.failed(error)
            return False
        if answer is None:
            return False
        if answer is not request:
            now = answer
            if not self.n_open:
                if request.close:
                    self.closing = True
                server.put_answer(request, now[0], now[1], now[2])
                return True
            request.fill(now[0], now[1], now[2])
        if self.slots is None:
            self.slots = deque()
        self.slots.append(request)
        self.n_open += 1
        if request.close:
            self.closing = True
        server.open += 1
        if server.open == 1:
            server.drain.under_way += 1
        return True

    cdef int stop_reading(self) except -1:
        if not self.read_paused and self.transport is not None and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()
        return 0

    cdef int start_reading(self) except -1:
        if self.read_paused and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        self.read_paused = False
        return 0

    cdef int go_on(self) except -1:
        """Takes up what was held back, where nothing holds it any more."""
        cdef Py_ssize_t before = self.server.out.size
        cdef bytes data
        if self.busy or self.closing or self.transport is None or self.write_paused:
            return 0
        if self.foreign:
            return self.hand_over()
        if self.n_open >= self.server.max_slots:
            return 0
        if self.held:
            data, self.tail = self.tail, None
            self.consume(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
            self.settle(before)
        else:
            self.start_reading()
        return 0

    cdef int hand_over(self) except -1:
        """Gives the connection and every unconsumed byte to the other protocol, where no slot is open."""
        cdef bytes rest
        if self.n_open:
            self.stop_reading()
            return 0
        if self.transport is None or self.transport.is_closing():
            return 0
        rest, self.tail = self.tail, None
        transport, self.transport, self.direct = self.transport, None, None
        self.server.connections.discard(self)
        self.closing = True
        protocol = self.server.fallback()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self.write_paused:
            protocol.pause_writing()
        if self.read_paused:
            self.read_paused = False
            transport.resume_reading()
        if rest:
            protocol.data_received(rest)
        return 0

    # ---- writing

    cdef int write_from(self, Py_ssize_t before) except -1:
        """Writes what stands in the shared buffer from `before` on; closes where that was the last answer."""
        cdef bytes whole
        cdef _Out out = self.server.out
        cdef Py_ssize_t n = out.size - before
        if n > 0:
            if self.direct is not None:
                self.direct.send(out.start + before, n)
                out.cut(before)
            else:
                whole = PyBytes_FromStringAndSize(out.start + before, n)
                out.cut(before)
                if self.transport is not None and not self.transport.is_closing():
                    self.transport.write(whole)
        if self.closing and not self.n_open and self.transport is not None:
            self.transport.close()
        return 0

    cdef int settle(self, Py_ssize_t before) except -1:
        """The end of a round of reading: writes, and reads on only where nothing is held back."""
        self.write_from(before)
        if self.transport is None:
            return 0
        if self.held:
            self.stop_reading()
        elif self.read_paused and not self.foreign:
            self.start_reading()
        if self.n_open and (<Request>self.slots[0]).filled:
            self.slots_changed()
        return 0

    cdef int slots_changed(self) except -1:
        """Writes the answers that are next; goes on with what their slots held back."""
        cdef Server server = self.server
        cdef Py_ssize_t before = server.out.size, left = 0
        cdef Request request
        if self.transport is None or not self.n_open or self.busy:  # settle() comes back to it
            return 0
        server.refresh_date()
        while self.n_open:
            request = self.slots[0]
            if not request.filled:
                break
            self.slots.popleft()
            self.n_open -= 1
            left += 1
            if server.draining and not self.n_open and self.tail is None:
                request.close = self.closing = True
            server.put_answer(request, request.status, request.fields, request.answer_body)
        if left:
            self.write_from(before)
            self.server_less(left)
            self.go_on()
        return 0

    cdef int server_less(self, Py_ssize_t n) except -1:
        if n:
            self.server.open -= n
            if self.server.open == 0:
                self.server.drain.end()
        return 0

    # ---- time

    cdef int look(self, double now) except -1:
        """The limits of server, at `now`."""
        cdef Server server = self.server
        if self.transport is None or self.n_open:
            return 0
        if self.write_paused or self.transport.is_closing():
            if now - self.heard > server.keepalive_s:
                self.transport.abort()  # nobody reads our answers
        elif self.tail is None:
            if self.served == 0 and now - self.heard > server.head_s:
                server.late += 1
                self.closing = True
                self.transport.abort()
            elif now - self.heard > server.keepalive_s:
                self.closing = True
                self.transport.close()
        elif self.body_lacking:
            if now - self.began > server.body_s:
                self.foreign = True
                self.hand_over()
        elif now - self.began > server.head_s:
            server.late += 1
            self.closing = True
            self.transport.abort()
        return 0
