"""Look-ups in a store with many years: which partitions they touch, by which index, and how much they read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import CertificateState, RevocationReason
from core.store import (
    certificates,
    crls,
    directory,
    feed,
    listed,
    scan,
    status_sets,
)  # fmt: skip
from core.store.database import Database, open_database
from core.store.postgres import driver
from tests import postgres
from tests.partitions_world import ends_in, load
from tests.store_world import NOW_MS, abandoned, fresh_store


async def plans(database: Database, ask: Any, mode: str = "force_generic_plan") -> list[str]:
    """The plans, run once, of the statements that `ask` makes about certificates."""
    asked: list[tuple[str, Any]] = []
    async with database.read() as connection:

        @event.listens_for(connection.sync_connection, "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            asked.append((statement, parameters))

        await ask(connection)
    found = []
    for statement, parameters in asked:
        if "certificates" in statement:
            found.append(await explain(database, statement, parameters, mode))
    assert found
    return found


async def explain(database: Database, statement: str, parameters: Any, mode: str = "force_generic_plan") -> str:
    async with database.read() as connection:
        await connection.execute(text("SELECT 1"))
        under = await driver(connection)
        await under.execute(f"SET LOCAL plan_cache_mode = {mode}")
        rows = await under.fetch(f"EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) {statement}", *parameters)
    return "\n".join(row[0] for row in rows)


def touched(plan: str) -> list[str]:
    """The partitions that were looked into, and how."""
    lines = [line for line in plan.splitlines() if re.search(r" on certificates_\d{4}", line)]
    return [line.strip() for line in lines if "never executed" not in line]


async def _fill() -> str:
    async with fresh_store(Path(), "postgres") as database:
        many = [
            ends_in(2026 + serial % 4, serial, public_key=b"point-%d" % serial, certificate=b"x" * 600)
            for serial in range(1, 4001)
        ]
        await load(database, *many)
        async with database.write() as connection:
            for serial in range(99, 4001, 99):
                found = await certificates.find(connection, serial)
                await certificates.revoke(connection, found, RevocationReason.SUPERSEDED, at_ms=NOW_MS)
        await postgres.shared().execute("ANALYZE", database.url.rsplit("/", 1)[1])
        return database.url


@pytest.fixture(scope="module")
def filled_url() -> str:
    """4,000 certificates over four years, one in a hundred revoked."""
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(asyncio.run, _fill()).result()


@pytest.fixture
async def filled(filled_url: str) -> AsyncIterator[Database]:
    """That store, opened."""
    database = await open_database(filled_url)
    yield database
    await database.close()


async def test_a_look_up_touches_one_partition(filled: Database) -> None:
    async with filled.read() as connection:
        identity = (await certificates.find(connection, 77)).id

    async def by_serial(connection: AsyncConnection) -> None:
        await certificates.find(connection, 77)

    async def by_authority(connection: AsyncConnection) -> None:
        await certificates.find(connection, 77, "issuing")

    async def by_id(connection: AsyncConnection) -> None:
        await certificates.get(connection, identity)

    async def status(connection: AsyncConnection) -> None:
        await certificates.statuses(connection, "issuing", [77])

    async def published(connection: AsyncConnection) -> None:
        await directory.find_many(connection, [("issuing", 77)])

    async def placed(connection: AsyncConnection) -> None:
        await status_sets.places(connection, "issuing", [77])

    for ask in (by_serial, by_authority, by_id, status, published, placed):
        (plan,) = await plans(filled, ask)
        assert "Seq Scan on certificate" not in plan, plan
        looks = touched(plan)
        assert len(looks) == 1, plan
        assert "certificates_2027_pkey" in looks[0], plan


async def test_a_change_of_state_touches_one_partition(filled: Database) -> None:
    async with filled.write() as connection:
        asked: list[tuple[str, Any]] = []

        @event.listens_for(connection.sync_connection, "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            asked.append((statement, parameters))

        found = await certificates.get(connection, (await certificates.find(connection, 78)).id, lock=True)
        await certificates.revoke(connection, found, RevocationReason.CERTIFICATE_HOLD, at_ms=NOW_MS)
        await certificates.release(connection, await certificates.find(connection, 78), at_ms=NOW_MS)
    changes = [one for one in asked if one[0].startswith("UPDATE certificates") or "FOR UPDATE" in one[0]]
    changes = [one for one in changes if "certificates" in one[0]]
    assert len(changes) == 3
    for statement, parameters in changes:
        async with abandoned(filled) as connection:
            await connection.execute(text("SELECT 1"))
            under = await driver(connection)
            await under.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            rows = await under.fetch(f"EXPLAIN (ANALYZE, COSTS off, TIMING off) {statement}", *parameters)
        plan = "\n".join(row[0] for row in rows)
        looks = [line for line in touched(plan) if "Update on" not in line]
        assert [("certificates_2028_pkey" in look) for look in looks] == [True], plan


async def test_crls_presigning_and_sets_use_their_indexes(filled: Database) -> None:
    """Nothing reads all of it; the CRL's scan is of the partial index."""

    class Taken:
        def load_rows(self, rows: Any) -> None: ...
        def load_copy(self, piece: bytes) -> None: ...

    async with filled.read() as connection:
        await listed.load(connection, "issuing", 0, Taken(), expired_after_ms=0)
    query = listed._LISTED.format(authority="$1", partition="$2", from_ms="$3")
    plan = await explain(filled, query, ("issuing", 0, 0))
    index = r"Index (?:Only )?Scan using certificates_\d{4}_authority_id_partition_serial"
    assert len(re.findall(index, plan)) == 4, plan
    assert "Seq Scan" not in plan, plan

    async def page(connection: AsyncConnection) -> None:
        found = await scan.statuses_after(connection, "issuing", b"\x01", at_ms=0, limit=50)
        assert len(found.statuses) == 50

    async def changed(connection: AsyncConnection) -> None:
        head = await feed.head(connection)
        assert await listed.changes(connection, "issuing", 0, after_seq=head - 5)
        assert await crls.status_changes(connection, head - 5)

    async def keyed(connection: AsyncConnection) -> None:
        (found,) = await certificates.with_public_key(connection, b"point-77")
        assert found.serial == 77

    async def held(connection: AsyncConnection) -> None:
        assert await certificates.of_holder(connection, "holder") == []

    for ask in (page, changed, keyed, held):
        for plan in await plans(filled, ask):
            if "certificates_20" in plan:
                assert "Seq Scan on certificate" not in plan, plan


