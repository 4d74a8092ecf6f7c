"""Certificates by year of expiry: made ahead and on demand, looked up in one partition, archived and retired."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import alembic.command
import orjson
import pytest
from click.testing import CliRunner
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from core.clock import from_datetime, system_clock
from core.errors import Conflict, NotFound, Refused
from core.model import CertificateState, RevocationReason
from core.store import (
    audit,
    certificates,
    copy,
    counters,
    crls,
    directory,
    escrow,
    events,
    feed,
    listed,
    partitions,
    retiring,
    scan,
    status_sets,
    year_archive,
)  # fmt: skip
from core.store.database import Database, _alembic, head_revision, open_database, upgrade_database
from core.store.postgres import driver
from core.store.retiring import Retirement
from core.store.schema_certificates import certificates as table
from service.commands.store_command import store as store_command
from tests import postgres
from tests.store_world import BACKENDS, NOW_MS, abandoned, certificate, fresh_store, new_store, store_url

DAY_MS = 86_400_000
NOW_YEAR = 2026
KEYS = escrow.WrappedKey(b"point", b"wrapped")


def ends_in(year: int, serial: int, index: int | None = None, **changes: object) -> Any:
    """A certificate that ends in the middle of a year."""
    end_ms = from_datetime(datetime(year, 6, 15, tzinfo=UTC))
    values: dict[str, object] = {"not_after_ms": end_ms, "not_before_ms": end_ms - 365 * DAY_MS, **changes}
    return certificate(serial, serial if index is None else index, status_month=year * 12 + 5, **values)  # type: ignore[arg-type]


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


@pytest.fixture
async def on_postgres(tmp_path: Path) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, "postgres") as database:
        yield database


async def load(database: Database, *many: Any, pairs: Any = ()) -> list[int]:
    async with database.write() as connection:
        return await certificates.load(connection, many, at_ms=NOW_MS, pairs=pairs)


async def years(database: Database) -> dict[int, bool]:
    async with database.read() as connection:
        return {one.year: one.attached for one in await partitions.years(connection)}


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


# ---- look-ups


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


# ---- retirement


def wish(directory: Path, *, now_year: int, keep: int = 10) -> Retirement:
    return Retirement(directory, keep, "cli:test", lambda: from_datetime(datetime(now_year, 3, 1, tzinfo=UTC)))


async def issued_until(database: Database, year: int) -> None:
    """The store's time stands in that year."""
    async with database.write() as connection:
        await counters.advance_time(connection, from_datetime(datetime(year, 2, 1, tzinfo=UTC)))


async def retire(database: Database, before: int, asked: Retirement) -> list[year_archive.YearArchive]:
    going = await retiring.due(database, before, asked)
    return [await retiring.retire(database, one, asked, lambda _: None) for one in going]


async def old_and_new(database: Database) -> list[int]:
    """Four of 2027, one of them revoked, one renewed by one of 2040; a pair across 2027 and 2028."""
    made = await load(
        database,
        ends_in(2027, 1, profile='per"son, a', certificate=bytes(range(256))),
        ends_in(2027, 2, usage="encrypt"),
        ends_in(2027, 3, ra="ra-1", region="江苏/南京"),
        ends_in(2028, 4, usage="encrypt"),
        ends_in(2040, 5),
        pairs=[(0, 1), (2, 3)],
    )
    async with database.write() as connection:
        await escrow.keep(connection, made[1], KEYS, at_ms=NOW_MS)
        found = await certificates.find(connection, 3)
        await certificates.revoke(connection, found, RevocationReason.KEY_COMPROMISE, at_ms=NOW_MS)
        await events.append(connection, events.Event(made[4], "renew", "cli:test", previous_id=made[0]), at_ms=NOW_MS)
    return made


async def test_a_year_is_retired(database: Database, tmp_path: Path) -> None:
    made = await old_and_new(database)
    await issued_until(database, 2038)
    (done,) = await retire(database, 2028, wish(tmp_path / "a", now_year=2038))
    assert (done.year, done.rows) == (2027, 3)
    assert year_archive.check(tmp_path / "a" / "certificates-2027.json") == done
    (row,) = year_archive.find(tmp_path / "a", b"\x03")
    assert (row["state"], row["reason"], row["serial"]) == ("revoked", "1", "\\x03")
    assert (row["ra"], row["region"], row["customer"]) == ("ra-1", "江苏/南京", "")
    (row,) = year_archive.find(tmp_path / "a", b"\x01")
    assert (row["profile"], row["certificate"]) == ('per"son, a', "\\x" + bytes(range(256)).hex())
    assert sorted(await years(database)) == [2028, 2040]
    async with database.read() as connection:
        states = [one.state for one in await certificates.statuses(connection, "issuing", [1, 2, 3, 4, 5])]
        assert states == [None, None, None, CertificateState.GOOD, CertificateState.GOOD]
        with pytest.raises(NotFound):
            await certificates.find(connection, 1)
        with pytest.raises(NotFound) as refused:
            await certificates.get(connection, made[0])
        assert refused.value.code == "certificate_retired"
        assert await certificates.find_pair(connection, made[3]) is None
        assert await events.predecessor(connection, made[4]) is None, "what is left of a line is all that moves"
        assert (await escrow.get(connection, made[1])) == KEYS
        entry = (await feed.read_after(connection, 0))[-1]
        assert (entry.kind, entry.subject_id) == ("retired", "2027")
        last = (await connection.execute(text("SELECT action, subject, detail FROM audit ORDER BY seq DESC"))).first()
        assert last is not None
        assert (*last[:2], done.sm3 in last[2]) == ("certificates.retire", "2027", True)
        assert (await audit.verify(connection)).broken_at is None
    for again in (ends_in(2041, 1, 1000), ends_in(2027, 3, 1001)):
        with pytest.raises(Conflict):
            await load(database, again)
    assert (await copy.check(database)).faults == ()
    assert await retire(database, 2028, wish(tmp_path / "a", now_year=2038)) == []


