"""How many signatures each caller may still have today, over all workers and nodes.

Owns what this process has taken out of each quota and not used yet. Signatures are taken out of the day's quota in the
store, durably, before the first of them is made: a quota is never overspent. They are taken some at a time (a fiftieth
of the quota, less as it runs out), so that most signatures wait for no disk; what a process holds when it is killed is
lost to that day, at most a fiftieth of the quota each time. A stop gives back what is held.

Knows the store and the clock; not HTTP, and not who a caller is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog
from sqlalchemy.exc import IntegrityError

from core.clock import Clock
from core.errors import Busy, QianyanError
from core.store import callers
from core.store.database import Database

_log = structlog.get_logger("qianyan.quotas")

_DAY_MS: Final = 86_400_000
#: Which part of a quota a process takes at once, at most.
_AHEAD: Final = 50


@dataclass(slots=True)
class _Held:
    """What was taken out of a day's quota and not used."""

    day: int = -1
    left: int = 0
    taking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Quotas:
    """See the module. Only the event-loop thread uses it."""

    def __init__(self, database: Database, clock: Clock, day_offset_minutes: int) -> None:
        self._database = database
        self._clock = clock
        self._offset_ms = day_offset_minutes * 60_000
        self._held: dict[str, _Held] = {}

    def day(self) -> int:
        """Today, in days since 1970 in the quota's zone."""
        return (self._clock() + self._offset_ms) // _DAY_MS

    async def take(self, caller_id: str, count: int, quota: int) -> int:
        """Takes `count` signatures, and returns the day they were taken from. Raises Busy (code "caller_quota")."""
        held = self._held.get(caller_id)
        if held is None:
            held = self._held[caller_id] = _Held()
        day = self.day()
        if held.day != day or held.left < count:
            async with held.taking:
                day = self.day()
                if held.day != day:
                    held.day, held.left = day, 0
                if held.left < count:
                    await self._take_more(caller_id, held, count, quota)
                held.left -= count
                return day
        held.left -= count
        return day

    def holds(self, caller_id: str, count: int) -> bool:
        """Whether so many of today's were taken out ahead: `take` then needs no wait."""
        held = self._held.get(caller_id)
        return held is not None and held.left >= count and held.day == self.day()

    def take_held(self, caller_id: str, count: int) -> None:
        """Takes signatures that this process holds; to be called right after `holds`."""
        self._held[caller_id].left -= count

    async def give_back(self, caller_id: str, day: int, count: int, quota: int) -> None:
        """What was taken was not used: no signature was made. No more is held than is taken ahead; the rest goes back.

        Where the store does not take it, it is held all the same.
        """
        held = self._held.get(caller_id)
        if held is None or held.day != day:
            return
        held.left += count
        excess = held.left - quota // _AHEAD
        if excess <= 0:
            return
        held.left -= excess
        try:
            async with self._database.write() as connection:
                await callers.give_back_to_day(connection, caller_id, day, excess)
        except QianyanError as error:
            _log.warning("quota_not_given_back", code=error.code, detail=error.detail)
            held.left += excess if held.day == day else 0

    def forget(self, caller_id: str) -> None:
        """What is held counts as used: the quota has changed, and must not be passed by what an older one gave."""
        held = self._held.get(caller_id)
        if held is not None:
            held.left = 0

    async def _take_more(self, caller_id: str, held: _Held, count: int, quota: int) -> None:
        """Holds `count` at least. What is held already is set aside meanwhile: others must not have it as well."""
        aside, held.left = held.left, 0
        try:
            taken = await self._take_durably(caller_id, held.day, count - aside, quota)
        except IntegrityError:  # another node made the day's row at the same time: it is there now
            taken = await self._take_durably(caller_id, held.day, count - aside, quota)
        finally:
            held.left += aside
        if not taken:
            until_ms = (held.day + 1) * _DAY_MS - self._offset_ms
            raise Busy(
                f"this caller may have {quota} signatures a day",
                code="caller_quota",
                retry_after_s=max(1, -(-(until_ms - self._clock()) // 1000)),
            )
        held.left += taken

    async def _take_durably(self, caller_id: str, day: int, wanted: int, quota: int) -> int:
        async with self._database.write() as connection:
            return await callers.take_from_day(connection, caller_id, day, wanted, quota // _AHEAD, quota)

    async def close(self) -> None:
        """Gives back what is held. Raises Unavailable where the store does not take it."""
        left = {caller_id: held for caller_id, held in self._held.items() if held.left}
        self._held = {}
        if left:
            async with self._database.write() as connection:
                for caller_id, held in left.items():
                    await callers.give_back_to_day(connection, caller_id, held.day, held.left)
