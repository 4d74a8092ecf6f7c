"""Follows the change feed within one process.

Owns the position up to which this process has followed, and the list of subscribers. `current()` is asked before
anything cached is relied on: on SQLite it costs one `PRAGMA data_version` (microseconds, no lock taken), which changes
whenever any other connection has committed; only then is the feed read, on the same connection and at once, because a
reader in WAL mode waits for nobody and a thread would be waited for. So nothing cached is ever older than the last
commit. Subscribers are called on the event loop, in feed order, and must not block.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Final

from core.errors import Unavailable
from core.store import feed
from core.store.database import Database, sqlite_path
from core.store.feed import FeedEntry

#: How many entries are delivered before the event loop gets its turn: about a millisecond's work.
_AT_ONCE: Final = 1_000


class _SqliteWatch:
    """A connection of its own that only ever reads the data version and the feed."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)
        self._execute = self._connection.execute

    def version(self) -> int:
        value: int = self._execute("PRAGMA data_version").fetchone()[0]
        return value

    def read_after(self, seq: int, limit: int) -> list[FeedEntry]:
        rows = self._execute(
            "SELECT seq, kind, authority_id, serial, subject_id, at_ms FROM feed WHERE seq > ? ORDER BY seq LIMIT ?",
            (seq, limit),
        )
        return [
            FeedEntry(
                number, kind, authority, None if serial is None else int.from_bytes(serial, "big"), subject, at_ms
            )
            for number, kind, authority, serial, subject, at_ms in rows
        ]

    def close(self) -> None:
        self._connection.close()


class FeedFollower:
    """See the module. Make one per process with `start()`; `close()` ends it."""

    def __init__(self, database: Database) -> None:
        path = sqlite_path(database.url)
        if path is None:
            raise Unavailable("only an SQLite store can be followed", code="store_backend")
        self._watch = _SqliteWatch(str(path))
        self._subscribers: list[Callable[[FeedEntry], None]] = []
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
            raise _unreadable() from error

    def current(self) -> bool:
        """Delivers what was committed since the last look; False where there is more than can be delivered at once.

        Raises Unavailable where the feed cannot be read or has a gap.
        """
        try:
            version = self._watch.version()
            if version == self._version:
                return True
            entries = self._watch.read_after(self.position, _AT_ONCE)
        except sqlite3.Error as error:
            raise _unreadable() from error
        for entry in entries:
            self._deliver(entry)
        if len(entries) == _AT_ONCE:
            return False
        self._version = version
        return True

    async def ensure_current(self) -> None:
        """Returns with every committed change delivered to the subscribers. Raises Unavailable."""
        while not self.current():  # noqa: ASYNC110 - nothing to wait for: it gives others their turn
            await asyncio.sleep(0)

    def _deliver(self, entry: FeedEntry) -> None:
        if entry.seq != self.position + 1:
            raise Unavailable(f"the change feed has a gap after {self.position}", code="feed_gap")
        for callback in self._subscribers:
            callback(entry)
        self.position = entry.seq

    def close(self) -> None:
        """Closes the watching connection."""
        self._watch.close()


def _unreadable() -> Unavailable:
    return Unavailable("the store's change feed cannot be read", code="feed_unavailable")
