"""Answers that were given, by caller and idempotency key, so that a retry gets the same one (rule 11)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store import tail
from core.store.schema import idempotency
from core.store.upsert import hold


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and body as they were given."""

    status: int
    body: bytes


async def recall(connection: AsyncConnection, caller: str, key: str, request_digest: bytes) -> Answer | None:
    """The answer given to this request before.

    Within a write transaction, waits for another one that is about to answer the same. Raises Conflict (code
    "idempotency_key") where the key was used for another request.
    """
    if tail.writing(connection):
        await hold(connection, "idempotency", caller, key)
    scope = (idempotency.c.caller == caller) & (idempotency.c.key == key)
    row = (await connection.execute(select(idempotency).where(scope))).one_or_none()
    if row is None:
        return None
    if row.request_digest != request_digest:
        raise Conflict("that Idempotency-Key was used for another request", code="idempotency_key")
    return Answer(row.status, row.body)


async def remember(
    connection: AsyncConnection, caller: str, key: str, request_digest: bytes, answer: Answer, *, at_ms: int
) -> None:
    """Keeps the answer, in the transaction that did what it speaks of."""
    row = {
        "caller": caller,
        "key": key,
        "request_digest": request_digest,
        "status": answer.status,
        "body": answer.body,
        "created_at_ms": at_ms,
    }
    await connection.execute(insert(idempotency).values(row))
