"""The signing calls behind two front ends: aiohttp alone, and the compiled connections in front of it.

Connections are driven without sockets (tests.wire_world.Pipe): a test decides what arrives together, and where a read
ends.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from prometheus_client import CollectorRegistry

from core.clock import system_clock
from core.model import KeyPurpose
from core.store import callers as store_callers
from core.store import tokens
from core.store.callers import Limits
from core.store.database import Database
from core.store.follow import FeedFollower
from service.callers import Callers
from service.drain import Drain
from service.guard import Guard
from service.metered import MeteredEngine
from service.metrics import HttpMetrics
from service.middleware import make_middleware
from service.settings import PrivateSettings, ServerSettings
from service.tokens import digest, make_token
from service.wire import _wire
from service.wire.listener import Wire
from service.wire.signing import HotSigning
from signer._native import sm2
from signer.engine.settings import EngineSettings
from signer.signing.http import SigningRoutes
from signer.signing.settings import SigningSettings
from tests.engine_world import World, key_store, store_url
from tests.store_world import create_store
from tests.wire_world import Answered, Pipe, answers

Front = Literal["compiled", "aiohttp"]
JSON = "Content-Type: application/json"
OCTETS = "Content-Type: application/octet-stream"


class Site:
    """Key `k` for every caller, a token `app` with scope `sign`; `front` is the one that `open` connects to."""

    def __init__(self, world: World, callers: Callers, front: Front, settings: SigningSettings, pending: int) -> None:
        self.world = world
        self.callers = callers
        self.front = front
        self.drain = Drain()
        self.registry = CollectorRegistry()
        self.metrics = HttpMetrics(self.registry)
        self.guard = Guard("private", header_timeout_s=60, max_connections=100, looks=callers.looks)
        signing = SigningRoutes(world.engine, settings)
        self.hot = HotSigning(world.engine, signing, callers, settings, max_pending=pending)
        self.wire = Wire(
            "private",
            self.hot.routes(),
            self.guard,
            self.drain,
            self.metrics,
            ServerSettings(),
            log_requests=True,
        )
        middleware = make_middleware(
            "private", self.metrics, self.drain, self.guard, callers=callers, log_requests=True
        )
        application = web.Application(middlewares=[middleware], client_max_size=8 << 20)
        application.add_routes(signing.private())
        self.runner = web.AppRunner(application, access_log=None, handler_cancellation=False)
        self.server: _wire.Server
        self.token = ""

    @property
    def public(self) -> sm2.PublicKey:
        """Of key `k`."""
        return sm2.PublicKey.from_bytes(self.world.engine.public_key("k"))

    async def start(self) -> None:
        """Makes both ready for connections."""
        await self.runner.setup()
        assert isinstance(self.runner.server, web.Server)
        self.guard.start()
        self.server = self.wire.open(self.runner.server)
        self.token = await self.add_token("app")

    async def close(self) -> None:
        """Ends both."""
        self.wire.close()
        await self.hot.close()
        await self.runner.cleanup()
        self.guard.stop()

    async def add_token(self, name: str, *scopes: str, expires_at_ms: int | None = None) -> str:
        """A token in the store; with scope `sign` unless others are named."""
        token = make_token()
        async with self.world.database.write() as connection:
            await tokens.add(
                connection,
                name,
                digest(token),
                frozenset(scopes or ("sign",)),
                at_ms=system_clock(),
                expires_at_ms=expires_at_ms,
            )
        return token

    async def limit(self, name: str, limits: Limits) -> None:
        """Sets the limits of a token's caller."""
        async with self.world.database.write() as connection:
            await store_callers.set_limits(connection, f"token:{name}", limits, at_ms=system_clock())

    def open(self) -> Pipe:
        """A connection."""
        if self.front == "compiled":
            return Pipe(self.server.factory())
        return Pipe(self.guard.factory(self.runner.server)())  # type: ignore[arg-type]

    def is_compiled(self, pipe: Pipe) -> bool:
        """Whether a connection was not handed over."""
        return isinstance(pipe.protocol, _wire.Connection)

    def request(self, body: bytes, *fields: str, path: str = "/v1/sign", token: str | None = None) -> bytes:
        """A POST as a plain client writes it; `token`: the site's own, or another, or "" for none."""
        token = self.token if token is None else token
        lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body

    def sign(self, digest: bytes, *fields: str, key: str = "k", token: str | None = None) -> bytes:
        """POST /v1/sign of one digest."""
        body = json.dumps({"key": key, "digest": base64.b64encode(digest).decode()}).encode()
        return self.request(body, JSON, *fields, token=token)

    def octets(self, digests: bytes, *fields: str, key: str = "k", token: str | None = None) -> bytes:
        """POST /v1/keys/{key}/sign."""
        return self.request(digests, OCTETS, *fields, path=f"/v1/keys/{key}/sign", token=token)

    async def ask(self, *requests: bytes) -> list[Answered]:
        """The answers to requests that arrive in one pass, each on a connection of its own."""
        pipes = [self.open() for _ in requests]
        for pipe, octets in zip(pipes, requests, strict=True):
            pipe.feed(octets)
        out = [(await self.said(pipe, 1))[0] for pipe in pipes]
        for pipe in pipes:
            pipe.close()
        return out

    async def said(self, pipe: Pipe, count: int) -> list[Answered]:
        """The next so many answers, of which there must be no more."""
        deadline = asyncio.get_running_loop().time() + 60
        while len(got := answers(pipe.written)) < count:
            assert asyncio.get_running_loop().time() < deadline, pipe.written
            assert not pipe.closed, pipe.written
            await asyncio.sleep(0.001)
        assert len(got) == count
        pipe.writes.clear()
        return got

    def verify(self, digest: bytes, answer: Answered) -> None:
        """The answer to `sign` is a signature of key `k`."""
        assert answer.status == 200, answer.body
        document = json.loads(answer.body)
        assert document["algorithm"] == "sm2-with-sm3"
        self.public.verify_digest(digest, sm2.signature_from_der(base64.b64decode(document["signature"])))

    def counted(self, route: str, status: int) -> float:
        """How often a route answered with a status."""
        labels = {"listener": "private", "route": route, "status": str(status)}
        return self.registry.get_sample_value("qianyan_http_requests_total", labels) or 0.0

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the engine."""
        return self.registry.get_sample_value(name, labels) or 0.0


async def _database(stack: AsyncExitStack, directory: Path) -> Database:
    database = await create_store(store_url(directory))
    stack.push_async_callback(database.close)
    return database


@asynccontextmanager
async def open_site(
    directory: Path,
    front: Front,
    *,
    engine: EngineSettings | None = None,
    signing: SigningSettings | None = None,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[Site]:
    """A store, keys, callers and an engine, behind both front ends."""
    settings = engine or EngineSettings()
    async with AsyncExitStack() as stack:
        database = await _database(stack, directory)
        follower = await FeedFollower.start(database)
        stack.callback(follower.close)
        keystore = key_store(directory)
        stack.callback(keystore.close)
        callers = Callers(database, follower, PrivateSettings(tls="off"), system_clock)
        metered = MeteredEngine(callers, database, follower, keystore, settings, system_clock, registry=registry)
        await metered.start()
        stack.push_async_callback(metered.close)
        await metered.create_key("k", KeyPurpose.DATA, "owner", "test", callers=["*"])
        world = World(directory, database, follower, keystore, metered)
        site = Site(world, callers, front, signing or SigningSettings(), settings.max_pending)
        await site.start()
        stack.push_async_callback(site.close)
        yield site


def problem(answer: Answered) -> tuple[int, Any]:
    """Status and code of a problem document, whose id is the header's."""
    assert answer.fields["content-type"] == "application/problem+json", answer
    document = json.loads(answer.body)
    assert document["request_id"] == answer.fields["x-request-id"]
    return answer.status, document["code"]
