"""Numbers that only grow, and the store's own sense of time.

A counter's row is locked from its first use in a transaction to the commit, so numbers are gap-free and are handed out
in commit order (a database sequence is neither under concurrent commits).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Unavailable
from core.store.schema import counters

#: How far the clock may stand behind the store's last time before we stop: clocks of two nodes differ a little.
CLOCK_TOLERANCE_MS: Final = 1_000

LAST_TIME: Final = "last_time_ms"


async def take(connection: AsyncConnection, name: str, count: int = 1) -> int:
    """Reserves `count` consecutive numbers of counter `name` and returns the first; counters start at 1."""
    statement = (
        update(counters)
        .where(counters.c.name == name)
        .values(value=counters.c.value + count)
        .returning(counters.c.value)
    )
    last = (await connection.execute(statement)).scalar_one_or_none()
    if last is None:
        await connection.execute(insert(counters).values(name=name, value=count))
        last = count
    return int(last) - count + 1


async def current(connection: AsyncConnection, name: str) -> int:
    """The last number given out; 0 before the first."""
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


async def advance_time(connection: AsyncConnection, now_ms: int) -> int:
    """Notes that something is issued at `now_ms` and returns the time to write: never before the last one.

    Raises Unavailable (code "clock_behind") where the clock went back past the tolerance.
    """
    last_ms = await current(connection, LAST_TIME)
    check_clock(now_ms, last_ms)
    if now_ms <= last_ms:
        return last_ms
    await connection.execute(update(counters).where(counters.c.name == LAST_TIME).values(value=now_ms))
    if last_ms == 0:
        await connection.execute(insert(counters).values(name=LAST_TIME, value=now_ms))
    return now_ms
