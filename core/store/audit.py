"""Keeps the audit record (see core.audit for its shape): append, verify and find; there is no update and no delete.

What an archive has may be moved out of the store by core.store.retention, which leaves what proves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent, chain
from core.store import counters, retention, tail
from core.store.schema import audit


async def append(connection: AsyncConnection, event: AuditEvent, *, at_ms: int) -> None:
    """Adds a row in the caller's transaction; numbered and chained to the one before it when that ends."""
    tail.of(connection).audit.append((event, at_ms))


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk over the record found. `broken_at`: the first row that does not fit, None where all do."""

    rows: int
    broken_at: int | None
    head: bytes


async def verify(connection: AsyncConnection) -> Verification:
    """Walks the record as far as it is here and checks every link, the numbering, and the end against the counter."""
    await tail.flush(connection)
    pruned = await retention.newest(connection)
    head, expected = pruned.head, pruned.size + 1
    rows = await connection.stream(select(audit).where(audit.c.seq > pruned.size).order_by(audit.c.seq))
    async for row in rows:
        event = AuditEvent(row.actor, row.action, row.subject, row.outcome)
        if row.seq != expected or chain(head, row.seq, row.at_ms, event, row.detail) != row.hash:
            return Verification(expected - 1, expected, head)
        head, expected = row.hash, expected + 1
    if await counters.current(connection, "audit") != expected - 1:
        return Verification(expected - 1, expected, head)
    return Verification(expected - 1, None, head)


async def find(
    connection: AsyncConnection,
    *,
    subject: str | None = None,
    action: str | None = None,
    actor: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    before: int | None = None,
    limit: int = 1_000,
) -> list[dict[str, Any]]:
    """Rows, newest first: members as in the table but for the hash. An `action` that ends in a dot names a family.

    before: only rows numbered below; the number of the last row that was found goes on behind it.
    """
    c = audit.c
    statement = select(c.seq, c.at_ms, c.actor, c.action, c.subject, c.outcome, c.detail).order_by(c.seq.desc())
    for column, value in ((c.subject, subject), (c.actor, actor)):
        if value is not None:
            statement = statement.where(column == value)
    if action is not None:
        statement = statement.where(
            c.action.startswith(action, autoescape=True) if action.endswith(".") else c.action == action
        )
    if before is not None:
        statement = statement.where(c.seq < before)
    if since_ms is not None:
        statement = statement.where(c.at_ms >= since_ms)
    if until_ms is not None:
        statement = statement.where(c.at_ms < until_ms)
    names = ("seq", "at_ms", "actor", "action", "subject", "outcome", "detail")
    return [dict(zip(names, row, strict=True)) for row in await connection.execute(statement.limit(limit))]
