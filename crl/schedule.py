"""Which CRL is due when.

Owns, per scope (authority and partition), what is known of the newest CRL, of changes that it does not reflect, and
of failures. Follows the feed, so that it reads the store only when something happened. Builds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from core.asn1.x509 import load_certificate
from core.clock import from_datetime
from core.store import authorities, crls
from core.store.authorities import Authority
from core.store.crls import CrlSummary, StatusChange
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from crl.settings import DAY_S, CrlSettings

Scope = tuple[str, int]

#: A scope whose build takes t is not built early again within this many t: a mass revocation must not turn into
#: building all the time.
_EARLY_SPACING = 5


@dataclass(slots=True)
class ScopeState:
    """What is known of one scope. `changed_at_ms`: the first change that the newest CRL does not reflect. `ends_ms`:
    when the issuer's certificate ends; there is no CRL past that."""

    authority_id: str
    partition: int
    newest: CrlSummary | None = None
    ends_ms: int | None = None
    changed_at_ms: int | None = None
    changed_seq: int = 0
    build_ms: int = 0
    failures: int = 0
    retry_at_ms: int = 0
    last_error: str | None = None

    def ended(self, now_ms: int) -> bool:
        """Whether the issuer's certificate has ended: nobody needs a CRL of it any more, and none is built."""
        return self.ends_ms is not None and now_ms >= self.ends_ms

    @property
    def lasting(self) -> bool:
        """Whether the newest CRL lasts as long as its issuer: however little that is, no other could last longer."""
        return self.ends_ms is not None and self.newest is not None and self.newest.next_update_ms >= self.ends_ms

    def late(self, now_ms: int, alarm_ms: int) -> bool:
        """Whether there is no CRL, or less of its life left than that, and there should be more."""
        if self.ended(now_ms) or self.lasting:
            return False
        return self.newest is None or self.newest.next_update_ms - now_ms < alarm_ms

    def note_crl(self, newest: CrlSummary | None) -> None:
        """Takes in the newest CRL; forgets the changes that it reflects."""
        self.newest = newest
        if newest is not None and newest.feed_seq >= self.changed_seq:
            self.changed_at_ms = None

    def note_change(self, change: StatusChange) -> None:
        """Takes in a change, where the newest CRL does not reflect it."""
        reflected = self.newest is not None and change.seq <= self.newest.feed_seq
        if reflected or change.seq <= self.changed_seq:  # without a CRL: the first one may be under way without it
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


def _end_ms(authority: Authority) -> int:
    assert authority.certificate is not None
    return from_datetime(load_certificate(authority.certificate).not_valid_after_utc)


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
            ends = {a.id: _end_ms(a) for a in here}
            for scope, state in self.scopes.items():
                state.ends_ms = ends[state.authority_id]
                state.note_crl(known.get(scope))
        for change in changes:
            state_of = self.scopes.get((change.authority_id, change.partition))
            if state_of is not None:
                state_of.note_change(change)

    def due(self, now_ms: int, settings: CrlSettings) -> list[ScopeState]:
        """The scopes whose time has come, the one that has waited longest first."""
        there = [(scope, state) for scope, state in self.scopes.items() if not state.ended(now_ms)]
        waiting = [(state.due_at_ms(settings), scope) for scope, state in there]
        return [self.scopes[scope] for at_ms, scope in sorted(waiting) if at_ms <= now_ms]

    def freshness(self, clock: Callable[[], int]) -> tuple[float, float]:
        """(age of the oldest CRL, seconds to the first nextUpdate); (0, 0) where there is none.

        Without those of issuers that have ended; nor does a nextUpdate count that is its issuer's end.
        """
        now_ms = clock()
        states = [state for state in self.scopes.values() if not state.ended(now_ms)]
        made = [state.newest.this_update_ms for state in states if state.newest is not None]
        ends = [state.newest.next_update_ms for state in states if state.newest is not None and not state.lasting]
        if not made:
            return 0.0, 0.0
        return (now_ms - min(made)) / 1000, (min(ends, default=now_ms + DAY_S * 1000) - now_ms) / 1000
