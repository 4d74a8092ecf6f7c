"""Accounts for every use of a key in the audit record, without a disk write per use.

Owns the reservations and the counts since the last row. Before the first use of a block, a row `sign.reserve` or
`decrypt.reserve` (key, worker, how many uses) is committed; the next block is reserved in the background once half of
one is used, so that signing does not wait. At an interval and on close a row `sign.usage` or `decrypt.usage` per key
and caller says exactly how many were made. A crash loses the exactness of the last interval, never the bound: no
signature leaves before what it means is durable. Where a reservation cannot be committed, nothing is signed. Keys with
a rate or a total have no blocks: their uses are claimed (signer.engine.claims).

Knows the store; not keys' states, bytes or futures of requests. Only the event-loop thread touches it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import QianyanError, Unavailable
from core.model import KeyState
from core.store import audit, counters, key_uses, keys
from core.store.database import Database
from signer.engine.claims import Claims
from signer.engine.settings import EngineSettings

#: How many different (caller, key, code, operation) of refusals are summed up apart in one interval; the rest go in
#: one row.
_SUMMED_REFUSALS_MAX: Final = 1_000
_Refusal = tuple[str, str, str, str]
_OTHERS: Final[_Refusal] = ("system", "-", "other", "sign")

_log = structlog.get_logger()


@dataclass(slots=True)
class _Uses:
    """What is left of a key's reservations; how much the last one covered, when it was made, what was used since."""

    left: int = 0
    block: int = 0
    since_s: float = 0.0
    taken: int = 0

    def next_block(self, least: int, most: int) -> int:
        """A second's worth, by what was used since the last block; at most four times that one."""
        rate = self.taken / max(time.monotonic() - self.since_s, 0.001)
        return max(least, min(int(rate), 4 * self.block, most))


@dataclass(slots=True)
class _Refusals:
    """Refusals of an interval: those to be written singly, and the sums of the rest."""

    single: list[_Refusal] = field(default_factory=list)
    written: int = 0
    summed: Counter[_Refusal] = field(default_factory=Counter)


