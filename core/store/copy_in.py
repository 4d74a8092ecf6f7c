"""COPY of rows into a table of PostgreSQL, with the driver's errors as SQLAlchemy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy import Table
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.postgres import driver


async def copy_in(connection: AsyncConnection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Copies `rows`, which all have the same columns, in a transaction that has begun.

    Raises SQLAlchemy's IntegrityError, OperationalError.
    """
    if not rows:
        return
    names = list(rows[0])
    under = await driver(connection)
    statement = f"COPY {table.name}"
    records = [[row[name] for name in names] for row in rows]
    try:
        await under.copy_records_to_table(table.name, records=records, columns=names)
    except asyncpg.IntegrityConstraintViolationError as error:
        raise IntegrityError(statement, None, error, hide_parameters=True) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        lost = under.is_closed() or isinstance(error, OSError)
        raise OperationalError(statement, None, error, hide_parameters=True, connection_invalidated=lost) from error
