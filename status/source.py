"""What the store knows of certificates: `core.ports.StatusSource` for whoever needs status, and the coalesced reads
behind OCSP.

Owns no state that outlives a read. Knows the store; not ASN.1, HTTP or signing. Every answer comes from a snapshot
taken after it was asked for, so it is never older than the last commit before the question; on a replica, not by more
than a replica may lag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from core.errors import Busy, Unavailable
from core.model import CertificateStatus
from core.store import certificates, counters
from core.store.database import Database
from core.store.follow import FeedFollower


class StoreStatusSource:
    """`core.ports.StatusSource` over the store. follower: says when a store that is a replica is too old."""

    def __init__(self, database: Database, follower: FeedFollower | None = None) -> None:
        self._database = database
        self._follower = follower

    async def statuses(self, authority_id: str, serials: Sequence[int]) -> list[CertificateStatus]:
        """One status per serial, in order. Raises Unavailable where the store cannot be asked, or is too old."""
        if self._follower is not None and not self._follower.current():
            await self._follower.ensure_current()
        async with self._database.read() as connection:
            return await certificates.statuses(connection, authority_id, serials)


class _Batch:
    """Questions that share one read, and its outcome: statuses by authority and serial, and the store's last time."""

    __slots__ = ("asked", "found", "last_time_ms", "size", "task")

    def __init__(self) -> None:
        self.asked: dict[str, set[int]] = {}
        self.size = 0
        self.found: dict[str, dict[int, CertificateStatus]] = {}
        self.last_time_ms = 0
        self.task: asyncio.Task[None] | None = None


class StatusLookup:
    """Asks the store for many at once: one read at a time, and whoever asks meanwhile shares the next one.

    A caller that is cancelled leaves; the read that others wait for goes on.
    """

    def __init__(self, database: Database, *, max_waiting: int, timeout_s: float) -> None:
        self._database = database
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._reading = asyncio.Lock()
        self._next: _Batch | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def find(self, authority_id: str, serials: Sequence[int]) -> tuple[list[CertificateStatus], int]:
        """The status of each serial, in order, and the last time in the store, of one snapshot.

        Raises Busy where too many wait, Unavailable where the store cannot be asked or is too slow.
        """
        batch = self._next
        if batch is None:
            batch = self._next = _Batch()
            batch.task = asyncio.get_running_loop().create_task(self._run(batch))
            self._tasks.add(batch.task)
            batch.task.add_done_callback(self._done)
        if batch.size + len(serials) > self._max_waiting:
            raise Busy("too many wait for the store", code="status_queue_full", retry_after_s=1)
        batch.asked.setdefault(authority_id, set()).update(serials)
        batch.size += len(serials)
        assert batch.task is not None
        await asyncio.wait((batch.task,))
        batch.task.result()
        found = batch.found[authority_id]
        return [found[serial] for serial in serials], batch.last_time_ms

    async def _run(self, batch: _Batch) -> None:
        try:
            async with asyncio.timeout(self._timeout_s), self._reading:
                self._close(batch)
                async with self._database.read() as connection:
                    batch.last_time_ms = await counters.current(connection, counters.LAST_TIME)
                    for authority_id, serials in batch.asked.items():
                        rows = await certificates.statuses(connection, authority_id, list(serials))
                        batch.found[authority_id] = {row.serial: row for row in rows}
        except TimeoutError as error:
            raise Unavailable("the store is too slow", code="store_timeout", retry_after_s=1) from error
        finally:
            self._close(batch)

    def _close(self, batch: _Batch) -> None:
        """From here on whoever asks goes into another batch."""
        if self._next is batch:
            self._next = None

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; where nobody waits any more, there is nobody to tell

    async def close(self) -> None:
        """Returns when no read is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)