async def test_what_is_to_be_kept_is_not_retired(database: Database, tmp_path: Path) -> None:
    await old_and_new(database)
    await issued_until(database, 2037)
    for before, now_year in ((2028, 2037), (2041, 2038), (2039, 2048), (2030, 2090)):
        asked = wish(tmp_path / "a", now_year=now_year)
        with pytest.raises(Refused) as refused:  # 2090: the clock is not believed against the store's own time
            await retire(database, before, asked)
        assert refused.value.code == "retention"
    await load(database, ends_in(2027, 9, not_after_ms=NOW_MS + 15 * 365 * DAY_MS))
    with pytest.raises(Refused) as refused:  # by its month it is of 2027, by its end it is not
        await retire(database, 2028, wish(tmp_path / "a", now_year=2038))
    assert refused.value.code == "retention"
    async with database.read() as connection:
        assert await certificates.count(connection) == 6
    assert all((await years(database)).values())


async def test_a_change_meanwhile_stops_it(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is not as it was archived is not removed; the next run archives it as it is."""
    await old_and_new(database)
    await issued_until(database, 2038)
    write = year_archive.write

    async def then_revoke(connection: AsyncConnection, *arguments: Any, **named: Any) -> Any:
        made = await write(connection, *arguments, **named)
        async with database.write() as writing:
            found = await certificates.find(writing, 1)
            await certificates.revoke(writing, found, RevocationReason.SUPERSEDED, at_ms=NOW_MS)
        return made

    monkeypatch.setattr(year_archive, "write", then_revoke)
    asked = wish(tmp_path / "a", now_year=2038)
    with pytest.raises(Refused) as refused:
        await retire(database, 2028, asked)
    assert refused.value.code == "year_changed"
    monkeypatch.undo()
    assert (await years(database)).get(2027) is (not database.on_postgres)
    (done,) = await retire(database, 2028, asked)
    assert done.file == "certificates-2027-2.csv.gz"
    found = list(year_archive.find(tmp_path / "a", b"\x01"))
    assert [row["state"] for row in found] == ["revoked", "good"]  # "-2" sorts first
    assert sorted(await years(database)) == [2028, 2040]


async def test_it_goes_on_where_it_was_broken_off(
    on_postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the year is detached, and before it is dropped: said once on record, counted once, dropped in the end."""
    await old_and_new(on_postgres)
    await issued_until(on_postgres, 2038)
    asked = wish(tmp_path / "a", now_year=2038)

    async def broken(*_: object) -> None:
        raise ConnectionResetError

    for step, attached in (("_detach", True), ("_drop", False)):
        with monkeypatch.context() as patched:
            patched.setattr(retiring, step, broken)
            with pytest.raises(ConnectionResetError):
                await retire(on_postgres, 2028, asked)
        assert (await years(on_postgres))[2027] is attached
    await retire(on_postgres, 2028, asked)
    assert sorted(await years(on_postgres)) == [2028, 2040]
    async with on_postgres.read() as connection:
        said = await connection.execute(text("SELECT count(*) FROM audit WHERE action = 'certificates.retire'"))
        assert said.scalar_one() == 1
        counted = text("SELECT sum(count) FROM statistics_retired WHERE event = 'issued'")
        assert (await connection.execute(counted)).scalar_one() == 3


async def test_others_go_on_while_a_year_is_detached(on_postgres: Database, tmp_path: Path) -> None:
    """A reader that is open keeps the detach waiting; issuing and looking up wait for neither.

    Broken off while it waits, it is ended by the next run.
    """
    await old_and_new(on_postgres)
    await issued_until(on_postgres, 2038)
    asked = wish(tmp_path / "a", now_year=2038)
    async with on_postgres.read() as reading:
        assert await certificates.count(reading) == 5
        task = asyncio.create_task(retire(on_postgres, 2028, asked))

        async def waiting() -> bool:
            async with on_postgres.read() as connection:
                found = text("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")
                return bool((await connection.execute(found)).scalar_one())

        async with asyncio.timeout(60):
            while not await waiting():
                assert not task.done(), await task
                await asyncio.sleep(0.02)
        await load(on_postgres, ends_in(2039, 20), ends_in(2040, 21))
        async with on_postgres.write() as connection:
            found = await certificates.find(connection, 5)
            await certificates.revoke(connection, found, RevocationReason.SUPERSEDED, at_ms=NOW_MS)
        async with on_postgres.read() as connection:
            assert (await certificates.find(connection, 20)).serial == 20
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await years(on_postgres))[2027] is False
    (done,) = await retire(on_postgres, 2028, asked)
    assert done.rows == 3
    assert 2027 not in await years(on_postgres)


