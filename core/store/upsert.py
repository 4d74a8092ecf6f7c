"""Where the two databases spell the same thing differently: insert-or-update, one of many values, named locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Column, ColumnElement, LargeBinary, Table, any_, bindparam, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


def on_postgres(connection: AsyncConnection) -> bool:
    """Whether the connection is to PostgreSQL."""
    return connection.dialect.name == "postgresql"


def upsert(connection: AsyncConnection, table: Table) -> Any:
    """An insert that has `on_conflict_do_nothing` and `on_conflict_do_update`; both databases have the same two."""
    return postgresql.insert(table) if on_postgres(connection) else sqlite.insert(table)


def among(connection: AsyncConnection, column: Column[Any], values: Sequence[bytes]) -> ColumnElement[bool]:
    """Whether a binary column is one of `values`: on PostgreSQL one array, so that any number is one statement."""
    if on_postgres(connection):
        return column == any_(bindparam(None, list(values), type_=ARRAY(LargeBinary), unique=True))
    return column.in_(values)


async def hold(connection: AsyncConnection, *name: str) -> None:
    """Makes transactions that hold the same name wait for each other until they end; SQLite's writers do so anyway."""
    if on_postgres(connection):
        key = "\x1f".join(name)
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})
