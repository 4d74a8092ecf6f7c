"""Redis servers of the tests' own, a proxy that delays, and responders that share answers through them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from status.metrics import REDIS_OUTCOMES, RedisMetrics
from status.redis_cache import RedisCache
from status.redis_client import RedisClient
from status.redis_settings import RedisSettings
from status.responder import Responder
from status.settings import OcspSettings
from tests.running import free_port
from tests.status_world import World, request

PATIENCE_S = 60
SECRET = b"s" * 32


class RedisServer:
    """One redis-server without persistence. `start()` returns when it answers."""

    def __init__(self, *arguments: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self._arguments = arguments
        self._directory = tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Its working directory."""
        return Path(self._directory.name)

    @property
    def url(self) -> str:
        """For `[redis]`."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Redis:
        """A plain client, for looking and for lying."""
        return Redis(port=self.port, socket_timeout=PATIENCE_S)

    def start(self) -> RedisServer:
        """Starts it, empty."""
        command = ["redis-server", *self._arguments, "--port", str(self.port), "--dir", self._directory.name]
        if "--sentinel" not in self._arguments:
            command += ["--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(PATIENCE_S * 50):
            with contextlib.suppress(RedisError), self.client as client:
                client.ping()
                return self
            assert self.process.poll() is None, "redis-server did not start"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)
        raise AssertionError("redis-server does not answer")

    def freeze(self) -> None:
        """It keeps its connections and says nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None

    def remove(self) -> None:
        """Ends it and takes everything away."""
        self.kill()
        self._directory.cleanup()


class DelayProxy:
    """Passes octets on, each answer `delay_s` later."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0

    async def __aenter__(self) -> DelayProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(self._pass(reader, there_writer, back=False), self._pass(there_reader, writer))
        writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool = True) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if back and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


async def until(holds: object, what: str = "a condition did not come to hold") -> None:
    """Waits until `holds()` is true."""
    assert callable(holds)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not holds():
        assert loop.time() < deadline, what
        await asyncio.sleep(0.005)


class Sharer:
    """A responder with a shared cache, as another process over the same store would have."""

    def __init__(self, world: World, redis: RedisSettings, ocsp: OcspSettings, secret: bytes, *, hints: bool) -> None:
        self.world = world
        self.metrics = RedisMetrics()
        self.cache = RedisCache(
            RedisClient(redis), redis, secret, world.database, world.follower, world.clock, self.metrics, hints=hints
        )
        self.responder = Responder(
            world.database, world.follower, world.signer_for, world.clock, ocsp, shared=self.cache
        )

    async def ask(self, serial: int, algorithm: str = "sm3") -> bytes:
        """The DER of the answer to a plain request."""
        return (await self.responder.respond(request(self.world.issuing.cert_id(serial, algorithm)))).der

    def count(self, outcome: str) -> int:
        """How many look-ups had that outcome."""
        return int(self.metrics._lookups[outcome]._value.get())

    def counts(self) -> dict[str, int]:
        """Look-ups by outcome, those that there were."""
        return {outcome: self.count(outcome) for outcome in REDIS_OUTCOMES if self.count(outcome)}

    def written(self, outcome: str = "written") -> int:
        """How many writes had that outcome."""
        return int(self.metrics._writes[outcome]._value.get())


@asynccontextmanager
async def sharer(
    world: World,
    redis: RedisSettings,
    *,
    ocsp: OcspSettings | None = None,
    secret: bytes = SECRET,
    hints: bool = False,
    connect: bool = True,
) -> AsyncIterator[Sharer]:
    """A sharer that is connected, with the end of the feed loaded."""
    made = Sharer(world, redis, ocsp or OcspSettings(), secret, hints=hints)
    made.cache.start()
    try:
        await made.cache.loaded.wait()
        if connect:
            assert await made.cache.connected(PATIENCE_S)
        yield made
    finally:
        await made.responder.close()
        await made.cache.close()


def patient(url: str | None, **more: object) -> RedisSettings:
    """Settings with which a slow test machine is no outage."""
    return RedisSettings.model_validate({"url": url, "timeout_ms": 1000, "connect_timeout_ms": 5000, **more})
