"""What is particular to SQLite: its URL, the pragmas of durability, and how its transactions begin.

WAL with `synchronous=FULL`: what has been committed is on disk. Knows no tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from core.errors import SettingsError
from core.store.settings import is_postgres

_BUSY_TIMEOUT_MS: Final = 10_000
POOL_SIZE: Final = 8


def sqlite_path(url: str) -> Path | None:
    """The file behind a `sqlite+aiosqlite:///...` URL; None for another database."""
    if is_postgres(url):
        return None
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("store.url is not a database URL", code="store_url") from error
    if parsed.get_backend_name() != "sqlite":
        raise SettingsError(
            "store.url names neither SQLite nor PostgreSQL; write postgresql+asyncpg://USER@HOST:PORT/NAME",
            code="store_url",
        )
    if not parsed.database:
        raise SettingsError("store.url names no file; write sqlite+aiosqlite:///PATH", code="store_url")
    return Path(parsed.database)


def make_engine(url: str, *, foreign_keys: bool = True) -> AsyncEngine:
    """An engine whose every connection is durable and checks references unless `foreign_keys` is False."""
    try:
        engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, hide_parameters=True)
    except Exception as error:
        raise SettingsError(f"store.url is not usable: {error}", code="store_url") from error

    @event.listens_for(engine.sync_engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions behind our back
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"foreign_keys={'ON' if foreign_keys else 'OFF'}",
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            "trusted_schema=OFF",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("qianyan_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def is_outage(error: Exception) -> bool:
    """Whether the database is away, full, locked or damaged; anything else is a fault in a statement of ours."""
    return isinstance(error, (OperationalError, PoolTimeout)) or type(error) is DatabaseError
