"""Puts compiled connections (`_wire`) in front of a listener's aiohttp.

Owns one listener's compiled server: its start, its limits' clock and its end. What the connections do not answer
themselves goes to the listener's guard, and through it to aiohttp. Knows sockets, metrics and the log; not what its
routes mean.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from socket import AF_INET, AF_INET6, socket
from ssl import SSLContext
from typing import Final, cast

import structlog
from aiohttp import web

from service.drain import Drain
from service.guard import Guard
from service.metrics import BUCKETS_S, HttpMetrics
from service.settings import ServerSettings
from service.wire import _transport, _wire
from status.hot import HotOcsp

_SWEEP_EVERY_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.01
#: A body that has not come so long after its head is left to aiohttp, which times it (server.body_timeout_s).
_BODY_HERE_S: Final = 1.0
#: How long a stop waits for the rest of a head.
_HEAD_HERE_S: Final = 1.0

_INTERNET: Final = (AF_INET, AF_INET6)

_log = structlog.get_logger("qianyan.http")


def ocsp_routes(hot: HotOcsp, max_request_bytes: int) -> list[_wire.Route]:
    """The hot path's routes; their patterns are those of status.http."""
    table = hot.table
    return [
        _wire.Route("POST", b"/ocsp", hot.post, pattern="/ocsp", max_body=max_request_bytes, table=table),
        _wire.Route("POST", b"/ocsp/", hot.post, pattern="/ocsp/", max_body=max_request_bytes, table=table),
        _wire.Route("GET", b"/ocsp/", hot.get, pattern="/ocsp/{request}", prefix=True, table=table),
    ]


class Wire:
    """The compiled server of one listener. `routes`: what it answers itself."""

    def __init__(
        self,
        listener: str,
        routes: Sequence[_wire.Route],
        guard: Guard,
        drain: Drain,
        metrics: HttpMetrics,
        settings: ServerSettings,
        *,
        log_requests: bool,
    ) -> None:
        self.guard = guard
        self._listener = listener
        self._routes = routes
        self._drain = drain
        self._metrics = metrics
        self._settings = settings
        self._log_requests = log_requests
        self._server: _wire.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    def open(self, server: web.Server) -> _wire.Server:
        """Begins; connections come by the factory of what is returned, `server` is handed what is not ours."""
        settings = self._settings
        wire = self._server = _wire.Server(
            self._routes,
            self.guard.factory(server),
            self.guard,
            self._drain,
            bounds=BUCKETS_S,
            id_prefix=f"{secrets.token_hex(6)}-".encode(),
            keepalive_s=settings.keepalive_timeout_s,
            head_s=settings.header_timeout_s,
            body_s=_BODY_HERE_S,
            max_slots=settings.max_pipelined,
            max_connections=settings.max_connections,
            max_head=settings.max_header_field_bytes,
            max_fields=settings.max_header_fields,
            failed=_failed,
            log=_log_request if self._log_requests else None,
        )
        self.guard.in_front = wire
        self._metrics.before_scrape.append(self._flush)
        loop = asyncio.get_running_loop()
        self._swept_s = loop.time()
        self._timer = loop.call_later(_SWEEP_EVERY_S, self._sweep)
        return wire

    @property
    def own_transport(self) -> bool:
        """Whether plain TCP goes through the transport of this package; else through the event loop's."""
        return self._settings.wire_transport == "own"

    def poller(self, server: _wire.Server) -> _transport.Poller:
        """Connections of `server` on the transport of this package."""
        return _transport.Poller(asyncio.get_running_loop(), server.factory, self._troubled)

    def _troubled(self, error: OSError) -> None:
        _log.warning(
            "accept_failed",
            listener=self._listener,
            detail=error.strerror,
            advice="raise the limit of open files (LimitNOFILE) or lower server.max_connections",
        )

    def silent(self) -> bool:
        """Whether any connection has not sent anything yet."""
        return self._server is not None and self._server.silent()

    async def finish(self, timeout_s: float) -> None:
        """From here on each answer closes its connection; returns when no request is under way, or in time."""
        if self._server is None:
            return
        self._server.begin_drain()
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (passed_s := loop.time() - began) < timeout_s:
            if not self._server.unfinished(heads=passed_s < _HEAD_HERE_S):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def close(self) -> None:
        """Closes every connection."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()

    def _sweep(self) -> None:
        assert self._server is not None
        loop = asyncio.get_running_loop()
        lapse_s = loop.time() - self._swept_s - 2 * _SWEEP_EVERY_S
        self._swept_s = loop.time()
        self._server.sweep(max(0.0, lapse_s))
        self._timer = loop.call_later(_SWEEP_EVERY_S, self._sweep)

    def _flush(self) -> None:
        assert self._server is not None
        for pattern, status, buckets, seconds in self._server.take_counts():
            self._metrics.add(self._listener, pattern, status, buckets, seconds)


class WireSite(web.BaseSite):
    """A site on a bound socket, its connections compiled ones."""

    def __init__(
        self, runner: web.BaseRunner, bound: socket, wire: Wire, *, ssl_context: SSLContext | None = None
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        self._bound = bound
        self._wire = wire

    @property
    def name(self) -> str:
        """For aiohttp's own use."""
        return self._wire.guard.name

    async def start(self) -> None:
        """Listens."""
        await super().start()
        server = self._runner.server
        assert isinstance(server, web.Server)
        self._wire.guard.start()
        if self._wire.own_transport and self._ssl_context is None and self._bound.family in _INTERNET:
            poller = self._wire.poller(self._wire.open(server))
            poller.listen(self._bound)
            self._server = cast(asyncio.Server, poller)  # aiohttp closes it, and asks nothing else
            return
        self._server = await asyncio.get_running_loop().create_server(
            self._wire.open(server).factory,
            sock=self._bound,
            ssl=self._ssl_context,
            ssl_handshake_timeout=None if self._ssl_context is None else self._wire.guard.handshake_timeout_s,
        )


def _failed(error: Exception) -> None:
    """A route raised: the request goes to aiohttp, the cause to the log."""
    _log.error("wire_route_failed", exc_info=error)


def _log_request(request_id: str, method: str, route: str, status: int, seconds: float, caller: str | None) -> None:
    _log.info(
        "request",
        request_id=request_id,
        method=method,
        route=route,
        status=status,
        ms=round(seconds * 1000, 3),
        caller=caller,
    )
