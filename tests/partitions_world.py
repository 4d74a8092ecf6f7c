"""Certificates that end in this year and that, for the tests of partitions: made, recorded, retired."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.clock import from_datetime
from core.model import RevocationReason
from core.store import (
    certificates,
    counters,
    escrow,
    events,
    partitions,
    retiring,
    year_archive,
)  # fmt: skip
from core.store.database import Database
from core.store.retiring import Retirement
from tests.store_world import NOW_MS, certificate

DAY_MS = 86_400_000
NOW_YEAR = 2026
KEYS = escrow.WrappedKey(b"point", b"wrapped")


def ends_in(year: int, serial: int, index: int | None = None, **changes: object) -> Any:
    """A certificate that ends in the middle of a year."""
    end_ms = from_datetime(datetime(year, 6, 15, tzinfo=UTC))
    values: dict[str, object] = {"not_after_ms": end_ms, "not_before_ms": end_ms - 365 * DAY_MS, **changes}
    return certificate(serial, serial if index is None else index, status_month=year * 12 + 5, **values)  # type: ignore[arg-type]


async def load(database: Database, *many: Any, pairs: Any = ()) -> list[int]:
    async with database.write() as connection:
        return await certificates.load(connection, many, at_ms=NOW_MS, pairs=pairs)


async def years(database: Database) -> dict[int, bool]:
    async with database.read() as connection:
        return {one.year: one.attached for one in await partitions.years(connection)}


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
