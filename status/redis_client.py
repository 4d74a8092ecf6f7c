"""Redis as the shared cache needs it: many values in one question, many writes in one pipeline, one channel.

Owns the connections. Whether there is one node, a primary that sentinels name, or a cluster is known here alone. What
goes wrong leaves as `RedisTrouble`, whatever it was; nothing is tried twice, because whoever asks has a better use for
the time. Knows octets; not what they mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from status.redis_settings import RedisSettings, address

#: The channel's connection is looked after by Redis's own pings: one that says nothing for so long is replaced.
_SILENCE_S: Final = 30.0
_CLOSE_S: Final = 1.0


class RedisTrouble(Exception):
    """Redis did not do what it was asked, or not in time."""


#: (key, value, milliseconds to live)
Write = tuple[bytes, bytes, int]


class RedisClient:
    """See the module. `password`: where Redis wants one; `ca_file`: as a path that can be opened."""

    def __init__(self, settings: RedisSettings, password: str | None = None, ca_file: str | None = None) -> None:
        self._settings = settings
        self._timeout_s = settings.timeout_ms / 1000
        self._slow_s = (settings.timeout_ms + settings.connect_timeout_ms) / 1000
        self._options: dict[str, Any] = {
            "username": settings.username,
            "password": password,
            "socket_connect_timeout": settings.connect_timeout_ms / 1000,
            "client_name": "qianyan",
        }
        if (settings.url or "").startswith("rediss://") or settings.tls:
            self._options["ssl_ca_certs"] = ca_file
        # Apart, so that a question finds a connection that is made already and not in use by a write.
        self._reader, self._writer = self._connect(), self._connect()

    def _connect(self) -> Any:
        settings, options = self._settings, dict(self._options)
        once: dict[str, Any] = {"retry": Retry(NoBackoff(), 0)}
        if settings.cluster:
            nodes = [ClusterNode(*address(one)) for one in settings.cluster]
            return RedisCluster(startup_nodes=nodes, ssl=settings.tls, max_connections=8, **options, **once)
        if settings.sentinels:
            reach = {"socket_connect_timeout": options["socket_connect_timeout"], "socket_timeout": 1.0}
            sentinel = Sentinel([address(one) for one in settings.sentinels], sentinel_kwargs=reach | once)  # type: ignore[no-untyped-call]
            return sentinel.master_for(settings.sentinel_service, ssl=settings.tls, **options, **once)
        assert settings.url is not None
        return Redis.from_url(settings.url, **options, **once)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in order, by one MGET (a cluster: one for each slot, in one pipeline). Raises RedisTrouble."""
        ask = self._reader.mget_nonatomic if self._settings.cluster else self._reader.mget
        found: list[bytes | None] = await _within(self._timeout_s, ask(list(keys)))
        if len(found) != len(keys):
            raise RedisTrouble("as many values as keys were expected")
        return found

    async def put_many(self, writes: Sequence[Write]) -> None:
        """Writes all in one pipeline. Raises RedisTrouble where any was refused."""

        async def run() -> None:
            async with self._writer.pipeline(transaction=False) as pipeline:
                for key, value, life_ms in writes:
                    pipeline.set(key, value, px=life_ms)
                await pipeline.execute()

        await _within(self._slow_s, run())

    async def publish(self, channel: bytes) -> None:
        """Says something on the channel. Raises RedisTrouble."""
        anywhere: dict[str, Any] = {"target_nodes": RedisCluster.RANDOM} if self._settings.cluster else {}
        await _within(self._slow_s, self._writer.execute_command("PUBLISH", channel, b"", **anywhere))

    async def connect(self) -> None:
        """Returns when both connections are there and answer. Raises RedisTrouble."""
        for client in (self._reader, self._writer):
            await _within(self._slow_s, _ping(client))

    async def heard(self, channel: bytes) -> AsyncIterator[None]:
        """Yields at the start and for each message, until the connection ends. Raises RedisTrouble."""
        client = self._writer
        pubsub = None
        try:
            if self._settings.cluster:
                await client.initialize()
            pubsub = client.pubsub()
            await pubsub.subscribe(channel)
            yield
            silent = False
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=_SILENCE_S)
                if message is None and silent:
                    raise RedisTrouble("no answer to a ping")
                silent = message is None
                if message is None:
                    await pubsub.ping()
                elif message["type"] == "message":
                    yield
        except Exception as error:  # as in _within
            raise RedisTrouble(repr(error)) from error
        finally:
            if pubsub is not None:
                await pubsub.aclose()

    async def close(self) -> None:
        """Lets every connection go."""
        for client in (self._reader, self._writer):
            await _within(_CLOSE_S, client.aclose())


async def _ping(client: Any) -> None:
    await client.ping()


async def _within(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` gives, in time. Raises RedisTrouble.

    `work` runs in a task that is left behind when its time is over: the client library does not always end at once
    when it is cancelled.
    """
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_seen)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    finally:
        task.cancel()
    if not done:
        raise RedisTrouble("no answer in time")
    try:
        return task.result()
    except Exception as error:
        # The client library raises of its own kinds, of the standard library's, and on answers that are none
        # (IndexError, UnicodeDecodeError ...): for whoever asks they are one.
        raise RedisTrouble(repr(error)) from error


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever waited has been told, or has left."""
    if not task.cancelled():
        task.exception()
