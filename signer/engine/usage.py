"""Accounts for every signature in the audit record, without a disk write per signature.

Owns the reservations and the counts since the last row. Before the first signature of a block, a row `sign.reserve`
(key, worker, how many uses) is committed; the next block is reserved in the background once half of one is used, so
that signing does not wait. At an interval and on close a row `sign.usage` per key and caller says exactly how many were
made. A crash loses the exactness of the last interval, never the bound (DESIGN rule 1). Where a reservation cannot be
committed, nothing is signed.

Knows the store; not keys' states, bytes or futures of requests. Only the event-loop thread touches it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import QianyanError, Unavailable
from core.store import audit, counters
from core.store.database import Database
from signer.engine.settings import EngineSettings

#: How many different (caller, key, code) of refusals are summed up apart in one interval; the rest go in one row.
_SUMMED_REFUSALS_MAX: Final = 1_000
_OTHERS: Final = ("system", "-", "other")

_log = structlog.get_logger()


@dataclass(slots=True)
class _Uses:
    """What is left of a key's reservations, and how much the last one covered."""

    left: int = 0
    block: int = 0


@dataclass(slots=True)
class _Refusals:
    """Refusals of an interval: those to be written singly, and the sums of the rest."""

    single: list[tuple[str, str, str]] = field(default_factory=list)
    written: int = 0
    summed: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class UsageLedger:
    """See the module. `start()` begins the interval; `close()` writes the last counts."""

    def __init__(self, database: Database, settings: EngineSettings, clock: Clock, worker_id: str) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._worker_id = worker_id
        self._uses: dict[str, _Uses] = {}
        self._signed: Counter[tuple[str, str]] = Counter()
        self._refusals = _Refusals()
        self._reserving = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._ahead: set[str] = set()
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Begins to write counts at the interval."""
        self._spawn(self._run(), "sign-usage")

    def covers(self, demand: Mapping[str, int]) -> bool:
        """Whether what is reserved is enough for so many uses of each key."""
        uses = self._uses
        for key_id, count in demand.items():
            known = uses.get(key_id)
            if known is None or known.left < count:
                return False
        return True

    async def reserve(self, demand: Mapping[str, int]) -> None:
        """Commits reservations so that `demand` is covered. Raises Unavailable where the store does not take them."""
        async with self._reserving:
            blocks = {}
            for key_id, count in demand.items():
                missing = count - self._uses.setdefault(key_id, _Uses()).left
                if missing > 0:
                    blocks[key_id] = max(missing, self._settings.reserve_uses)
            if blocks:
                await self._commit_blocks(blocks)

    def take(self, key_id: str, count: int) -> None:
        """Uses `count` of what is reserved. Raises Unavailable where that is not enough."""
        uses = self._uses.get(key_id)
        if uses is None or uses.left < count:
            raise Unavailable("the signature could not be accounted for", code="usage_reservation", retry_after_s=1)
        uses.left -= count
        if uses.left * 2 < uses.block and key_id not in self._ahead and not self._stopping.is_set():
            self._ahead.add(key_id)
            self._spawn(self._reserve_ahead(key_id), "sign-reserve")

    def signed(self, key_id: str, caller: str, count: int) -> None:
        """Counts signatures that are about to leave."""
        self._signed[key_id, caller] += count

    def refused(self, key_id: str, caller: str, code: str) -> None:
        """Notes a refusal: singly up to the bound of the interval, summed past it."""
        refusals, row = self._refusals, (caller, key_id, code)
        if refusals.written < self._settings.refusals_per_interval and not self._stopping.is_set():
            refusals.written += 1
            refusals.single.append(row)
            if len(refusals.single) == 1:
                self._spawn(self._write_refusals(), "sign-refusals")
        elif row in refusals.summed or len(refusals.summed) < _SUMMED_REFUSALS_MAX:
            refusals.summed[row] += 1
        else:
            refusals.summed[_OTHERS] += 1

    async def record(self) -> None:
        """Writes the counts since the last time. Where the store does not take them they are kept for the next."""
        signed, self._signed = self._signed, Counter()
        refusals, self._refusals = self._refusals, _Refusals()
        events = [
            AuditEvent(caller, "sign.usage", key_id, detail={"signatures": count, "worker": self._worker_id})
            for (key_id, caller), count in sorted(signed.items())
        ]
        events += [_refusal(row, {}) for row in refusals.single]
        events += [_refusal(row, {"count": count}) for row, count in sorted(refusals.summed.items())]
        if not events:
            return
        try:
            await self._append(events)
        except BaseException:
            self._signed.update(signed)
            self._refusals.summed.update(refusals.summed)
            self._refusals.summed.update(refusals.single)
            raise

    async def close(self) -> None:
        """Writes the last counts. Raises Unavailable where the store does not take them."""
        self._stopping.set()
        while self._background:
            await asyncio.wait(set(self._background))
        await self.record()

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._stopping.wait(), self._settings.usage_interval_s)
                return
            except TimeoutError:
                await self._logged(self.record())

    async def _reserve_ahead(self, key_id: str) -> None:
        try:
            async with self._reserving:
                await self._logged(self._commit_blocks({key_id: self._settings.reserve_uses}))
        finally:
            self._ahead.discard(key_id)

    async def _commit_blocks(self, blocks: Mapping[str, int]) -> None:
        await self._append(
            [
                AuditEvent("system", "sign.reserve", key_id, detail={"uses": count, "worker": self._worker_id})
                for key_id, count in blocks.items()
            ]
        )
        for key_id, count in blocks.items():
            uses = self._uses.setdefault(key_id, _Uses())
            uses.left += count
            uses.block = count

    async def _write_refusals(self) -> None:
        rows, self._refusals.single = self._refusals.single, []
        try:
            await self._append([_refusal(row, {}) for row in rows])
        except QianyanError as error:
            self._refusals.summed.update(rows)
            _log.warning("sign_refusals_not_recorded", code=error.code, kept=len(rows))

    async def _append(self, events: list[AuditEvent]) -> None:
        async with self._database.write() as connection:
            now_ms = await counters.advance_time(connection, self._clock())
            for event in events:
                await audit.append(connection, event, at_ms=now_ms)

    async def _logged(self, work: Coroutine[Any, Any, None]) -> None:
        """Background work: what fails is said in the log, and met again by who needs it in the foreground."""
        try:
            await work
        except QianyanError as error:
            _log.warning("sign_usage_not_recorded", code=error.code, detail=error.detail)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _refusal(row: tuple[str, str, str], detail: dict[str, str | int]) -> AuditEvent:
    caller, key_id, code = row
    return AuditEvent(caller, "sign.refuse", key_id, outcome=code, detail=detail)
