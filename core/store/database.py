"""Opens the database and gives transactions.

Owns the engine and what limits writers; where SQLite and PostgreSQL differ, `core.store.sqlite` and
`core.store.postgres` know how. `read()` sees one snapshot; `write()` is the only way to change anything. What leaves
`write()` without an exception is on disk, and on a synchronous standby where there is one.

On SQLite writers are serialised (`BEGIN IMMEDIATE`). On PostgreSQL they run side by side in READ COMMITTED: each rule
rests on a constraint, a conditional update, a locked row or a named lock, never on what a statement before it saw; and
what is numbered is written at the end (core.store.tail). A transaction that the database broke off (deadlock, time,
connection, fail-over) raises Unavailable: nothing of it was done, or, where the connection was lost in the commit, it
is not known whether it was; a retry under the same idempotency key is safe either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.errors import SettingsError, Unavailable
from core.store import contention, partitions, postgres, sqlite, tail, upgrade_years, upgrading
from core.store.gate import Gate
from core.store.settings import SETTLE_MS, StoreTarget, as_target, is_postgres
from core.store.sqlite import sqlite_path
from core.store.upsert import hold

__all__ = [
    "Database",
    "create_database",
    "head_revision",
    "open_database",
    "sqlite_path",
    "upgrade_database",
]

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def _alembic(connection: Connection | None = None) -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


class Database:
    """An open store. Make one with `open_database`; close it with `close()`."""

    def __init__(self, engine: AsyncEngine, store: StoreTarget | str) -> None:
        target = as_target(store)
        self._engine = engine
        self.target = target
        self.url = target.url
        self.on_postgres = is_postgres(target.url)
        settings = target.settings

        def gate(room: int) -> Gate:
            return Gate(room, waiting_max=settings.wait_max, patience_s=settings.wait_timeout_s)

        # Half of the pool at most, so that readers, and reads by a writer, always find a connection.
        self._writers = gate(settings.pool_size // 2 if self.on_postgres else 1)
        self._connections = gate(settings.pool_size if self.on_postgres else sqlite.POOL_SIZE)
        #: Called after each commit that wrote anything to the feed, the record or the store's time.
        self.on_commit: list[Callable[[], None]] = []
        self._is_outage = postgres.is_outage if self.on_postgres else sqlite.is_outage
        self._read_options: dict[str, Any] = {}
        self._write_options: dict[str, Any] = {"qianyan_write": True}
        if self.on_postgres:
            self._read_options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            self._write_options = {"isolation_level": "READ COMMITTED", **partitions.options()}

    @property
    def settle_ms(self) -> int:
        """How long after a commit another process may still rely on what it saw before: 0 on SQLite.

        Whoever promises that a change is in effect everywhere when its call returns waits this long after the commit.
        """
        return SETTLE_MS if self.on_postgres else 0

    async def replication(self) -> postgres.Replication | None:
        """What becomes of a commit on the server; None on SQLite, and on a replica. Raises Unavailable."""
        if not self.on_postgres:
            return None
        async with self.read() as connection:
            return await postgres.replication(connection)

    async def settle(self) -> None:
        """Returns when what was committed before is in effect in every process: at once on SQLite."""
        if self.settle_ms:
            await asyncio.sleep(self.settle_ms / 1000)  # others' leases on what they saw end by time

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One snapshot, nothing changed. Raises Unavailable where the database cannot be asked."""
        async with self._transaction("the store cannot be read", self._read_options) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: all of it is durable when the block ends, or none of it happened.

        Raises Unavailable where the database is locked, full or gone, or (code "store_contended") another transaction
        stood in the way.
        """
        options = {**self._write_options, **tail.options()}
        async with self._writers.pass_through():
            async with self._transaction("the store cannot be written", options) as connection:
                if self.on_postgres and self.target.settings.require_synchronous:
                    await postgres.require_synchronous(connection)
                yield connection
                await tail.flush(connection)
                if self.on_postgres:
                    if not tail.of(connection).flushed:
                        await connection.execute(tail.NO_TIME_LIMIT)
                    under = await postgres.driver(connection)
                    under.warned = False
            if options["qianyan_tail"].flushed:
                for told in self.on_commit:
                    told()
            if self.on_postgres and under.warned:
                raise Unavailable(
                    "the commit was not confirmed by the standby: the wait for it was broken off on the server",
                    code="store_not_replicated",
                    retry_after_s=1,
                )

    @asynccontextmanager
    async def _transaction(self, trouble: str, options: dict[str, Any]) -> AsyncIterator[AsyncConnection]:
        connected = False
        try:
            async with self._connections.pass_through(), self._engine.connect() as plain:
                connected = True
                connection = await plain.execution_options(**options)
                async with connection.begin():
                    yield connection
        except (DBAPIError, PoolTimeout) as error:
            if connected and not self._is_outage(error):
                raise
            if self.on_postgres and postgres.is_contention(error):
                trouble, code = f"{trouble}: another transaction stands in the way", contention.CONTENDED
            else:
                code = "store_unavailable"
            raise Unavailable(trouble, code=code, retry_after_s=1) from error
        except OSError as error:
            if connected:  # the block's own
                raise
            raise Unavailable(trouble, code="store_unavailable", retry_after_s=1) from error

    async def revision(self) -> str | None:
        """The schema revision the database is at; None where it has none."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())

    async def close(self) -> None:
        """Closes every connection."""
        await self._engine.dispose()


