"""Certificates by year of expiry: room for them made ahead and on demand, and stores of before brought to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import alembic.command
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from core.errors import Conflict
from core.store import (
    certificates,
    copy,
    escrow,
    partitions,
)  # fmt: skip
from core.store.database import Database, _alembic, head_revision, open_database, upgrade_database
from tests import postgres
from tests.partitions_world import NOW_YEAR, ends_in, load, old_and_new, years
from tests.store_world import BACKENDS, NOW_MS, abandoned, fresh_store, new_store, store_url


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


@pytest.fixture
async def on_postgres(tmp_path: Path) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, "postgres") as database:
        yield database


# ---- room


async def test_a_year_is_made_when_a_certificate_needs_it(on_postgres: Database) -> None:
    assert await years(on_postgres) == {}
    async with on_postgres.write() as connection:
        await certificates.record(connection, ends_in(2027, 1), at_ms=NOW_MS)
    await load(on_postgres, ends_in(2027, 2), ends_in(2056, 3))
    assert await years(on_postgres) == {2027: True, 2056: True}


async def test_one_that_was_rolled_back_is_made_again(on_postgres: Database) -> None:
    async with abandoned(on_postgres) as connection:
        await certificates.record(connection, ends_in(2027, 1), at_ms=NOW_MS)
        await certificates.record(connection, ends_in(2027, 2), at_ms=NOW_MS)  # finds what is not committed
    assert await years(on_postgres) == {}
    with pytest.raises(Exception, match="partition") as refused:  # relied on it: told to come again
        await load(on_postgres, ends_in(2027, 1))
    assert getattr(refused.value, "code", None) == "store_partition"
    await load(on_postgres, ends_in(2027, 1))
    assert await years(on_postgres) == {2027: True}


async def test_writers_who_need_a_year_at_once_all_get_it(on_postgres: Database) -> None:
    """Each holds rows of its own in other years, and nobody waits in a ring."""

    async def issue(serial: int) -> None:
        async with on_postgres.write() as connection:
            await certificates.record(connection, ends_in(2027, serial), at_ms=NOW_MS)
            await certificates.record(connection, ends_in(2030, 1000 + serial), at_ms=NOW_MS)

    await load(on_postgres, ends_in(2027, 500))
    await asyncio.gather(*(issue(serial) for serial in range(1, 9)))
    async with on_postgres.read() as connection:
        assert await certificates.count(connection) == 17


async def test_making_a_year_waits_for_nobody_and_nobody_for_it(on_postgres: Database) -> None:
    await load(on_postgres, ends_in(2027, 1))
    async with on_postgres.read() as reading, on_postgres.write() as other:
        assert await certificates.count(reading) == 1
        await certificates.record(other, ends_in(2027, 2), at_ms=NOW_MS)
        async with on_postgres.write() as making:
            assert await partitions.make(making, [2030]) == [2030]
            await certificates.record(other, ends_in(2027, 3), at_ms=NOW_MS)
            async with on_postgres.read() as later:
                assert (await certificates.find(later, 1)).serial == 1


async def test_room_is_made_ahead(on_postgres: Database) -> None:
    async def ahead() -> int:
        async with on_postgres.read() as connection:
            return await partitions.ahead(connection, NOW_YEAR)

    assert await ahead() == -1
    async with on_postgres.write() as connection:
        assert await partitions.make_ahead(connection, NOW_YEAR, 3) == [2026, 2027, 2028, 2029]
    assert await ahead() == 3
    async with on_postgres.write() as connection:
        assert await partitions.make_ahead(connection, NOW_YEAR, 4) == [2030]


async def test_serials_are_unique_over_all_years(database: Database) -> None:
    await load(database, ends_in(2027, 7, 1))
    for attempt in (ends_in(2029, 7, 2), ends_in(2027, 7, 3)):
        with pytest.raises(Conflict) as refused:
            await load(database, attempt)
        assert refused.value.code == "serial_taken"
        with pytest.raises(Conflict):
            async with database.write() as connection:
                await certificates.record(connection, attempt, at_ms=NOW_MS)
    with pytest.raises(Conflict):
        await load(database, ends_in(2027, 8, 1))  # the status index


async def test_pairs_across_years(database: Database) -> None:
    first, second = await load(database, ends_in(2027, 1), ends_in(2028, 2, usage="encrypt"), pairs=[(0, 1)])
    async with database.write() as connection:
        third = await certificates.record(connection, ends_in(2030, 3), at_ms=NOW_MS)
        fourth = await certificates.record(connection, ends_in(2031, 4), at_ms=NOW_MS, pair_id=third)
    async with database.read() as connection:
        for one, other in ((first, second), (second, first), (third, fourth), (fourth, third)):
            pair = await certificates.find_pair(connection, one)
            assert pair is not None
            assert pair.id == other
            assert (await certificates.get(connection, one)).pair_id == other
    assert (await copy.check(database)).faults == ()


# ---- stores of before, copies, and the commands


_OLD_CERTIFICATE = """
INSERT INTO certificates (id, authority_id, serial, usage, profile, subject, public_key, not_before_ms, not_after_ms,
  partition, status_month, status_index, certificate, issued_at_ms, state, changed_seq)
