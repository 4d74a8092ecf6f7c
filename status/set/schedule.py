"""Which authority's status set is due when.

Owns, per authority, what is known of its newest files, of changes that they do not reflect, and of failures. Follows
the feed, so that it reads the store only when something happened. Builds nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from core.clock import Clock
from core.store import authorities, feed, status_sets
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from core.store.status_sets import StatusSetSummary
from status.set.build import builds_sets
from status.set.settings import StatusSetSettings


@dataclass(slots=True)
class AuthorityDue:
    """What is known of one authority. `changed_at_ms`, `issued_at_ms`: the first of those that no file reflects yet."""

    authority_id: str
    newest: StatusSetSummary | None = None
    base: StatusSetSummary | None = None
    changed_at_ms: int | None = None
    changed_seq: int = 0
    issued_at_ms: int | None = None
    issued_seq: int = 0
    built_at_ms: int = 0
    build_ms: int = 0
    failures: int = 0
    retry_at_ms: int = 0
    last_error: str | None = None
    judged_wrong: bool = False

    @property
    def number(self) -> int | None:
        """Of the newest file."""
        return None if self.newest is None else self.newest.number

    def note_entry(self, kind: str, seq: int, at_ms: int) -> None:
        """Takes in an entry of the feed, where no file reflects it."""
        if self.newest is not None and seq <= self.newest.feed_seq:
            return
        if kind == "issued":
            self.issued_seq = max(self.issued_seq, seq)
            self.issued_at_ms = at_ms if self.issued_at_ms is None else self.issued_at_ms
        else:
            self.changed_seq = max(self.changed_seq, seq)
            self.changed_at_ms = at_ms if self.changed_at_ms is None else self.changed_at_ms

    def note_newest(self, newest: StatusSetSummary | None, base: StatusSetSummary | None) -> None:
        """Takes in the newest files; forgets what they reflect."""
        self.newest, self.base = newest, base
        position = newest.feed_seq if newest else -1
        if position >= self.changed_seq:
            self.changed_at_ms = None
        if position >= self.issued_seq:
            self.issued_at_ms = None

    def due_at_ms(self, settings: StatusSetSettings) -> int:
        """When the next file is to be made; 0 for at once."""
        if self.newest is None:
            return self.retry_at_ms
        due = self.newest.this_update_ms + settings.period_s * 1000
        if self.changed_at_ms is not None:
            due = min(due, self.changed_at_ms + round(settings.debounce_s * 1000))
        if self.issued_at_ms is not None:
            due = min(due, self.issued_at_ms + round(settings.issued_s * 1000))
        rest_ms = round(self.build_ms / settings.load_share)
        return max(due, self.built_at_ms + rest_ms, self.retry_at_ms)

    def note_failure(
        self, error: str, now_ms: int, settings: StatusSetSettings, jitter: float, *, judged_wrong: bool
    ) -> None:
        """Puts the next attempt off: doubling, bounded, spread by `jitter` (0 to 1) over its upper half."""
        wait_s = min(settings.back_off_max_s, settings.back_off_first_s * 2 ** min(self.failures, 30))
        self.failures += 1
        self.last_error = error
        self.judged_wrong = judged_wrong
        self.retry_at_ms = now_ms + round(wait_s * 500 * (1 + jitter))

    def note_success(self, now_ms: int, build_ms: int) -> None:
        """Forgets the failures."""
        self.built_at_ms, self.build_ms = now_ms, max(0, build_ms)
        self.failures, self.retry_at_ms, self.last_error, self.judged_wrong = 0, 0, None, False


class Schedule:
    """What is known of every authority whose sets are built here, kept up with the feed by `refresh()`."""

    def __init__(self, database: Database, follower: FeedFollower, clock: Clock) -> None:
        self._database = database
        self._follower = follower
        self._clock = clock
        self._lock = asyncio.Lock()
        self._reload = True
        self.authorities: dict[str, AuthorityDue] = {}
        follower.subscribe(self._on_entry)

    def _on_entry(self, entry: FeedEntry) -> None:
        if entry.kind in ("set", "authority"):
            self._reload = True
        elif entry.kind in ("issued", "revoked", "held", "released") and entry.authority_id is not None:
            due = self.authorities.get(entry.authority_id)
            if due is not None:
                due.note_entry(entry.kind, entry.seq, entry.at_ms)

    def forget(self) -> None:
        """Reads the authorities anew next time."""
        self._reload = True

    async def refresh(self) -> None:
        """Returns with every committed change taken in. Raises Unavailable."""
        async with self._lock:
            await self._follower.ensure_current()
            if not self._reload:
                return
            self._reload = False
            try:
                await self._read()
            except BaseException:
                self._reload = True
                raise

    async def _read(self) -> None:
        first = not self.authorities
        async with self._database.read() as connection:
            now_ms = self._clock()
            here = [a.id for a in await authorities.list_all(connection) if builds_sets(a, now_ms)]
            rows: dict[str, list[StatusSetSummary]] = {}
            for row in await status_sets.summaries(connection):
                rows.setdefault(row.authority_id, []).append(row)
            head = await feed.head(connection)
        self.authorities = {i: self.authorities.get(i) or AuthorityDue(i) for i in here}
        for due in self.authorities.values():
            newest, base = (*rows.get(due.authority_id, []), None, None)[:2]
            due.note_newest(newest, base)
            if first and newest is not None and newest.feed_seq < head:
                due.note_entry("revoked", head, 0)  # what came meanwhile was not followed: due at once

    def due(self, settings: StatusSetSettings) -> list[AuthorityDue]:
        """The authorities whose time has come, the one that has waited longest first."""
        now_ms = self._clock()
        waiting = [(due.due_at_ms(settings), i) for i, due in self.authorities.items()]
        return [self.authorities[i] for at_ms, i in sorted(waiting) if at_ms <= now_ms]

    def note_success(self, authority_id: str, build_ms: int) -> None:
        """A file of the authority was published."""
        due = self.authorities.get(authority_id)
        if due is not None:
            due.note_success(self._clock(), build_ms)

    def freshness(self) -> tuple[float, float]:
        """(age of the oldest newest file, seconds to the first nextUpdate); (0, 0) where there is none."""
        newest = [due.newest for due in self.authorities.values() if due.newest is not None]
        if not newest:
            return 0.0, 0.0
        now_ms = self._clock()
        oldest_ms = min(summary.this_update_ms for summary in newest)
        return (now_ms - oldest_ms) / 1000, (min(summary.next_update_ms for summary in newest) - now_ms) / 1000
