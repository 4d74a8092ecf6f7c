"""Builds CRLs when they are due, and never publishes one that the independent check refuses.

Owns the loop's rhythm, the entries that are kept encoded from one build to the next, and the order of the steps: take
the lease, read, build, check the unsigned form, sign, check the signed one, publish. Knows no HTTP and no private key;
`service` owns the task that runs `run()`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from core.clock import Clock
from core.errors import Conflict, QianyanError, Refused, Unavailable
from core.lease import Leases
from core.ports import SignatureVerifier, Signer
from core.store import authorities, crls, leases
from core.store.crls import CrlRecord
from core.store.database import Database
from core.store.follow import FeedFollower
from core.store.leases import Lease
from crl import build as steps
from crl import points
from crl._entries import Draft, Entries
from crl.build import Snapshot, Stock
from crl.builder import make_draft
from crl.check import (
    Problem,
    delta_problems,
    history_problems,
    refuse,
    signature_problems,
    structure_problems,
)
from crl.digest import sm3
from crl.facts import Known
from crl.files import CrlFiles
from crl.metrics import CrlMetrics
from crl.published import PublishedCrls
from crl.schedule import Schedule, Scope, ScopeState
from crl.settings import CrlSettings
from crl.standing import ScopeStatus as ScopeStatus
from crl.standing import standing
from crl.view import CrlView, read_crl, read_issuer, read_signed

log = structlog.get_logger()

_ATTEMPTS: Final = 3


def _system_jitter() -> float:
    return random.SystemRandom().random()


class CrlService:
    """See the module. `public_url`: where partitions that are new are published; `directory`: `settings.directory`."""

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
        directory: Path | None = None,
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
        self._leases = Leases(database, settings.lease_s)
        self._stocks: dict[Scope, Stock] = {}
        self._files = None
        if directory is not None:
            self._files = CrlFiles(database, follower, directory, clock, self._metrics)
        self._metrics.watch(lambda: self._schedule.freshness(clock))

    async def build(self, authority_id: str, partition: int, *, actor: str = "system") -> CrlRecord:
        """Builds, checks and publishes the next CRL of a scope, and the delta that goes with it; returns the full one.

        Waits while another builder is at it, at most `timeout_s`. Raises NotFound; Refused (the check's code, or the
        key's state); Busy; Unavailable; Conflict where other builders always took over.
        """
        scope = (authority_id, partition)
        for _ in range(_ATTEMPTS):
            with suppress(Conflict):
                record = await self._try(scope, actor, wait=True)
                assert record is not None
                return record
        raise Conflict(f"other builders of {authority_id}/{partition} were always faster", code="crl_number")

    async def _try(self, scope: Scope, actor: str, *, wait: bool) -> CrlRecord | None:
        """One build, counted; None where another builder is at it and `wait` is not. Raises as `build`."""
        began_ms, began = self.clock(), time.monotonic()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                record = await self._attempt(scope, actor, wait)
        except TimeoutError as error:
            self._metrics.builds.labels("unavailable").inc()
            raise Unavailable(f"the build took more than {self.settings.timeout_s} s", code="crl_timeout") from error
        except Conflict:
            self._metrics.builds.labels("superseded").inc()
            raise
        except Exception as error:
            kind = error.kind if isinstance(error, QianyanError) else QianyanError.kind
            self._metrics.builds.labels(kind).inc()
            raise
        if record is not None:
            # Not by the clock alone: one that is set right meanwhile would put the next build off by five times that.
            self._note_built(record, min(self.clock() - began_ms, round((time.monotonic() - began) * 1000)))
        return record

    async def _attempt(self, scope: Scope, actor: str, wait: bool) -> CrlRecord | None:
        stock = self._stocks.setdefault(scope, Stock())
        async with stock.lock:
            if scope not in self._schedule.scopes:
                async with self._database.read() as connection:
                    await authorities.get(connection, scope[0])
            lease = await (self._leases.wait(scope) if wait else self._leases.acquire(scope))
            if lease is None:
                return None
            async with self._leases.kept(lease):
                if stock.url is None:  # settled once and for all
                    stock.url = (await points.settled(self._database, scope, self._public_url)).url
                snapshot = await steps.take_snapshot(self._database, scope, stock.url, self.clock, self.settings, stock)
                try:
                    return await self._build(scope, snapshot, stock, lease, actor)
                except BaseException as error:
                    if not isinstance(error, QianyanError):
                        stock.entries = None  # a thread that nobody waits for any more may still read them
                    raise

    async def _build(self, scope: Scope, snapshot: Snapshot, stock: Stock, lease: Lease, actor: str) -> CrlRecord:
        """Draft, check, sign, check, publish. Neither CRL is signed before both were checked."""
        kept_s = snapshot.kept_from_ms // 1000
        drafts = [await asyncio.to_thread(make_draft, snapshot.entries, snapshot.contents, snapshot.changes, kept_s)]
        contents = [snapshot.contents]
        if snapshot.base is not None:
            contents.append(snapshot.delta_contents)
            drafts.append(await asyncio.to_thread(make_draft, Entries(), contents[1], snapshot.delta_changes, kept_s))
        try:
            known = await self._check_unsigned(scope, snapshot, drafts)
        except Refused:
            stock.entries = None  # what is in memory may be what is wrong: the next attempt asks the store alone
            raise
        signer = self._signer_for(snapshot.key_id)
        signed, digests = zip(*[await self._sign(signer, snapshot, draft) for draft in drafts], strict=True)
        stock.entries = snapshot.entries
        snapshot.entries.settle(drafts[0])
        stock.feed_seq = snapshot.feed_seq
        full, *deltas = (
            steps.as_record(scope, snapshot, what, crl, draft.count)
            for what, crl, draft in zip(contents, signed, drafts, strict=True)
        )
        delta = deltas[0] if deltas else None
        await steps.publish(self._database, full, delta, digests, lease, self.clock, self.settings, actor=actor)
        self._note_visible(snapshot, known, delta is not None)
        return full

    async def _check_unsigned(self, scope: Scope, snapshot: Snapshot, drafts: Sequence[Draft]) -> Known:
        """Everything but the signatures, before the real key is asked: a bad CRL is never signed."""
        limit = self.settings.second_parser_max_bytes

        async def read(draft: Draft) -> CrlView:
            return await asyncio.to_thread(read_crl, draft, second_max_bytes=limit)

        async def read_previous() -> CrlView | None:
            before = snapshot.previous
            return None if before is None else await asyncio.to_thread(read_crl, before.crl, second_max_bytes=0)

        views: list[CrlView] = []
        try:
            previous = asyncio.create_task(read_previous())  # on another core meanwhile, where there is one
            try:
                for draft in drafts:
                    views.append(await read(draft))
            finally:
                await asyncio.wait([previous])
            delta = views[1] if len(views) > 1 else None
            return await self._judge(scope, snapshot, views[0], delta, previous.result())
        finally:
            for view in views:
                view.entries.release()

    async def _judge(
        self, scope: Scope, snapshot: Snapshot, view: CrlView, delta: CrlView | None, previous: CrlView | None
    ) -> Known:
        """Raises Refused with everything that is wrong with the full CRL and its delta."""
        history, finds, known = await steps.read_history(self._database, scope, snapshot, view, previous)

        def problems() -> list[Problem]:
            issuer = read_issuer(snapshot.certificate)
            found = structure_problems(view, issuer, self.clock())
            found += history_problems(view, history, finds)
            if delta is not None and snapshot.base is not None:
                found += structure_problems(delta, issuer, self.clock())
                found += delta_problems(delta, view, snapshot.base.number, history)
            return found

        refuse(await asyncio.to_thread(problems))
        return known

    async def _sign(self, signer: Signer, snapshot: Snapshot, draft: Draft) -> tuple[bytes, bytes]:
        """The signed CRL, exactly the bytes that were checked, under the issuer's key; and its SM3 digest."""
        start, end = draft.tbs
        with memoryview(draft) as whole, whole[start:end] as tbs:
            signature = await signer.sign(tbs)
        crl = draft.seal(signature)

        def problems() -> list[Problem]:
            return signature_problems(crl, read_signed(crl), read_issuer(snapshot.certificate), self._verify)

        found, digest = await asyncio.gather(asyncio.to_thread(problems), sm3(crl))
        refuse(found)
        return crl, digest

    def _note_visible(self, snapshot: Snapshot, known: Known, delta: bool) -> None:
        """How long each revocation, hold and release took from its commit to the CRL that shows it."""
        if snapshot.previous is None:
            return
        now_ms = self.clock()
        for channel in ("full", "delta") if delta else ("full",):
            observe = self._metrics.visible_seconds.labels(channel).observe
            for at_ms in known.fresh:
                observe(max(0, now_ms - at_ms) / 1000)

    def _note_built(self, record: CrlRecord, build_ms: int) -> None:
        state = self._schedule.scopes.get((record.authority_id, record.partition))
        if state is not None:
            state.note_success(build_ms)
        self._metrics.builds.labels("published").inc()
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

    async def next_due_ms(self) -> int | None:
        """When the next CRL is to be built, as the store has it now; None where none is built here.

        Raises Unavailable.
        """
        await self._refresh()
        now_ms, scopes = self.clock(), self._schedule.scopes.values()
        return min((state.due_at_ms(self.settings) for state in scopes if not state.ended(now_ms)), default=None)

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
        scopes = [scope for scope in self._schedule.scopes.values() if not scope.ended(now_ms)]
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
            if await self._try((state.authority_id, state.partition), "system", wait=False) is None:
                return 0  # another builder is at it
        except Conflict as error:
            log.info("crl.superseded", authority=state.authority_id, partition=state.partition, detail=str(error))
            return 0  # its CRL is seen with the next look
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
        now_ms, alarm_ms = self.clock(), self.settings.alarm_left_s * 1000
        states = [state for state in self._schedule.scopes.values() if not state.ended(now_ms)]
        newest = [state.newest for state in states if state.newest is not None]
        self._metrics.entries.set(sum(summary.entries for summary in newest))
        self._metrics.size_bytes.set(sum(summary.size for summary in newest))
        self._metrics.missing.set(len(states) - len(newest))
        self._metrics.late.set(sum(state.newest is not None and state.late(now_ms, alarm_ms) for state in states))

    async def run(self, stop: asyncio.Event) -> None:
        """Builds what is due, and writes files where asked, until `stop` is set; a build that has begun is finished."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run(stop), name="crl builds")
            if self._files is not None:
                tasks.create_task(self._files.run(stop, self.settings.poll_s), name="crl files")

    async def _run(self, stop: asyncio.Event) -> None:
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
        async with self._database.read() as connection:
            deltas = {(s.authority_id, s.partition): s for s in await crls.summaries(connection, delta=True)}
            builders = {(x.authority_id, x.partition): x for x in await leases.list_all(connection)}
        now_ms = self.clock()
        return [
            standing(state, now_ms, self.settings, deltas.get(scope), builders.get(scope))
            for scope, state in sorted(self._schedule.scopes.items())
        ]
