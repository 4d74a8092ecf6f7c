"""What is particular to PostgreSQL: connections, what they demand of the server, and which errors mean an outage.

The URL is libpq's: several hosts, `sslmode`, `sslrootcert`, a socket directory as `host`. Every connection commits
synchronously (`synchronous_commit` is on, or remote_apply where the server says so), so that with a synchronous
standby nothing that was answered is lost with the primary. A commit whose wait for the standby was broken off on the
server is reported there as a warning and counts here as a failure. Knows no tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import SettingsError, Unavailable
from core.store.settings import StoreTarget

#: Channel on which a commit that appended to the feed says so.
FEED_CHANNEL: Final = "qianyan_feed"

#: Classes of SQLSTATE that mean "not now": connection, transaction rolled back (deadlock), resources, operator
#: intervention, system, internal, authorisation (a password that was just changed).
_OUTAGE_CLASSES: Final = frozenset({"08", "28", "40", "53", "57", "58", "XX"})
#: Another transaction stood in the way: deadlock, a snapshot that was overtaken, a lock's time.
_CONTENTION_STATES: Final = frozenset({"40P01", "40001", "55P03"})
_OUTAGE_STATES: Final = frozenset({"25006", "55P03", "25P03"})  # a demoted primary; a lock's time; idle too long
_WARNING: Final = "01000"
_WRITABLE: Final = frozenset({"read-write", "primary"})

_SYNCHRONOUS: Final = """
SELECT set_config('synchronous_commit',
  CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)
"""


class PgConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that remembers whether the server has warned on it, and whose own time limit can be lifted."""

    __slots__ = ("_limits", "warned")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.warned = False
        self._limits: Any = None

    def lift_limit(self) -> None:
        """Waits for statements as long as they take, until `limit_again`: asyncpg has no public word for it."""
        if self._limits is None:
            self._limits = self._config  # type: ignore[has-type]
            self._config = self._limits._replace(command_timeout=None)  # type: ignore[misc]

    def limit_again(self) -> None:
        """Ends `lift_limit`."""
        if self._limits is not None:
            self._config, self._limits = self._limits, None

    def note(self, _connection: object, message: Any) -> None:
        """A log listener."""
        if message.sqlstate == _WARNING and message.severity_en in (None, "WARNING"):
            self.warned = True


def _dsn(url: str) -> str:
    return re.sub(r"^postgresql\+asyncpg://", "postgresql://", url)


def _session_attributes(dsn: str) -> str | None:
    """Which server to take of several: one that can be written, so that reads never go to one that lags."""
    query = parse_qs(urlsplit(dsn).query)
    several = "," in urlsplit(dsn).netloc or any("," in host for host in query.get("host", []))
    named = query.get("target_session_attrs", [None])[-1]
    if several and named is not None and named not in _WRITABLE:
        raise SettingsError(
            "store.url: with several hosts target_session_attrs is read-write; a responder on a replica names that one",
            code="store_url",
        )
    return named or ("read-write" if several else None)


async def connect(target: StoreTarget, *, command_timeout_s: float) -> PgConnection:
    """A connection outside the pool. Raises SettingsError for a unusable URL; OSError or asyncpg's errors."""
    settings, dsn = target.settings, _dsn(target.url)
    attributes = _session_attributes(dsn)
    try:
        connection: PgConnection = await asyncpg.connect(
            dsn,
            password=target.password,
            timeout=settings.connect_timeout_s,
            command_timeout=command_timeout_s,
            connection_class=PgConnection,
            target_session_attrs=attributes,
            server_settings={
                "application_name": "qianyan",
                "statement_timeout": str(round(settings.statement_timeout_s * 1000)),
                "lock_timeout": str(round(settings.lock_timeout_s * 1000)),
                "idle_in_transaction_session_timeout": "60000",
                "tcp_user_timeout": "30000",
                "jit": "off",
            },
        )
    except (ValueError, asyncpg.exceptions.ClientConfigurationError) as error:
        raise SettingsError(f"store.url cannot be used: {error}", code="store_url") from error
    try:
        connection.add_log_listener(connection.note)
        await connection.execute(_SYNCHRONOUS)
    except BaseException:
        connection.terminate()
        raise
    return connection


