"""Ceremonies of the master key in hardware modules: making one, opening them at a start, bringing values over.

Making a master key changes nothing that is there: the newest one wraps from then on, and `Rewrapping` brings what is
under others over, row by row, while the service runs. Knows the store and devices; what wrapping is, is the masters'.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Malformed, SettingsError, Unavailable
from core.store import audit, counters, kmc_masters
from core.store.database import Database
from core.store.kmc_masters import MasterRecord, Place, Wrapped
from signer.engine.master import MasterKey
from signer.engine.sdf import kek
from signer.engine.sdf.kek import KekKey
from signer.engine.sdf.pool import SdfPool
from signer.holders.vault import wrapping_purpose
from signer.kmc.hsm_master import HsmMaster

#: How many values are brought over in one transaction: a module is asked twice for each before it.
_AT_ONCE: Final = 100
#: How long a thread waits for the store's answer.
_READ_TIMEOUT_S: Final = 30.0


async def load(database: Database) -> list[MasterRecord]:
    """The master keys that are in modules, the oldest first."""
    async with database.read() as connection:
        return list(await kmc_masters.list_masters(connection))


async def open_master(database: Database, place: str, pool: SdfPool | None, software: MasterKey) -> MasterKey:
    """The master key that the settings name (`place`: "file" or "hsm"), proven where that can be.

    Raises SettingsError where the settings and what is there do not fit: nothing is served then.
    """
    records = await load(database)
    if place == "file":
        if records:
            raise SettingsError(
                f'the master key is in hardware modules (number {records[-1].id}), and kmc.master says "file"; set '
                'kmc.master = "hsm"',
                code="kmc_master_place",
            )
        return software
    if pool is None:
        raise SettingsError('kmc.master is "hsm" and no device is configured; add [[hsm.devices]]', code="hsm_missing")
    loop, thread = asyncio.get_running_loop(), threading.get_ident()

    def read() -> list[MasterRecord]:
        if threading.get_ident() == thread:
            raise RuntimeError("the event loop's thread must not wait for hardware modules")
        try:
            return asyncio.run_coroutine_threadsafe(load(database), loop).result(_READ_TIMEOUT_S)
        except TimeoutError as error:
            raise Unavailable("the store did not answer in time", code="store_slow") from error

    master = HsmMaster(pool, records, read, software)
    await asyncio.to_thread(master.prove)
    return master


async def create(database: Database, pool: SdfPool, kek_index: int, clock: Clock, actor: str) -> MasterRecord:
    """Makes a master key under the KEK at an index; every device in service must have that KEK, the same everywhere.

    Raises SettingsError, Unavailable; nothing is recorded then.
    """
    made: KekKey = await asyncio.to_thread(pool.perform, lambda session: kek.generate(session, kek_index))
    outcomes = await asyncio.to_thread(pool.perform_everywhere, lambda session: kek.prove(session, made))
    for name, outcome in outcomes.items():
        if isinstance(outcome, Exception):
            raise SettingsError(f"device {name} cannot open the new master key: {outcome}", code="kmc_master_refused")
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        await kmc_masters.lock(connection)
        number = max((record.id for record in await kmc_masters.list_masters(connection)), default=0) + 1
        record = MasterRecord(number, made.kek_index, made.wrapped, made.check_plain, made.check_cipher, at_ms)
        await kmc_masters.add(connection, record)
        detail: dict[str, str | int] = {"kek_index": kek_index}
        await audit.append(connection, AuditEvent(actor, "kmc.master", f"master:{number}", detail=detail), at_ms=at_ms)
    return record


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rewrapping is. `left`: how many values of the place are under other keys yet."""

    place: str
    done: int
    left: int


class Rewrapping:
    """Brings every value under the newest master key. It may be broken off and begun anew at any time."""

    def __init__(self, database: Database, master: HsmMaster, clock: Clock, actor: str) -> None:
        self._database = database
        self._master = master
        self._clock = clock
        self._actor = actor

    async def run(self) -> AsyncGenerator[Progress, None]:
        """Says after each transaction how far it is; at the end nothing is left that could be opened.

        Raises Malformed where a value cannot be opened, saying which: those before it are brought over.
        """
        number = self._master.newest
        whole = 0
        for place in kmc_masters.PLACES:
            done, after = 0, -1
            while True:
                async with self._database.read() as connection:
                    found = await kmc_masters.otherwise(connection, place, number, after=after, limit=_AT_ONCE)
                if not found:
                    break
                anew = await self._all_anew(place, found)  # outside: nobody's write waits for a module
                async with self._database.write() as connection:
                    for one, wrapped in zip(found, anew, strict=True):
                        await kmc_masters.replace(connection, place, one, wrapped)
                done, after = done + len(found), found[-1].id
                async with self._database.read() as connection:
                    left = await kmc_masters.count_otherwise(connection, place, number)
                yield Progress(place.name, done, left)
            whole += done
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            event = AuditEvent(self._actor, "kmc.rewrap", f"master:{number}", detail={"values": whole})
            await audit.append(connection, event, at_ms=at_ms)

    async def _all_anew(self, place: Place, found: Sequence[Wrapped]) -> list[bytes]:
        return await asyncio.to_thread(lambda: [self._anew(place, one) for one in found])

    def _anew(self, place: Place, one: Wrapped) -> bytes:
        try:
            if place.secret:
                purpose = wrapping_purpose(one.purpose, one.id)
                return self._master.wrap_secret(purpose, self._master.unwrap_secret(purpose, one.wrapped))
            key = self._master.unwrap(one.wrapped)
        except Malformed as error:
            raise Malformed(
                f"row {one.id} of {place.name} cannot be opened: {error.detail}", code=error.code
            ) from error
        try:
            return self._master.wrap(key)
        finally:
            key.wipe()
