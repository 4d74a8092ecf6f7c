"""Follows the change feed of a PostgreSQL store.

One task and one connection of its own, which listens for notifications and polls: a notification makes the poll come
at once, and without any the poll comes every `feed_poll_ms`. A poll is one query. It asks for the entry this process
stands at and what follows; that entry must be there, unchanged. Where it is not, the database is another one than was
followed (restored, or a replica that was behind and was promoted): an entry that is missing is an error until it is
there again, one that differs is an error for good, because nobody can say what else was taken back.

`current()` is a lease, which this process's own commits end: true for `feed_max_age_ms` from the moment before a poll
was sent that found nothing more to deliver, by a clock that never goes back. So nobody relies on what a commit has
overtaken after that time, whatever happens to notifications, to the connection, or to this task. Reads through the pool
are never behind the feed, because both go to the same server (core.store.postgres refuses hosts that could differ).

On a replica the lease speaks of the replica. How far that is behind is read with each poll: the time since the last
commit it has replayed. That grows while nothing is committed, so a primary with replicas commits something at an
interval (`heartbeat_s`); a replica that stands further back than `replica_max_lag_s`, or has replayed nothing since it
was started, is not relied on.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Final

import asyncpg
import structlog

from core.errors import SettingsError, Unavailable
from core.store import feed, postgres
from core.store.database import Database
from core.store.follow import AT_ONCE, FeedFollower

#: One look: what the server is, and the feed from the entry at the position on.
_POLL: Final = """
SELECT pg_is_in_recovery(),
  (extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)::bigint,
  rows.seq, rows.kind, rows.authority_id, rows.serial, rows.subject_id, rows.at_ms
