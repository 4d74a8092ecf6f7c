"""Statistics on both databases: each write is counted in its own transaction, and the counters are what rows say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from core.errors import Refused, Unavailable
from core.model import RevocationReason
from core.store import certificates, counters, events, statistics, statistics_rebuild
from core.store.counted import day_of
from core.store.database import Database
from core.store.events import Event
from core.store.schema import certificates as table
from core.store.schema_statistics import statistics_counts
from core.store.statistics import Question
from tests.store_world import BACKENDS, NOW_MS, abandoned, certificate, fresh_store

DAY_MS = 86_400_000
TODAY = day_of(NOW_MS)
EVER = Question(0, TODAY + 1)
KEY = RevocationReason.KEY_COMPROMISE
HOLD = RevocationReason.CERTIFICATE_HOLD


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


async def ask(database: Database, question: Question = EVER, now_ms: int = NOW_MS) -> statistics.Answer:
    async with database.read() as connection:
        return await statistics.ask(connection, question, now_ms=now_ms)


async def same(database: Database) -> bool:
    async with database.read() as connection:
        return await statistics_rebuild.differences(connection) == []


async def fill(database: Database) -> None:
    """Ten certificates by COPY in two regions, one alone; one revoked, one held and released, one held and revoked."""
    many = [
        certificate(n, n, region="广东省/广州市" if n % 2 else "广东省/深圳市", ra="ra-1", customer="税务")
        for n in range(1, 11)
    ]
    async with database.write() as connection:
        ids = await certificates.load(connection, many, at_ms=NOW_MS - 40 * DAY_MS)
        await events.append_many(connection, [Event(i, "issue", "x") for i in ids], at_ms=NOW_MS - 40 * DAY_MS)
    async with database.write() as connection:
        one = certificate(11, 11, usage="encrypt", profile="device", not_after_ms=NOW_MS - DAY_MS)
        await certificates.record(connection, one, at_ms=NOW_MS)
    for serial, reasons in ((1, [KEY]), (2, [HOLD, None]), (3, [HOLD, KEY])):
        for reason in reasons:
            async with database.write() as connection:
                found = await certificates.find(connection, serial)
                if reason is None:
                    await certificates.release(connection, found, at_ms=NOW_MS)
                else:
                    await certificates.revoke(connection, found, reason, at_ms=NOW_MS)
                await events.append(connection, Event(found.id, "resume", "x"), at_ms=NOW_MS)


async def test_what_was_done_and_how_certificates_stand(database: Database) -> None:
    await fill(database)
    answer = await ask(database)
    assert answer.business == [
        {"issued": 11, "revoked": 2, "held": 2, "released": 1, "operations": {"issue": 10, "resume": 5}}
    ]
    assert answer.states == [{"good": 8, "held": 0, "revoked": 2, "expired": 1}]
    later = await ask(database, now_ms=NOW_MS + 10 * DAY_MS)
    assert later.states == [{"good": 0, "held": 0, "revoked": 2, "expired": 9}]
    assert await same(database)


async def test_by_heading_and_time(database: Database) -> None:
    await fill(database)
    rows = (await ask(database, Question(0, TODAY + 1, ("region",), "day", (("ra", "ra-1"),)))).business
    first = date.fromordinal(date(1970, 1, 1).toordinal() + TODAY - 40).isoformat()
    assert [(row["region"], row["issued"]) for row in rows if row["period"] == first] == [
        ("广东省/广州市", 5),
        ("广东省/深圳市", 5),
    ]
    rows = (await ask(database, Question(0, TODAY + 1, ("province", "customer", "usage")))).business
    assert {(row["province"], row["customer"], row["usage"], row["issued"]) for row in rows} == {
        ("广东省", "税务", "sign", 10),
        ("", "", "encrypt", 1),
    }
    inside = await ask(database, Question(0, TODAY + 1, (), None, (("region", "广东省"),)))
    assert inside.business[0]["issued"] == 10, "a region includes those within it"
    recent = await ask(database, Question(TODAY, TODAY + 1))
    assert recent.business[0]["issued"] == 1
    assert recent.business[0]["operations"] == {"resume": 5}
    months = (await ask(database, Question(0, TODAY + 1, (), "month"))).business
    assert sum(row["issued"] for row in months) == 11
    assert len(months) == 2


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_what_did_not_happen_is_not_counted(database: Database) -> None:
    await fill(database)
    before = await ask(database)
    async with abandoned(database) as connection:
        await certificates.record(connection, certificate(99, 99, region="海南省"), at_ms=NOW_MS)
    assert await ask(database) == before
    async with database.write() as connection:  # under a heading that the lost transaction made
        await certificates.record(connection, certificate(98, 98, region="海南省"), at_ms=NOW_MS)
    rows = (await ask(database, Question(0, TODAY + 1, ("region",)))).business
    assert [row["issued"] for row in rows if row["region"] == "海南省"] == [1]
    assert await same(database)


async def test_a_wrong_counter_shows_and_is_made_anew(database: Database) -> None:
    await fill(database)
    before = await ask(database, Question(0, TODAY + 1, ("region",), "day"))
    async with database.write() as connection:
        issued = statistics_counts.c.event == "issued"
        await connection.execute(update(statistics_counts).where(issued).values(count=statistics_counts.c.count + 1))
    async with database.read() as connection:
        found = await statistics_rebuild.differences(connection)
    assert {(one.event, one.counted - one.rows) for one in found} == {("issued", 1)}
    async with database.write() as connection:
        await counters.take(connection, statistics.STALE)
    with pytest.raises(Unavailable, match="stats rebuild"):
        await ask(database)
    async with database.write() as connection:
        await statistics_rebuild.rebuild(connection)
    assert await ask(database, Question(0, TODAY + 1, ("region",), "day")) == before
    assert await same(database)


async def test_certificates_that_leave_the_store_stay_counted(database: Database) -> None:
    await fill(database)
    before = await ask(database)
    gone = table.c.usage == "sign"
    async with database.write() as connection:
        await statistics_rebuild.retire(connection, gone)
        await connection.exec_driver_sql("DELETE FROM certificate_events")
        await connection.execute(delete(table).where(gone))
    assert await ask(database) == before
    assert await same(database)
    async with database.write() as connection:
        await statistics_rebuild.rebuild(connection)
    assert await ask(database) == before


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_an_answer_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(database)
    monkeypatch.setattr(statistics, "MOST_ROWS", 1)
    with pytest.raises(Refused, match="more than 1 rows"):
        await ask(database, Question(0, TODAY + 1, ("region",)))


async def test_whole_months_and_single_days_add_up(database: Database) -> None:
    rows = [
        certificate(n, n, issued_at_ms=NOW_MS - n * 5 * DAY_MS, not_after_ms=NOW_MS + (n - 60) * 7 * DAY_MS)
        for n in range(1, 121)
    ]
    async with database.write() as connection:
        await certificates.load(connection, rows, at_ms=NOW_MS)
    for first, last in ((700, 0), (365, 40), (31, 30), (45, 0)):
        since, until = TODAY - first, TODAY - last
        expected = sum(since <= day_of(NOW_MS - n * 5 * DAY_MS) < until for n in range(1, 121))
        for period in (None, "day", "month", "year"):
            answer = await ask(database, Question(since, until, (), period))
            assert sum(row["issued"] for row in answer.business) == expected, (since, until, period)
            assert len({row.get("period") for row in answer.business}) == len(answer.business)
    for ahead in (0, 3, 40, 400):
        (states,) = (await ask(database, now_ms=NOW_MS + ahead * DAY_MS)).states
        over = sum(day_of(one.not_after_ms) < TODAY + ahead for one in rows)
        assert states == {"good": 120 - over, "held": 0, "revoked": 0, "expired": over}
    assert await same(database)
