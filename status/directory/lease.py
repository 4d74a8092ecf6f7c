"""The right to publish to a target, held by one publisher at a time (core.store.publication has the rules).

Owns when the right is lost: a holder stops by its own watch well before anybody else may take over, whether or not it
can reach the store. Sends nothing itself; who does asks `check()` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from core.clock import Clock
from core.errors import Conflict, QianyanError
from core.store import publication
from core.store.database import Database
from core.store.publication import Target

log = structlog.get_logger()

#: What share of the lease's life the holder relies on: the rest is for what is on its way when it ends.
_OWN_SHARE: Final = 0.6
#: How often in a life the holder says that it lives, and others look whether it does.
_BEATS: Final = 5


class Lease:
    """One holding. `epoch` fences what is written to the store; `unclean`: the holder before did not give it back.

    `busy`: something may be on its way to the target. A lease is not given back then but runs out, so that whoever is
    next knows.
    """

    def __init__(self, name: str, epoch: int, until: float, watch: Callable[[], float], *, unclean: bool) -> None:
        self.name = name
        self.epoch = epoch
        self.unclean = unclean
        self.busy = False
        self._until = until
        self._watch = watch

    def check(self) -> None:
        """Raises Conflict (code "lease_lost") where the right has ended, or may have."""
        if self._watch() >= self._until:
            raise Conflict(f"the lease of {self.name!r} has run out", code="lease_lost")

    async def renew(self, database: Database, life_s: float) -> None:
        """Says to the store that the holder lives. Raises Conflict (code "lease_lost"); Unavailable."""
        began = self._watch()
        try:
            async with database.write() as connection:
                await publication.renew(connection, self.name, self.epoch)
        except Conflict:
            self._until = 0.0
            raise
        self._until = began + life_s * _OWN_SHARE


async def _keep(lease: Lease, database: Database, life_s: float) -> None:
    while True:
        await asyncio.sleep(life_s / _BEATS)
        try:
            await lease.renew(database, life_s)
        except Conflict:
            return
        except QianyanError as error:
            log.warning("directory.lease_not_renewed", target=lease.name, code=error.code)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _take(database: Database, name: str, holder: str, life_s: float, stop: asyncio.Event) -> Lease | None:
    watch = time.monotonic
    seen: Target | None = None
    since = 0.0
    while not stop.is_set():
        async with database.read() as connection:
            now = await publication.get(connection, name)
        if seen is None or (now.epoch, now.beat) != (seen.epoch, seen.beat):
            seen, since = now, watch()
        began = watch()
        if now.holder is None or began - since >= life_s:
            async with database.write() as connection:
                taken = await publication.acquire(connection, now, holder)
            if taken is not None:
                until = began + life_s * _OWN_SHARE
                return Lease(name, taken.epoch, until, watch, unclean=now.holder is not None)
        await _wait(stop, life_s / _BEATS)
    return None


@asynccontextmanager
async def held(
    database: Database, name: str, holder: str, life_s: float, clock: Clock, stop: asyncio.Event
) -> AsyncIterator[Lease | None]:
    """Waits for the lease, keeps it inside the block and gives it back; None where `stop` was set before.

    Raises Unavailable where the store cannot be asked.
    """
    async with database.write() as connection:
        await publication.ensure(connection, name, at_ms=clock())
    lease = await _take(database, name, holder, life_s, stop)
    if lease is None:
        yield None
        return
    keeper = asyncio.create_task(_keep(lease, database, life_s), name=f"lease-{name}")
    try:
        yield lease
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        if not lease.busy:
            with contextlib.suppress(QianyanError):  # it runs out by itself
                async with database.write() as connection:
                    await publication.release(connection, name, lease.epoch)
