"""Hardware modules as operators want them, and as each running process says that they stand.

An order is for a device, by the name that the settings of every node give it, and holds until the next one; a new
process obeys it from its start. A report is one process's word on one device. Knows names and numbers; what draining
is, is said in signer.engine.sdf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store import counters, feed
from core.store.schema import hsm_orders, hsm_reports
from core.store.upsert import upsert


@dataclass(frozen=True, slots=True)
class Order:
    """A row. `number` grows with every order, whatever its device."""

    device: str
    drained: bool
    number: int
    actor: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Report:
    """A row. `number`: the last order that the worker has carried out; `trouble`: why not in full, where it was not.

    reason: why the device is out. refused_keys: indexes of keys that the device refuses, with a space between.
    """

    worker: str
    device: str
    state: str
    number: int
    sessions: int
    sessions_wanted: int
    abandoned: int
    trouble: str | None
    reason: str | None
    refused_keys: str
    at_ms: int


async def order(connection: AsyncConnection, device: str, *, drained: bool, actor: str, at_ms: int) -> Order:
    """Says how a device is wanted from this commit on, and says so in the feed."""
    made = Order(device, drained, await counters.take(connection, "hsm_order"), actor, at_ms)
    values = asdict(made)
    statement = upsert(connection, hsm_orders).values(values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=values))
    await feed.append(connection, [feed.FeedChange("hsm", subject_id=device)], at_ms=at_ms)
    return made


async def orders(connection: AsyncConnection) -> dict[str, Order]:
    """The order in force for each device that ever had one."""
    rows = await connection.execute(select(*(hsm_orders.c[field.name] for field in fields(Order))))
    return {row.device: Order(*row) for row in rows}


async def report(connection: AsyncConnection, reports: Sequence[Report]) -> None:
    """Replaces what a worker said of its devices before."""
    for one in reports:
        values: dict[str, Any] = asdict(one)
        statement = upsert(connection, hsm_reports).values(values)
        await connection.execute(statement.on_conflict_do_update(index_elements=["worker", "device"], set_=values))


async def reports(connection: AsyncConnection, *, since_ms: int) -> list[Report]:
    """What workers have said since then, by worker and device."""
    columns = [hsm_reports.c[field.name] for field in fields(Report)]
    statement = select(*columns).where(hsm_reports.c.at_ms >= since_ms)
    return [Report(*row) for row in await connection.execute(statement.order_by("worker", "device"))]


async def forget_worker(connection: AsyncConnection, worker: str, *, older_than_ms: int) -> None:
    """A worker ends: its reports go, and those of workers that said nothing for so long."""
    gone = (hsm_reports.c.worker == worker) | (hsm_reports.c.at_ms < older_than_ms)
    await connection.execute(delete(hsm_reports).where(gone))
