"""CRLs that were issued: numbers strictly increase per authority and partition, whoever builds (rule 4).

A full CRL and the delta that is made with it have the same number. What goes into CRLs is read in core.store.listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store import feed, tail
from core.store.identified import rows_of
from core.store.schema import crls
from core.store.schema import feed as feed_table
from core.store.schema_certificates import certificate_serials, certificates
from core.store.upsert import hold

#: Full CRLs that stay whatever `prune` is told: the newest, and the one before it, which it was checked against.
_ALWAYS = 2


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


def _scope(authority_id: str, partition: int, kind: str = "full") -> Any:
    c = crls.c
    return (c.authority_id == authority_id) & (c.partition == partition) & (c.kind == kind)


async def latest(
    connection: AsyncConnection, authority_id: str, partition: int, *, delta: bool = False
) -> CrlRecord | None:
    """The full CRL, or the delta CRL, with the highest number."""
    scope = _scope(authority_id, partition, "delta" if delta else "full")
    row = (
        await connection.execute(select(*_COLUMNS).where(scope).order_by(crls.c.number.desc()).limit(1))
    ).one_or_none()
    return None if row is None else _record(row)


async def publish(
    connection: AsyncConnection, record: CrlRecord, *, at_ms: int, delta: CrlRecord | None = None
) -> None:
    """Records a checked CRL, the delta of the same number, and their feed entry: from the commit on they are served.

    Raises Conflict (code "crl_number") where its number is not past every number of its scope, and (code "crl_feed")
    where it was built from an older feed position than the one before it.
    """
    await hold(connection, "crl", record.authority_id, str(record.partition))
    previous = await newest(connection, record.authority_id, record.partition)
    if previous is not None and record.number <= previous.number:
        raise Conflict("a CRL with that number or a later one is published already", code="crl_number")
    if previous is not None and record.feed_seq < previous.feed_seq:
        raise Conflict("the CRL is built from older data than the one before it", code="crl_feed")
    try:
        for kind, row in (("full", record), ("delta", delta)):
            if row is not None:
                values = {c.name: getattr(row, c.name) for c in _COLUMNS}
                await connection.execute(insert(crls).values(**values, kind=kind))
    except IntegrityError as error:
        raise Conflict("a CRL with that number is published already", code="crl_number") from error
    change = feed.FeedChange("crl", record.authority_id, subject_id=str(record.partition))
    await feed.append(connection, [change], at_ms=at_ms)


async def dated_alone(connection: AsyncConnection, record: CrlRecord) -> bool:
    """Whether no earlier CRL of its scope and kind has its thisUpdate, so that the date tells it from all of them."""
    c = crls.c
    kind = "full" if record.base_number is None else "delta"
    same = (c.this_update_ms == record.this_update_ms) & (c.number < record.number)
    statement = select(c.number).where(_scope(record.authority_id, record.partition, kind), same).limit(1)
    return (await connection.execute(statement)).first() is None


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


_SUMMARY = (
    *(crls.c[f.name] for f in fields(CrlSummary) if f.name != "size"),
    func.length(crls.c.crl).label("size"),
)


async def summaries(connection: AsyncConnection, *, delta: bool = False) -> list[CrlSummary]:
    """The newest full CRL, or delta CRL, of every scope that has one."""
    c = crls.c
    kind = "delta" if delta else "full"
    newest_of = (
        select(c.authority_id, c.partition, func.max(c.number).label("number"))
        .where(c.kind == kind)
        .group_by(c.authority_id, c.partition)
        .subquery()
    )
    same = (
        (c.authority_id == newest_of.c.authority_id)
        & (c.partition == newest_of.c.partition)
        & (c.number == newest_of.c.number)
    )
    statement = select(*_SUMMARY).join(newest_of, same).where(c.kind == kind)
    return [CrlSummary(**row._mapping) for row in await connection.execute(statement)]


async def newest(connection: AsyncConnection, authority_id: str, partition: int) -> CrlSummary | None:
    """The full CRL with the highest number, without its bytes."""
    statement = select(*_SUMMARY).where(_scope(authority_id, partition)).order_by(crls.c.number.desc()).limit(1)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else CrlSummary(**row._mapping)


async def base_for(
    connection: AsyncConnection, authority_id: str, partition: int, *, from_ms: int
) -> CrlSummary | None:
    """The full CRL that the next delta is for: the base of the newest delta, while that is not from before `from_ms`;
    else the oldest one that is not; None where there is none."""
    scope = _scope(authority_id, partition)
    c = crls.c
    of_delta = (
        select(c.base_number)
        .where(_scope(authority_id, partition, "delta"))
        .order_by(c.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    recent = select(*_SUMMARY).where(scope, c.this_update_ms >= from_ms)
    row = (await connection.execute(recent.where(c.number == of_delta))).one_or_none()
    if row is None:
        row = (await connection.execute(recent.order_by(c.number).limit(1))).one_or_none()
    return None if row is None else CrlSummary(**row._mapping)


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
    await tail.flush(connection)
    c, f, s = certificates.c, feed_table.c, certificate_serials.c
    wanted = [f.seq > after_seq, f.kind.in_(("revoked", "held", "released"))]
    if scope is not None:
        wanted.append(f.authority_id == scope[0])
    columns = (f.seq, f.kind, f.authority_id, c.partition, f.serial, f.at_ms)
    same = (f.authority_id == s.authority_id) & (f.serial == s.serial)
    statement = rows_of(connection, columns, *wanted, before=feed_table, on=same).order_by(f.seq)
    rows = await connection.stream(statement)
    return [
        StatusChange(seq, kind, authority_id, partition, int.from_bytes(serial, "big"), at_ms)
        async for seq, kind, authority_id, partition, serial, at_ms in rows
        if scope is None or partition == scope[1]
    ]


async def prune(
    connection: AsyncConnection, authority_id: str, partition: int, *, keep: int, keep_bytes: int | None = None
) -> int:
    """Removes full CRLs of a scope but the newest `keep` (at least one) and returns how many went; old deltas, too.

    keep_bytes: how much those that are kept may have together, the newest two whatever they have. The base of the
    newest delta stays.
    """
    c = crls.c
    statement = select(c.number, func.length(c.crl)).where(_scope(authority_id, partition)).order_by(c.number.desc())
    rows = (await connection.execute(statement)).all()
    kept = _kept([(int(number), int(size)) for number, size in rows], max(keep, 1), keep_bytes)
    if kept == len(rows):
        return 0
    oldest = rows[kept - 1][0]
    deltas = _scope(authority_id, partition, "delta")
    bases = (
        (await connection.execute(select(c.base_number).where(deltas).order_by(c.number.desc()).limit(1)))
        .scalars()
        .all()
    )
    await connection.execute(delete(crls).where(deltas, c.number < oldest))
    gone = delete(crls).where(_scope(authority_id, partition), c.number < oldest, c.number.not_in(bases))
    return (await connection.execute(gone)).rowcount


def _kept(rows: Sequence[tuple[int, int]], keep: int, keep_bytes: int | None) -> int:
    """How many of the newest rows (number, size) stay."""
    total = 0
    for place, (_, size) in enumerate(rows):
        total += size
        if place >= keep or (place >= _ALWAYS and keep_bytes is not None and total > keep_bytes):
            return place
    return len(rows)
