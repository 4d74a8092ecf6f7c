"""Which CRL is due when.

Owns, per scope (authority and partition), what is known of the newest CRL, of changes that it does not reflect, and
of failures. Follows the feed, so that it reads the store only when something happened. Builds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from core.store import authorities, crls
from core.store.authorities import Authority
from core.store.crls import CrlSummary, StatusChange
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from crl.settings import CrlSettings

Scope = tuple[str, int]

#: A scope whose build takes t is not built early again within this many t: a mass revocation must not turn into
#: building all the time.
_EARLY_SPACING = 5


@dataclass(slots=True)
class ScopeState:
    """What is known of one scope. `changed_at_ms`: the first change that the newest CRL does not reflect."""

    authority_id: str
    partition: int
    newest: CrlSummary | None = None
    changed_at_ms: int | None = None
    changed_seq: int = 0
    build_ms: int = 0
    failures: int = 0
    retry_at_ms: int = 0
    last_error: str | None = None

    def note_crl(self, newest: CrlSummary | None) -> None:
        """Takes in the newest CRL; forgets the changes that it reflects."""
        self.newest = newest
        if newest is not None and newest.feed_seq >= self.changed_seq:
            self.changed_at_ms = None

    def note_change(self, change: StatusChange) -> None:
        """Takes in a change, where the newest CRL does not reflect it."""
        if self.newest is None or change.seq <= self.newest.feed_seq or change.seq <= self.changed_seq:
            return
        self.changed_seq = change.seq
        if self.changed_at_ms is None:
            self.changed_at_ms = change.at_ms

    def due_at_ms(self, settings: CrlSettings) -> int:
        """When the next CRL is to be built; 0 where there is none yet."""
        due = 0
        if self.newest is not None:
            due = self.newest.this_update_ms + settings.period_s * 1000
            if self.changed_at_ms is not None:
                early = self.changed_at_ms + round(settings.debounce_s * 1000)
                due = min(due, max(early, self.newest.this_update_ms + _EARLY_SPACING * self.build_ms))
        return max(due, self.retry_at_ms)

    def note_failure(self, error: str, now_ms: int, settings: CrlSettings, jitter: float) -> None:
        """Puts the next attempt off: doubling, bounded, spread by `jitter` (0 to 1) over its upper half."""
        wait_s = min(settings.back_off_max_s, settings.back_off_first_s * 2 ** min(self.failures, 30))
        self.failures += 1
        self.last_error = error
        self.retry_at_ms = now_ms + round(wait_s * 500 * (1 + jitter))

    def note_success(self, build_ms: int) -> None:
        """Forgets the failures."""
        self.build_ms = max(0, build_ms)
        self.failures, self.retry_at_ms, self.last_error = 0, 0, None


def builds_crls(authority: Authority) -> bool:
    """Whether this authority's CRLs are made here: its certificate is installed and its key is not elsewhere."""
    return authority.certificate is not None and authority.key_id is not None


class Schedule:
    """The states of every scope, kept up with the feed by `refresh()`."""

    def __init__(self, database: Database, follower: FeedFollower) -> None:
        self._database = database
        self._follower = follower
        self._lock = asyncio.Lock()
        self._reload = True
        self._changes_after: int | None = None
        self.scopes: dict[Scope, ScopeState] = {}
        follower.subscribe(self._on_entry)

    def _on_entry(self, entry: FeedEntry) -> None:
        if entry.kind in ("crl", "authority"):
            self._reload = True
        elif entry.kind in ("revoked", "held", "released") and self._changes_after is None:
            self._changes_after = entry.seq - 1

    async def refresh(self) -> None:
        """Returns with every committed change taken in. Raises Unavailable."""
        async with self._lock:
            await self._follower.ensure_current()
            reload, after = self._reload, self._changes_after
            if not reload and after is None:
                return
            self._reload, self._changes_after = False, None
            try:
                await self._read(reload, after)
            except BaseException:
                self._reload = True
                if after is not None:
                    self._changes_after = after
                raise

    async def _read(self, reload: bool, after: int | None) -> None:
        async with self._database.read() as connection:
            known: dict[Scope, CrlSummary] = {}
            here: list[Authority] = []
            if reload:
                here = [a for a in await authorities.list_all(connection) if builds_crls(a)]
                known = {(s.authority_id, s.partition): s for s in await crls.summaries(connection)}
                if not self.scopes and known:
                    after = min(summary.feed_seq for summary in known.values())
            changes = [] if after is None else await crls.status_changes(connection, after)
        if reload:
            wanted = [(a.id, partition) for a in here for partition in range(a.partitions)]
            self.scopes = {scope: self.scopes.get(scope) or ScopeState(*scope) for scope in wanted}
            for scope, state in self.scopes.items():
                state.note_crl(known.get(scope))
        for change in changes:
            state_of = self.scopes.get((change.authority_id, change.partition))
            if state_of is not None:
                state_of.note_change(change)

    def due(self, now_ms: int, settings: CrlSettings) -> list[ScopeState]:
        """The scopes whose time has come, the one that has waited longest first."""
        waiting = [(state.due_at_ms(settings), scope) for scope, state in self.scopes.items()]
        return [self.scopes[scope] for at_ms, scope in sorted(waiting) if at_ms <= now_ms]

    def freshness(self, clock: Callable[[], int]) -> tuple[float, float]:
        """(age of the oldest CRL, seconds to the first nextUpdate); (0, 0) where there is none."""
        newest = [state.newest for state in self.scopes.values() if state.newest is not None]
        if not newest:
            return 0.0, 0.0
        now_ms = clock()
        oldest_ms = min(summary.this_update_ms for summary in newest)
        first_ms = min(summary.next_update_ms for summary in newest)
        return (now_ms - oldest_ms) / 1000, (first_ms - now_ms) / 1000