def make_engine(target: StoreTarget) -> AsyncEngine:
    """An engine over `connect`, with a pool of the size that the settings say."""
    settings = target.settings

    async def creator() -> PgConnection:
        return await connect(target, command_timeout_s=settings.statement_timeout_s + 1)

    _session_attributes(_dsn(target.url))
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=creator,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.connect_timeout_s,
        hide_parameters=True,
    )

    @event.listens_for(engine.sync_engine.pool, "checkin")
    def _limited(_connection: object, record: ConnectionPoolEntry) -> None:
        """A connection whose limit a transaction has lifted is limited again for the next one."""
        if isinstance(record.driver_connection, PgConnection):
            record.driver_connection.limit_again()

    @event.listens_for(engine.sync_engine, "handle_error")
    def _lost(context: ExceptionContext) -> Exception | None:
        """What the driver raises as an OSError (a time that ran out, a connection that broke) ends the connection."""
        if isinstance(context.original_exception, OSError):
            context.is_disconnect = True
            return OperationalError(
                context.statement, None, context.original_exception, connection_invalidated=True, hide_parameters=True
            )
        return None

    return engine


def is_outage(error: Exception) -> bool:
    """Whether the database is away or asks to come again; anything else is a fault in a statement of ours."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state[:2] in _OUTAGE_CLASSES or state in _OUTAGE_STATES


def is_contention(error: Exception) -> bool:
    """Whether the statement was broken off because another transaction stood in its way."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "") in _CONTENTION_STATES


async def driver(connection: AsyncConnection) -> PgConnection:
    """The driver's own connection under SQLAlchemy's, in the same transaction once that has executed something."""
    raw = await connection.get_raw_connection()
    found = raw.driver_connection
    assert isinstance(found, PgConnection)
    return found


async def be_patient(connection: AsyncConnection) -> None:
    """No statement of this transaction has a time limit, the server's or ours: for what reads or writes every row."""
    await connection.execute(text("SET LOCAL statement_timeout = 0"))
    (await driver(connection)).lift_limit()


@dataclass(frozen=True, slots=True)
class Replication:
    """What the server does with a commit. `synchronous`: it waits for a standby; `standbys`: how many there are, of
    which `waited_for` count for that."""

    synchronous: bool
    standbys: int
    waited_for: int


#: A user without pg_monitor sees that there are standbys, and no more of them.
_REPLICATION: Final = text("""
SELECT current_setting('synchronous_standby_names') <> '', count(*),
  count(*) FILTER (WHERE sync_state IN ('sync', 'quorum'))
FROM pg_stat_replication WHERE application_name NOT LIKE 'pg_%'
""")


async def replication(connection: AsyncConnection) -> Replication | None:
    """How this server replicates now; None on a replica."""
    if (await connection.execute(text("SELECT pg_is_in_recovery()"))).scalar_one():
        return None
    return Replication(*(await connection.execute(_REPLICATION)).one())


_WAITS: Final = text("SELECT current_setting('synchronous_standby_names') <> ''")


async def require_synchronous(connection: AsyncConnection) -> None:
    """Raises Unavailable (code "store_not_synchronous") where a commit would be on one machine alone."""
    if not (await connection.execute(_WAITS)).scalar_one():
        raise Unavailable(
            "store.require_synchronous is set and the server waits for no standby: set synchronous_standby_names there",
            code="store_not_synchronous",
            retry_after_s=5,
        )


async def check_durable(connection: AsyncConnection) -> None:
    """Raises SettingsError where the server would forget or tear what it has confirmed, or is too old."""
    found = {}
    for name in ("fsync", "full_page_writes", "synchronous_commit", "server_version_num", "server_encoding"):
        found[name] = (await connection.exec_driver_sql(f"SHOW {name}")).scalar_one()
    wrong = [name for name in ("fsync", "full_page_writes") if found[name] != "on"]
    if wrong or found["synchronous_commit"] not in ("on", "remote_apply"):
        name = (wrong or ["synchronous_commit"])[0]
        raise SettingsError(f"PostgreSQL runs with {name} = {found[name]}; turn it on", code="store_durability")
    if int(found["server_version_num"]) < 130_000:
        raise SettingsError("PostgreSQL 13 or later is needed", code="store_version")
    if found["server_encoding"] != "UTF8":
        raise SettingsError("the database is not in UTF8; create it with ENCODING 'UTF8'", code="store_encoding")
