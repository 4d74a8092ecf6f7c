"""The store under several processes: order, atomicity, and a writer that is killed."""

import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from core.errors import Unavailable
from core.model import CertificateState
from core.store import audit, certificates, counters, feed, schema, tail
from core.store.database import Database, open_database, sqlite_path
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from core.store.schema import certificates as table
from tests.store_world import BACKENDS, NOW_MS, abandoned, certificate, fresh_store, start_writer


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


async def check_whole(database: Database) -> tuple[set[int], list[int]]:
    """(serials, status indexes) of a store whose feed, audit record and counters must fit one another."""
    async with database.read() as connection:
        entries = await feed.read_after(connection, 0)
        assert [entry.seq for entry in entries] == list(range(1, await feed.head(connection) + 1))
        rows = (await connection.execute(select(table.c.serial, table.c.status_index))).all()
        verification = await audit.verify(connection)
    serials = {int.from_bytes(row.serial, "big") for row in rows}
    assert sorted(entry.serial for entry in entries if entry.kind == "issued") == sorted(serials)
    assert verification.broken_at is None
    assert verification.rows == len(serials)
    return serials, sorted(row.status_index for row in rows)


async def test_two_writing_processes_leave_no_gap_and_no_index_twice(database: Database) -> None:
    writers = [start_writer(database.url, 1000, 60), start_writer(database.url, 5000, 60)]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    serials, indexes = await check_whole(database)
    assert serials == {*range(1000, 1060), *range(5000, 5060)}
    assert indexes == list(range(120))
    async with database.read() as connection:
        order = [entry.serial or 0 for entry in await feed.read_after(connection, 0) if entry.kind == "issued"]
    assert [s for s in order if s < 5000] == list(range(1000, 1060)), "a process's commits are out of order"


async def test_a_killed_writer_loses_nothing_that_it_committed(database: Database) -> None:
    first, printed = 1, []
    for _ in range(3):
        writer = start_writer(database.url, first, 10_000)
        assert writer.stdout is not None
        printed += [int(writer.stdout.readline()) for _ in range(15)]
        writer.send_signal(signal.SIGKILL)
        printed += [int(line) for line in writer.stdout.read().split()]
        writer.stdout.close()
        assert writer.wait(timeout=10) == -signal.SIGKILL
        first = printed[-1] + 1_000
    again = await open_database(database.url)
    serials, indexes = await check_whole(again)
    assert set(printed) <= serials
    assert len(serials) <= len(printed) + 3, "more than the one commit that was under way at each kill"
    assert indexes == list(range(len(serials)))
    async with again.write() as connection:
        await certificates.record(connection, certificate(1 << 100, len(serials)), at_ms=NOW_MS)
    await again.close()


async def test_a_follower_sees_another_process_at_the_next_look(database: Database) -> None:
    follower = await FeedFollower.start(database)
    seen: list[FeedEntry] = []
    follower.subscribe(seen.append)
    assert not follower.moved()
    writer = start_writer(database.url, 1, 20)
    assert writer.stdout is not None
    for line in writer.stdout:
        await follower.ensure_current()
        assert int(line) in {entry.serial for entry in seen}
    assert writer.wait(timeout=10) == 0
    writer.stdout.close()
    await follower.ensure_current()
    assert [entry.serial for entry in seen] == list(range(1, 21))
    assert [entry.seq for entry in seen] == list(range(2, 22))
    assert follower.position == 21
    assert not follower.moved()
    follower.close()


async def test_a_follower_sees_its_own_process_too(database: Database) -> None:
    follower = await FeedFollower.start(database)
    seen: list[FeedEntry] = []
    follower.subscribe(seen.append)
    async with database.write() as connection:
        await certificates.record(connection, certificate(7, 0), at_ms=NOW_MS)
    assert follower.moved()
    await follower.ensure_current()
    assert [(e.kind, e.authority_id, e.serial) for e in seen] == [("issued", "issuing", 7)]
    await follower.ensure_current()
    assert len(seen) == 1
    follower.close()


async def test_a_follower_reads_on_past_one_page(database: Database) -> None:
    follower = await FeedFollower.start(database)
    seen: list[FeedEntry] = []
    follower.subscribe(seen.append)
    async with database.write() as connection:
        changes = [feed.FeedChange("issued", "issuing", serial) for serial in range(1, 10_101)]
        await feed.append(connection, changes, at_ms=NOW_MS)
    await follower.ensure_current()
    assert len(seen) == 10_100
    follower.close()


async def test_a_gap_is_an_error_and_stays_one(database: Database) -> None:
    """What follows a gap may be anything, so nothing cached may be relied on until it is closed."""
    follower = await FeedFollower.start(database)
    seen: list[FeedEntry] = []
    follower.subscribe(seen.append)
    async with database.write() as connection:
        await feed.append(connection, [feed.FeedChange("issued", "issuing", n) for n in (1, 2, 3)], at_ms=NOW_MS)
        await tail.flush(connection)
        await connection.execute(delete(schema.feed).where(schema.feed.c.seq == follower.position + 2))
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            await follower.ensure_current()
        assert refused.value.code == "feed_gap"
    assert [entry.serial for entry in seen] == [1]
    follower.close()


async def test_a_file_that_was_taken_back_is_not_relied_on(tmp_path: Path) -> None:
    """A backup put into the store's file under a running process: first shorter than what was followed, then as long
    again with another history. On PostgreSQL: tests/test_core_store_postgres_follow.py."""
    async with fresh_store(tmp_path, "sqlite") as database:
        path = sqlite_path(database.url)
        assert path is not None

        async def append(*serials: int, at_ms: int = NOW_MS) -> None:
            async with database.write() as connection:
                changes = [feed.FeedChange("issued", "issuing", serial) for serial in serials]
                await feed.append(connection, changes, at_ms=at_ms)

        await append(1)
        with sqlite3.connect(path) as store, sqlite3.connect(tmp_path / "backup") as backup:
            store.backup(backup)
        await append(2, 3)
        follower = await FeedFollower.start(database)
        assert follower.current()
        with sqlite3.connect(tmp_path / "backup") as backup, sqlite3.connect(path) as store:
            backup.backup(store)
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                follower.current()
            assert refused.value.code == "feed_backwards"
        await append(2, 4, 5, at_ms=NOW_MS + 1)
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                await follower.ensure_current()
            assert refused.value.code == "feed_backwards"
        follower.close()


async def test_what_was_not_committed_is_not_seen(database: Database) -> None:
    follower = await FeedFollower.start(database)
    seen: list[FeedEntry] = []
    follower.subscribe(seen.append)
    async with abandoned(database) as connection:
        await certificates.record(connection, certificate(7, 0), at_ms=NOW_MS)
    await follower.ensure_current()
    assert seen == []
    async with database.read() as connection:
        assert (await certificates.statuses(connection, "issuing", [7]))[0].state is None
        assert await counters.current(connection, "feed") == 1
    async with database.write() as connection:
        await certificates.record(connection, certificate(7, 0), at_ms=NOW_MS)
    await follower.ensure_current()
    assert [entry.seq for entry in seen] == [2], "a transaction that failed left a gap"
    async with database.read() as connection:
        assert (await certificates.statuses(connection, "issuing", [7]))[0].state is CertificateState.GOOD
    follower.close()
