"""Where the two databases spell the same thing differently: insert-or-update, one of many values, named locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Column, ColumnElement, LargeBinary, Table, any_, bindparam, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

_HOLD_MANY = text(
    "SELECT count(pg_advisory_xact_lock(hash)) FROM (SELECT DISTINCT hashtextextended(key, 0) AS hash "
    "FROM unnest(CAST(:keys AS text[])) AS given (key) ORDER BY hash) AS ordered"
)


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


async def hold_many(connection: AsyncConnection, names: Sequence[Sequence[str]]) -> None:
    """`hold` of each of these, in one order for all transactions, so that they never wait for each other in a ring."""
    if names and on_postgres(connection):
        keys = sorted({"\x1f".join(name) for name in names})
        await connection.execute(_HOLD_MANY, {"keys": keys})


async def hold(connection: AsyncConnection, *name: str) -> None:
    """Makes transactions that hold the same name wait for each other until they end; SQLite's writers do so anyway."""
    if on_postgres(connection):
        key = "\x1f".join(name)
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})
