"""How often keys were used, and what of their limits is left.

Owns the arithmetic of limits: it is done here, in the transaction that allots uses, so that a limit holds over all
processes and restarts. Knows numbers and times; not what a use is, and not callers or hours.

A rate is a bucket: it fills by `max_rate` a second up to one second's worth, and each use takes one out. So in any
T seconds at most `max_rate` · (T + 1) uses are allotted, by all processes together. Times are the store's, which never
go back (core.store.counters).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import NotFound
from core.store.schema import key_uses, keys


@dataclass(frozen=True, slots=True)
class KeyUses:
    """reserved: allotted and not given back: never fewer than were made. recorded: those the audit record counts."""

    reserved: int
    recorded: int


class Allotter:
    """Allots uses of one key within one write transaction. `load`, any number of `take`s, `store`.

    `max_rate` and `max_uses` are the limits at this moment, None for none.
    """

    def __init__(
        self, key_id: str, reserved: int, allowance_milli: int | None, at_ms: int, now_ms: int, rate: int | None,
        max_uses: int | None,
    ) -> None:  # fmt: skip
        self._key_id = key_id
        self._reserved = reserved
        self.max_rate = rate
        self.max_uses = max_uses
        self._now_ms = now_ms
        self._allowance_milli: int | None = None
        if rate is not None:
            full = rate * 1000
            filled = full if allowance_milli is None else allowance_milli + max(0, now_ms - at_ms) * rate
            self._allowance_milli = min(full, filled)

    @classmethod
    async def load(cls, connection: AsyncConnection, key_id: str, now_ms: int) -> Allotter:
        """Locks the key's counts until the commit. Raises NotFound (code "key_unknown")."""
        counts = key_uses.c
        # An update that changes nothing takes the row's lock, on every database, before the row is read.
        locked = (
            update(key_uses)
            .where(counts.key_id == key_id)
            .values(reserved=counts.reserved)
            .returning(counts.reserved, counts.allowance_milli, counts.allowance_at_ms)
        )
        row = (await connection.execute(locked)).one_or_none()
        if row is None:
            raise NotFound(f"there is no key {key_id!r}", code="key_unknown")
        limits = (await connection.execute(select(keys.c.max_rate, keys.c.max_uses).where(keys.c.id == key_id))).one()
        return cls(
            key_id, row.reserved, row.allowance_milli, row.allowance_at_ms, now_ms, limits.max_rate, limits.max_uses
        )

    @property
    def room(self) -> int | None:
        """How many uses are left in all; None for without a bound."""
        return None if self.max_uses is None else max(0, self.max_uses - self._reserved)

    @property
    def allowed_now(self) -> int | None:
        """How many uses the rate admits at this moment; None for without a bound."""
        return None if self._allowance_milli is None else self._allowance_milli // 1000

    def wait_ms(self, count: int) -> int:
        """How long until the rate admits `count` uses: 0 for now, and also where it never will."""
        if self.max_rate is None or self._allowance_milli is None:
            return 0
        return max(0, -((self._allowance_milli - count * 1000) // self.max_rate))

    def take(self, count: int) -> None:
        """Allots `count`, which the caller has found to be admitted."""
        self._reserved += count
        if self._allowance_milli is not None:
            self._allowance_milli -= count * 1000

    def give_back(self, count: int) -> None:
        """Takes back allotted uses that were not made."""
        self._reserved -= count
        if self._allowance_milli is not None and self.max_rate is not None:
            self._allowance_milli = min(self.max_rate * 1000, self._allowance_milli + count * 1000)

    async def store(self, connection: AsyncConnection) -> None:
        """Writes what was allotted."""
        await connection.execute(
            update(key_uses)
            .where(key_uses.c.key_id == self._key_id)
            .values(reserved=self._reserved, allowance_milli=self._allowance_milli, allowance_at_ms=self._now_ms)
        )


async def record(connection: AsyncConnection, key_id: str, count: int) -> None:
    """Adds to the uses that the audit record has counts of."""
    counts = key_uses.c
    await connection.execute(update(key_uses).where(counts.key_id == key_id).values(recorded=counts.recorded + count))


async def get(connection: AsyncConnection, key_id: str) -> KeyUses:
    """Raises NotFound (code "key_unknown")."""
    counts = key_uses.c
    row = (await connection.execute(select(counts.reserved, counts.recorded).where(counts.key_id == key_id))).first()
    if row is None:
        raise NotFound(f"there is no key {key_id!r}", code="key_unknown")
    return KeyUses(row.reserved, row.recorded)
