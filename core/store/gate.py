"""Lets so many in at a time; the others wait in order, not too many of them and not for long.

What stands before the connections of a store, so that a burst of requests queues here and not in a pool whose waiting
ends in an error meant for a database that is away. Knows no database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from core.errors import Unavailable


class Gate:
    """See the module. `waiting_max`: how many may wait; `patience_s`: for how long each."""

    def __init__(self, room: int, *, waiting_max: int, patience_s: float) -> None:
        self._free = asyncio.Semaphore(room)  # first come, first served
        self._waiting_max = waiting_max
        self._patience_s = patience_s
        self.waiting = 0

    @asynccontextmanager
    async def pass_through(self) -> AsyncIterator[None]:
        """In, then out again. Raises Unavailable (code "store_busy") where too many wait, or it took too long."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()

    async def _wait(self) -> None:
        if self.waiting >= self._waiting_max:
            raise _busy("more requests wait for the store than may")
        self.waiting += 1
        try:
            async with asyncio.timeout(self._patience_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise _busy("the store has more to do than it can in time") from error
        finally:
            self.waiting -= 1


def _busy(detail: str) -> Unavailable:
    return Unavailable(detail, code="store_busy", retry_after_s=1)
