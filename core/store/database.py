"""Opens the database and gives transactions.

Owns the engine and the write lock; knows the difference between SQLite and PostgreSQL so that no other module does.
`read()` sees one snapshot; `write()` is the only way to change anything, serialised within a process by a lock and
between processes by the database (`BEGIN IMMEDIATE` on SQLite). What leaves `write()` without an exception is on disk
(WAL with `synchronous=FULL`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from core.errors import SettingsError, Unavailable

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS: Final = 10_000


def _alembic(connection: Connection | None = None) -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def sqlite_path(url: str) -> Path | None:
    """The file behind a `sqlite+aiosqlite:///...` URL; None for another database."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("store.url is not a database URL", code="store_url") from error
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database:
        raise SettingsError("store.url names no file; write sqlite+aiosqlite:///PATH", code="store_url")
    return Path(parsed.database)


def _is_outage(error: Exception) -> bool:
    """Whether the database is away, full, locked or damaged; anything else is a fault in a statement of ours."""
    return isinstance(error, (OperationalError, PoolTimeout)) or type(error) is DatabaseError


def _prepare_sqlite(engine: AsyncEngine, *, foreign_keys: bool = True) -> None:
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


class Database:
    """An open store. Make one with `open_database`; close it with `close()`."""

    def __init__(self, engine: AsyncEngine, url: str) -> None:
        self._engine = engine
        self._write_lock = asyncio.Lock()
        self.url = url

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One snapshot, nothing changed. Raises Unavailable where the database cannot be asked."""
        try:
            async with self._engine.connect() as connection, connection.begin():
                yield connection
        except (DatabaseError, PoolTimeout) as error:
            if not _is_outage(error):
                raise
            raise Unavailable("the store cannot be read", code="store_unavailable", retry_after_s=1) from error

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: all of it is durable when the block ends, or none of it happened.

        Raises Unavailable where the database is locked, full or gone.
        """
        async with self._write_lock:
            try:
                async with self._engine.connect() as plain:
                    connection = await plain.execution_options(qianyan_write=True)
                    async with connection.begin():
                        yield connection
            except (DatabaseError, PoolTimeout) as error:
                if not _is_outage(error):
                    raise
                raise Unavailable("the store cannot be written", code="store_unavailable", retry_after_s=1) from error

    async def revision(self) -> str | None:
        """The schema revision the database is at; None where it has none."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())

    async def close(self) -> None:
        """Closes every connection."""
        await self._engine.dispose()


def _engine(url: str, *, foreign_keys: bool = True) -> AsyncEngine:
    try:
        engine = create_async_engine(url, pool_size=8, max_overflow=0)
    except Exception as error:
        raise SettingsError(f"store.url is not usable: {error}", code="store_url") from error
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine, foreign_keys=foreign_keys)
    return engine


def head_revision() -> str:
    """The revision this code needs."""
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert head is not None
    return head


async def create_database(url: str) -> Database:
    """Makes the schema in an empty database. Raises SettingsError (code "store_exists") where there is one already."""
    path = sqlite_path(url)
    if path is not None and path.exists():
        raise SettingsError(f"there is a store at {path} already", code="store_exists")
    if path is not None:
        path.touch(mode=0o600)
    database = Database(_engine(url), url)
    if await database.revision() is not None:
        await database.close()
        raise SettingsError("there is a store at store.url already", code="store_exists")

    async with database.write() as connection:
        await connection.run_sync(_migrate)
    return database


def _migrate(connection: Connection) -> None:
    alembic.command.upgrade(_alembic(connection), "head")


async def upgrade_database(url: str) -> tuple[str, str]:
    """Brings an existing store to this code's revision, in one transaction; returns (from, to).

    Nothing else may use the store meanwhile. Raises SettingsError where there is no store, or one of a newer version.
    """
    path = sqlite_path(url)
    if path is not None and not path.is_file():
        raise SettingsError(f"there is no store at {path}; run 'qianyan init' first", code="store_missing")
    # SQLite changes a table by making it anew, which it allows only while references are not watched;
    # they are checked as a whole before the commit.
    database = Database(_engine(url, foreign_keys=False), url)
    try:
        before = await database.revision()
        known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
        if before not in known:
            raise SettingsError(f"the store is at revision {before or 'none'}, unknown here", code="store_revision")
        async with database.write() as connection:
            await connection.run_sync(_migrate)
            if path is not None and (await connection.exec_driver_sql("PRAGMA foreign_key_check")).first() is not None:
                raise SettingsError("the upgrade would break references; nothing was changed", code="store_upgrade")
        return before, head_revision()
    finally:
        await database.close()


async def open_database(url: str) -> Database:
    """Opens an existing store at this code's revision. Raises SettingsError saying what to do otherwise."""
    path = sqlite_path(url)
    if path is not None and not path.is_file():
        raise SettingsError(f"there is no store at {path}; run 'qianyan init' first", code="store_missing")
    database = Database(_engine(url), url)
    try:
        revision = await database.revision()
    except DBAPIError as error:
        await database.close()
        raise SettingsError(f"the store cannot be opened: {error.orig}", code="store_unreadable") from error
    if revision != head_revision():
        await database.close()
        raise SettingsError(
            f"the store is at revision {revision or 'none'}, this version needs {head_revision()}; "
            "back it up, then run 'qianyan store upgrade'",
            code="store_revision",
        )
    return database