async def test_much_at_once_is_looked_up_and_not_read(filled: Database) -> None:
    """However many are asked about, and whatever the planner knows of them."""
    serials = range(1, 4001, 2)

    async def bulk(connection: AsyncConnection) -> None:
        assert len(await certificates.statuses(connection, "issuing", serials)) == 2000

    async def published(connection: AsyncConnection) -> None:
        assert len(await directory.find_many(connection, [("issuing", serial) for serial in serials])) == 2000

    async def placed(connection: AsyncConnection) -> None:
        assert len(await status_sets.places(connection, "issuing", serials)) == 2000

    async def changed(connection: AsyncConnection) -> None:
        assert len(await listed.changes(connection, "issuing", 0, after_seq=0)) >= 40
        assert len(await listed.states(connection, "issuing", 0, serials)) == 2000
        assert len([one async for part in listed.facts(connection, "issuing", 0, after_seq=0) for one in part]) >= 40
        assert len(await crls.status_changes(connection, 0, ("issuing", 0))) >= 40

    async def walked(connection: AsyncConnection) -> None:
        assert len((await scan.statuses_after(connection, "issuing", b"", at_ms=0, limit=3000)).statuses) == 3000

    for mode in ("force_generic_plan", "force_custom_plan"):
        for ask in (bulk, published, placed, changed, walked):
            for plan in await plans(filled, ask, mode):
                assert "certificates_2027" in plan
                assert not re.search(r"Seq Scan on certificates_", plan), plan


