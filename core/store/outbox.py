"""The transactional outbox: what has to be published elsewhere, written with what caused it.

Rows are numbered at the end of their transaction (core.store.tail), so numbers have no gaps and are in commit order:
who has read up to a number has missed nothing before it. Each target remembers how far it has got by itself
(core.store.publication). Delivery is at least once; a row names what it is about and does not carry it, and whoever
delivers brings the target to what the store says by then, so that a second delivery changes nothing.

| topic | reference | written with |
| --- | --- | --- |
| `certificate` | `AUTHORITY/SERIAL` (hex) | issuance, revocation, hold, release; also of authorities and OCSP signers |
| `crl` | `AUTHORITY/PARTITION/NUMBER` | publication of a full or delta CRL |
| `authority` | `AUTHORITY` | an authority that has, or gets, its certificate |
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store import counters, tail
from core.store.schema import outbox

#: The counter that numbers the rows.
COUNTER = "outbox"


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row; `created_at_ms` is the time of its transaction."""

    id: int
    topic: str
    reference: str
    created_at_ms: int


async def put(connection: AsyncConnection, topic: str, reference: str, *, at_ms: int) -> None:
    """Adds one thing to publish, numbered when the transaction ends; see the module for topics and references."""
    tail.of(connection).outbox.append(tail.PendingOutbox(topic, reference, at_ms))


async def head(connection: AsyncConnection) -> int:
    """The last number; 0 where nothing was ever written."""
    return await counters.current(connection, COUNTER)


async def first(connection: AsyncConnection) -> int | None:
    """The lowest number that is still there."""
    value: int | None = (await connection.execute(select(func.min(outbox.c.id)))).scalar_one()
    return value


async def read_after(connection: AsyncConnection, position: int, *, limit: int) -> list[OutboxRow]:
    """Rows after `position`, in order, at most `limit`."""
    await tail.flush(connection)
    statement = select(outbox).where(outbox.c.id > position).order_by(outbox.c.id).limit(limit)
    return [OutboxRow(*row) for row in await connection.execute(statement)]


async def prune(connection: AsyncConnection, *, through: int, older_than_ms: int, limit: int) -> int:
    """Removes at most `limit` rows up to number `through` that are older; returns how many went."""
    c = outbox.c
    old = select(c.id).where(c.id <= through, c.created_at_ms < older_than_ms).order_by(c.id).limit(limit)
    return (await connection.execute(delete(outbox).where(c.id.in_(old)))).rowcount