FROM (SELECT 1) AS one LEFT JOIN (
  SELECT seq, kind, authority_id, serial, subject_id, at_ms FROM feed WHERE seq >= $1 ORDER BY seq LIMIT $2
) AS rows ON true ORDER BY rows.seq
"""
_HEAD: Final = "SELECT coalesce(max(seq), 0) FROM feed"
#: A poll that takes longer than this is given up and its connection with it.
_POLL_TIMEOUT_S: Final = 2.0
_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_log = structlog.get_logger()


class PostgresFollower(FeedFollower):
    """See the module. Only the event-loop thread touches it."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._target = database.target
        settings = self._target.settings
        self._max_age_s = settings.feed_max_age_ms / 1000
        self._poll_s = settings.feed_poll_ms / 1000
        self._patience_s = settings.feed_patience_s
        self._max_lag_ms = round(settings.replica_max_lag_s * 1000)
        self._connection: postgres.PgConnection | None = None
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._confirmed_at = float("-inf")
        self._own_commit_at = float("-inf")
        self._failing_since: float | None = None
        self._fault: Unavailable | None = None
        self._lag_ms = 0

    @classmethod
    async def begin(cls, database: Database) -> PostgresFollower:
        """See `FeedFollower.start`."""
        follower = cls(database)
        try:
            connection = await follower._connected()
            follower.position = max(0, await connection.fetchval(_HEAD) - 1)
            follower._anchor = None  # the entry at the position is taken as it is found
            await follower._poll(connection)
        except _ERRORS as error:
            follower._disconnect()
            raise _unreadable() from error
        except BaseException:
            follower._disconnect()
            raise
        follower._task = asyncio.get_running_loop().create_task(follower._run(), name="feed-follower")
        database.on_commit.append(follower._committed_here)
        return follower

    @property
    def lag_ms(self) -> int:
        """See FeedFollower."""
        return self._lag_ms

    @property
    def age_ms(self) -> int:
        """See FeedFollower."""
        return round((_now() - self._confirmed_at) * 1000)

    @property
    def max_age_ms(self) -> int:
        """See FeedFollower."""
        return round(self._max_age_s * 1000)

    def moved(self) -> bool:
        """See FeedFollower."""
        return not self.current()

    def current(self) -> bool:
        """See FeedFollower: whether the lease holds. Raises Unavailable where the feed was taken back."""
        if self._broken is not None:
            raise self._broken
        return self._confirmed_at >= self._own_commit_at and _now() - self._confirmed_at <= self._max_age_s

    async def ensure_current(self) -> None:
        """See FeedFollower. Raises Unavailable at once where the feed could not be read for the whole patience."""
        if self._broken is not None:
            raise self._broken
        if self._task is None or self._task.done():
            raise _unreadable()
        now = _now()
        failing = self._failing_since
        if failing is not None and now - failing > self._patience_s:
            self._wake.set()
            raise self._fault or _unreadable()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        await asyncio.wait((waiter,), timeout=self._patience_s)
        if not waiter.done():
            waiter.cancel()
            raise self._fault or _unreadable()
        waiter.result()

    def _committed_here(self) -> None:
        """What this process has committed counts here at once."""
        self._own_commit_at = _now()
        self._wake.set()

    def nudge(self) -> None:
        """See FeedFollower."""
        self._wake.set()

    def close(self) -> None:
        """See FeedFollower."""
        if self._task is not None:
            self._task.cancel()
        if self._committed_here in self._database.on_commit:
            self._database.on_commit.remove(self._committed_here)
        self._disconnect()
        self._tell(self._waiters, _unreadable())
        self._waiters = []

    # ---- the task

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            waiters, self._waiters = self._waiters, []
            try:
                await self._look()
            except asyncio.CancelledError:
                self._tell(waiters, _unreadable())
                raise
            except Unavailable as error:
                self._failed(waiters, error)
            except Exception:
                # A subscriber's fault, or one of ours: nothing more is delivered, so nothing may be relied on.
                self._broken = Unavailable("following the change feed failed", code="feed_failed")
                _log.exception("feed_failed")
                self._tell(waiters, self._broken)
                self._tell(self._waiters, self._broken)
                raise
            else:
                if self._failing_since is not None:
                    _log.info("feed_readable_again", position=self.position)
                self._failing_since = self._fault = None
                self._tell(waiters, None)
            with suppress(TimeoutError):
                # While it fails, waiters do not make it try faster than it polls.
                if self._failing_since is not None:
                    await asyncio.sleep(self._poll_s)
                else:
                    await asyncio.wait_for(self._wake.wait(), self._poll_s)

    async def _look(self) -> None:
        try:
            connection = await self._connected()
            await self._poll(connection)
        except _ERRORS as error:
            self._disconnect()
            raise _unreadable() from error
        except SettingsError as error:
            raise _unreadable() from error

    async def _poll(self, connection: postgres.PgConnection) -> None:
        """Delivers what there is; renews the lease from before the last question was sent."""
        while True:
            asked_at = _now()
            rows = await connection.fetch(_POLL, self.position, AT_ONCE + 1, timeout=_POLL_TIMEOUT_S)
            self._check_lag(rows[0])
            entries = [feed.entry(*row[2:]) for row in rows if row[2] is not None]
            self._take(entries)
            if len(entries) <= AT_ONCE:
                self._confirmed_at = asked_at
                return
            await asyncio.sleep(0)

    def _check_lag(self, row: Any) -> None:
        if row[0] and row[1] is None:  # started anew; where the primary is gone, it stays so however old it becomes
            raise Unavailable(
                "this replica has replayed no commit since it was started: nobody knows how far behind it is",
                code="replica_lag",
                retry_after_s=1,
            )
        self._lag_ms = max(0, row[1]) if row[0] else 0
        if self._lag_ms > self._max_lag_ms:
            raise Unavailable(
                f"this replica is {self._lag_ms / 1000:.1f} s behind the primary", code="replica_lag", retry_after_s=1
            )

    # ---- the connection

    async def _connected(self) -> postgres.PgConnection:
        if self._connection is None or self._connection.is_closed():
            self._disconnect()
            connection = await postgres.connect(self._target, command_timeout_s=_POLL_TIMEOUT_S)
            self._connection = connection
            with suppress(asyncpg.ReadOnlySQLTransactionError):  # a replica has no notifications: polling is enough
                await connection.add_listener(postgres.FEED_CHANNEL, lambda *_: self._wake.set())
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    # ---- who waits

    def _failed(self, waiters: list[asyncio.Future[None]], error: Unavailable) -> None:
        """Whoever waits waits for the next look, as long as its patience lasts; what cannot pass is told at once."""
        if self._failing_since is None:
            self._failing_since = _now()
            _log.warning("feed_unreadable", code=error.code, detail=error.detail, cause=repr(error.__cause__))
        self._fault = error
        definite = self._broken is not None or error.code == "feed_gap"
        if definite:
            self._tell(waiters, error)
        else:
            self._waiters += [waiter for waiter in waiters if not waiter.done()]

    @staticmethod
    def _tell(waiters: list[asyncio.Future[None]], error: Unavailable | None) -> None:
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


def _now() -> float:
    """Seconds on a clock that never goes back and that runs on while the machine sleeps, unlike time.monotonic()."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _unreadable() -> Unavailable:
    return Unavailable("the store's change feed cannot be read", code="feed_unavailable", retry_after_s=1)
