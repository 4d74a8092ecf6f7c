"""Answers that were given, by caller and idempotency key, so that a retry gets the same one (rule 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store import bulk, tail
from core.store.schema import idempotency
from core.store.upsert import hold, hold_many


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and body as they were given."""

    status: int
    body: bytes


def _used() -> Conflict:
    return Conflict("that Idempotency-Key was used for another request", code="idempotency_key")


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
        raise _used()
    return Answer(row.status, row.body)


@dataclass(frozen=True, slots=True)
class Question:
    """A request that may have been answered before."""

    caller: str
    key: str
    digest: bytes


async def recall_many(connection: AsyncConnection, asked: Sequence[Question]) -> list[Answer | Conflict | None]:
    """As `recall`, for many at once and in order; a Conflict is returned in its place, not raised."""
    if not asked:
        return []
    if tail.writing(connection):
        await hold_many(connection, [("idempotency", one.caller, one.key) for one in asked])
    c = idempotency.c
    these = tuple_(c.caller, c.key).in_([(one.caller, one.key) for one in asked])
    known = {(row.caller, row.key): row for row in await connection.execute(select(idempotency).where(these))}
    found: list[Answer | Conflict | None] = []
    for one in asked:
        row = known.get((one.caller, one.key))
        if row is not None and row.request_digest != one.digest:
            found.append(_used())
        else:
            found.append(None if row is None else Answer(row.status, row.body))
    return found


async def remember_many(
    connection: AsyncConnection, answered: Sequence[tuple[Question, Answer]], *, at_ms: int
) -> None:
    """As `remember`, for many at once."""
    rows = [
        {
            "caller": question.caller,
            "key": question.key,
            "request_digest": question.digest,
            "status": answer.status,
            "body": answer.body,
            "created_at_ms": at_ms,
        }
        for question, answer in answered
    ]
    await bulk.insert_rows(connection, idempotency, rows)


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
