"""Removes the certificates of a year whose records need not be kept any longer, once they are in an archive.

A year goes as a whole, and only when every certificate in it ended longer ago than records are kept. Its identities
stay (core/store/schema_certificates.py): no serial is given again, a holder's history goes on naming them, and who asks
for their status is told that it is unknown. Four steps, each of which may be the last before a crash; whoever runs it
again goes on from there:

1. Archive: the rows are written to a file, which is read back and compared (core/store/year_archive.py).
2. Say so, in one transaction: statistics keep what the rows count for, the audit record and the feed have an entry, and
   a counter says which year is under way. On SQLite this transaction removes the rows as well, and that is all.
3. Detach the partition (PostgreSQL): nobody who reads or writes other years waits.
4. Drop it, where its rows are still those of the archive; else it stays, detached, and the next run archives anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock, to_datetime
from core.errors import Refused, Unavailable
from core.store import audit, counters, feed, partitions, postgres, statistics_rebuild, tail, year_archive
from core.store.database import Database
from core.store.partitions import Year
from core.store.schema_certificates import certificates
from core.store.upsert import hold, on_postgres
from core.store.year_archive import YearArchive

#: Name of the counter that has the year whose partition is being removed; 0 for none.
UNDER_WAY: Final = "certificates_retiring"
_PATIENCE_S: Final = 3600.0
#: Where the server cannot detach beside others: how long everybody may wait behind us for the parent table at a time,
#: how long they then have it to themselves, and how often that is tried.
_LOCK_MS: Final = 500
_PAUSE_S: Final = 2.0
_ATTEMPTS: Final = 100
_AHEAD_MS: Final = 366 * 86_400_000

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Retirement:
    """What is asked for. `years`: how long records are kept after the end; `actor`: for the audit record.

    concurrently: detach as PostgreSQL 14 and later can; earlier ones do it the plain way whatever is said here.
    """

    directory: Path
    years: int
    actor: str
    clock: Clock
    concurrently: bool = True


def first_kept(now_ms: int, last_time_ms: int, years: int) -> int:
    """The first year whose certificates are still to be kept, where each is kept for `years` after its end.

    last_time_ms: the store's own time. A clock that stands more than a year ahead of it is not believed: it would have
    certificates removed that are in force.
    """
    return to_datetime(min(now_ms, last_time_ms + _AHEAD_MS)).year - years


async def first_kept_in(connection: AsyncConnection, wish: Retirement) -> int:
    """`first_kept` of this store, now."""
    return first_kept(wish.clock(), await counters.current(connection, counters.LAST_TIME), wish.years)


async def due(database: Database, before: int, wish: Retirement) -> list[Year]:
    """The years before `before` that there is something of. Raises Refused (code "retention") where one may not go."""
    async with database.read() as connection:
        kept = await first_kept_in(connection, wish)
    if before > kept:
        raise Refused(
            f"certificates are kept for {wish.years} years after their end: nothing that ended in {kept} or later is "
            f"retired, so name {kept} or an earlier year",
            code="retention",
        )
    async with database.read() as connection:
        return [one for one in await partitions.years(connection) if one.year < before]


async def retire(database: Database, one: Year, wish: Retirement, progress: Progress) -> YearArchive:
    """Archives and removes a year. Raises Refused (code "retention", "certificate_archive", "year_changed"),
    Unavailable; run it again then."""
    name = partitions.table_name(one.year) if database.on_postgres else certificates.name
    progress(f"{one.year}: archiving")
    async with database.read() as connection:
        await _patiently(connection)
        made = await year_archive.write(connection, name, one.year, wish.directory, at_ms=wish.clock())
        kept = await first_kept_in(connection, wish)
    if one.year >= kept or to_datetime(made.last_not_after_ms).year >= kept:
        raise Refused(f"certificates of {one.year} are still to be kept", code="retention")
    async with database.write() as connection:
        await _patiently(connection)
        await hold(connection, "retire")
        if await counters.current(connection, UNDER_WAY) != one.year:
            await _say(connection, made, one, wish)
        if not database.on_postgres:
            await _remove_rows(connection, made)
            return made
    progress(f"{one.year}: detaching")
    await _detach(database, name, lambda: progress(f"{one.year}: others are at it; again"), wish.concurrently)
    progress(f"{one.year}: dropping")
    await _drop(database, name, made)
    return made


async def _patiently(connection: AsyncConnection) -> None:
    if on_postgres(connection):
        await connection.execute(tail.NO_TIME_LIMIT)


async def _say(connection: AsyncConnection, made: YearArchive, one: Year, wish: Retirement) -> None:
    """Step 2. A year that was left under way has to end first, unless there is nothing of it: in a copied store."""
    under_way = await counters.current(connection, UNDER_WAY)
    if under_way in {known.year for known in await partitions.years(connection)}:
        raise Refused(f"the year {under_way} is being retired; that has to end first", code="retention")
    month = certificates.c.status_month
    first = one.year * 12
    await statistics_rebuild.retire(connection, (month >= first) & (month < first + 12))
    if on_postgres(connection):
        await counters.take(connection, UNDER_WAY, one.year - under_way)
    kept = await counters.current(connection, partitions.KEPT_FROM)
    await counters.take(connection, partitions.KEPT_FROM, max(0, one.year + 1 - kept))
    at_ms = wish.clock()
    event = AuditEvent(
        wish.actor,
        "certificates.retire",
        str(one.year),
        detail={"rows": made.rows, "file": made.file, "sm3": made.sm3},
    )
    await audit.append(connection, event, at_ms=at_ms)
    await feed.append(connection, [feed.FeedChange("retired", subject_id=str(one.year))], at_ms=at_ms)


def _changed(year: int) -> Refused:
    return Refused(
        f"certificates of {year} were changed while they were archived; run the command again", code="year_changed"
    )


async def _remove_rows(connection: AsyncConnection, made: YearArchive) -> None:
    """SQLite: nobody else writes until the transaction ends."""
    if (await year_archive.look(connection, certificates.name, made.year)).sm3() != made.rows_sm3:
        raise _changed(made.year)
    month = certificates.c.status_month
    await connection.execute(delete(certificates).where(month >= made.year * 12, month < (made.year + 1) * 12))


_STATE: Final = """
SELECT coalesce((to_jsonb(i) ->> 'inhdetachpending')::boolean, false) FROM pg_inherits AS i
WHERE i.inhrelid = to_regclass($1)
"""


async def _detach(database: Database, name: str, again: Callable[[], None], concurrently: bool) -> None:
    """Step 3; in no transaction, as DETACH CONCURRENTLY must be. Goes on where an earlier one was broken off."""
    connection = await postgres.connect(database.target, command_timeout_s=_PATIENCE_S)
    try:
        await connection.execute("SET statement_timeout = 0")
        pending = await connection.fetchval(_STATE, name)
        if pending is None:
            return
        if pending or (concurrently and connection.get_server_version().major >= 14):
            # Waits for those who read and write now; nobody waits for it.
            await connection.execute("SET lock_timeout = 0")
            how = "FINALIZE" if pending else "CONCURRENTLY"
            await connection.execute(f"ALTER TABLE certificates DETACH PARTITION {name} {how}")
        else:
            await _detach_plainly(connection, name, again)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise Unavailable(f"the year was not detached: {error}; run the command again", code="year_detach") from error
    finally:
        await connection.close(timeout=10)


async def _detach_plainly(connection: asyncpg.Connection, name: str, again: Callable[[], None]) -> None:
    """Needs the parent table for itself: whoever comes while it waits for that waits behind it, and not for long."""
    await connection.execute(f"SET lock_timeout = {_LOCK_MS}")
    for _ in range(_ATTEMPTS - 1):
        try:
            await connection.execute(f"ALTER TABLE certificates DETACH PARTITION {name}")
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            again()
            await asyncio.sleep(_PAUSE_S)  # they go first
        else:
            return
    await connection.execute(f"ALTER TABLE certificates DETACH PARTITION {name}")


async def _drop(database: Database, name: str, made: YearArchive) -> None:
    """Step 4: nobody reaches the rows any more, so what is compared is what is dropped."""
    async with database.read() as connection:
        await _patiently(connection)
        if (await year_archive.look(connection, name, made.year)).sm3() != made.rows_sm3:
            raise _changed(made.year)
    async with database.write() as connection:
        await connection.execute(text(f"DROP TABLE {name}"))
        under_way = await counters.current(connection, UNDER_WAY)
        await counters.take(connection, UNDER_WAY, -under_way)
