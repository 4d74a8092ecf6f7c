"""Holds a scope's lease while its CRL or status set is built: one builder works on it at a time, wherever it runs.

Owns what this process has seen of others' leases. That a builder that was passed over publishes nothing is not for this
module to ensure: the publishing transaction names the lease (core/store/leases.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from core.errors import Conflict, Unavailable
from core.store import leases
from core.store.database import Database
from core.store.leases import Lease

log = structlog.get_logger()

#: How often a builder that waits for another looks again.
_LOOK_EVERY_S: Final = 0.1
#: Holders of this process.
_HERE: Final[set[str]] = set()


def _machine() -> str:
    """This host since its start: process numbers mean nothing elsewhere, or before."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        boot = "-"
    return f"{socket.gethostname()[:64]}/{boot}"


class Leases:
    """See the module. `life_s`: how long a holder may be silent before its lease is taken."""

    def __init__(self, database: Database, life_s: float, watch: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._life_s = life_s
        self._watch = watch
        self._machine = _machine()
        self._holder = f"{self._machine}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._seen: dict[tuple[str, int], tuple[int, int, float]] = {}
        _HERE.add(self._holder)

    async def acquire(self, scope: tuple[str, int]) -> Lease | None:
        """The lease; None while another builder has it and lives. Raises Unavailable."""
        async with self._database.read() as connection:
            found = await leases.get(connection, *scope)
        over = found if found is not None and found.held and self._ended(scope, found) else None
        if found is not None and found.held and over is None:
            return None
        async with self._database.write() as connection:
            lease = await leases.acquire(connection, *scope, self._holder, over=over)
        if lease is not None and over is not None:
            log.warning("lease.taken", authority=scope[0], partition=scope[1], holder=over.holder)
        self._seen.pop(scope, None)
        return lease

    async def wait(self, scope: tuple[str, int]) -> Lease:
        """The lease, when its holder is done or silent for too long; the caller limits the time."""
        while (lease := await self.acquire(scope)) is None:  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(_LOOK_EVERY_S)
        return lease

    def _ended(self, scope: tuple[str, int], lease: Lease) -> bool:
        """Whether its holder is a process of this machine that is gone, or showed no life for a lease's life."""
        machine, _, rest = lease.holder.partition(f"{self._machine}/")
        pid = rest.partition("/")[0]
        if not machine and pid.isdigit() and not _lives(int(pid)):
            return True
        if not machine and pid == str(os.getpid()) and lease.holder != self._holder and lease.holder not in _HERE:
            return True  # a process before this one had the same number, as in a container that was started again
        epoch, beat, since = self._seen.get(scope, (-1, -1, 0.0))
        now = self._watch()
        if (epoch, beat) != (lease.epoch, lease.beat):
            self._seen[scope] = (lease.epoch, lease.beat, now)
            return False
        return now - since >= self._life_s

    @asynccontextmanager
    async def kept(self, lease: Lease) -> AsyncIterator[None]:
        """Shows life while the block runs; gives the lease back where the block did not use it up."""
        beating = asyncio.create_task(self._beat(lease), name="lease")
        try:
            yield
        except BaseException:
            with suppress(Unavailable):  # it ends by itself
                async with self._database.write() as connection:
                    await leases.release(connection, lease)
            raise
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating

    async def _beat(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._life_s / 3)
            try:
                async with self._database.write() as connection:
                    await leases.renew(connection, lease)
            except Conflict:
                return  # the publication will say so
            except Unavailable as error:
                log.warning("lease.not_renewed", authority=lease.authority_id, detail=str(error))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
