"""Follows the change feed within one process.

Owns the position up to which this process has followed, and the list of subscribers. `ensure_current()` is called
before anything cached is relied on: on SQLite it costs one `PRAGMA data_version` (microseconds, no lock taken), which
changes whenever any other connection has committed; only then is the feed read. So nothing cached is ever older than
the last commit. Subscribers are called on the event loop, in feed order, and must not block.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

from core.errors import Unavailable
from core.store import feed
from core.store.database import Database, sqlite_path
from core.store.feed import FeedEntry


class _SqliteWatch:
    """A connection of its own that only ever asks for the data version."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)
        self._execute = self._connection.execute

    def version(self) -> int:
        value: int = self._execute("PRAGMA data_version").fetchone()[0]
        return value

    def close(self) -> None:
        self._connection.close()


class FeedFollower:
    """See the module. Make one per process with `start()`; `close()` ends it."""

    def __init__(self, database: Database) -> None:
        path = sqlite_path(database.url)
        if path is None:
            raise Unavailable("only an SQLite store can be followed", code="store_backend")
        self._database = database
        self._watch = _SqliteWatch(str(path))
        self._subscribers: list[Callable[[FeedEntry], None]] = []
        self._lock = asyncio.Lock()
        self._version = -1
        self.position = 0

    @classmethod
    async def start(cls, database: Database) -> FeedFollower:
        """A follower that stands at the feed's end."""
        follower = cls(database)
        follower._version = follower._watch.version()
        async with database.read() as connection:
            follower.position = await feed.head(connection)
        return follower

    def subscribe(self, callback: Callable[[FeedEntry], None]) -> None:
        """Calls `callback` with each entry after the position, in order."""
        self._subscribers.append(callback)

    def moved(self) -> bool:
        """Whether the store has changed since the last look. Raises Unavailable where it cannot be asked."""
        try:
            return self._watch.version() != self._version
        except sqlite3.Error as error:
            raise Unavailable("the store's change feed cannot be read", code="feed_unavailable") from error

    async def ensure_current(self) -> None:
        """Returns with every committed change delivered to the subscribers. Raises Unavailable."""
        if self.moved():
            await self._catch_up()

    async def _catch_up(self) -> None:
        async with self._lock:
            try:
                version = self._watch.version()
            except sqlite3.Error as error:
                raise Unavailable("the store's change feed cannot be read", code="feed_unavailable") from error
            if version == self._version:
                return
            while True:
                async with self._database.read() as connection:
                    entries = await feed.read_after(connection, self.position)
                for entry in entries:
                    self._deliver(entry)
                if len(entries) < 10_000:
                    break
            self._version = version

    def _deliver(self, entry: FeedEntry) -> None:
        if entry.seq != self.position + 1:
            raise Unavailable(f"the change feed has a gap after {self.position}", code="feed_gap")
        for callback in self._subscribers:
            callback(entry)
        self.position = entry.seq

    def close(self) -> None:
        """Closes the watching connection."""
        self._watch.close()
