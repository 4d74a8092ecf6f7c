"""CRLs that were issued: numbers strictly increase per authority and partition, whoever builds (DESIGN rule 4)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store import feed
from core.store.schema import crls


@dataclass(frozen=True, slots=True)
class CrlRecord:
    """A row. `base_number` None: a full CRL. `feed_seq`: the feed position that it reflects. `crl`: DER."""

    authority_id: str
    partition: int
    number: int
    base_number: int | None
    this_update_ms: int
    next_update_ms: int
    feed_seq: int
    entries: int
    crl: bytes


_COLUMNS = [crls.c[field.name] for field in fields(CrlRecord)]


def _record(row: Any) -> CrlRecord:
    return CrlRecord(**row._mapping)


async def latest(connection: AsyncConnection, authority_id: str, partition: int) -> CrlRecord | None:
    """The full CRL with the highest number."""
    scope = (crls.c.authority_id == authority_id) & (crls.c.partition == partition)
    statement = select(*_COLUMNS).where(scope, crls.c.base_number.is_(None)).order_by(crls.c.number.desc()).limit(1)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def publish(connection: AsyncConnection, record: CrlRecord, *, at_ms: int) -> None:
    """Records a checked CRL and its feed entry: from the commit on it is the one that is served.

    Raises Conflict (code "crl_number") where its number is not past every number of its scope, and (code "crl_feed")
    where it was built from an older feed position than the one before it.
    """
    previous = await latest(connection, record.authority_id, record.partition)
    if previous is not None and record.number <= previous.number:
        raise Conflict("a CRL with that number or a later one is published already", code="crl_number")
    if previous is not None and record.feed_seq < previous.feed_seq:
        raise Conflict("the CRL is built from older data than the one before it", code="crl_feed")
    try:
        await connection.execute(insert(crls).values({c.name: getattr(record, c.name) for c in _COLUMNS}))
    except IntegrityError as error:
        raise Conflict("a CRL with that number is published already", code="crl_number") from error
    change = feed.FeedChange("crl", record.authority_id, subject_id=str(record.partition))
    await feed.append(connection, [change], at_ms=at_ms)
