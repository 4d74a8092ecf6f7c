"""Allots the uses of keys that have a rate or a total, before they are made.

Owns the claims that wait, and what was leased. A claim is granted in a write transaction on the store's counts
(core.store.key_uses), so that a limit holds over every process and restart; claims that arrive while one transaction is
under way share the next. Uses of a key that has only a rate are leased a little ahead, so that not every use waits for
a commit; a lease is of no use after a second. Uses of a key that has a total are never leased: there are none that
another process could not have had.

Every grant is durable before its use is made. A crash loses what was granted and not used, never the limit.

Knows the store; not keys' states, callers or requests. Only the event-loop thread touches it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Busy, QianyanError, Refused, TooLarge
from core.store import audit, counters
from core.store.database import Database
from core.store.key_uses import Allotter
from signer.engine.settings import EngineSettings

#: A lease is at most this part of a second's uses, and lasts this long.
_LEASES_A_SECOND: Final = 20
_LEASE_S: Final = 1.0

_log = structlog.get_logger()


@dataclass(slots=True)
class _Claim:
    """So many uses of a key, and who waits for them."""

    key_id: str
    count: int
    granted: asyncio.Future[None]


@dataclass(slots=True)
class _Lease:
    """Uses of a key that were allotted ahead, until when by the loop's clock."""

    left: int
    until: float


