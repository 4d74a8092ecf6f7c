"""The store on SQLite: issuance-like commits, look-ups, what changed since a feed position."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from core.model import RevocationReason
from core.store import authorities, certificates, counters, listed
from core.store.database import Database, create_database
from tests.store_world import NOW_MS, authority, certificate

pytestmark = pytest.mark.benchmark(group="store")
Timed = Callable[..., Any]
COUNT = 20_000
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def database(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    async def made() -> Database:
        database = await create_database(f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('store')}/store.sqlite3")
        async with database.write() as connection:
            await authorities.add(connection, authority())
        async with database.write() as connection:
            body = bytes(range(256)) * 3
            rows = [certificate(serial, serial, certificate=body) for serial in range(1, COUNT + 1)]
            await certificates.load(connection, rows, at_ms=NOW_MS)
        return database

    found = run(made())
    yield found
    run(found.close())


def test_commit(timed: Timed, run: Run, database: Database) -> None:
    async def work() -> None:
        async with database.write() as connection:
            await counters.advance_time(connection, NOW_MS)

    timed(lambda: run(work()))


def test_status_of_100(timed: Timed, run: Run, database: Database) -> None:
    wanted = random.Random(1).sample(range(1, COUNT), 100)

    async def work() -> None:
        async with database.read() as connection:
            await certificates.statuses(connection, "issuing", wanted)

    timed(lambda: run(work()), per=100)


def test_changes_of_500(timed: Timed, run: Run, database: Database) -> None:
    async def revoke() -> None:
        async with database.write() as connection:
            for serial in range(1, 501):
                found = await certificates.find(connection, serial)
                await certificates.revoke(connection, found, RevocationReason.SUPERSEDED, at_ms=NOW_MS)

    async def work() -> None:
        async with database.read() as connection:
            await listed.changes(connection, "issuing", 0, after_seq=0)

    run(revoke())
    timed(lambda: run(work()), per=500)