async def test_an_archive_that_was_changed_shows(database: Database, tmp_path: Path) -> None:
    await old_and_new(database)
    await issued_until(database, 2038)
    await retire(database, 2028, wish(tmp_path / "a", now_year=2038))
    manifest, file = tmp_path / "a" / "certificates-2027.json", tmp_path / "a" / "certificates-2027.csv.gz"
    whole = file.read_bytes()
    lines = gzip.decompress(whole).splitlines(keepends=True)
    assert lines[0].decode().strip().split(",") == [column.name for column in table.c]
    file.write_bytes(gzip.compress(b"".join(lines[:-1]), mtime=0))
    with pytest.raises(Refused, match="changed"):
        year_archive.check(manifest)
    with pytest.raises(Refused, match="changed"):
        list(year_archive.find(tmp_path / "a", b"\x01"))
    said = orjson.loads(manifest.read_bytes())
    manifest.write_bytes(orjson.dumps({**said, "sm3": year_archive._sm3_of(file)}))
    with pytest.raises(Refused, match="other rows"):
        year_archive.check(manifest)


async def test_an_archive_can_be_copied_back(on_postgres: Database, tmp_path: Path) -> None:
    """What COPY reads from the file is what was there."""
    await old_and_new(on_postgres)
    name = on_postgres.url.rsplit("/", 1)[1]
    rows = "SELECT md5(string_agg(t::text, ';' ORDER BY id)) FROM {} AS t"
    before = await postgres.shared().execute(rows.format("certificates_2027"), name)
    await issued_until(on_postgres, 2038)
    await retire(on_postgres, 2028, wish(tmp_path / "a", now_year=2038))
    async with on_postgres.write() as connection:
        await connection.execute(text("CREATE TABLE back (LIKE certificates)"))
        under = await driver(connection)
        with gzip.open(tmp_path / "a" / "certificates-2027.csv.gz") as file:
            await under.copy_to_table("back", source=file, format="csv", header=True)
    assert await postgres.shared().execute(rows.format("back"), name) == before


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


def test_the_commands(tmp_path: Path) -> None:
    """On the embedded store, with certificates that ended long ago."""
    this_year = 1970 + system_clock() // (365_2425 * 8640)

    async def fill() -> None:
        async with fresh_store(tmp_path) as database:
            await load(database, ends_in(2005, 0xAB01), ends_in(2006, 2), ends_in(this_year, 3))
            async with database.write() as connection:
                await counters.advance_time(connection, system_clock())

    asyncio.run(fill())
    config = tmp_path / "qianyan.toml"
    config.write_text(
        '[store]\npath = "store.sqlite3"\ncertificate_years = 15\n[issuance]\npublic_url = "http://pki.example"\n'
    )

    def call(*arguments: str, code: int = 0, settings: bool = True) -> Any:
        more = ["--config", str(config)] if settings else []
        result = CliRunner().invoke(store_command, [*arguments, *more, "--json"])
        assert result.exit_code == code, (result.output, result.exception)
        return orjson.loads(result.stdout) if code == 0 else result

    archive = ["--archive", str(tmp_path / "archive")]
    listed_years = call("partitions")["years"]
    assert [(one["year"], one["may_be_retired"]) for one in listed_years] == [
        (2005, True), (2006, True), (this_year, False),
    ]  # fmt: skip
    assert isinstance(call("retire", "--before", str(this_year), *archive, code=1).exception, Refused)
    assert call("retire", "--before", "2006", *archive, "--dry-run") == {"years": [2005], "retired": []}
    assert not (tmp_path / "archive").exists()
    done = call("retire", "--before", "2006", *archive)
    assert [one["rows"] for one in done["retired"]] == [1]
    assert [one["year"] for one in call("partitions")["years"]] == [2006, this_year]
    assert call("retired", *archive, settings=False)["files"][0]["year"] == 2005
    found = call("retired", "ab:01", *archive, settings=False)["certificates"]
    assert [row["serial"] for row in found] == ["\\xab01"]
    assert isinstance(call("retired", "77", *archive, code=1, settings=False).exception, NotFound)
    config.write_text(f"{config.read_text()}[ocsp]\narchive_cutoff_days = {365 * 40}\n")
    assert not any(one["may_be_retired"] for one in call("partitions")["years"])
