"""Builds CRLs when they are due, and never publishes one that the independent check refuses.

Owns the loop's rhythm and the order of the steps: read, build, check the unsigned form, sign, check the signed one,
publish. Knows no HTTP and no private key; `service` owns the task that runs `run()`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from core.asn1.x509 import join_signed, split_signed
from core.clock import Clock
from core.errors import Conflict, QianyanError, Unavailable
from core.ports import SignatureVerifier, Signer
from core.store import crls
from core.store.crls import CrlRecord
from core.store.database import Database
from core.store.follow import FeedFollower
from crl import build as steps
from crl.build import Snapshot
from crl.builder import build_tbs
from crl.check import Problem, history_problems, refuse, signature_problems, structure_problems
from crl.metrics import CrlMetrics
from crl.published import PublishedCrls
from crl.schedule import Schedule, Scope, ScopeState
from crl.settings import CrlSettings
from crl.view import read_crl, read_issuer

log = structlog.get_logger()

_ATTEMPTS: Final = 3
#: Stands for the signature while the structure is checked; shows at once where it should ever get out.
_NO_SIGNATURE: Final = b"unsigned"


@dataclass(frozen=True, slots=True)
class ScopeStatus:
    """How one scope stands. `number` and what follows it are None where there is no CRL yet.

    `waiting`: something was revoked, held or released that the CRL does not list yet.
    """

    authority_id: str
    partition: int
    number: int | None
    this_update_ms: int | None
    next_update_ms: int | None
    age_s: float | None
    seconds_left: float | None
    entries: int | None
    size: int | None
    next_build_ms: int
    waiting: bool
    failures: int
    last_error: str | None

    @property
    def fresh(self) -> bool:
        """Whether there is a CRL that may be served: what readiness asks."""
        return self.seconds_left is not None and self.seconds_left >= 0


def _system_jitter() -> float:
    return random.SystemRandom().random()


class CrlService:
    """See the module. `public_url` is the one that the issuer writes into certificates."""

    def __init__(
        self,
        database: Database,
        follower: FeedFollower,
        signer_for: Callable[[str], Signer],
        verify: SignatureVerifier,
        clock: Clock,
        settings: CrlSettings,
        *,
        public_url: str,
        registry: CollectorRegistry | None = None,
        jitter: Callable[[], float] = _system_jitter,
    ) -> None:
        self._database = database
        self._signer_for = signer_for
        self._verify = verify
        self.clock = clock
        self.settings = settings
        self._public_url = public_url
        self._metrics = CrlMetrics.make(registry)
        self._jitter = jitter
        self._schedule = Schedule(database, follower)
        self.published = PublishedCrls(database, follower, clock, self._metrics)
        self._metrics.watch(lambda: self._schedule.freshness(clock))

    async def build(self, authority_id: str, partition: int, *, actor: str = "system") -> CrlRecord:
        """Builds, checks and publishes the next CRL of a scope and returns it.

        Where another builder publishes first, returns its CRL when that reflects at least what this one would have,
        else tries again. Raises NotFound; Refused (the check's code, or the key's state); Busy; Unavailable.
        """
        scope = (authority_id, partition)
        for _ in range(_ATTEMPTS):
            began_ms = self.clock()
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    record, ours = await self._attempt(scope, actor)
            except TimeoutError as error:
                self._metrics.builds.labels("unavailable").inc()
                raise Unavailable(
                    f"the build took more than {self.settings.timeout_s} s", code="crl_timeout"
                ) from error
            except Conflict:
                self._metrics.builds.labels("superseded").inc()
                continue
            except Exception as error:
                kind = error.kind if isinstance(error, QianyanError) else QianyanError.kind
                self._metrics.builds.labels(kind).inc()
                raise
            self._note_built(record, ours, self.clock() - began_ms)
            return record
        raise Conflict(f"other builders of {authority_id}/{partition} were always faster", code="crl_number")

    async def _attempt(self, scope: Scope, actor: str) -> tuple[CrlRecord, bool]:
        """One way through the steps: (the published CRL, whether it is ours). Raises Conflict to be tried again."""
        snapshot = await steps.take_snapshot(self._database, scope, self._public_url, self.clock, self.settings)
        tbs = await asyncio.to_thread(build_tbs, snapshot.contents)
        await self._check_unsigned(scope, snapshot, tbs)
        signature = await self._signer_for(snapshot.key_id).sign(tbs)
        crl = join_signed(tbs, signature)
        await asyncio.to_thread(self._check_signed, snapshot, tbs, crl)
        record = steps.as_record(scope, snapshot, crl)
        try:
            await steps.publish(self._database, record, self.clock, actor=actor, keep=self.settings.keep)
        except Conflict:
            async with self._database.read() as connection:
                newest = await crls.latest(connection, *scope)
            if newest is None or newest.feed_seq < snapshot.feed_seq:
                raise
            return newest, False
        return record, True

    async def _check_unsigned(self, scope: Scope, snapshot: Snapshot, tbs: bytes) -> None:
        """Everything but the signature, before the real key is asked: a bad CRL is never signed."""
        view = await asyncio.to_thread(read_crl, join_signed(tbs, _NO_SIGNATURE))
        before = snapshot.previous
        previous = None if before is None else await asyncio.to_thread(read_crl, before.crl)
        history = await steps.read_history(self._database, scope, snapshot, view, previous)

        def problems() -> list[Problem]:
            issuer = read_issuer(snapshot.certificate)
            return structure_problems(view, issuer, self.clock()) + history_problems(view, history)

        refuse(await asyncio.to_thread(problems))

    def _check_signed(self, snapshot: Snapshot, tbs: bytes, crl: bytes) -> None:
        """What is published holds exactly the bytes that were checked, signed by the issuer's key."""
        signed = split_signed(crl)
        if signed.tbs != tbs or not signed.is_sm2:
            refuse([Problem("crl_signature", "the signed CRL is not the one that was checked")])
        refuse(signature_problems(crl, read_issuer(snapshot.certificate), self._verify))

    def _note_built(self, record: CrlRecord, ours: bool, build_ms: int) -> None:
        state = self._schedule.scopes.get((record.authority_id, record.partition))
        if state is not None:
            state.note_success(build_ms)
        self._metrics.builds.labels("published" if ours else "superseded").inc()
        if not ours:
            return
        self._metrics.build_seconds.observe(max(0, build_ms) / 1000)
        log.info(
            "crl.published",
            authority=record.authority_id,
            partition=record.partition,
            number=record.number,
            entries=record.entries,
            size=len(record.crl),
            build_ms=build_ms,
        )

    async def build_due(self) -> int:
        """Builds every CRL whose time has come and returns how many were published.

        One that fails is logged, counted and put off; the others are built all the same. Raises Unavailable where
        the store cannot be asked what is due.
        """
        await self._refresh()
        return await self._build_all(self._schedule.due(self.clock(), self.settings))

    async def build_outstanding(self) -> int:
        """As `build_due`, but waits for no further changes: for the start.

        So the first CRL that a restarted service serves lists every revocation that was answered before.
        """
        await self._refresh()
        now_ms = self.clock()
        scopes = self._schedule.scopes.values()
        return await self._build_all(
            [s for s in scopes if s.changed_at_ms is not None or s.due_at_ms(self.settings) <= now_ms]
        )

    async def _build_all(self, states: Sequence[ScopeState]) -> int:
        built = 0
        for state in states:
            built += await self._build_one(state)
        if built:
            await self._refresh()
        return built

    async def _build_one(self, state: ScopeState) -> int:
        try:
            await self.build(state.authority_id, state.partition)
        except Exception as error:
            now_ms = self.clock()
            known = isinstance(error, QianyanError)
            code = error.code if isinstance(error, QianyanError) else QianyanError.kind
            state.note_failure(code, now_ms, self.settings, self._jitter())
            log.error(
                "crl.build_failed",
                authority=state.authority_id,
                partition=state.partition,
                code=code,
                detail=str(error),
                failures=state.failures,
                seconds_left=(state.newest.next_update_ms - now_ms) // 1000 if state.newest else None,
                retry_in_ms=state.retry_at_ms - now_ms,
                exc_info=not known,
            )
            return 0
        return 1

    async def _refresh(self) -> None:
        await self._schedule.refresh()
        states = self._schedule.scopes.values()
        newest = [state.newest for state in states if state.newest is not None]
        self._metrics.entries.set(sum(summary.entries for summary in newest))
        self._metrics.size_bytes.set(sum(summary.size for summary in newest))
        self._metrics.missing.set(len(states) - len(newest))

    async def run(self, stop: asyncio.Event) -> None:
        """Builds what is due until `stop` is set; a build that has begun is finished."""
        store_down = ScopeState("", -1)
        while not stop.is_set():
            wait_s = self.settings.poll_s
            try:
                await self.build_due()
                store_down.note_success(0)
            except Exception as error:
                now_ms = self.clock()
                store_down.note_failure(str(error), now_ms, self.settings, self._jitter())
                wait_s = (store_down.retry_at_ms - now_ms) / 1000
                log.error("crl.schedule_failed", detail=str(error), retry_in_s=wait_s, exc_info=True)
            try:
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            except TimeoutError:
                continue

    async def status(self) -> list[ScopeStatus]:
        """How every scope that is built here stands, as the store has it now. Raises Unavailable."""
        await self._refresh()
        now_ms = self.clock()
        return [self._status(state, now_ms) for _, state in sorted(self._schedule.scopes.items())]

    def _status(self, state: ScopeState, now_ms: int) -> ScopeStatus:
        newest = state.newest
        return ScopeStatus(
            authority_id=state.authority_id,
            partition=state.partition,
            number=newest.number if newest else None,
            this_update_ms=newest.this_update_ms if newest else None,
            next_update_ms=newest.next_update_ms if newest else None,
            age_s=(now_ms - newest.this_update_ms) / 1000 if newest else None,
            seconds_left=(newest.next_update_ms - now_ms) / 1000 if newest else None,
            entries=newest.entries if newest else None,
            size=newest.size if newest else None,
            next_build_ms=state.due_at_ms(self.settings),
            waiting=state.changed_at_ms is not None,
            failures=state.failures,
            last_error=state.last_error,
        )
