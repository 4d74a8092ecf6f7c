"""Commits a number at an interval, so that a replica which replays nothing for longer knows that it is cut off."""

from __future__ import annotations

import asyncio

import structlog

from core.clock import Clock
from core.errors import QianyanError
from core.store.database import Database
from core.store.schema import counters
from core.store.upsert import upsert

_NAME = "heartbeat_ms"
_log = structlog.get_logger()


async def run(database: Database, clock: Clock, stop: asyncio.Event) -> None:
    """Until `stop`; returns at once where the settings ask for none. A failure is logged and tried again."""
    interval_s = database.target.settings.heartbeat_s
    while interval_s and not stop.is_set():
        try:
            await beat(database, clock())
        except QianyanError as error:
            _log.warning("heartbeat_failed", code=error.code, detail=error.detail)
        try:
            await asyncio.wait_for(stop.wait(), interval_s)
        except TimeoutError:
            continue


async def beat(database: Database, now_ms: int) -> None:
    """One commit. Raises Unavailable."""
    async with database.write() as connection:
        statement = upsert(connection, counters).values(name=_NAME, value=now_ms)
        statement = statement.on_conflict_do_update(index_elements=["name"], set_={"value": now_ms})
        await connection.execute(statement)
