"""Drain and resume by order: what operators want of a device reaches every worker through the store.

Owns one process's obedience: it follows the change feed, drains and resumes its pool's devices, and reports in the
store how they stand. An order holds until the next one, for workers that start later, too. Knows the pool and the
store; not HTTP or commands. `place` and `standing` need no pool: they are for whoever gives orders.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import structlog

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import NotFound, QianyanError, Refused
from core.store import audit, counters, hsm
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from core.store.hsm import Order, Report
from signer.engine.sdf.device import DeviceState
from signer.engine.sdf.metrics import DeviceStatus
from signer.engine.sdf.pool import SdfPool

_LOOK_EVERY_S: Final = 0.25
#: A worker says how its devices stand when that changes, and this often where it does not.
_REPORT_EVERY_S: Final = 10.0
#: A worker that has said nothing for so long is not there any more.
SILENT_MS: Final = 30_000
_TEXT_MAX: Final = 500

_log = structlog.get_logger()


class Maintenance:
    """See the module. `begin()` before the pool starts; `run()` for as long as the process serves."""

    def __init__(self, pool: SdfPool, database: Database, follower: FeedFollower, clock: Clock) -> None:
        self._pool = pool
        self._database = database
        self._follower = follower
        self._clock = clock
        self._worker = f"{socket.gethostname()[:64]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._done: dict[str, int] = {}
        self._trouble: dict[str, str] = {}
        self._said: list[tuple[object, ...]] = []
        self._said_at_ms = 0
        self._noted = False
        follower.subscribe(self._note)

    def _note(self, entry: FeedEntry) -> None:
        self._noted = self._noted or entry.kind == "hsm"

    async def begin(self) -> set[str]:
        """The devices that are to be drained from the start."""
        async with self._database.read() as connection:
            orders = await hsm.orders(connection)
        self._done = {name: order.number for name, order in orders.items()}
        return {name for name, order in orders.items() if order.drained}

    async def run(self, stop: asyncio.Event) -> None:
        """Obeys and reports until `stop`. What fails is logged and tried again."""
        while not stop.is_set():
            try:
                await self._obey()
                await self._report()
            except QianyanError as error:
                _log.error("hsm_maintenance", code=error.code, detail=error.detail)
            try:
                await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
            except TimeoutError:
                continue
        try:
            async with self._database.write() as connection:
                await hsm.forget_worker(connection, self._worker, older_than_ms=self._clock() - 20 * SILENT_MS)
        except QianyanError as error:
            _log.warning("hsm_maintenance", code=error.code, detail=error.detail)  # its reports grow old

    async def _obey(self) -> None:
        await self._follower.ensure_current()
        if not self._noted:
            return
        self._noted = False  # before the read: what is told of meanwhile is looked at next
        try:
            async with self._database.read() as connection:
                orders = await hsm.orders(connection)
        except QianyanError:
            self._noted = True
            raise
        names = {status.name for status in self._pool.status()}
        new = [one for one in orders.values() if one.number > self._done.get(one.device, 0) and one.device in names]
        await asyncio.gather(*(self._carry_out(one) for one in new))

    async def _carry_out(self, order: Order) -> None:
        self._trouble.pop(order.device, None)
        try:
            await asyncio.to_thread(self._pool.drain if order.drained else self._pool.resume, order.device)
        except QianyanError as error:
            _log.warning("hsm_order", device=order.device, drained=order.drained, code=error.code, detail=error.detail)
            self._trouble[order.device] = error.detail[:_TEXT_MAX]
        self._done[order.device] = order.number

    async def _report(self) -> None:
        status = self._pool.status()
        now_ms = self._clock()
        says: list[tuple[object, ...]] = [self._gist(one) for one in status]
        if says == self._said and 0 <= now_ms - self._said_at_ms < _REPORT_EVERY_S * 1000:
            return
        async with self._database.write() as connection:
            await hsm.report(connection, [self._report_of(one, now_ms) for one in status])
        self._said, self._said_at_ms = says, now_ms

    def _gist(self, one: DeviceStatus) -> tuple[object, ...]:
        done = self._done.get(one.name, 0)
        return (one.name, one.state, one.sessions, one.abandoned, one.reason, tuple(sorted(one.mistakes)), done)

    def _report_of(self, one: DeviceStatus, now_ms: int) -> Report:
        return Report(
            worker=self._worker,
            device=one.name,
            state=one.state,
            number=self._done.get(one.name, 0),
            sessions=one.sessions,
            sessions_wanted=one.sessions_wanted,
            abandoned=one.abandoned,
            trouble=self._trouble.get(one.name),
            reason=None if one.reason is None else one.reason[:_TEXT_MAX],
            refused_keys=" ".join(map(str, sorted(one.mistakes))),
            at_ms=now_ms,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """A device as it is wanted, and as each running worker has it. `order` None: it never had one."""

    device: str
    order: Order | None
    reports: list[Report]

    @property
    def wanted(self) -> str:
        """As `Report.state`."""
        drained = self.order is not None and self.order.drained
        return (DeviceState.DRAINED if drained else DeviceState.IN).value

    @property
    def settled(self) -> bool:
        """Whether every worker has carried the order out, in full or with trouble."""
        return self.order is None or all(one.number >= self.order.number for one in self.reports)

    @property
    def complete(self) -> bool:
        """Whether the device is everywhere as it is wanted."""
        return self.settled and all(one.state == self.wanted and one.trouble is None for one in self.reports)


async def standing(database: Database, devices: Collection[str], now_ms: int) -> list[Standing]:
    """How the devices stand, in the order given. Raises Unavailable."""
    async with database.read() as connection:
        orders = await hsm.orders(connection)
        reports = await hsm.reports(connection, since_ms=now_ms - SILENT_MS)
    return [Standing(name, orders.get(name), [one for one in reports if one.device == name]) for name in devices]


async def place(
    database: Database, devices: Collection[str], device: str, *, drained: bool, force: bool, actor: str, clock: Clock
) -> Order:
    """Orders a device to be drained or resumed, on every worker of every node; recorded in the audit.

    Raises NotFound (code "hsm_device"), and Refused (code "hsm_last") where no device would be left, unless `force`.
    """
    if device not in devices:
        raise NotFound(
            f"there is no device {device!r} in the settings; there are: {', '.join(devices)}", code="hsm_device"
        )
    async with database.write() as connection:
        before = await hsm.orders(connection)
        others = [name for name in devices if name != device and not (name in before and before[name].drained)]
        if drained and not others and not force:
            raise Refused(
                f"without {device!r} no device is left in service; resume another one first, or force it",
                code="hsm_last",
                field="device",
            )
        # As keys are stopped: with a wrong clock, too; time still never goes back in the record.
        now_ms = max(clock(), await counters.current(connection, counters.LAST_TIME))
        made = await hsm.order(connection, device, drained=drained, actor=actor, at_ms=now_ms)
        action = "hsm.drain" if drained else "hsm.resume"
        await audit.append(connection, AuditEvent(actor, action, device, detail={"order": made.number}), at_ms=now_ms)
        return made


async def until_settled(
    database: Database, devices: Collection[str], device: str, clock: Clock, patience_s: float
) -> Standing:
    """The device's standing once every running worker has carried its order out, or when patience ends."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        found = next(one for one in await standing(database, devices, clock()) if one.device == device)
        if found.settled or loop.time() >= deadline:
            return found
        await asyncio.sleep(_LOOK_EVERY_S)


def require_devices(devices: Collection[str]) -> None:
    """Raises NotFound (code "hsm_missing") where the settings name none."""
    if not devices:
        raise NotFound("no hardware module is configured; add [[hsm.devices]]", code="hsm_missing")
