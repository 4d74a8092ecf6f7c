"""What an upgrade does outside of the one transaction that migrations run in (PostgreSQL).

Owns the order of the pieces and how they are told of; what a piece does is in `core.store.upgrade_years`. Each is a
transaction of its own, which waits for others no longer than `store.lock_timeout_s`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Unavailable
from core.store import postgres, upgrade_years
from core.store.upgrade_years import Progress
from core.store.upsert import hold

if TYPE_CHECKING:
    from core.store.database import Database

T = TypeVar("T")

_PATIENCE_S: Final = 6 * 3600.0
#: How often a lock is asked for before it is left to the next run.
_ATTEMPTS: Final = 20


#: The revision that brings the indexes of the audit record, which is as long as everything that ever happened.
AUDIT_INDEXES_AT: Final = "0017"
_AUDIT_INDEXES: Final = (
    ("ix_audit_subject", "(subject, seq)"),
    ("ix_audit_actor", "(actor, seq)"),
    ("ix_audit_action", "(action text_pattern_ops, seq)"),
    ("ix_audit_at_ms", "(at_ms, seq)"),
)


async def index_audit(database: Database, progress: Progress) -> None:
    """Builds the indexes of the audit record while others write it; in no transaction, as CONCURRENTLY must be.

    One that was broken off is left invalid, and is built anew. Raises Unavailable.
    """
    connection = await postgres.connect(database.target, command_timeout_s=_PATIENCE_S)
    try:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("SET lock_timeout = 0")  # it waits for those who write now, and nobody for it
        for done, (name, what) in enumerate(_AUDIT_INDEXES, 1):
            valid = await connection.fetchval(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", name
            )
            if valid is False:
                await connection.execute(f"DROP INDEX CONCURRENTLY {name}")
            if not valid:
                await connection.execute(f"CREATE INDEX CONCURRENTLY {name} ON audit {what}")
                progress("audit", done, len(_AUDIT_INDEXES))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise Unavailable(f"an index was not built: {error}; run the command again", code="store_upgrade") from error
    finally:
        await connection.close(timeout=10)


async def _piece(database: Database, work: Callable[[Connection], T]) -> T:
    async with database.write() as connection:
        await hold(connection, "migration")
        await postgres.be_patient(connection)
        return await connection.run_sync(work)


async def patiently(database: Database, work: Callable[[AsyncConnection], Awaitable[None]]) -> None:
    """A transaction that waits for a lock on a table that others write: they wait for it no longer than the lock's
    time, and then it begins anew. Raises Unavailable where it never got it."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with database.write() as connection:
                return await work(connection)
        except Unavailable:
            if attempt == _ATTEMPTS:
                raise


async def _patient_piece(database: Database, work: Callable[[Connection], None]) -> None:
    async def piece(connection: AsyncConnection) -> None:
        await hold(connection, "migration")
        await postgres.be_patient(connection)
        await connection.run_sync(work)

    await patiently(database, piece)


async def prepare(database: Database, progress: Progress, *, afresh: bool = False) -> None:
    """Everything of migration 0015 but its end. Raises Unavailable; what was done is not done again then, unless
    `afresh`."""
    if afresh:
        await _patient_piece(database, upgrade_years.abandon)
    await _patient_piece(database, upgrade_years.start)
    while (stands := await _piece(database, upgrade_years.step)) is not None:
        progress(*stands)


async def settle(database: Database, progress: Progress) -> None:
    """After the migrations: references are looked through, and the planner is told of the tables."""
    waiting = await _piece(database, upgrade_years.unvalidated)
    for done, (table, name) in enumerate(waiting, 1):

        def validate(connection: Connection, table: str = table, name: str = name) -> None:
            upgrade_years.validate(connection, table, name)

        await _patient_piece(database, validate)
        progress("references", done, len(waiting))
    if waiting:
        await _piece(database, upgrade_years.count)
