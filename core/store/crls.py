"""CRLs that were issued: numbers strictly increase per authority and partition, whoever builds (DESIGN rule 4)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store import feed
from core.store.schema import certificates, crls
from core.store.schema import feed as feed_table


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


@dataclass(frozen=True, slots=True)
class CrlSummary:
    """A row without the CRL itself; `size` is its length in bytes."""

    authority_id: str
    partition: int
    number: int
    this_update_ms: int
    next_update_ms: int
    feed_seq: int
    entries: int
    size: int


async def summaries(connection: AsyncConnection) -> list[CrlSummary]:
    """The newest full CRL of every scope that has one."""
    c = crls.c
    newest = (
        select(c.authority_id, c.partition, func.max(c.number).label("number"))
        .where(c.base_number.is_(None))
        .group_by(c.authority_id, c.partition)
        .subquery()
    )
    same = (
        (c.authority_id == newest.c.authority_id) & (c.partition == newest.c.partition) & (c.number == newest.c.number)
    )
    columns = (c.authority_id, c.partition, c.number, c.this_update_ms, c.next_update_ms, c.feed_seq, c.entries)
    statement = select(*columns, func.length(c.crl).label("size")).join(newest, same)
    return [CrlSummary(**row._mapping) for row in await connection.execute(statement)]


@dataclass(frozen=True, slots=True)
class StatusChange:
    """One revocation, hold or release of the feed, with the scope whose CRL it changes."""

    seq: int
    kind: str
    authority_id: str
    partition: int
    serial: int
    at_ms: int


async def status_changes(
    connection: AsyncConnection, after_seq: int, scope: tuple[str, int] | None = None
) -> list[StatusChange]:
    """Revocations, holds and releases after `after_seq`, in order; of one (authority, partition) where given."""
    c, f = certificates.c, feed_table.c
    same = (f.authority_id == c.authority_id) & (f.serial == c.serial)
    statement = (
        select(f.seq, f.kind, f.authority_id, c.partition, f.serial, f.at_ms)
        .join(certificates, same)
        .where(f.seq > after_seq, f.kind.in_(("revoked", "held", "released")))
        .order_by(f.seq)
    )
    if scope is not None:
        statement = statement.where(f.authority_id == scope[0], c.partition == scope[1])
    rows = await connection.stream(statement)
    return [
        StatusChange(seq, kind, authority_id, partition, int.from_bytes(serial, "big"), at_ms)
        async for seq, kind, authority_id, partition, serial, at_ms in rows
    ]


async def prune(connection: AsyncConnection, authority_id: str, partition: int, *, keep: int) -> int:
    """Removes full CRLs of a scope but the newest `keep` (at least one) and returns how many went."""
    c = crls.c
    scope = (c.authority_id == authority_id) & (c.partition == partition) & c.base_number.is_(None)
    numbers = select(c.number).where(scope).order_by(c.number.desc()).offset(max(keep, 1) - 1).limit(1)
    oldest_kept = (await connection.execute(numbers)).scalar_one_or_none()
    if oldest_kept is None:
        return 0
    return (await connection.execute(delete(crls).where(scope, c.number < oldest_kept))).rowcount
