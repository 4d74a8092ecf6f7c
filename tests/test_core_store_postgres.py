"""Writers side by side, much at once, and the plans of look-ups, on PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import TextClause, event, text

from core.audit import AuditEvent
from core.errors import Conflict, Unavailable
from core.model import RevocationReason
from core.store import audit, bulk_runs, certificates, feed
from core.store.database import Database
from core.store.postgres import be_patient
from core.store.settings import StoreSettings
from tests import postgres
from tests.postgres_world import (
    Writers,
    check_whole,
    eventually,
    fill,
    following,
    issue,
    opened,
)
from tests.store_world import NOW_MS, certificate


@pytest.fixture
async def url() -> str:
    """A database of the test's own on the shared server, with one authority."""
    made = await postgres.shared().new_database()
    await fill(made)
    return made


async def test_eight_writers_leave_no_gap(url: str) -> None:
    async with opened(url) as one, opened(url) as other, following(one) as (follower, seen):
        groups = [Writers(one, 4), Writers(other, 4, first=5_000_000)]
        for group in groups:
            await group.until(40)
        for group in groups:
            await group.end()
            assert not group.refused
        await follower.ensure_current()
        confirmed = groups[0].confirmed | groups[1].confirmed
        assert await check_whole(one) == confirmed
        assert {entry.serial for entry in seen} == confirmed
        assert [entry.seq for entry in seen] == list(range(2, len(seen) + 2))


async def run(database: Database, *statements: TextClause) -> None:
    """One transaction."""
    async with database.write() as connection:
        for statement in statements:
            await connection.execute(statement)


async def test_a_transaction_may_take_its_time_and_the_next_one_may_not(url: str) -> None:
    """Neither the server's limit nor ours ends a statement that goes over every row; both are back afterwards."""
    sleep = text("SELECT pg_sleep(1.5)")  # ours is a second more than the server's
    async with opened(url, StoreSettings(statement_timeout_s=0.1, pool_size=2)) as database:
        async with database.write() as connection:
            await be_patient(connection)
            await connection.execute(sleep)
        for first in ("SELECT 1", "SET LOCAL statement_timeout = 0"):
            with pytest.raises(Unavailable):
                await run(database, text(first), sleep)


async def test_two_that_stand_in_each_others_way_are_told_to_come_again(url: str) -> None:
    async with opened(url) as database:
        for serial in (1, 2):
            await issue(database, serial)
        both = asyncio.Barrier(2)

        async def revoke(serials: tuple[int, int]) -> None:
            async with database.write() as connection:
                first, second = [await certificates.find(connection, serial) for serial in serials]
                await certificates.revoke(connection, first, RevocationReason.SUPERSEDED, at_ms=NOW_MS)
                await both.wait()
                await certificates.revoke(connection, second, RevocationReason.SUPERSEDED, at_ms=NOW_MS)

        results = await asyncio.gather(revoke((1, 2)), revoke((2, 1)), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["NoneType", "Unavailable"]
        async with database.read() as connection:
            entries = await feed.read_after(connection, 0)
        assert [entry.kind for entry in entries][-2:] == ["revoked", "revoked"]


async def test_a_statement_that_takes_too_long_is_ended(url: str) -> None:
    async with opened(url, StoreSettings(statement_timeout_s=0.2)) as database:
        with pytest.raises(Unavailable):
            async with database.read() as connection:
                await connection.execute(text("SELECT pg_sleep(30)"))
        await issue(database, 1)


async def test_many_are_loaded_at_once(url: str) -> None:
    async with opened(url) as database, following(database) as (follower, seen):
        many = [certificate(serial, serial, usage="sign" if serial % 2 else "encrypt") for serial in range(1, 2001)]
        pairs = [(place, place + 1) for place in range(0, 2000, 2)]
        async with database.write() as connection:
            identities = await certificates.load(connection, many, at_ms=NOW_MS, pairs=pairs)
            await audit.append(connection, AuditEvent("system", "bulk", "1"), at_ms=NOW_MS)
        await follower.ensure_current()
        assert [entry.serial for entry in seen] == list(range(1, 2001))
        async with database.read() as connection:
            found = await certificates.find(connection, 1999)
            pair = await certificates.find_pair(connection, found.id)
            assert (found.id, pair and pair.serial) == (identities[1998], 2000)
        with pytest.raises(Conflict) as refused:
            async with database.write() as connection:
                await certificates.load(connection, [certificate(5000, 5000), certificate(7, 9)], at_ms=NOW_MS)
        assert refused.value.code == "serial_taken"
        await issue_after_load(database)


async def issue_after_load(database: Database) -> None:
    """Generated ids go on after loaded ones, and what failed to load left nothing."""
    async with database.write() as connection:
        await certificates.record(connection, certificate(9000, 9000), at_ms=NOW_MS)
    async with database.read() as connection:
        statuses = await certificates.statuses(connection, "issuing", [5000, 9000])
        assert [status.state is None for status in statuses] == [True, False]
        assert await certificates.count(connection) == 2001


async def test_look_ups_use_the_index(url: str) -> None:
    """Plans for a table of millions: no look-up reads all of it."""
    async with opened(url) as database:
        async with database.write() as connection:
            many = [certificate(serial, serial) for serial in range(1, 5001)]
            await certificates.load(connection, many, at_ms=NOW_MS)
        await postgres.shared().execute("ANALYZE", url.rsplit("/", 1)[1])
        plans: list[str] = []
        async with database.read() as connection:

            @event.listens_for(connection.sync_connection, "before_cursor_execute")
            def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
                plans.append(statement)

            await certificates.find(connection, 77)
            await certificates.statuses(connection, "issuing", range(50, 60))
        selects = [query for query in plans if "FROM certificates" in query.replace("\n", "")]
        assert len(selects) == 2
        for query, arguments in zip(
            selects, (("(bytea '\\x4d', 2)"), ("('issuing', array[bytea '\\x4d'])")), strict=True
        ):
            async with database.write() as connection:
                await connection.exec_driver_sql(f"PREPARE look AS {query}")
                await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
                plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN EXECUTE look {arguments}")).scalars())
                await connection.exec_driver_sql("DEALLOCATE look")
            assert "uq_certificate_serials_authority_id_serial" in plan, plan
            assert "Seq Scan on certificates" not in plan, plan


async def test_a_bulk_run_is_read_once_nobody_is_at_its_lines(url: str) -> None:
    """A process that was killed while it committed: its transaction may still be under way."""
    run_id = b"r" * 32
    begun = bulk_runs.BulkRun(run_id, "issuing", "requests.jsonl", 0, 0, 0, 0, "test", NOW_MS, NOW_MS, None)

    async def read(database: Database) -> bulk_runs.BulkRun | None:
        async with database.write() as connection:
            return await bulk_runs.find_settled(connection, run_id)

    async def waits() -> object:
        return await postgres.shared().execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%bulk_runs%'"
            f" AND datname = '{url.rsplit('/', 1)[1]}'"
        )

    async with opened(url) as one, opened(url) as other:
        async with one.write() as connection:
            await bulk_runs.begin(connection, begun)
        async with one.write() as connection:
            await bulk_runs.advance(connection, run_id, bulk_runs.Chunk(1, 7, 700, ()), at_ms=NOW_MS)
            reading = asyncio.create_task(read(other))
            await eventually(waits)
        found = await reading
        assert found is not None
        assert found.lines == 7
