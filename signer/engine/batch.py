"""Collect signing requests into batches.

Owns the pending list; only the event-loop thread touches it. Knows bytes
and futures; not HTTP, keys, or storage. Every future is resolved exactly
once, with signatures or a QianyanError.

Theory of operation. `submit` appends an item and asks for one turn by `loop.call_soon`; everything the loop has read in
the same pass is there by the time the turn comes, so a batch is what arrived together, without a timer. A short batch
that needs nothing awaited is signed in the turn itself. Otherwise a driver task works until nothing waits, with long
batches in a thread; what arrives meanwhile gathers into its next batch. There is one driver, or up to `parallel` where
batches wait for a device rather than for the processor. An item longer than a batch is done in slices,
going to the back of the queue after each, so that small ones are not held up.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import structlog

from core.errors import Busy, QianyanError, TooLarge, Unavailable
from signer.engine.metrics import EngineMetrics
from signer.engine.settings import EngineSettings

DIGEST_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
#: How many times `inline_max` may be signed at once by `sign_now`: a pass of the loop that signs for all that came.
_NOW_FACTOR: Final = 4

_log = structlog.get_logger()

K = TypeVar("K")
K_contra = TypeVar("K_contra", contravariant=True)


class Item(Generic[K]):
    """One request: digests to be signed for a ticket, how far it has come, and who waits."""

    __slots__ = ("_done", "_out", "digests", "future", "since", "taken", "ticket")

    def __init__(self, ticket: K, digests: bytes, future: asyncio.Future[bytes]) -> None:
        self.ticket = ticket
        self.digests = digests
        self.future = future
        self.since = time.perf_counter()
        self.taken = 0
        self._done = 0
        self._out = bytearray()

    @property
    def remaining(self) -> int:
        """How many digests no batch has taken yet."""
        return len(self.digests) // DIGEST_BYTES - self.taken

    def put(self, start: int, signatures: bytes) -> None:
        """Takes a slice's signatures, from digest `start` on; slices may come in any order. The last one answers."""
        total = len(self.digests) // DIGEST_BYTES * SIGNATURE_BYTES
        if len(signatures) == total:
            self.future.set_result(signatures)
            return
        self._out = self._out or bytearray(total)
        self._out[start * SIGNATURE_BYTES : start * SIGNATURE_BYTES + len(signatures)] = signatures
        self._done += len(signatures)
        if self._done == total:
            self.future.set_result(bytes(self._out))


@dataclass(slots=True)
class Part(Generic[K]):
    """What a batch takes of one item: `count` digests from `start` on.

    `settled`: its outcome is given, its room in the queue free.
    """

    item: Item[K]
    digests: bytes
    start: int
    count: int
    settled: bool = False

    @property
    def ticket(self) -> K:
        """The item's ticket, opaque here."""
        return self.item.ticket


class Work(Protocol[K_contra]):
    """What is done with a batch. All but `sign` run on the event loop."""

    def ready(self, demand: Sequence[tuple[K_contra, int]]) -> bool:
        """Whether so many uses of each ticket may be admitted now, with nothing to be awaited first."""
        ...

    async def prepare(self, demand: Sequence[tuple[K_contra, int]]) -> None:
        """Awaits what `ready` lacked. Raises QianyanError where the whole batch must fail."""
        ...

    def admit(self, ticket: K_contra, count: int) -> None:
        """Takes account of `count` uses about to be made. Raises QianyanError where this ticket must not be used."""
        ...

    def sign(self, parts: Sequence[tuple[K_contra, int]], digests: bytes) -> bytes:
        """Signatures in order, 64 bytes each; on the loop or in a thread. Raises QianyanError."""
        ...

    def signed(self, ticket: K_contra, count: int) -> None:
        """Is told what was signed and is about to leave."""
        ...


