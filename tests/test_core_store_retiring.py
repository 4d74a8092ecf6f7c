"""Years that need not be kept: archived, checked, detached, dropped, whatever comes between."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import system_clock
from core.errors import Conflict, NotFound, Refused, Unavailable
from core.model import CertificateState, RevocationReason
from core.store import (
    audit,
    certificates,
    copy,
    counters,
    escrow,
    events,
    feed,
    retiring,
    year_archive,
)  # fmt: skip
from core.store.database import Database
from core.store.postgres import driver
from core.store.schema_certificates import certificates as table
from service.commands.store_command import store as store_command
from tests import postgres
from tests.partitions_world import DAY_MS, KEYS, ends_in, issued_until, load, old_and_new, retire, wish, years
from tests.store_world import BACKENDS, NOW_MS, fresh_store


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


@pytest.fixture
async def on_postgres(tmp_path: Path) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, "postgres") as database:
        yield database


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


async def test_the_plain_way_lets_others_go_first(
    on_postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before PostgreSQL 14: it needs the table for itself, waits no longer than others may wait behind it, and
    comes again. A reader that stays holds it off; who reads and issues meanwhile goes on."""
    monkeypatch.setattr(retiring, "_LOCK_MS", 100)
    monkeypatch.setattr(retiring, "_PAUSE_S", 0.1)
    await old_and_new(on_postgres)
    await issued_until(on_postgres, 2038)
    asked = replace(wish(tmp_path / "a", now_year=2038), concurrently=False)
    (going,) = await retiring.due(on_postgres, 2028, asked)
    said: list[str] = []
    serials = itertools.count(100)
    stop = asyncio.Event()
    done = {"read": 0, "issued": 0}

    async def reader() -> None:
        while not stop.is_set():
            async with on_postgres.read() as connection:
                assert (await certificates.find(connection, 5)).serial == 5
            done["read"] += 1

    async def issuer() -> None:
        while not stop.is_set():
            await load(on_postgres, ends_in(2040, next(serials)))
            done["issued"] += 1

    others = [asyncio.create_task(work()) for work in (reader, reader, issuer)]
    async with on_postgres.read() as staying, asyncio.timeout(120):
        assert await certificates.count(staying) >= 5
        task = asyncio.create_task(retiring.retire(on_postgres, going, asked, said.append))
        while sum("again" in line for line in said) < 2:
            assert not task.done(), await task
            await asyncio.sleep(0.02)
        before = dict(done)
        while done["read"] < before["read"] + 5 or done["issued"] < before["issued"] + 5:
            assert not any(other.done() for other in others)
            await asyncio.sleep(0.02)
        assert not task.done()
        assert (await years(on_postgres))[2027] is True
    async with asyncio.timeout(120):
        assert (await task).rows == 3
    stop.set()
    await asyncio.gather(*others)
    assert 2027 not in await years(on_postgres)
    assert (await copy.check(on_postgres)).faults == ()


async def test_the_plain_way_gives_up(on_postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retiring, "_LOCK_MS", 20)
    monkeypatch.setattr(retiring, "_PAUSE_S", 0.0)
    monkeypatch.setattr(retiring, "_ATTEMPTS", 3)
    await old_and_new(on_postgres)
    await issued_until(on_postgres, 2038)
    asked = replace(wish(tmp_path / "a", now_year=2038), concurrently=False)
    async with on_postgres.read() as staying:
        await certificates.count(staying)
        with pytest.raises(Unavailable) as refused:
            await retire(on_postgres, 2028, asked)
        assert refused.value.code == "year_detach"
    assert [one.year for one in await retire(on_postgres, 2028, asked)] == [2027]


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