def _database(target: StoreTarget, *, foreign_keys: bool = True) -> Database:
    if is_postgres(target.url):
        return Database(postgres.make_engine(target), target)
    return Database(sqlite.make_engine(target.url, foreign_keys=foreign_keys), target)


async def _reach(target: StoreTarget, *, foreign_keys: bool = True) -> tuple[Database, str | None]:
    """The database and its revision. Raises SettingsError where it cannot be opened or would not be durable."""
    database = _database(target, foreign_keys=foreign_keys)
    try:
        revision = await database.revision()
        if database.on_postgres:
            async with database.read() as connection:
                await postgres.check_durable(connection)
    except (DBAPIError, PoolTimeout, OSError) as error:
        await database.close()
        said = str(getattr(error, "orig", None) or error or type(error).__name__).splitlines()[0]
        raise SettingsError(f"the store cannot be opened: {said}", code="store_unreadable") from error
    except BaseException:
        await database.close()
        raise
    return database, revision


def head_revision() -> str:
    """The revision this code needs."""
    head = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert head is not None
    return head


def _missing(revision: str) -> set[str]:
    """The revisions that a store at this one lacks."""
    scripts = ScriptDirectory.from_config(_alembic())
    return {script.revision for script in scripts.iterate_revisions("head", revision)}


async def create_database(store: StoreTarget | str) -> Database:
    """Makes the schema in an empty database. Raises SettingsError (code "store_exists") where there is one already."""
    target = as_target(store)
    path = sqlite_path(target.url)
    if path is not None and path.exists():
        raise SettingsError(f"there is a store at {path} already", code="store_exists")
    if path is not None:
        path.touch(mode=0o600)
    database, revision = await _reach(target)
    try:
        if revision is not None:
            raise SettingsError(
                "there is a store at store.url already; it was not touched (where an init did not finish: drop the "
                "database, create it anew, run init again)",
                code="store_exists",
            )
        async with database.write() as connection:
            await _migrate(connection)
    except BaseException:
        await database.close()
        raise
    return database


async def _migrate(connection: AsyncConnection, to: str = "head") -> None:
    """Brings the schema to that revision in the caller's transaction; one at a time."""
    await hold(connection, "migration")
    if connection.dialect.name == "postgresql":
        await postgres.be_patient(connection)
    await connection.run_sync(lambda sync: alembic.command.upgrade(_alembic(sync), to))


def _quiet(step: str, done: int, total: int) -> None:
    """Nobody is told."""


async def upgrade_database(
    store: StoreTarget | str, progress: upgrade_years.Progress = _quiet, *, prepare: bool = False, afresh: bool = False
) -> tuple[str, str]:
    """Brings an existing store to this code's revision; returns (from, to). Broken off, it is called again.

    What has to look at every certificate is done first on PostgreSQL, a piece at a time (core/store/upgrade_years.py);
    the rest is one transaction, and so is all of it on SQLite. Nothing else may use the store meanwhile. prepare: only
    that first part, for which services of the version before may go on. afresh: what was prepared is thrown away.
    Raises SettingsError where there is no store, or one of a newer version; Unavailable.
    """
    target = as_target(store)
    path = sqlite_path(target.url)
    if path is not None and not path.is_file():
        raise SettingsError(f"there is no store at {path}; run 'qianyan init' first", code="store_missing")
    # SQLite changes a table by making it anew, which it allows only while references are not watched;
    # they are checked as a whole before the commit.
    database, before = await _reach(target, foreign_keys=False)
    try:
        known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
        if before not in known:
            raise SettingsError(f"the store is at revision {before or 'none'}, unknown here", code="store_revision")
        missing = _missing(before)
        if database.on_postgres and upgrading.AUDIT_INDEXES_AT in missing:
            await upgrading.index_audit(database, progress)
        if database.on_postgres and upgrade_years.REVISION in missing:
            await upgrading.patiently(database, lambda connection: _migrate(connection, upgrade_years.BEFORE))
            await upgrading.prepare(database, progress, afresh=afresh)
        if prepare:
            return before, await database.revision() or before
        async with database.write() as connection:
            await _migrate(connection)
            if path is not None and (await connection.exec_driver_sql("PRAGMA foreign_key_check")).first() is not None:
                raise SettingsError("the upgrade would break references; nothing was changed", code="store_upgrade")
        if database.on_postgres:
            await upgrading.settle(database, progress)
        return before, head_revision()
    finally:
        await database.close()


async def open_database(store: StoreTarget | str) -> Database:
    """Opens an existing store at this code's revision. Raises SettingsError saying what to do otherwise."""
    target = as_target(store)
    path = sqlite_path(target.url)
    if path is not None and not path.is_file():
        raise SettingsError(f"there is no store at {path}; run 'qianyan init' first", code="store_missing")
    database, revision = await _reach(target)
    if revision != head_revision():
        await database.close()
        if revision is None and path is None:
            raise SettingsError("there is no store at store.url; run 'qianyan init' first", code="store_missing")
        raise SettingsError(
            f"the store is at revision {revision or 'none'}, this version needs {head_revision()}; "
            "back it up, then run 'qianyan store upgrade'",
            code="store_revision",
        )
    return database
