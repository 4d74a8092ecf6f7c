"""The business done on certificates: what followed what, for whom, on what ground.

Append-only. Owns the rule that a certificate is replaced once: of two requests that would replace it, the second is
told. Knows row ids; which operations there are is the business of who writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store import bulk, statistics
from core.store.schema import certificate_events as events
from core.store.schema_certificates import certificate_serials, certificates, of_identity


@dataclass(frozen=True, slots=True)
class Event:
    """One operation. `certificate_id`: the signing certificate made, or meant; `previous_id`: the one it replaces.

    ground: the reason in the words of the one who asked, for a revocation or suspension.
    """

    certificate_id: int
    operation: str
    actor: str
    previous_id: int | None = None
    holder_id: str | None = None
    ground: str | None = None


@dataclass(frozen=True, slots=True)
class PastEvent:
    """An operation of a holder's history. `serial`, `previous_serial`: of the certificates it made and replaced."""

    id: int
    operation: str
    at_ms: int
    actor: str
    ground: str | None
    authority_id: str
    serial: int
    previous_serial: int | None


async def append(connection: AsyncConnection, event: Event, *, at_ms: int) -> None:
    """Raises Conflict (code "already_replaced") where `previous_id` was replaced by another request meanwhile."""
    row = {name: getattr(event, name) for name in Event.__dataclass_fields__} | {"at_ms": at_ms}
    try:
        await connection.execute(insert(events).values(row))
    except IntegrityError as error:
        raise Conflict("the certificate was replaced by another request", code="already_replaced") from error
    statistics.note_operation(connection, event.certificate_id, event.operation, at_ms)


async def append_many(connection: AsyncConnection, done: Sequence[Event], *, at_ms: int) -> None:
    """Appends many (PostgreSQL: COPY). Raises as `append`, and nothing of it was done then."""
    rows = [{name: getattr(event, name) for name in Event.__dataclass_fields__} | {"at_ms": at_ms} for event in done]
    try:
        await bulk.insert_rows(connection, events, rows)
    except IntegrityError as error:
        raise Conflict("a certificate was replaced by another request", code="already_replaced") from error
    for event in done:
        statistics.note_operation(connection, event.certificate_id, event.operation, at_ms)


async def successor(connection: AsyncConnection, certificate_id: int) -> int | None:
    """The row id of the certificate that replaced this one, where one did."""
    statement = select(events.c.certificate_id).where(events.c.previous_id == certificate_id)
    return (await connection.execute(statement)).scalar_one_or_none()


async def predecessor(connection: AsyncConnection, certificate_id: int) -> int | None:
    """The row id of the certificate that this one replaced, where it did, and the record of that one is still kept."""
    statement = (
        select(events.c.previous_id)
        .join(certificate_serials, certificate_serials.c.id == events.c.previous_id)
        .join(certificates, of_identity)
        .where(events.c.certificate_id == certificate_id)
    )
    return (await connection.execute(statement)).scalar_one_or_none()


async def history(
    connection: AsyncConnection, holder_id: str, *, before_id: int | None = None, limit: int = 200
) -> Sequence[PastEvent]:
    """A holder's business, newest first; `before_id` goes on behind the last one read."""
    made, replaced = certificate_serials.alias(), certificate_serials.alias()
    statement = (
        select(events, made.c.authority_id, made.c.serial, replaced.c.serial.label("previous_serial"))
        .join(made, made.c.id == events.c.certificate_id)
        .join(replaced, replaced.c.id == events.c.previous_id, isouter=True)
        .where(events.c.holder_id == holder_id)
        .order_by(events.c.id.desc())
        .limit(limit)
    )
    if before_id is not None:
        statement = statement.where(events.c.id < before_id)
    return [
        PastEvent(
            row.id,
            row.operation,
            row.at_ms,
            row.actor,
            row.ground,
            row.authority_id,
            int.from_bytes(row.serial, "big"),
            None if row.previous_serial is None else int.from_bytes(row.previous_serial, "big"),
        )
        for row in await connection.execute(statement)
    ]
