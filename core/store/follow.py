"""Follows the change feed within one process, so that nothing in memory outlives what has been committed.

`FeedFollower` is what users see: the position up to which this process has followed, and subscribers, which are called
on the event loop, in feed order, and must not block. `current()` is asked right before anything cached is relied on,
and costs no wait; where it says no, `ensure_current()` waits. How old "current" may be is the store's:

- SQLite (here): nothing. `PRAGMA data_version` (microseconds, no lock taken) changes whenever any other connection has
  committed; only then is the feed read, on the same connection and at once, because a reader in WAL mode waits for
  nobody and a thread would be waited for.
- PostgreSQL (core.store.follow_postgres): a bounded age, measured from before the question was sent.

On both, `ensure_current()` delivers everything that was committed before it was called.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from core.errors import Unavailable
from core.store import feed
from core.store.database import Database, sqlite_path
from core.store.feed import FeedEntry

#: How many entries are delivered before the event loop gets its turn: about a millisecond's work.
AT_ONCE: Final = 1_000


class FeedFollower(ABC):
    """See the module. Make one per process with `start()`; `close()` ends it."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[FeedEntry], None]] = []
        self._anchor: FeedEntry | None = None
        self._broken: Unavailable | None = None
        self.position = 0

    @classmethod
    async def start(cls, database: Database) -> FeedFollower:
        """A follower that stands at the feed's end. Raises Unavailable where that cannot be read."""
        if database.on_postgres:
            from core.store.follow_postgres import PostgresFollower

            return await PostgresFollower.begin(database)
        return await SqliteFollower.begin(database)

    def subscribe(self, callback: Callable[[FeedEntry], None]) -> None:
        """Calls `callback` with each entry after the position, in order."""
        self._subscribers.append(callback)

    @property
    @abstractmethod
    def lag_ms(self) -> int:
        """On a replica, how far it stands behind its primary, as last seen; 0 elsewhere. `max_age_ms` comes on top."""

    @property
    @abstractmethod
    def age_ms(self) -> int:
        """How long ago the feed's end was last confirmed; 0 where every look confirms it."""

    @property
    @abstractmethod
    def max_age_ms(self) -> int:
        """How old what `current()` vouches for can be, counted from the store that is read."""

    @abstractmethod
    def moved(self) -> bool:
        """Whether the feed has to be read before anything is relied on. Raises Unavailable where none can tell."""

    @abstractmethod
    def current(self) -> bool:
        """Whether what was delivered may be relied on now; delivers first where that takes no wait.

        Raises Unavailable where the feed cannot be read, has a gap, or went back.
        """

    @abstractmethod
    async def ensure_current(self) -> None:
        """Returns with every change that was committed before the call delivered to the subscribers.

        Raises Unavailable.
        """

    @abstractmethod
    def nudge(self) -> None:
        """Something may have happened (a hint from elsewhere, true or not): look at once."""

    @abstractmethod
    def close(self) -> None:
        """Ends the following."""

    def _take(self, entries: Sequence[FeedEntry]) -> None:
        """Delivers what was read from the position on, whose own entry comes first. Raises Unavailable."""
        self._check_anchor(entries)
        for entry in entries:
            if entry.seq <= self.position:
                continue
            if entry.seq != self.position + 1:
                raise Unavailable(f"the change feed has a gap after {self.position}", code="feed_gap")
            for callback in self._subscribers:
                callback(entry)
            self.position, self._anchor = entry.seq, entry

    def _check_anchor(self, entries: Sequence[FeedEntry]) -> None:
        """Raises Unavailable where the entry at the position is not the one that was delivered."""
        if self.position == 0:
            return
        found = entries[0] if entries else None
        if found is None or found.seq != self.position:
            raise Unavailable(
                f"the change feed ends before {self.position}, which was read from it: the database is an older one",
                code="feed_backwards",
                retry_after_s=1,
            )
        if self._anchor is None:
            self._anchor = found
        elif found != self._anchor:
            self._broken = Unavailable(
                f"the change feed has another entry at {self.position} than was read: the database was taken back; "
                "restart once it is the right one",
                code="feed_backwards",
            )
            raise self._broken


class _SqliteWatch:
    """A connection of its own that only ever reads the data version and the feed."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)
        self._execute = self._connection.execute

    def version(self) -> int:
        value: int = self._execute("PRAGMA data_version").fetchone()[0]
        return value

    def read_from(self, seq: int, limit: int) -> list[FeedEntry]:
        rows = self._execute(
            "SELECT seq, kind, authority_id, serial, subject_id, at_ms FROM feed WHERE seq >= ? ORDER BY seq LIMIT ?",
            (seq, limit),
        )
        return [feed.entry(*row) for row in rows]

    def close(self) -> None:
        self._connection.close()


class SqliteFollower(FeedFollower):
    """On the file of the embedded store."""

    lag_ms = 0
    age_ms = 0
    max_age_ms = 0

    def __init__(self, database: Database) -> None:
        super().__init__()
        path = sqlite_path(database.url)
        assert path is not None
        self._watch = _SqliteWatch(str(path))
        self._version = -1

    @classmethod
    async def begin(cls, database: Database) -> SqliteFollower:
        """See `start`."""
        follower = cls(database)
        try:
            follower._version = follower._watch.version()
            async with database.read() as connection:
                follower.position = await feed.head(connection)
            follower._check_anchor(follower._watch.read_from(follower.position, 1))
        except BaseException as error:
            follower.close()
            if isinstance(error, sqlite3.Error):
                raise _unreadable() from error
            raise
        return follower

    def moved(self) -> bool:
        """See FeedFollower."""
        try:
            return self._watch.version() != self._version
        except sqlite3.Error as error:
            raise _unreadable() from error

    def current(self) -> bool:
        """See FeedFollower; False where there is more than can be delivered at once."""
        if self._broken is not None:
            raise self._broken
        try:
            version = self._watch.version()
            if version == self._version:
                return True
            entries = self._watch.read_from(self.position, AT_ONCE + 1)
        except sqlite3.Error as error:
            raise _unreadable() from error
        self._take(entries)
        if len(entries) > AT_ONCE:
            return False
        self._version = version
        return True

    async def ensure_current(self) -> None:
        """See FeedFollower."""
        while not self.current():  # noqa: ASYNC110 - nothing to wait for: it gives others their turn
            await asyncio.sleep(0)

    def nudge(self) -> None:
        """Nothing to do: every look is at once."""

    def close(self) -> None:
        """See FeedFollower."""
        self._watch.close()


def _unreadable() -> Unavailable:
    return Unavailable("the store's change feed cannot be read", code="feed_unavailable")
