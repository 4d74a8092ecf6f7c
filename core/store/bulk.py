"""Many rows at once: COPY on PostgreSQL, one prepared statement on SQLite; in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy import Table, insert
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.postgres import driver
from core.store.tail import NO_TIME_LIMIT
from core.store.upsert import on_postgres


async def insert_rows(connection: AsyncConnection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Inserts `rows`, which all have the same columns. Raises SQLAlchemy's IntegrityError, OperationalError."""
    if not rows:
        return
    if not on_postgres(connection):
        await connection.execute(insert(table), list(rows))
        return
    await connection.execute(NO_TIME_LIMIT)  # SQLAlchemy begins the transaction with its first statement
    names = list(rows[0])
    under = await driver(connection)
    statement = f"COPY {table.name}"
    try:
        await under.copy_records_to_table(
            table.name, records=[[row[name] for name in names] for row in rows], columns=names
        )
    except asyncpg.IntegrityConstraintViolationError as error:
        raise IntegrityError(statement, None, error, hide_parameters=True) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        lost = under.is_closed() or isinstance(error, OSError)
        raise OperationalError(statement, None, error, hide_parameters=True, connection_invalidated=lost) from error
