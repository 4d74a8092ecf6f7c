"""Stands between a listener's connections and aiohttp: bounded time for a request's headers, bounded connections.

aiohttp bounds the size and number of header fields (it is told how much) but not the time in which they come. Here
each connection has to have sent a request's headers within a time from its start, or from the first octet that comes
while no request is under way; and a listener has at most so many connections: past that, those idle longest give way,
and where none is idle the new one is refused. Octets are passed on as they come, never looked at: that headers are
complete shows by the request reaching `service.middleware`, which says so here.

Owns the connections of one listener. Knows sockets and time; not HTTP. Only the event-loop thread uses it.
"""

from __future__ import annotations

import asyncio
import heapq
import ssl
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from service.client_certificates import Presented

#: How often it is looked who is late: the precision of the limits.
_LOOK_EVERY_S: Final = 0.5
#: Which part of a full listener gives way at once, so that a look at all of them serves many new ones.
_GIVE_WAY: Final = 64
_NOTHING_SENT: Final = -1.0


class Looks:
    """How often it was looked whether the store has news (service.callers)."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Inner(Protocol):
    """What a connection is handed on to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Connection(asyncio.Protocol):
    """One connection. `look`: the looks there had been when its last octets came. `certificate`: the client's, read.

    requests: how many reached a handler. under_way: how many are being answered. since_s: when the headers that are
    awaited began; -1: they have not. idle_s: when it was last of use.
    """

    __slots__ = (
        "_feed",
        "_guard",
        "certificate",
        "idle_s",
        "inner",
        "look",
        "requests",
        "since_s",
        "transport",
        "under_way",
    )

    def __init__(self, guard: Guard, inner: Inner) -> None:
        self._guard = guard
        self.inner = inner
        self._feed = inner.data_received
        self.transport: asyncio.Transport | None = None
        self.look = 0
        self.certificate: Presented | None = None
        self.requests = 0
        self.under_way = 0
        self.since_s = _NOTHING_SENT
        self.idle_s = 0.0

    def begin(self) -> None:
        """A request's headers are complete; `end` when it is answered."""
        self.requests += 1
        self.under_way += 1
        self.since_s = _NOTHING_SENT

    def end(self) -> None:
        """A request that began is answered."""
        self.under_way -= 1
        self.idle_s = self._guard.now_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's own."""
        self.transport = cast(asyncio.Transport, transport)
        if self._guard.admit(self):
            self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """asyncio's own."""
        guard = self._guard
        self.look = guard.looks.count
        if self.since_s < 0 and not self.under_way:
            self.since_s = guard.now_s
        self._feed(data)

    def eof_received(self) -> bool | None:
        """asyncio's own."""
        return self.inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's own."""
        if self._guard.connections.pop(self.inner, None) is not None:
            self.inner.connection_lost(exc)
        self.transport = None

    def pause_writing(self) -> None:
        """asyncio's own."""
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """asyncio's own."""
        self.inner.resume_writing()

    def abort(self) -> None:
        """Closes it without another word: whoever is late or one too many is owed none."""
        if self.transport is not None:
            self.transport.abort()


class InFront(Protocol):
    """Connections of the listener that are not here yet (service.wire), and what became of some."""

    @property
    def late(self) -> int: ...
    @property
    def gave_way(self) -> int: ...
    @property
    def refused(self) -> int: ...
    def __len__(self) -> int: ...


class _Nothing:
    """Nothing stands in front."""

    late = gave_way = refused = 0

    def __len__(self) -> int:
        return 0


