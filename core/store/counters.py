"""Numbers that only grow, and the store's own sense of time.

A counter's row is locked from its first use in a transaction to the commit, so numbers are gap-free and are handed out
in commit order (a database sequence is neither under concurrent commits).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Unavailable
from core.store import tail
from core.store.schema import counters
from core.store.upsert import upsert

#: How far the clock may stand behind the store's last time before we stop: clocks of two nodes differ a little.
CLOCK_TOLERANCE_MS: Final = 1_000

LAST_TIME: Final = tail.LAST_TIME


async def take(connection: AsyncConnection, name: str, count: int = 1) -> int:
    """Reserves `count` consecutive numbers of counter `name` and returns the first; counters start at 1."""
    statement = upsert(connection, counters).values(name=name, value=count)
    statement = statement.on_conflict_do_update(
        index_elements=["name"], set_={"value": counters.c.value + statement.excluded.value}
    ).returning(counters.c.value)
    last = (await connection.execute(statement)).scalar_one()
    return int(last) - count + 1


async def current(connection: AsyncConnection, name: str) -> int:
    """The last number given out; 0 before the first."""
    await tail.flush(connection)
    return await _stored(connection, name)


async def _stored(connection: AsyncConnection, name: str) -> int:
    value = (await connection.execute(select(counters.c.value).where(counters.c.name == name))).scalar_one_or_none()
    return int(value or 0)


def check_clock(now_ms: int, last_ms: int) -> None:
    """Raises Unavailable (code "clock_behind") where `now_ms` stands behind the store's last time."""
    if now_ms + CLOCK_TOLERANCE_MS < last_ms:
        behind_s = (last_ms - now_ms) / 1000
        raise Unavailable(
            f"the clock is {behind_s:.0f} s behind the last time in the store; set the clock right, then start again",
            code="clock_behind",
        )


async def look_at_time(connection: AsyncConnection, now_ms: int) -> int:
    """The time that `advance_time` would give, of which nothing is noted: for what is recorded later with a time of its
    own. Raises as that."""
    last_ms = max(await _stored(connection, LAST_TIME), tail.of(connection).last_time_ms)
    check_clock(now_ms, last_ms)
    return max(now_ms, last_ms)


async def advance_time(connection: AsyncConnection, now_ms: int) -> int:
    """Notes that something is issued at `now_ms` and returns the time to write: never before the last one.

    Raises Unavailable (code "clock_behind") where the clock went back past the tolerance.
    """
    pending = tail.of(connection)
    last_ms = max(await _stored(connection, LAST_TIME), pending.last_time_ms)
    check_clock(now_ms, last_ms)
    pending.last_time_ms = max(now_ms, last_ms)
    return pending.last_time_ms
