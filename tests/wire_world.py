"""One OCSP responder behind two front ends: aiohttp alone, and the compiled connections in front of it.

Connections are driven without sockets (Pipe), or on the compiled transport by a pair of sockets whose other side is
here (Wired). Either way a test decides where a read ends, and knows when nothing more will come.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from prometheus_client import CollectorRegistry

from core.http import json_response
from service.drain import Drain
from service.guard import Connection, Guard
from service.metrics import HttpMetrics
from service.middleware import make_middleware
from service.settings import ServerSettings
from service.wire import _transport, _wire
from service.wire.listener import Wire, ocsp_routes
from signer._native import sm2
from status.hot import HotOcsp
from status.http import StatusRoutes
from status.settings import OcspSettings
from status.source import StoreStatusSource
from tests.status_world import KeySigner, World, open_world


class ManySigner:
    """`core.ports.BatchSigner` over a KeySigner of the world; its gate and refusal hold here, too."""

    def __init__(self, signer: KeySigner) -> None:
        self._signer = signer
        self.public_key = signer.public_key
        self.batches: list[int] = []

    def sign_now(self, messages: list[bytes]) -> bytes | None:
        """At once, where the gate is open."""
        if self._signer.refusal is not None:
            raise self._signer.refusal
        if not self._signer.gate.is_set():
            return None
        self._signer.signed += len(messages)
        self.batches.append(len(messages))
        return b"".join(sm2.signature_from_der(self._signer.sign_now(message)) for message in messages)

    async def sign_many(self, messages: list[bytes]) -> bytes:
        """When the gate is open."""
        self._signer.waiting.set()
        await self._signer.gate.wait()
        raw = self.sign_now(messages)
        assert raw is not None
        return raw


class Pipe(asyncio.Transport):
    """A transport that keeps what is written; `full` makes it ask for a pause."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.closed = False
        self.reading = True
        protocol.connection_made(self)

    @property
    def written(self) -> bytes:
        """Everything."""
        return b"".join(self.writes)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def write(self, data: Any) -> None:
        if not self.closed:
            self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def feed(self, data: bytes) -> None:
        """Octets from the client, as one read."""
        if not self.closed and data:
            self.protocol.data_received(data)


class Wired:
    """A connection on the compiled transport; as Pipe. `kept`: the size of the server's buffer in the kernel."""

    def __init__(self, poller: _transport.Poller, kept: int = 0) -> None:
        self._poller = poller
        self._client, server = socket.socketpair()
        if kept:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kept)
        self._client.setblocking(False)
        self._writes: list[bytes] = []
        self.transport = poller.adopt(server)
        self._first = self.transport.get_protocol()

    @property
    def protocol(self) -> Any:
        return self.transport.get_protocol() or self._first

    @property
    def writes(self) -> list[bytes]:
        for _ in range(2):  # the end of a connection whose octets were not all read is said before what was written
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                while data := self._client.recv(1 << 20):
                    self._writes.append(data)
        return self._writes

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    @property
    def closed(self) -> bool:
        return self.transport.is_closing()

    @property
    def reading(self) -> bool:
        return self.transport.is_reading()

    def close(self) -> None:
        if self._client.fileno() >= 0:
            self.writes  # noqa: B018 - reads them
            self._client.close()
        self.transport.abort()

    def feed(self, data: bytes) -> None:
        """Octets from the client, as one read."""
        if not self.closed and data:
            assert self._client.send(data) == len(data)
            self._poller.wake()


Transport = Literal["pipe", "own"]


@dataclass
class Answered:
    """An HTTP answer as the client sees it."""

    status: int
    fields: dict[str, str]
    body: bytes


def answers(data: bytes, *, heads: list[bool] | None = None) -> list[Answered]:
    """The answers in what a server wrote; it must end with a whole one."""
    out = []
    while data:
        head, mark, data = data.partition(b"\r\n\r\n")
        assert mark, head
        lines = head.decode().split("\r\n")
        matched = re.fullmatch(r"HTTP/\d\.\d (\d{3}) .*", lines[0])
        assert matched is not None, lines[0]
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            assert name.lower() not in fields, "a field twice"
            fields[name.lower()] = value
        status = int(matched[1])
        size = 0 if status in (100, 304) else int(fields.get("content-length", "0"))
        assert len(data) >= size
        out.append(Answered(status, fields, data[:size]))
        data = data[size:]
    return out


