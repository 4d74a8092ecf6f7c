"""Keeps key management's stores in order by itself: spare keys made in time, ended ones moved to history, all counted.

One process of an installation runs it. A failure is logged and tried again; nobody waits for it, because a key that is
not in store is made when it is needed.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from core.clock import Clock
from core.errors import QianyanError
from core.store import escrow, kmc_served
from core.store.database import Database
from signer.issuance.kmc import KeyManagement
from signer.issuance.metrics import KmcMetrics
from signer.issuance.settings import KmcSettings
from signer.kmc.centres import Centres

#: A round makes and moves so many keys at most, so that others get at the store between.
_MAKE_AT_MOST: Final = 4_096
_MOVE_AT_MOST: Final = 5_000
_FORGET_AT_MOST: Final = 1_000
#: How long the answers to other authorities' tasks are kept: much longer than any of them sends a task again.
_TASKS_KEPT_MS: Final = 30 * 86_400_000
#: How often expired keys are moved and all stores counted, which looks through every row.
_SLOW_ROUND_S: Final = 600.0

_log = structlog.get_logger("qianyan.kmc")


class KeyKeeper:
    """See the module."""

    def __init__(
        self,
        keys: KeyManagement,
        database: Database,
        settings: KmcSettings,
        clock: Clock,
        metrics: KmcMetrics,
        centres: Centres | None = None,
    ) -> None:
        self._keys = keys
        self._database = database
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._centres = centres

    async def refill(self) -> int:
        """Fills up the spare store, at most one round's keys; returns how many were made."""
        made = await self._keys.refill(self._settings.spare_keys, at_most=_MAKE_AT_MOST)
        async with self._database.read() as connection:
            self._metrics.keys.labels("spare").set(await escrow.count_spare(connection))
        return made

    async def sweep(self) -> int:
        """Moves keys whose certificates have run out to history and counts the stores; returns how many moved."""
        moved = 0
        while True:
            async with self._database.write() as connection:
                now_ms = self._clock()
                count = await escrow.end_expired(connection, at_ms=now_ms, limit=_MOVE_AT_MOST)
                served = await kmc_served.end_expired(connection, at_ms=now_ms, limit=_MOVE_AT_MOST)
                await kmc_served.forget_tasks(connection, before_ms=now_ms - _TASKS_KEPT_MS, limit=_FORGET_AT_MOST)
            moved += count + served
            count = max(count, served)
            if count < _MOVE_AT_MOST:
                break
        async with self._database.read() as connection:
            found = await escrow.counts(connection)
        for store in ("spare", "in_use", "history"):
            self._metrics.keys.labels(store).set(getattr(found, store))
        if self._centres is not None:
            await self._centres.sweep()
            await self._centres.count()
        return moved

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        loop = asyncio.get_running_loop()
        next_sweep = loop.time()
        while not stop.is_set():
            try:
                await self.refill()
                if self._centres is not None:
                    await self._centres.tell_ends()
                if loop.time() >= next_sweep:
                    await self.sweep()
                    next_sweep = loop.time() + _SLOW_ROUND_S
            except QianyanError as error:
                _log.error("kmc_round_failed", code=error.code, detail=error.detail)
            try:
                await asyncio.wait_for(stop.wait(), self._settings.refill_interval_s)
            except TimeoutError:
                continue
