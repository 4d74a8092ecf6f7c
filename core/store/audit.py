"""Keeps the audit record (see core.audit for its shape): append and verify; there is no update and no delete."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import GENESIS, AuditEvent, chain, encode_detail
from core.store import counters
from core.store.schema import audit


async def append(connection: AsyncConnection, event: AuditEvent, *, at_ms: int) -> None:
    """Adds a row, chained to the one before it, in the caller's transaction."""
    seq = await counters.take(connection, "audit")
    previous = GENESIS
    if seq > 1:
        previous = (await connection.execute(select(audit.c.hash).where(audit.c.seq == seq - 1))).scalar_one()
    detail = encode_detail(event)
    row = {
        "seq": seq,
        "at_ms": at_ms,
        "actor": event.actor,
        "action": event.action,
        "subject": event.subject,
        "outcome": event.outcome,
        "detail": detail,
        "hash": chain(previous, seq, at_ms, event, detail),
    }
    await connection.execute(insert(audit).values(row))


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk over the record found. `broken_at`: the first row that does not fit, None where all do."""

    rows: int
    broken_at: int | None
    head: bytes


async def verify(connection: AsyncConnection) -> Verification:
    """Walks the whole record and checks every link, the numbering, and the end against the counter."""
    head, expected = GENESIS, 1
    rows = await connection.stream(select(audit).order_by(audit.c.seq))
    async for row in rows:
        event = AuditEvent(row.actor, row.action, row.subject, row.outcome)
        if row.seq != expected or chain(head, row.seq, row.at_ms, event, row.detail) != row.hash:
            return Verification(expected - 1, expected, head)
        head, expected = row.hash, expected + 1
    if await counters.current(connection, "audit") != expected - 1:
        return Verification(expected - 1, expected, head)
    return Verification(expected - 1, None, head)