class OctetConnection(Connection):
    """Hands octets on one by one: aiohttp forgets whole requests that came in one read with what is none."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        for octet in data:
            super().data_received(bytes([octet]))


class OctetGuard(Guard):
    """A guard whose connections do so."""

    def factory(self, inner: Any) -> Any:
        return lambda: OctetConnection(self, inner())


class Pair:
    """The two front ends. `wire()` and `plain()` open a connection of each."""

    def __init__(self, world: World, settings: ServerSettings, ocsp: OcspSettings, transport: Transport) -> None:
        self.world = world
        self._transport = transport
        self.poller: _transport.Poller | None = None
        self.drain = Drain()
        self.registry = CollectorRegistry()
        self.metrics = HttpMetrics(self.registry)
        self.signers: dict[str, ManySigner] = {}
        self.routes = StatusRoutes(world.responder, StoreStatusSource(world.database), world.clock)
        self.hot = HotOcsp(world.responder, world.database, world.follower, self.many, world.clock, self.routes.refusal)
        self.guard = OctetGuard(
            "public", header_timeout_s=settings.header_timeout_s, max_connections=settings.max_connections
        )
        self.front = Wire(
            "public",
            ocsp_routes(self.hot, ocsp.max_request_bytes),
            self.guard,
            self.drain,
            self.metrics,
            settings,
            log_requests=False,
        )
        middleware = make_middleware("public", self.metrics, self.drain, self.guard)
        self.application = web.Application(middlewares=[middleware], client_max_size=4 << 20)
        self.application.add_routes([*self.routes.public(), web.get("/healthz", self._alive)])
        self.runner = web.AppRunner(self.application, access_log=None, handler_cancellation=False)
        self.server: _wire.Server

    async def _alive(self, _request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    def many(self, key_id: str) -> ManySigner:
        """The world's key of that id, for many messages."""
        return self.signers.setdefault(key_id, ManySigner(self.world.signers[key_id]))

    async def start(self) -> None:
        """Makes both ready for connections."""
        await self.runner.setup()
        assert isinstance(self.runner.server, web.Server)
        self.guard.start()
        self.server = self.front.open(self.runner.server)
        if self._transport == "own":
            self.poller = self.front.poller(self.server)

    async def close(self) -> None:
        """Ends both."""
        self.front.close()
        await self.hot.close()
        await self.runner.cleanup()
        self.guard.stop()
        if self.poller is not None:
            self.poller.close()
        while self.poller is not None and len(self.poller):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)

    def wire(self) -> Pipe | Wired:
        """A connection to the compiled front end."""
        return Pipe(self.server.factory()) if self.poller is None else Wired(self.poller)

    def plain(self) -> Pipe:
        """A connection to aiohttp alone."""
        return Pipe(self.guard.factory(self.runner.server)())

    async def settled(self, patience_s: float = 60.0) -> None:
        """Returns when nothing is under way and the loop has nothing left to do for it, or past the patience: a
        request whose body never comes to its end stays under way."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        calm = 0
        while calm < 12 and loop.time() < until:
            await asyncio.sleep(0)
            calm = calm + 1 if not self.drain.under_way and not self.server.open_slots else 0


@asynccontextmanager
async def open_pair(
    directory: Path,
    ocsp: OcspSettings | None = None,
    server: ServerSettings | None = None,
    transport: Transport = "pipe",
) -> AsyncIterator[Pair]:
    """A world with both front ends."""
    ocsp = ocsp or OcspSettings()
    async with open_world(directory, ocsp) as world:
        pair = Pair(world, server or ServerSettings(), ocsp, transport)
        await pair.start()
        try:
            yield pair
        finally:
            await pair.close()


def post(body: bytes, *fields: str, path: str = "/ocsp") -> bytes:
    """A POST as a plain client writes it."""
    more = "".join(f"{field}\r\n" for field in fields)
    return f"POST {path} HTTP/1.1\r\nHost: ocsp.example.cn\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def get(path: str, *fields: str) -> bytes:
    """A GET as a plain client writes it."""
    more = "".join(f"{field}\r\n" for field in fields)
    return f"GET {path} HTTP/1.1\r\nHost: ocsp.example.cn\r\n{more}\r\n".encode()