# ---- what a look-up reads, by how many years there are

FEW, MANY = 2, 10


async def _of_years(count: int) -> str:
    """2,000 certificates of one year, and a few of each of the others; every holder and key has one."""
    async with fresh_store(Path(), "postgres") as database:
        rows = [(2026, serial) for serial in range(1, 2001)]
        rows += [(2026 + year, 10_000 * year + serial) for year in range(1, count) for serial in range(1, 301)]
        many = [
            ends_in(year, serial, public_key=b"point-%d" % serial, holder_id=f"holder-{serial}", certificate=b"x" * 600)
            for year, serial in rows
        ]
        await load(database, *many)
        await postgres.shared().execute("VACUUM ANALYZE", database.url.rsplit("/", 1)[1])
        return database.url


@pytest.fixture(scope="module")
def of_years() -> dict[int, str]:
    """Stores with few and with many years, by their number."""

    def make(count: int) -> str:
        with ThreadPoolExecutor(1) as aside:
            return aside.submit(asyncio.run, _of_years(count)).result()

    return {count: make(count) for count in (FEW, MANY)}


async def reads(database: Database, ask: Any) -> tuple[int, int]:
    """(pages, index scans) of what `ask` does, under the plan that is kept for any value; planned before it counts."""
    statements: list[tuple[str, Any]] = []
    async with database.read() as connection:

        @event.listens_for(connection.sync_connection, "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            statements.append((statement, parameters))

        await ask(connection)
    pages = scans = 0
    async with database.read() as connection:
        await connection.execute(text("SELECT 1"))
        under = await driver(connection)
        await under.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for statement, parameters in statements:
            how = "EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off, SUMMARY off, FORMAT json)"
            (explained,) = await under.fetchval(f"{how} {statement}", *parameters)
            found = explained["Plan"]
            pages += found["Shared Hit Blocks"] + found["Shared Read Blocks"]
            scans += _index_scans(found)
    return pages, scans


def _index_scans(plan: dict[str, Any]) -> int:
    """Index scans that ran, each time counted."""
    ran = plan["Actual Loops"] if plan["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Index Scan") else 0
    return int(ran) + sum(_index_scans(below) for below in plan.get("Plans", ()))


async def test_an_ocsp_answer_reads_as_much_with_many_years(of_years: dict[int, str]) -> None:
    """The identity by authority and serial, the row by id in its year: two index scans, a few pages."""

    async def status(connection: AsyncConnection) -> None:
        (found,) = await certificates.statuses(connection, "issuing", [77])
        assert found.state is CertificateState.GOOD

    async def unknown(connection: AsyncConnection) -> None:
        (found,) = await certificates.statuses(connection, "issuing", [999_999])
        assert found.state is None

    async def one(connection: AsyncConnection) -> None:
        await certificates.find(connection, 77, "issuing")

    for ask, scans, most in ((status, 2, 8), (unknown, 1, 3), (one, 2, 8)):
        counted = {}
        for years_there, url in of_years.items():
            database = await open_database(url)
            counted[years_there] = await reads(database, ask)
            await database.close()
        assert counted[FEW] == counted[MANY], ask
        pages, ran = counted[MANY]
        assert (ran, pages <= most) == (scans, True), (ask, counted)


async def test_who_is_looked_for_in_every_year_costs_a_little_for_each(of_years: dict[int, str]) -> None:
    """By holder or by key nothing says which year: one index scan for each of them, and no more than its depth."""

    async def held(connection: AsyncConnection) -> None:
        (found,) = await certificates.of_holder(connection, "holder-77")
        assert found.serial == 77

    async def keyed(connection: AsyncConnection) -> None:
        (found,) = await certificates.with_public_key(connection, b"point-77")
        assert found.serial == 77

    database = await open_database(of_years[MANY])
    for ask in (held, keyed):
        pages, scans = await reads(database, ask)
        assert scans == MANY, ask
        assert pages <= 3 * MANY + 2, (ask, pages)
    await database.close()