class Batcher(Generic[K]):
    """See the module. `submit` and `close` are all that callers need."""

    def __init__(
        self, work: Work[K], settings: EngineSettings, metrics: EngineMetrics, *, inline_max: int, parallel: int = 1
    ) -> None:
        self._work = work
        self._inline_max = inline_max
        self._batch_max = settings.batch_max
        self._max_pending = settings.max_pending
        self._retry_after_max_s = settings.retry_after_max_s
        self._metrics = metrics
        self._queue: deque[Item[K]] = deque()
        self._pending = 0
        self._scheduled = False
        self._parallel = parallel
        self._drivers: set[asyncio.Task[None]] = set()
        self._closing = False
        self._executor = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="qianyan-sign")

    @property
    def pending(self) -> int:
        """How many digests wait or are being signed."""
        return self._pending

    def submit(self, ticket: K, digests: bytes) -> asyncio.Future[bytes]:
        """The signatures of n digests (n·32 bytes) to come (n·64 bytes).

        Raises at once: Busy where they do not fit beside what waits, TooLarge where they never would, Unavailable
        while closing. A caller that cancels the future leaves; the batch goes on.
        """
        count, rest = divmod(len(digests), DIGEST_BYTES)
        if rest or not count:
            raise ValueError("one or more digests of 32 bytes are needed")
        if self._closing:
            raise Unavailable("the service is stopping", code="stopping", retry_after_s=self._retry_after())
        if count > self._max_pending:
            raise TooLarge(f"at most {self._max_pending} signatures fit the queue", code="batch_too_large")
        if self._pending + count > self._max_pending:
            raise self.full()
        loop = asyncio.get_running_loop()
        item = Item(ticket, digests, loop.create_future())
        self._queue.append(item)
        self._add_pending(count)
        if not self._scheduled and len(self._drivers) < self._parallel:
            self._scheduled = True
            loop.call_soon(self._turn)
        return item.future

    def full(self) -> Busy:
        """What is raised where there is no room; counted as refused."""
        self._metrics.refusals.labels(code="sign_queue").inc()
        return Busy("too many signatures are waiting", code="sign_queue", retry_after_s=self._retry_after())

    @property
    def now_max(self) -> int:
        """The most that `sign_now` signs in one call; 0 where it never does."""
        return _NOW_FACTOR * self._inline_max

    def ready_now(self, demand: Sequence[tuple[K, int]]) -> bool:
        """Whether `sign_now` may be called: nobody waits, nothing must be awaited first, and they are no more than the
        loop should stand still for (four times what is signed inline for callers who come one by one)."""
        if self._closing or self._queue or self._drivers or sum(count for _, count in demand) > self.now_max:
            return False
        return self._work.ready(demand)

    def admit_now(self, ticket: K, count: int) -> None:
        """As `Work.admit`; to be called with no await since `ready_now`, for each that `sign_now` is given."""
        self._work.admit(ticket, count)

    def sign_now(self, parts: Sequence[tuple[K, bytes]]) -> list[bytes]:
        """The signatures of each part's digests, made in this call. Raises as `Work.sign` does."""
        demand = [(ticket, len(digests) // DIGEST_BYTES) for ticket, digests in parts]
        started = time.perf_counter()
        signatures = self._work.sign(demand, b"".join([digests for _, digests in parts]))
        self._metrics.native_seconds.observe(time.perf_counter() - started)
        self._metrics.batch_size.observe(len(signatures) // SIGNATURE_BYTES)
        out, at = [], 0
        for ticket, count in demand:
            self._work.signed(ticket, count)
            out.append(signatures[at : at + count * SIGNATURE_BYTES])
            at += count * SIGNATURE_BYTES
        return out

    async def close(self) -> None:
        """Refuses what comes from now on and returns when all that was accepted is answered."""
        self._closing = True
        try:
            while self._queue or self._drivers:
                if not self._drivers:
                    self._start_driver([])
                await asyncio.wait(self._drivers)
        finally:
            self._executor.shutdown(wait=False)

    def _retry_after(self) -> int:
        return 1 + secrets.randbelow(self._retry_after_max_s)

    def _add_pending(self, count: int) -> None:
        self._pending += count
        self._metrics.pending.inc(count)

    def _turn(self) -> None:
        """Signs what waits here and now, where it is short and nothing must be awaited; else starts the driver."""
        self._scheduled = False
        if len(self._drivers) >= self._parallel:
            return
        batch = self._take()
        short = sum(part.count for part in batch) <= self._inline_max and not self._queue
        try:
            if short and self._is_ready(batch):
                admitted = self._admit(batch)
                self._settle(admitted, self._sign(admitted))
            elif batch:
                self._start_driver(batch)
        except Exception as error:
            self._fail(batch, _named(error))

    def _is_ready(self, batch: list[Part[K]]) -> bool:
        """False, too, where that cannot be told: the driver then meets the same error and answers with it."""
        try:
            return self._work.ready(_demand(batch))
        except QianyanError:
            return False

    def _start_driver(self, batch: list[Part[K]]) -> None:
        self._drivers.add(asyncio.get_running_loop().create_task(self._drive(batch), name="sign-batches"))

    async def _drive(self, batch: list[Part[K]]) -> None:
        """Works until nothing waits. Never fails: what goes wrong is the answer to the items of that batch."""
        loop = asyncio.get_running_loop()
        try:
            while batch or self._queue:
                batch = batch or self._take()
                try:
                    await self._work.prepare(_demand(batch))
                    admitted = self._admit(batch)
                    if sum(part.count for part in admitted) <= self._inline_max:
                        outcome = self._sign(admitted)
                    else:
                        outcome = await loop.run_in_executor(self._executor, self._sign, admitted)
                    self._settle(admitted, outcome)
                except Exception as error:
                    self._fail(batch, _named(error))
                batch = []
        except asyncio.CancelledError:
            # Only a dying loop cancels this task; nobody may be left waiting.
            while batch or self._queue:
                self._fail(batch, Unavailable("the service is stopping", code="stopping"))
                batch = self._take()
            raise
        finally:
            driver = asyncio.current_task()
            assert driver is not None
            self._drivers.discard(driver)  # here, not in a callback: whoever comes next must find room

    def _take(self) -> list[Part[K]]:
        """The next batch: from the front of the queue, at most `batch_max` digests; the departed are dropped."""
        batch: list[Part[K]] = []
        room = self._batch_max
        unfinished: list[Item[K]] = []
        while self._queue and room:
            item = self._queue.popleft()
            if item.future.done():
                self._add_pending(-item.remaining)
                continue
            count = min(item.remaining, room)
            start = item.taken
            whole = count * DIGEST_BYTES == len(item.digests)
            digests = item.digests if whole else item.digests[start * DIGEST_BYTES : (start + count) * DIGEST_BYTES]
            item.taken += count
            room -= count
            batch.append(Part(item, digests, start, count))
            if item.remaining:
                unfinished.append(item)
        self._queue.extend(unfinished)
        return batch

    def _admit(self, batch: list[Part[K]]) -> list[Part[K]]:
        """The parts that may be signed; the others are answered with why not."""
        admitted = []
        for part in batch:
            try:
                self._work.admit(part.ticket, part.count)
            except QianyanError as error:
                self._fail([part], error)
            else:
                admitted.append(part)
        return admitted

    def _sign(self, batch: list[Part[K]]) -> list[bytes | QianyanError]:
        """Signatures, or what went wrong, part by part. Runs in a thread or on the loop; touches no state of ours."""
        if not batch:
            return []
        started = time.perf_counter()
        self._metrics.wait_seconds.observe(started - min(part.item.since for part in batch))
        try:
            signatures = self._work.sign(_demand(batch), b"".join(part.digests for part in batch))
        except Exception as error:
            if len(batch) == 1 or (isinstance(error, Unavailable) and error.retry_after_s is not None):
                return [_named(error)] * len(batch)
            return [outcome for part in batch for outcome in self._sign([part])]  # let the one at fault fail alone
        self._metrics.native_seconds.observe(time.perf_counter() - started)
        self._metrics.batch_size.observe(len(signatures) // SIGNATURE_BYTES)
        return _split(batch, signatures)

    def _settle(self, batch: list[Part[K]], outcome: list[bytes | QianyanError]) -> None:
        """Hands each part's outcome to who waits for it."""
        for part, result in zip(batch, outcome, strict=True):
            if isinstance(result, QianyanError):
                self._fail([part], result)
                continue
            item = part.item
            part.settled = True
            self._add_pending(-part.count)
            self._work.signed(item.ticket, part.count)
            if not item.future.done():
                item.put(part.start, result)

    def _fail(self, batch: list[Part[K]], error: QianyanError) -> None:
        for part in batch:
            if part.settled:
                continue
            part.settled = True
            self._add_pending(-part.count)
            if not part.item.future.done():
                self._metrics.refusals.labels(code=error.code).inc()
                part.item.future.set_exception(error)


def _demand(batch: list[Part[K]]) -> list[tuple[K, int]]:
    return [(part.item.ticket, part.count) for part in batch]


def _split(batch: list[Part[K]], signatures: bytes) -> list[bytes | QianyanError]:
    if len(signatures) != SIGNATURE_BYTES * sum(part.count for part in batch):
        raise AssertionError("the signer gave another number of signatures than it was asked for")
    out: list[bytes | QianyanError] = []
    at = 0
    for part in batch:
        out.append(signatures[at : at + part.count * SIGNATURE_BYTES])
        at += part.count * SIGNATURE_BYTES
    return out


def _named(error: Exception) -> QianyanError:
    """The error as our tree has it; one that is not foreseen is logged here and answered as Unavailable."""
    if isinstance(error, QianyanError):
        return error
    _log.error("sign_failed", exc_info=error)
    return Unavailable("the signature could not be made", code="sign_failed")