class Claims:
    """See the module. `operation` names what a key is used for ("sign", "decrypt"), for the audit record."""

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
        self._waiting: list[_Claim] = []
        self._returns: Counter[str] = Counter()
        self._leases: dict[str, _Lease] = {}
        self._audited: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None

    async def claim(self, key_id: str, count: int) -> None:
        """Returns with `count` uses of the key granted.

        Raises Refused (code "key_count": fewer are left), Busy (code "key_rate", with when to come back, or
        "claim_queue"), TooLarge (code "key_rate": more than the rate ever admits at a time), Unavailable.
        """
        lease = self._leases.get(key_id)
        if lease is not None and lease.left >= count and asyncio.get_running_loop().time() < lease.until:
            lease.left -= count
            return
        if len(self._waiting) >= self._settings.max_claims:
            raise Busy("too many uses of keys with limits are waiting", code="claim_queue", retry_after_s=1)
        claim = _Claim(key_id, count, asyncio.get_running_loop().create_future())
        self._waiting.append(claim)
        self._work()
        try:
            await claim.granted
        except asyncio.CancelledError:
            if claim.granted.done() and not claim.granted.cancelled() and claim.granted.exception() is None:
                self.give_back(key_id, count)  # granted, and then the caller went away before it knew
            raise

    @property
    def holds(self) -> bool:
        """Whether a lease is out, used or not."""
        return bool(self._leases)

    def give_back(self, key_id: str, count: int) -> None:
        """Uses that were granted or reserved and will not be made. The store hears of it in the background."""
        if count > 0:
            self._returns[key_id] += count
            self._work()

    def forget(self, key_id: str) -> None:
        """Ends the key's lease: its limits changed."""
        self._end_lease(key_id)
        if self._returns:
            self._work()

    def _end_lease(self, key_id: str) -> None:
        lease = self._leases.pop(key_id, None)
        if lease is not None and lease.left:
            self._returns[key_id] += lease.left

    async def close(self) -> None:
        """Gives back every lease and returns when the store knows; says so in the log where it does not take it."""
        for key_id in list(self._leases):
            self.forget(key_id)
        while self._task is not None:
            await asyncio.wait([self._task])

    def _work(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain(), name="key-claims")

    async def _drain(self) -> None:
        try:
            while self._waiting or self._returns:
                claims, self._waiting = self._waiting, []
                for claim in claims:  # what a lease does not cover any more goes back, to be granted with the rest
                    self._end_lease(claim.key_id)
                returns, self._returns = self._returns, Counter()
                try:
                    outcome = await self._commit(claims, returns)
                except Exception as error:
                    self._returns.update(returns)
                    self._fail(claims, error)
                    if not self._waiting:  # what is to be given back waits for the next claim, not for a sick store
                        return
                else:
                    self._answer(claims, outcome)
        finally:
            self._task = None

    def _fail(self, claims: list[_Claim], error: Exception) -> None:
        if not claims:
            _log.warning("key_uses_not_given_back", error=str(error))
        for claim in claims:
            if not claim.granted.done():
                claim.granted.set_exception(error)

    def _answer(self, claims: list[_Claim], outcome: list[QianyanError | None]) -> None:
        for claim, refusal in zip(claims, outcome, strict=True):
            if claim.granted.done():  # the caller went away meanwhile
                if refusal is None:
                    self._returns[claim.key_id] += claim.count
            elif refusal is None:
                claim.granted.set_result(None)
            else:
                claim.granted.set_exception(refusal)

    async def _commit(self, claims: list[_Claim], returns: Counter[str]) -> list[QianyanError | None]:
        """The answers in order, once what was granted is durable."""
        by_key: defaultdict[str, list[int]] = defaultdict(list)
        for at, claim in enumerate(claims):
            by_key[claim.key_id].append(at)
        outcome: list[QianyanError | None] = [None] * len(claims)
        leases: dict[str, int] = {}
        audited: Counter[str] = Counter()
        async with self._database.write() as connection:
            now_ms = await counters.advance_time(connection, self._clock())
            for key_id in sorted(by_key.keys() | returns.keys()):  # one order everywhere: no two ever wait in a ring
                allotter = await Allotter.load(connection, key_id, now_ms)
                allotter.give_back(returns[key_id])
                taken = 0
                for at in by_key[key_id]:
                    outcome[at] = _refusal(allotter, claims[at].count)
                    if outcome[at] is None:
                        allotter.take(claims[at].count)
                        taken += claims[at].count
                leases[key_id] = _ahead(allotter) if taken else 0
                allotter.take(leases[key_id])
                await allotter.store(connection)
                audited[key_id] = self._to_be_audited(key_id, taken + leases[key_id], allotter.room)
            for key_id, block in audited.items():
                if block:
                    detail: dict[str, str | int] = {"uses": block, "worker": self._worker_id}
                    event = AuditEvent("system", f"{self._operation(key_id)}.reserve", key_id, detail=detail)
                    await audit.append(connection, event, at_ms=now_ms)
        self._keep(by_key, claims, outcome, leases, audited)
        return outcome

    def _to_be_audited(self, key_id: str, taken: int, room: int | None) -> int:
        """How many uses an audit row must cover now: none while an earlier row does; else a block of what is left."""
        if taken <= self._audited[key_id]:
            return 0
        block = self._settings.reserve_uses
        return max(taken, block if room is None else min(block, taken + room))

    def _keep(
        self, by_key: dict[str, list[int]], claims: list[_Claim], outcome: list[QianyanError | None],
        leases: dict[str, int], audited: Counter[str],
    ) -> None:  # fmt: skip
        """Takes over what the commit granted."""
        until = asyncio.get_running_loop().time() + _LEASE_S
        for key_id, places in by_key.items():
            taken = sum(claims[at].count for at in places if outcome[at] is None)
            self._audited[key_id] += audited[key_id] - taken - leases[key_id]
            if leases[key_id]:
                self._leases[key_id] = _Lease(leases[key_id], until)


def _refusal(allotter: Allotter, count: int) -> QianyanError | None:
    """Why `count` uses are not granted; None where they are."""
    room = allotter.room
    if room is not None and count > room:
        left = f"{room} of {allotter.max_uses} uses are left" if room else f"all {allotter.max_uses} uses are spent"
        return Refused(f"the key's total does not admit it: {left}", code="key_count", field="key")
    rate = allotter.max_rate
    if rate is not None and count > rate:
        return TooLarge(f"the key's rate admits at most {rate} uses in one call", code="key_rate", field="key")
    wait_ms = allotter.wait_ms(count)
    if wait_ms > 0:
        return Busy("the key's rate is used up", code="key_rate", retry_after_s=-(-wait_ms // 1000))
    return None


def _ahead(allotter: Allotter) -> int:
    """How many uses to lease beyond what was asked for."""
    if allotter.max_uses is not None or allotter.max_rate is None or allotter.allowed_now is None:
        return 0
    return max(0, min(allotter.max_rate // _LEASES_A_SECOND, allotter.allowed_now))
