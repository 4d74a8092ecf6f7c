"""Many rows at once: COPY on PostgreSQL, one prepared statement on SQLite; in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Table, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.copy_in import copy_in
from core.store.tail import lift_time_limit
from core.store.upsert import on_postgres


async def insert_rows(connection: AsyncConnection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Inserts `rows`, which all have the same columns. Raises SQLAlchemy's IntegrityError, OperationalError."""
    if not rows:
        return
    if not on_postgres(connection):
        await connection.execute(insert(table), list(rows))
        return
    await lift_time_limit(connection)  # SQLAlchemy begins the transaction with its first statement
    await copy_in(connection, table, rows)
