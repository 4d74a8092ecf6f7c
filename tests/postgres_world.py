"""Stores on PostgreSQL for tests: writers that keep what was confirmed, a proxy that cuts, and a look at the whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from sqlalchemy import text

from core.audit import AuditEvent
from core.errors import QianyanError, Unavailable
from core.store import audit, authorities, certificates, counters, feed
from core.store.database import Database, open_database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from core.store.settings import StoreSettings, StoreTarget
from tests.store_world import NOW_MS, authority, certificate

#: Short, so that tests wait little; the service's own are longer.
FAST = StoreSettings(feed_patience_s=1, connect_timeout_s=5, statement_timeout_s=20)


async def fill(url: str) -> None:
    """Adds the authority that certificates are recorded under."""
    database = await open_database(url)
    async with database.write() as connection:
        await authorities.add(connection, authority())
    await database.close()


@contextlib.asynccontextmanager
async def opened(url: str, settings: StoreSettings = FAST) -> AsyncIterator[Database]:
    """The store, closed in the end."""
    database = await open_database(StoreTarget(url, settings))
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def following(database: Database) -> AsyncIterator[tuple[FeedFollower, list[FeedEntry]]]:
    """A follower with what it has delivered."""
    follower = await FeedFollower.start(database)
    seen: list[FeedEntry] = []
    follower.subscribe(seen.append)
    try:
        yield follower, seen
    finally:
        follower.close()


async def issue(database: Database, serial: int) -> None:
    """What an issuance writes."""
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, NOW_MS)
        index = await certificates.take_status_index(connection, "issuing", 24_322)
        await certificates.record(connection, certificate(serial, index), at_ms=at_ms)
        await audit.append(connection, AuditEvent("system", "certificate.issue", str(serial)), at_ms=at_ms)


async def check_whole(database: Database) -> set[int]:
    """The serials of a store whose feed has no gap and whose record verifies."""
    async with database.read() as connection:
        entries = await feed.read_after(connection, 0, limit=100_000)
        verification = await audit.verify(connection)
        assert [entry.seq for entry in entries] == list(range(1, await feed.head(connection) + 1))
        query = "SELECT serial FROM certificates JOIN certificate_serials USING (id, serial)"
        rows = await connection.execute(text(query))
        found = [int.from_bytes(row.serial, "big") for row in rows]
    assert verification.broken_at is None
    assert sorted(found) == sorted(entry.serial for entry in entries if entry.kind == "issued")
    assert verification.rows == len(found)
    return set(found)


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    """Waits for a condition, with a generous limit."""
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)


class Writers:
    """Tasks that issue one certificate after another and keep what was confirmed; they go on through failures."""

    def __init__(self, database: Database, count: int, first: int = 1000) -> None:
        self.confirmed: set[int] = set()
        self.refused: list[QianyanError] = []
        self._ended = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run(database, first + n * 100_000)) for n in range(count)]

    async def _run(self, database: Database, serial: int) -> None:
        while not self._ended.is_set():
            try:
                await issue(database, serial)
            except Unavailable as error:
                self.refused.append(error)
                await asyncio.sleep(0.02)
            else:
                self.confirmed.add(serial)
            serial += 1

    async def until(self, count: int) -> None:
        """Waits until so many are confirmed."""

        async def enough() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return len(self.confirmed) >= count

        await eventually(enough)

    async def met_a_refusal(self) -> bool:
        """Whether one was refused."""
        return bool(self.refused)

    async def end(self) -> None:
        """Stops them; what failed otherwise than by Unavailable is raised here."""
        self._ended.set()
        await asyncio.gather(*self._tasks)


async def until_current(follower: FeedFollower) -> None:
    """Waits until the feed can be followed again."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unavailable):
                await follower.ensure_current()
                return
            await asyncio.sleep(0.02)


class Proxy:
    """Between the store and its server: passes bytes on, or cuts every connection and refuses new ones."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()
        self._up = True
        self.accepted = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self, *, stay_down: bool = True) -> None:
        """Breaks every connection."""
        self._up = not stay_down
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Accepts again."""
        self._up = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._up:
            writer.transport.abort()
            return
        self.accepted += 1
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
        self._writers -= {writer, there_writer}

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