class UsageLedger:
    """See the module. `start()` begins the interval; `close()` writes the last counts.

    `operation`: what a key is used for, "sign" or "decrypt".
    """

    def __init__(
        self,
        database: Database,
        settings: EngineSettings,
        clock: Clock,
        worker_id: str,
        operation: Callable[[str], str],
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._worker_id = worker_id
        self._operation = operation
        self.claims = Claims(database, settings, clock, worker_id, operation)
        self._uses: dict[str, _Uses] = {}
        self._used: Counter[tuple[str, str]] = Counter()
        self._refusals = _Refusals()
        self._reserving = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._ahead: set[str] = set()
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Begins to write counts at the interval."""
        self._spawn(self._run(), "sign-usage")

    @property
    def holds(self) -> bool:
        """Whether uses are reserved here that nobody has asked for yet."""
        return bool(self._uses) or self.claims.holds

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
                uses = self._uses.setdefault(key_id, _Uses())
                if count > uses.left:
                    blocks[key_id] = max(count - uses.left, self._next_block(uses))
            if blocks:
                await self._commit_blocks(blocks)

    def take(self, key_id: str, count: int) -> None:
        """Uses `count` of what is reserved. Raises Unavailable where that is not enough."""
        uses = self._uses.get(key_id)
        if uses is None or uses.left < count:
            raise Unavailable("the signature could not be accounted for", code="usage_reservation", retry_after_s=1)
        uses.left -= count
        uses.taken += count
        if uses.left * 2 < uses.block and key_id not in self._ahead and not self._stopping.is_set():
            self._ahead.add(key_id)
            self._spawn(self._reserve_ahead(key_id), "sign-reserve")

    def release(self, key_id: str) -> None:
        """Gives back what is reserved for a key ahead of its use: it has limits now, or may not be used any more."""
        uses = self._uses.pop(key_id, None)
        if uses is not None:
            self.claims.give_back(key_id, uses.left)
        self.claims.forget(key_id)

    def used(self, key_id: str, caller: str, count: int) -> None:
        """Counts uses whose results are about to leave."""
        self._used[key_id, caller] += count

    def refused(self, key_id: str, caller: str, code: str, operation: str = "sign") -> None:
        """Notes a refusal: singly up to the bound of the interval, summed past it."""
        refusals, row = self._refusals, (caller, key_id, code, operation)
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
        used, self._used = self._used, Counter()
        refusals, self._refusals = self._refusals, _Refusals()
        events = [self._usage(key_id, caller, count) for (key_id, caller), count in sorted(used.items())]
        events += [_refusal(row, {}) for row in refusals.single]
        events += [_refusal(row, {"count": count}) for row, count in sorted(refusals.summed.items())]
        if not events:
            return
        recorded: Counter[str] = Counter()
        for (key_id, _), count in used.items():
            recorded[key_id] += count
        try:
            await self._append(events, recorded)
        except BaseException:
            self._used.update(used)
            self._refusals.summed.update(refusals.summed)
            self._refusals.summed.update(refusals.single)
            raise

    def _usage(self, key_id: str, caller: str, count: int) -> AuditEvent:
        operation = self._operation(key_id)
        what = "signatures" if operation == "sign" else "decryptions"
        return AuditEvent(caller, f"{operation}.usage", key_id, detail={what: count, "worker": self._worker_id})

    async def close(self) -> None:
        """Writes the last counts, gives back what was not used. Raises Unavailable where the store takes no counts."""
        self._stopping.set()
        while self._background:
            await asyncio.wait(set(self._background))
        await self.record()
        for key_id in list(self._uses):
            self.release(key_id)
        await self.claims.close()

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
                await self._logged(self._commit_blocks({key_id: self._next_block(self._uses.get(key_id, _Uses()))}))
        finally:
            self._ahead.discard(key_id)

    def _next_block(self, uses: _Uses) -> int:
        return uses.next_block(self._settings.reserve_uses, self._settings.reserve_uses_max)

    async def _commit_blocks(self, blocks: Mapping[str, int]) -> None:
        """Reserves for keys that still have no limits; those that have some by now are left to be claimed."""
        reserved: dict[str, int] = {}
        async with self._database.write() as connection:
            now_ms = await counters.advance_time(connection, self._clock())
            for key_id, count in sorted(blocks.items()):
                allotter = await key_uses.Allotter.load(connection, key_id, now_ms)
                # Whoever reads a replica may not know yet that the key is frozen.
                active = (await keys.get(connection, key_id)).state is KeyState.ACTIVE
                if active and allotter.max_rate is None and allotter.max_uses is None:
                    allotter.take(count)
                    await allotter.store(connection)
                    reserved[key_id] = count
            for key_id, count in reserved.items():
                detail: dict[str, str | int] = {"uses": count, "worker": self._worker_id}
                event = AuditEvent("system", f"{self._operation(key_id)}.reserve", key_id, detail=detail)
                await audit.append(connection, event, at_ms=now_ms)
        for key_id, count in reserved.items():
            uses = self._uses.setdefault(key_id, _Uses())
            uses.left += count
            uses.block = count
            uses.since_s, uses.taken = time.monotonic(), 0

    async def _write_refusals(self) -> None:
        rows, self._refusals.single = self._refusals.single, []
        try:
            await self._append([_refusal(row, {}) for row in rows])
        except QianyanError as error:
            self._refusals.summed.update(rows)
            _log.warning("sign_refusals_not_recorded", code=error.code, kept=len(rows))

    async def _append(self, events: list[AuditEvent], recorded: Mapping[str, int] | None = None) -> None:
        async with self._database.write() as connection:
            now_ms = await counters.advance_time(connection, self._clock())
            for key_id, count in sorted((recorded or {}).items()):
                await key_uses.record(connection, key_id, count)
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


def _refusal(row: _Refusal, detail: dict[str, str | int]) -> AuditEvent:
    caller, key_id, code, operation = row
    return AuditEvent(caller, f"{operation}.refuse", key_id, outcome=code, detail=detail)
