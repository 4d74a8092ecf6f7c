"""Builds status sets when they are due, and never publishes one that the judge refuses.

Owns the loop's rhythm and the order of the steps: take the lease, read, encode, judge, sign, check the signature,
publish. One feed position to a file: everything in it, and everything it is judged by, is of one read transaction.
Knows no HTTP and no private key; `service` owns the task that runs `run()`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import public_key_of_certificate, split_signed
from core.clock import Clock
from core.errors import Conflict, QianyanError, Refused, Unavailable
from core.lease import Leases
from core.ports import SignatureVerifier, Signer
from core.store import authorities, feed, leases, status_sets
from core.store.database import Database
from core.store.follow import FeedFollower
from core.store.status_sets import StatusSetRecord
from qianyan_status import StatusSet
from status.set import build as steps
from status.set.build import Snapshot, Unsigned
from status.set.format import Base, SetState, join
from status.set.hashing import HashSpace
from status.set.imports import ImportState
from status.set.judge import JudgedWrong, judge_drops, judge_imports, judge_rows
from status.set.metrics import StatusSetMetrics
from status.set.published import PublishedSets
from status.set.schedule import AuthorityDue, Schedule
from status.set.settings import StatusSetSettings
from status.set.state import AuthorityState

log = structlog.get_logger()

_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class SetStanding:
    """How one authority's set stands. `number` and what follows it are None where there is none yet.

    `waiting`: something was revoked, held or released that no published file says yet.
    """

    authority_id: str
    number: int | None
    base_number: int | None
    this_update_ms: int | None
    next_update_ms: int | None
    certificates: int | None
    revoked: int | None
    held: int | None
    set_bytes: int | None
    delta_bytes: int | None
    waiting: bool
    failures: int
    last_error: str | None


def _system_jitter() -> float:
    return random.SystemRandom().random()


class StatusSetService:
    """See the module. `index_oid`: the extension in which certificates carry their status index.

    signer_for: of an authority's key. delegate_for: of the key that an authority has certified for its status sets;
    `refresh_keys` comes before it, since another process may have made that.
    """

    def __init__(
        self,
        database: Database,
        follower: FeedFollower,
        signer_for: Callable[[str], Signer],
        verify: SignatureVerifier,
        clock: Clock,
        settings: StatusSetSettings,
        *,
        index_oid: str,
        registry: CollectorRegistry | None = None,
        jitter: Callable[[], float] = _system_jitter,
        delegate_for: Callable[[str], Signer] | None = None,
        refresh_keys: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._signer_for = signer_for
        self._delegate_for = delegate_for or signer_for
        self._refresh_keys = refresh_keys
        self._verify = verify
        self.clock = clock
        self.settings = settings
        self._index_oid = index_oid
        self._metrics = StatusSetMetrics.make(registry)
        self._jitter = jitter
        self._schedule = Schedule(database, follower, clock)
        self._states: dict[str, AuthorityState] = {}
        self._imports: dict[str, ImportState] = {}
        self._bases: dict[str, tuple[int, bytes, Base]] = {}
        self._building = asyncio.Lock()
        self._leases = Leases(database, settings.lease_s)
        self.published = PublishedSets(database, follower, clock)
        self._metrics.watch(self._schedule.freshness)

    async def build(self, authority_id: str, *, whole: bool = False, actor: str = "system") -> list[StatusSetRecord]:
        """Builds, judges and publishes the next file of an authority: a delta, or a set with its first delta.

        whole: a new set in any case. Waits while another builder is at it, at most `timeout_s`.
        Raises NotFound; Refused (the judge's code, or the key's state); Busy; Unavailable; Conflict where other
        builders always took over.
        """
        records = await self._try(authority_id, whole, actor)
        assert records is not None
        return records

    async def _try(
        self, authority_id: str, whole: bool, actor: str, due: AuthorityDue | None = None
    ) -> list[StatusSetRecord] | None:
        """As `build`; with `due`, None where another builder is at it, or was since that was found out."""
        async with self._building:
            for attempt in range(_ATTEMPTS):
                began_ms, began = self.clock(), time.monotonic()
                try:
                    async with asyncio.timeout(self.settings.timeout_s):
                        records = await self._attempt(authority_id, whole, actor, due)
                except TimeoutError as error:
                    self._metrics.builds.labels("unavailable").inc()
                    raise Unavailable(
                        f"the build took more than {self.settings.timeout_s} s", code="set_timeout"
                    ) from error
                except Conflict:
                    self._metrics.builds.labels("superseded").inc()
                    if due is not None:
                        return None
                    continue
                except JudgedWrong as error:
                    self._metrics.builds.labels("judged_wrong").inc()
                    log.error("status_set.judged_wrong", authority=authority_id, detail=error.detail)
                    self._forget(authority_id)
                    if attempt == 0:  # once more, from the store alone
                        continue
                    raise
                except Exception as error:
                    self._forget(authority_id)
                    self._metrics.builds.labels(error.kind if isinstance(error, QianyanError) else "internal").inc()
                    raise
                if records is not None:
                    # Not by the clock alone: one that is set right meanwhile would put the next build off for hours.
                    took_ms = min(self.clock() - began_ms, round((time.monotonic() - began) * 1000))
                    self._note_built(records, took_ms)
                return records
        raise Conflict(f"other builders of {authority_id}'s status set were always faster", code="set_number")

    async def _attempt(
        self, authority_id: str, whole: bool, actor: str, due: AuthorityDue | None
    ) -> list[StatusSetRecord] | None:
        async with self._database.read() as connection:
            await authorities.get(connection, authority_id)
        scope = (authority_id, leases.STATUS_SET)
        lease = await (self._leases.wait(scope) if due is None else self._leases.acquire(scope))
        if lease is None:
            return None
        async with self._leases.kept(lease):
            now_ms = self.clock()
            async with self._database.read() as connection:
                snapshot = await steps.take_snapshot(
                    connection, authority_id, now_ms, await feed.head(connection), self.settings
                )
                if due is not None and snapshot.number_published != due.number:
                    raise Conflict("another builder was faster", code="set_number")
                records = await self._files(connection, snapshot, whole)
            await steps.publish(self._database, records, lease, self.clock, actor=actor, keep=self.settings.keep)
        return records

    async def _files(self, connection: AsyncConnection, snapshot: Snapshot, whole: bool) -> list[StatusSetRecord]:
        base, before = await self._previous(snapshot)
        importing = self._import_state(snapshot)
        if base is not None and not whole and not self._set_is_due(snapshot):
            earlier, from_month = base[2].state.imports, self._imports_from(snapshot)
            imports = await importing.going_on(connection, earlier, from_month)
            if imports is not None or await importing.fits(connection, earlier, from_month):
                state = await self._state(connection, snapshot, base, imports)
                delta = await steps.unsigned_delta(snapshot, base[2], state)
                if not self._too_large(delta, base[1]):
                    return [await self._judged_delta(connection, snapshot, base, delta, before)]
        imports = await importing.anew(connection, snapshot.live_from)
        state = await self._state(connection, snapshot, None, imports)
        unsigned = await steps.unsigned_set(snapshot, state, self._index_oid)
        judged = await asyncio.to_thread(steps.read, unsigned.body, None, snapshot.certificate)
        await self._judge(connection, snapshot, judged, before, snapshot.live_from, every_row=True)
        await judge_imports(connection, judged, snapshot.authority_id, from_month=snapshot.live_from, partitions=None)
        body = await self._signed(snapshot, unsigned)
        await self._judge_signed(snapshot, body, None)
        record = steps.as_record(snapshot, unsigned, unsigned.number, body)
        new_base = await asyncio.to_thread(steps.read_base, body, snapshot.certificate)
        following = (new_base.number, body, new_base)
        first = await steps.unsigned_delta(snapshot, new_base, state)
        return [record, await self._judged_delta(connection, snapshot, following, first, before)]

    async def _previous(self, snapshot: Snapshot) -> tuple[tuple[int, bytes, Base] | None, StatusSet | None]:
        """(the newest set: number, bytes, contents; it and its newest delta as the reader sees them)."""
        if snapshot.published is None:
            return None, None
        base, delta = snapshot.published.base, snapshot.published.delta
        held = self._bases.get(snapshot.authority_id)
        if held is None or held[0] != base.number:
            held = (base.number, base.body, await asyncio.to_thread(steps.read_base, base.body, snapshot.certificate))
            self._bases[snapshot.authority_id] = held
        before = await asyncio.to_thread(steps.read, base.body, delta.body, snapshot.certificate)
        return held, before

    async def _state(
        self,
        connection: AsyncConnection,
        snapshot: Snapshot,
        base: tuple[int, bytes, Base] | None,
        imports: HashSpace | None,
    ) -> SetState:
        """The state at the snapshot's feed position; for a delta with every month that its set has."""
        months = base[2].state.months if base else ()
        from_month = min([snapshot.live_from, *(month.month for month in months)])
        keeper = self._states.get(snapshot.authority_id)
        if keeper is None or keeper.partitions != snapshot.partitions:
            keeper = self._states[snapshot.authority_id] = AuthorityState(snapshot.authority_id, snapshot.partitions)
        await keeper.follow(connection, from_month=from_month)
        if keeper.position != snapshot.heading.position:
            keeper.forget()
            raise Unavailable("the change feed and its end do not agree", code="feed_gap")
        known = await status_sets.spaces(connection, snapshot.authority_id)
        return keeper.snapshot(known, from_month=from_month, imports=imports)

    def _forget(self, authority_id: str) -> None:
        """What was kept of an authority is read from the store anew."""
        self._states.pop(authority_id, None)
        self._imports.pop(authority_id, None)

    def _import_state(self, snapshot: Snapshot) -> ImportState:
        keeper = self._imports.get(snapshot.authority_id)
        if keeper is None or keeper.partitions != snapshot.partitions:
            keeper = self._imports[snapshot.authority_id] = ImportState(snapshot.authority_id, snapshot.partitions)
        return keeper

    @staticmethod
    def _imports_from(snapshot: Snapshot) -> int:
        """The first month that the published set's imports tell of, and its deltas must tell of, too."""
        assert snapshot.published is not None
        return steps.live_from(snapshot.published.base.this_update_ms)

    def _set_is_due(self, snapshot: Snapshot) -> bool:
        assert snapshot.published is not None
        age_ms = snapshot.heading.this_update_ms - snapshot.published.base.this_update_ms
        return age_ms >= self.settings.set_period_s * 1000

    def _too_large(self, delta: Unsigned, base_body: bytes) -> bool:
        size = len(delta.tbs)
        return size > max(self.settings.delta_least_bytes, self.settings.delta_share * len(base_body))

    async def _judged_delta(
        self,
        connection: AsyncConnection,
        snapshot: Snapshot,
        base: tuple[int, bytes, Base],
        delta: Unsigned,
        before: StatusSet | None,
    ) -> StatusSetRecord:
        judged = await asyncio.to_thread(steps.read, base[1], delta.body, snapshot.certificate)
        from_month = min([snapshot.live_from, *(month.month for month in base[2].state.months)])
        await self._judge(connection, snapshot, judged, before, from_month, every_row=False)
        since = snapshot.live_from if base[2].number == snapshot.heading.number else self._imports_from(snapshot)
        partitions = snapshot.partitions
        await judge_imports(connection, judged, snapshot.authority_id, from_month=since, partitions=partitions)
        body = await self._signed(snapshot, delta)
        await self._judge_signed(snapshot, base[1], body)
        return steps.as_record(snapshot, delta, base[0], body)

    async def _judge(
        self,
        connection: AsyncConnection,
        snapshot: Snapshot,
        judged: StatusSet,
        before: StatusSet | None,
        from_month: int,
        *,
        every_row: bool,
    ) -> None:
        partitions = None if every_row else snapshot.partitions
        await judge_rows(connection, judged, snapshot.authority_id, from_month=from_month, partitions=partitions)
        if before is not None:
            await judge_drops(connection, judged, before, snapshot.authority_id, from_month=snapshot.live_from)

    async def _signed(self, snapshot: Snapshot, unsigned: Unsigned) -> bytes:
        """The file with its signature, which is checked: what is published is what was judged."""
        if snapshot.delegate is not None and self._refresh_keys is not None:
            await self._refresh_keys()
        signer = (self._signer_for if snapshot.delegate is None else self._delegate_for)(snapshot.key_id)
        body = join(unsigned.tbs, await signer.sign(unsigned.tbs), snapshot.delegate)
        signed = split_signed(body)
        if signed.tbs != unsigned.tbs:
            raise JudgedWrong("the signed file is not the one that was judged", code="set_signature")
        by = snapshot.certificate if snapshot.delegate is None else snapshot.delegate
        self._verify(public_key_of_certificate(by), signed.tbs, signed.signature)
        return body

    async def _judge_signed(self, snapshot: Snapshot, body: bytes, delta: bytes | None) -> None:
        """What a delegate signed is read as others will: its certificate is part of it. Raises Refused."""
        if snapshot.delegate is not None:
            await asyncio.to_thread(steps.check_signed, body, delta, snapshot.certificate, self._verify)

    def _note_built(self, records: list[StatusSetRecord], build_ms: int) -> None:
        self._schedule.note_success(records[0].authority_id, build_ms)
        self._metrics.builds.labels("set" if len(records) > 1 else "delta").inc()
        self._metrics.build_seconds.observe(max(0, build_ms) / 1000)
        newest = records[-1]
        log.info(
            "status_set.published",
            authority=newest.authority_id,
            number=newest.number,
            base_number=newest.base_number,
            certificates=newest.certificates,
            revoked=newest.revoked,
            held=newest.held,
            size=len(newest.body),
            build_ms=build_ms,
        )

    async def build_due(self) -> int:
        """Builds what is due and returns how many authorities got a new file.

        One that fails is logged, counted and put off; the others are built all the same. Raises Unavailable where the
        store cannot be asked what is due.
        """
        if not self.settings.enabled:
            return 0
        await self._schedule.refresh()
        built = 0
        for due in self._schedule.due(self.settings):
            built += await self._build_one(due)
        if built:
            await self._schedule.refresh()
        self._note_standing()
        return built

    async def _build_one(self, due: AuthorityDue) -> int:
        try:
            if await self._try(due.authority_id, False, "system", due) is None:
                return 0  # another builder's file is seen with the next look
        except Exception as error:
            known = isinstance(error, QianyanError)
            wrong = isinstance(error, JudgedWrong) or (isinstance(error, Refused) and error.code == "set_unreadable")
            if isinstance(error, QianyanError) and error.code == "issuer_expired":
                self._schedule.forget()
            due.note_failure(str(error), self.clock(), self.settings, self._jitter(), judged_wrong=wrong)
            log.error(
                "status_set.build_failed",
                authority=due.authority_id,
                code=error.code if isinstance(error, QianyanError) else "internal",
                detail=str(error),
                failures=due.failures,
                retry_in_ms=due.retry_at_ms - self.clock(),
                exc_info=not known,
            )
            return 0
        return 1

    def _note_standing(self) -> None:
        known = self._schedule.authorities.values()
        self._metrics.missing.set(sum(due.newest is None for due in known))
        self._metrics.judged_wrong.set(sum(due.judged_wrong for due in known))

    async def run(self, stop: asyncio.Event) -> None:
        """Builds what is due until `stop` is set; a build that has begun is finished."""
        failures = 0
        while not stop.is_set():
            wait_s = self.settings.poll_s
            try:
                await self.build_due()
                failures = 0
            except Exception as error:
                wait_s = min(self.settings.back_off_max_s, self.settings.back_off_first_s * 2 ** min(failures, 30))
                failures += 1
                log.error("status_set.schedule_failed", detail=str(error), retry_in_s=wait_s, exc_info=True)
            try:
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            except TimeoutError:
                continue

    async def status(self) -> list[SetStanding]:
        """How every authority's set stands, as the store has it now; of an authority that has ended there is none.

        Raises Unavailable.
        """
        known, now_ms = self._schedule.authorities.values(), self.clock()
        if any(due.newest is not None and due.newest.next_update_ms <= now_ms for due in known):
            self._schedule.forget()  # it may have ended with its authority
        await self._schedule.refresh()
        return [
            SetStanding(
                authority_id=due.authority_id,
                number=due.newest.number if due.newest else None,
                base_number=due.newest.base_number if due.newest else None,
                this_update_ms=due.newest.this_update_ms if due.newest else None,
                next_update_ms=due.newest.next_update_ms if due.newest else None,
                certificates=due.newest.certificates if due.newest else None,
                revoked=due.newest.revoked if due.newest else None,
                held=due.newest.held if due.newest else None,
                set_bytes=due.base.size if due.base else None,
                delta_bytes=due.newest.size if due.newest else None,
                waiting=due.changed_at_ms is not None,
                failures=due.failures,
                last_error=due.last_error,
            )
            for _, due in sorted(self._schedule.authorities.items())
        ]
