"""Follows the outbox for one target: takes what is due, delivers it, remembers how far it got.

Owns the order of these steps and nothing of either end. A row counts as taken in the same commit that sets aside what
was refused of it, after the target has confirmed it; a crash before that delivers it once more, which changes nothing.

By the mark that it leaves at the target it knows, whenever it connects, whether the target still has what it confirmed:
none (new, or emptied): everything is loaded from the store; an older position (restored from a backup): the outbox is
delivered from there; a later one (the store was restored): everything is loaded; another store's: nothing is touched.

After a connection that broke it waits for `settle_s` once it has another: what the server may still have of the old one
is then done before anything is compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import Clock
from core.errors import Conflict, QianyanError
from core.model import CertificateState
from core.store import directory, outbox, publication
from core.store.database import Database
from core.store.outbox import OutboxRow
from core.store.publication import Target
from status.directory import content
from status.directory.lease import Lease, held
from status.directory.metrics import DirectoryMetrics
from status.directory.settings import DirectorySettings
from status.directory.sinks import Applied, CertificateContent, Content, CrlContent, Mark, Reference, Sink, SinkDown

log = structlog.get_logger()

#: CRLs are large: a batch holds those of so many scopes at most.
_CRLS_AT_ONCE: Final = 4
#: After so many batches the mark is moved even though there is more to do.
_MARK_EVERY: Final = 50


@dataclass(frozen=True, slots=True)
class _Work:
    """What one look at the store found to do. `rows` are outbox rows, `due` what is to be delivered once more."""

    target: Target
    rows: list[OutboxRow]
    due: list[Reference]
    aside: int
    contents: list[tuple[Reference, Content]]


class Publisher:
    """See the module. `holder` names this process in the lease."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        database: Database,
        clock: Clock,
        settings: DirectorySettings,
        metrics: DirectoryMetrics,
        *,
        holder: str,
        batch: int,
        settle_s: float,
    ) -> None:
        self.name = name
        self._sink = sink
        self._database = database
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._holder = holder
        self._batch = batch
        self._settle_s = settle_s
        self._marked: int | None = None
        self._since_mark = 0
        self._looked_at = 0.0
        self._failures = 0
        self._doing_well = False
        self._trouble: str | None = None
        self._committed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Publishes until `stop`. A failure of either end is logged, kept for `status`, and tried again."""
        self._database.on_commit.append(self._committed.set)
        try:
            await self._run(stop)
        finally:
            self._database.on_commit.remove(self._committed.set)

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                async with held(
                    self._database, self.name, self._holder, self._settings.lease_s, self._clock, stop
                ) as lease:
                    if lease is not None:
                        self._metrics.leading.labels(self.name).set(1)
                        await self._lead(lease, stop)
            except Conflict as error:
                log.warning("directory.lease_lost", target=self.name, detail=error.detail)
            except QianyanError as error:
                await self._failed(None, error.detail, stop)
            finally:
                self._metrics.leading.labels(self.name).set(0)
                self._metrics.connected.labels(self.name).set(0)
                await self._sink.close()

    async def _lead(self, lease: Lease, stop: asyncio.Event) -> None:
        """Publishes as long as the lease is held. Raises Conflict (code "lease_lost")."""
        unclean, self._doing_well = lease.unclean, False
        while not stop.is_set():
            lease.check()
            try:
                settle, unclean, lease.busy = unclean, True, True
                await self._connect(lease, settle, stop)
                await self._work(lease, stop)
                lease.busy = False
                return
            except SinkDown as error:
                await self._failed(lease, str(error), stop)
            except Conflict:
                raise
            except QianyanError as error:
                await self._failed(lease, error.detail, stop)
            except Exception as error:  # a fault of ours must not end the service that this runs in
                log.exception("directory.internal", target=self.name)
                await self._failed(lease, f"internal: {type(error).__name__}", stop)

    async def _failed(self, lease: Lease | None, trouble: str, stop: asyncio.Event) -> None:
        """Says what went wrong, where it did not already, and waits, longer each time."""
        self._metrics.connected.labels(self.name).set(0)
        self._metrics.failures.labels(self.name).inc()
        self._failures += 1
        self._doing_well = False
        if trouble != self._trouble:
            log.error("directory.failed", target=self.name, trouble=trouble)
            self._trouble = trouble
            if lease is not None:
                with contextlib.suppress(QianyanError):  # the store may be what is away
                    await self._change(lease, trouble=trouble)
        settings = self._settings
        wait_s = min(settings.back_off_first_s * 2 ** min(self._failures - 1, 20), settings.back_off_max_s)
        await _until(stop, wait_s * random.SystemRandom().uniform(0.5, 1))
        if lease is not None and not stop.is_set():
            with contextlib.suppress(QianyanError):
                await self._measure()

    async def _succeeded(self, lease: Lease) -> None:
        """Something was done, or there was nothing to do: what troubled it is over."""
        if self._doing_well:
            return
        await self._change(lease, trouble=None)
        self._metrics.connected.labels(self.name).set(1)
        self._doing_well, self._failures = True, 0
        if self._trouble is not None:
            log.info("directory.recovered", target=self.name)
            self._trouble = None

    async def _change(self, lease: Lease, **values: object) -> None:
        async with self._database.write() as connection:
            await publication.change(connection, self.name, lease.epoch, **values)

    async def _connect(self, lease: Lease, unclean: bool, stop: asyncio.Event) -> None:
        """A connection whose target is where the store believes it is."""
        mark = await self._sink.open()
        if unclean:
            await _until(stop, self._settle_s)
            lease.check()
        async with self._database.read() as connection:
            target = await publication.get(connection, self.name)
            first = await outbox.first(connection)
            head = await outbox.head(connection)
        if mark is not None and mark.identity != target.identity:
            raise SinkDown(
                f"another store publishes there (its mark is {mark.identity}, ours {target.identity}); if that one is "
                f"gone for good: qianyan directory load --target {self.name} --take-over"
            )
        load = mark is None
        if mark is not None and target.loading_to is None and mark.position != target.position:
            behind = mark.position < target.position
            kept = mark.position == target.position or (first is not None and first <= mark.position + 1)
            load = not (behind and kept)
            log.warning("directory.moved", target=self.name, there=mark.position, here=target.position, load=load)
            if not load:
                await self._change(lease, position=mark.position)
        if load:
            await self._sink.mark(Mark(target.identity, 0))
            await self._change(lease, position=head, loading_to=head, loading_after=0)
        self._marked = None if mark is None else mark.position

    async def _work(self, lease: Lease, stop: asyncio.Event) -> None:
        while not stop.is_set():
            lease.check()
            self._committed.clear()
            async with self._database.read() as connection:
                work = await self._look(connection)
            if work.due or work.rows:
                await self._deliver(lease, work)
                self._since_mark += bool(work.rows)
            if work.target.loading_to is not None:
                await self._load(lease, work.target)
            elif not work.due and not work.rows:
                await self._rest(lease, work, stop)
            elif self._since_mark >= _MARK_EVERY:
                await self._mark(work.target)
            await self._succeeded(lease)

    async def _rest(self, lease: Lease, work: _Work, stop: asyncio.Event) -> None:
        """Nothing to do: waits for a commit of this process, or a little for those of others.

        Now and then sees whether the target still has what it took.
        """
        await self._mark(work.target)
        self._metrics.pending.labels(self.name).set(0)
        self._metrics.lag_seconds.labels(self.name).set(0)
        self._metrics.aside.labels(self.name).set(work.aside)
        self._metrics.loading.labels(self.name).set(0)
        if time.monotonic() - self._looked_at >= self._settings.look_s:
            if await self._sink.read_mark() != Mark(work.target.identity, work.target.position):
                raise SinkDown("the target is not as it was left")
            self._looked_at = time.monotonic()
        await self._succeeded(lease)
        await _until_any(stop, self._committed, self._settings.poll_s)

    async def _mark(self, target: Target) -> None:
        """Moves the mark to the position that is committed: it never stands past the store's."""
        if self._marked != target.position:
            await self._sink.mark(Mark(target.identity, target.position))
            self._marked = target.position
            self._looked_at = time.monotonic()
        self._since_mark = 0

    async def _look(self, connection: AsyncConnection) -> _Work:
        """What is to be done, all of one snapshot."""
        target = await publication.get(connection, self.name)
        aside, again = await publication.counts(connection, self.name)
        due: list[Reference] = []
        rows: list[OutboxRow] = []
        if again:
            found = await publication.due(connection, self.name, limit=self._batch)
            due = [(one.topic, one.reference) for one in found]
        else:
            rows = _cut(await outbox.read_after(connection, target.position, limit=self._batch))
        if rows and rows[0].id != target.position + 1:
            raise SinkDown(
                f"outbox rows {target.position + 1} to {rows[0].id - 1} are gone; run: qianyan directory load --target "
                f"{self.name}"
            )
        contents = await content.load(connection, due or [(row.topic, row.reference) for row in rows])
        return _Work(target, rows, due, aside + again, contents)

    async def _deliver(self, lease: Lease, work: _Work) -> None:
        """One batch: to the target, then into the store that it is there."""
        applied = await self._sink.apply(work.contents, lease.check)
        delivered = [reference for reference, _ in work.contents if reference not in applied.refused]
        gone = [reference for reference in work.due if reference not in applied.refused]
        now_ms = self._clock()
        async with self._database.write() as connection:
            values: dict[str, object] = {"position": work.rows[-1].id} if work.rows else {}
            await publication.change(connection, self.name, lease.epoch, changed_at_ms=now_ms, **values)
            if work.aside:
                await publication.taken(connection, self.name, {*delivered, *gone})
            await self._put_aside(connection, applied, now_ms)
        self._count(applied, len(work.rows))
        self._observe(work, applied, now_ms)
        if work.rows:
            await self._measure(work.rows[-1].id)

    async def _put_aside(self, connection: AsyncConnection, applied: Applied, now_ms: int) -> None:
        refused = [(topic, reference, reason) for (topic, reference), reason in applied.refused.items()]
        await publication.put_aside(connection, self.name, refused, at_ms=now_ms)

    async def _load(self, lease: Lease, target: Target) -> None:
        """One step of delivering everything anew. The outbox is delivered between the steps, so that what is revoked
        meanwhile does not wait for their end."""
        self._metrics.loading.labels(self.name).set(1)
        if target.loading_after == 0:
            await self._load_others(lease)
        async with self._database.read() as connection:
            records = await directory.read_after(connection, target.loading_after, limit=self._batch)
        if not records:
            await self._change(lease, loading_to=None, loading_after=0, changed_at_ms=self._clock())
            log.info("directory.loaded", target=self.name, position=target.position)
            return
        applied = await self._sink.apply(content.of_records(records), lease.check)
        now_ms = self._clock()
        async with self._database.write() as connection:
            await publication.change(connection, self.name, lease.epoch, loading_after=records[-1].id)
            await self._put_aside(connection, applied, now_ms)
        self._count(applied, 0)

    async def _load_others(self, lease: Lease) -> None:
        async with self._database.read() as connection:
            references = await content.other_references(connection)
        for reference in (one for together in references for one in together):
            async with self._database.read() as connection:
                contents = await content.load(connection, [reference])
            applied = await self._sink.apply(contents, lease.check)
            async with self._database.write() as connection:
                await publication.change(connection, self.name, lease.epoch, changed_at_ms=self._clock())
                await self._put_aside(connection, applied, self._clock())
            self._count(applied, 0)

    def _count(self, applied: Applied, rows: int) -> None:
        self._metrics.published.labels(self.name).inc(rows)
        self._metrics.changed.labels(self.name).inc(applied.changed)
        self._metrics.refused.labels(self.name).inc(len(applied.refused))
        for (topic, reference), reason in applied.refused.items():
            named = reference.split(" ")[0]  # after it come names of entries, which may be people's
            log.error("directory.refused", target=self.name, topic=topic, reference=named, reason=reason)

    def _observe(self, work: _Work, applied: Applied, now_ms: int) -> None:
        """How long each row's change took to be visible; a revocation counts from its own commit on."""
        contents = dict(work.contents)
        for row in work.rows:
            reference = (row.topic, row.reference)
            if row.topic == "crl":
                reference = ("crl", "/".join(row.reference.split("/")[:2]))
            one = contents.get(reference)
            if one is None or reference in applied.refused:
                continue
            began_ms = row.created_at_ms
            change = "crl" if isinstance(one, CrlContent) else "authority"
            if isinstance(one, CertificateContent):
                revoked = one.record.state != CertificateState.GOOD.value
                change = "revocation" if revoked else "certificate"
                began_ms = max(began_ms, one.record.revoked_at_ms or 0)
            self._metrics.delay_seconds.labels(self.name, change).observe(max(0, now_ms - began_ms) / 1000)

    async def _measure(self, position: int | None = None) -> None:
        """How far the target is behind, for the metrics."""
        async with self._database.read() as connection:
            if position is None:
                position = (await publication.get(connection, self.name)).position
            head = await outbox.head(connection)
            oldest = await outbox.read_after(connection, position, limit=1)
        self._metrics.pending.labels(self.name).set(head - position)
        lag_ms = self._clock() - oldest[0].created_at_ms if oldest else 0
        self._metrics.lag_seconds.labels(self.name).set(max(0, lag_ms) / 1000)


def _cut(rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    """As many rows as one batch may hold, by the CRLs among them."""
    scopes: set[tuple[str, int]] = set()
    for place, row in enumerate(rows):
        if row.topic == "crl":
            scopes.add(content.scope_of(row.reference))
            if len(scopes) > _CRLS_AT_ONCE:
                return list(rows[:place])
    return list(rows)


async def _until(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _until_any(stop: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    """Returns when either is set, or that time is over."""
    waiting = [asyncio.create_task(event.wait()) for event in (stop, other)]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