class Guard:
    """The connections of one listener. `start` when its event loop runs, `stop` at the end."""

    def __init__(self, name: str, *, header_timeout_s: float, max_connections: int, looks: Looks | None = None) -> None:
        self.name = name
        self.looks = looks or Looks()
        self.now_s = 0.0
        self.connections: dict[Any, Connection] = {}
        self.late = 0
        self.gave_way = 0
        self.refused = 0
        self.in_front: InFront = _Nothing()
        self._header_timeout_s = header_timeout_s
        self._max = max_connections
        self._timer: asyncio.TimerHandle | None = None

    @property
    def handshake_timeout_s(self) -> float:
        """How long a TLS handshake may take: it comes before anything is counted here."""
        return self._header_timeout_s

    def start(self) -> None:
        """Begins to look who is late."""
        loop = asyncio.get_running_loop()
        self.now_s = loop.time()
        self._timer = loop.call_later(_LOOK_EVERY_S, self._look)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def factory(self, inner: Callable[[], Inner]) -> Callable[[], Connection]:
        """For `loop.create_server`: connections of `inner`, each watched."""

        def make() -> Connection:
            return Connection(self, inner())

        return make

    def admit(self, connection: Connection) -> bool:
        """Takes a new connection in, or closes it where there is no room."""
        if len(self.connections) >= self._max and not self.make_room():
            self.refused += 1
            connection.abort()
            return False
        connection.since_s = connection.idle_s = self.now_s
        self.connections[connection.inner] = connection
        return True

    def silent(self) -> bool:
        """Whether any connection has not had a request reach its handler."""
        return any(connection.requests == 0 for connection in self.connections.values())

    def idle_longest_s(self) -> float | None:
        """Since when the connection that is idle longest has been (the loop's time); None where none is idle."""
        idle = [max(one.since_s, one.idle_s) for one in self.connections.values() if not one.under_way]
        return min(idle, default=None)

    def make_room(self) -> bool:
        """Closes connections that have nothing under way, those of no use for longest first."""
        idle = [connection for connection in self.connections.values() if not connection.under_way]
        count = max(1, self._max // _GIVE_WAY)
        # Those between requests before those whose request may be on its way.
        for connection in heapq.nsmallest(
            count, idle, key=lambda one: (one.since_s >= 0, max(one.since_s, one.idle_s))
        ):
            # Taken out now: the transport tells of its end in a later turn of the loop.
            del self.connections[connection.inner]
            connection.inner.connection_lost(None)
            connection.abort()
            self.gave_way += 1
        return len(self.connections) < self._max

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        lapse_s = loop.time() - self.now_s - 2 * _LOOK_EVERY_S
        self.now_s = loop.time()
        if lapse_s > 0:  # this process did not run: what was sent meanwhile is not read yet, and nobody's fault
            for connection in self.connections.values():
                if connection.since_s >= 0:
                    connection.since_s += lapse_s
        latest = self.now_s - self._header_timeout_s
        for connection in list(self.connections.values()):
            if 0 <= connection.since_s < latest and not connection.under_way:
                self.late += 1
                connection.abort()
        self._timer = loop.call_later(_LOOK_EVERY_S, self._look)


class GuardedSite(web.BaseSite):
    """A site on a bound socket, its connections watched by a guard."""

    def __init__(
        self, runner: web.BaseRunner, bound: socket, guard: Guard, *, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        self._bound = bound
        self._guard = guard

    @property
    def name(self) -> str:
        """For aiohttp's own use."""
        return self._guard.name

    async def start(self) -> None:
        """Listens."""
        await super().start()
        server = self._runner.server
        assert server is not None
        self._guard.start()
        self._server = await asyncio.get_running_loop().create_server(
            self._guard.factory(server),
            sock=self._bound,
            ssl=self._ssl_context,
            ssl_handshake_timeout=None if self._ssl_context is None else self._guard.handshake_timeout_s,
        )


class GuardMetrics:
    """A collector over the guards."""

    def __init__(self, registry: CollectorRegistry, guards: tuple[Guard, ...]) -> None:
        self._guards = guards
        registry.register(self)

    def collect(self) -> list[Metric]:
        """For the registry."""
        open_now = GaugeMetricFamily("qianyan_connections", "Connections open now", labels=["listener"])
        closed = CounterMetricFamily(
            "qianyan_connections_closed",
            "Connections closed by this side: headers too slow (late), idle when room was needed (gave_way), "
            "no room (refused)",
            labels=["listener", "reason"],
        )
        for guard in self._guards:
            open_now.add_metric([guard.name], len(guard.connections) + len(guard.in_front))
            for reason in ("late", "gave_way", "refused"):
                closed.add_metric([guard.name, reason], getattr(guard, reason) + getattr(guard.in_front, reason))
        return [open_now, closed]