VALUES ({id}, 'issuing', {serial}, 'sign', 'person', {octets}, {octets}, 1, 5, 0, {month}, {id}, {octets}, 1, 'good', 1)
"""


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_filled_store_is_upgraded(tmp_path: Path, backend: str) -> None:
    """Rows, pairs, what refers to them, and the numbers that follow."""
    url = store_url(tmp_path) if backend == "sqlite" else await postgres.shared().new_database(empty=True)
    octets = "x'31'" if backend == "sqlite" else "decode('31', 'hex')"
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: alembic.command.upgrade(_alembic(sync), "0017"))
        name = f"INSERT INTO authorities VALUES ('issuing', NULL, NULL, {octets}, {octets}, NULL, NULL, NULL, 1, 5)"
        await connection.exec_driver_sql(name)
        for number, month in ((1, 2027 * 12), (2, 2027 * 12 + 11), (3, 2031 * 12)):
            serial = octets.replace("31", f"0{number}")
            row = _OLD_CERTIFICATE.format(id=number, serial=serial, octets=octets, month=month)
            await connection.exec_driver_sql(row)
        await connection.exec_driver_sql("UPDATE certificates SET pair_id = 4 - id WHERE id <> 2")
        await connection.exec_driver_sql(f"INSERT INTO escrowed_keys VALUES (3, {octets}, {octets}, 5, NULL)")
        if backend == "postgres":
            await connection.exec_driver_sql("SELECT setval('certificates_id_seq', 3)")
    await engine.dispose()
    before, after = await upgrade_database(url)
    assert (before, after) == ("0017", head_revision())
    database = await open_database(url)
    try:
        async with database.read() as connection:
            pair = await certificates.find_pair(connection, 1)
            assert pair is not None
            assert (pair.id, pair.serial) == (3, 3)
            assert (await certificates.find(connection, 2)).certificate == b"1"
            assert (await escrow.get(connection, 3)).public_key == b"1"
        assert list(await years(database)) == [2027, 2031]
        assert await load(database, ends_in(2027, 9)) == [4]
        assert [fault for fault in (await copy.check(database)).faults if "certificates" in fault] == []
    finally:
        await database.close()


async def test_a_store_is_copied_into_partitions(tmp_path: Path) -> None:
    async with fresh_store(tmp_path) as source:
        await old_and_new(source)
        target = await new_store(tmp_path, "postgres")
        try:
            await copy.copy(source, target, lambda *_: None)
            assert await years(target) == {2027: True, 2028: True, 2040: True}
            assert await load(target, ends_in(2029, 30)) == [6]
        finally:
            await target.close()


async def test_a_row_that_nothing_refers_to_is_a_fault(database: Database) -> None:
    made = await old_and_new(database)
    for statement, fault in (
        (f"DELETE FROM certificates WHERE id = {made[0]}", "certificates that were issued are missing"),
        (f"UPDATE certificates SET pair_id = {made[4]} WHERE id = {made[2]}", "certificates name a pair"),
        (f"UPDATE certificates SET holder_id = 'nobody' WHERE id = {made[4]}", "certificates name a holder"),
        (f"UPDATE certificates SET serial = authority_id::bytea WHERE id = {made[3]}", "no identity"),
    ):
        if "::" in statement and not database.on_postgres:
            statement = f"UPDATE certificates SET serial = x'99' WHERE id = {made[3]}"
        async with database.write() as connection:
            await connection.exec_driver_sql(statement)
        assert any(fault in found for found in (await copy.check(database)).faults)
