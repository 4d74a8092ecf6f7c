"""Status sets that were published, and what the store says that they must say.

Numbers strictly increase per authority over sets and deltas together, whoever builds; a delta goes with the newest set
only; nothing is published from an older feed position than what was before it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import and_, delete, func, insert, literal, or_, select, union_all
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.model import CertificateState, serial_to_bytes
from core.store import feed
from core.store.identified import rows_of
from core.store.schema import feed as feed_table
from core.store.schema import status_indexes, status_sets
from core.store.schema_certificates import certificate_serials, certificates
from core.store.upsert import among, hold

_STREAM_CHUNK: Final = 2_000
_IN_CHUNK: Final = 5_000
_MONTHS_AT_ONCE: Final = 100
_GOOD: Final = CertificateState.GOOD.value


@dataclass(frozen=True, slots=True)
class StatusSetRecord:
    """A row. A set where `base_number` is its own `number`, else a delta of that set.

    feed_seq: the feed position that it reflects; certificates: how many indexes it covers; body: the signed file.
    """

    authority_id: str
    number: int
    base_number: int
    this_update_ms: int
    next_update_ms: int
    feed_seq: int
    certificates: int
    revoked: int
    held: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """The newest set of an authority and its newest delta; every set is published with one."""

    base: StatusSetRecord
    delta: StatusSetRecord


_COLUMNS = [status_sets.c[field.name] for field in fields(StatusSetRecord)]


async def _newest(connection: AsyncConnection, condition: Any) -> StatusSetRecord | None:
    statement = select(*_COLUMNS).where(condition).order_by(status_sets.c.number.desc()).limit(1)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else StatusSetRecord(**row._mapping)


async def latest(connection: AsyncConnection, authority_id: str) -> Published | None:
    """What is published of an authority now."""
    c = status_sets.c
    base = await _newest(connection, and_(c.authority_id == authority_id, c.base_number == c.number))
    if base is None:
        return None
    of_base = and_(c.authority_id == authority_id, c.base_number == base.number, c.number > base.number)
    delta = await _newest(connection, of_base)
    assert delta is not None, "a set is published together with a delta"
    return Published(base, delta)


async def publish(connection: AsyncConnection, records: Sequence[StatusSetRecord], *, at_ms: int) -> None:
    """Records what was judged and signed: a set and its first delta, or a delta; from the commit on it is served.

    Raises Conflict (code "set_number", "set_feed", "set_base") where another builder was faster.
    """
    authority_id = records[0].authority_id
    await hold(connection, "set", authority_id)
    before = await latest(connection, authority_id)
    if before is None and records[0].base_number != records[0].number:
        raise Conflict("the set of the delta is not published", code="set_base")
    if before is not None:
        if records[0].number <= before.delta.number:
            raise Conflict("a status set with that number or a later one is published already", code="set_number")
        if records[0].feed_seq < before.delta.feed_seq:
            raise Conflict("the status set is built from older data than the one before it", code="set_feed")
        if records[0].base_number not in (records[0].number, before.base.number):
            raise Conflict("a newer set is published already", code="set_base")
    try:
        await connection.execute(
            insert(status_sets), [{c.name: getattr(record, c.name) for c in _COLUMNS} for record in records]
        )
    except IntegrityError as error:
        raise Conflict("a status set with that number is published already", code="set_number") from error
    await feed.append(connection, [feed.FeedChange("set", authority_id)], at_ms=at_ms)


async def prune(connection: AsyncConnection, authority_id: str, *, keep: int) -> None:
    """Removes deltas but the newest `keep` (at least one), and sets that no remaining delta is of but the newest."""
    c = status_sets.c
    mine = c.authority_id == authority_id
    newest = select(c.number).where(mine, c.base_number != c.number).order_by(c.number.desc())
    oldest_kept = (await connection.execute(newest.offset(max(keep, 1) - 1).limit(1))).scalar_one_or_none()
    if oldest_kept is None:
        return
    await connection.execute(delete(status_sets).where(mine, c.base_number != c.number, c.number < oldest_kept))
    used = select(func.min(c.base_number)).where(mine, c.number >= oldest_kept).scalar_subquery()
    await connection.execute(delete(status_sets).where(mine, c.base_number == c.number, c.number < used))


async def spaces(connection: AsyncConnection, authority_id: str) -> dict[int, tuple[int, int]]:
    """By month: from which index on every certificate is known, and the next index to be given."""
    c = status_indexes.c
    rows = await connection.execute(select(c.month, c.first_index, c.next_index).where(c.authority_id == authority_id))
    return {int(month): (int(first), int(following)) for month, first, following in rows}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a certificate stands in the status set, and its state as the store has it."""

    month: int
    index: int
    state: str


async def places(connection: AsyncConnection, authority_id: str, serials: Sequence[int]) -> list[Place]:
    """The places of those serials, in no order; a serial that the authority never issued has none."""
    c = certificates.c
    found: list[Place] = []
    for start in range(0, len(serials), _IN_CHUNK):
        wanted = [serial_to_bytes(serial) for serial in serials[start : start + _IN_CHUNK]]
        s = certificate_serials.c
        these = (s.authority_id == authority_id, among(connection, s.serial, wanted))
        rows = await connection.execute(rows_of(connection, (c.status_month, c.status_index, c.state), *these))
        found += [Place(*row) for row in rows if row.status_index >= 0]
    return found


#: (month, index, state, notBefore in milliseconds)
PlaceRow = tuple[int, int, str, int]


async def stream_places(
    connection: AsyncConnection, authority_id: str, *, from_month: int, partitions: int | None = None
) -> AsyncIterator[Sequence[PlaceRow]]:
    """Every certificate of the authority that ends in `from_month` or later, in chunks and in no order.

    partitions: where given, only those that are not good, found by way of the authority's partitions 0 to
    `partitions` - 1.
    """
    c = certificates.c
    statement = select(c.status_month, c.status_index, c.state, c.not_before_ms)
    statement = statement.where(c.authority_id == authority_id, c.status_index >= 0)  # below: imported, without one
    if partitions is None:
        statement = statement.where(c.status_month >= from_month)
    else:
        # Not by month, which would read every row: the sum keeps the planner to the index that has the state.
        statement = statement.where(c.status_month + 0 >= from_month)
        states = or_(c.state == CertificateState.REVOKED.value, c.state == CertificateState.HELD.value)
        statement = statement.where(c.partition.in_(range(partitions)), states)
    result = await connection.stream(statement)
    async for chunk in result.partitions(_STREAM_CHUNK):
        yield [tuple(row) for row in chunk]


async def last_indexes(connection: AsyncConnection, authority_id: str, months: Sequence[int]) -> dict[int, int]:
    """The highest index of a certificate, by month; a month without certificates has none."""
    c = certificates.c
    found = {}
    for start in range(0, len(months), _MONTHS_AT_ONCE):
        # One look into the index for each month, many in a statement; a GROUP BY would walk over every certificate.
        parts = [
            select(literal(month).label("month"), func.max(c.status_index).label("highest")).where(
                c.authority_id == authority_id, c.status_month == month
            )
            for month in months[start : start + _MONTHS_AT_ONCE]
        ]
        for month, highest in await connection.execute(union_all(*parts)):
            if highest is not None:
                found[int(month)] = int(highest)
    return found


async def last_month(connection: AsyncConnection, authority_id: str) -> int | None:
    """The latest month in which a certificate of the authority ends; None where there is none."""
    c = certificates.c
    statement = select(func.max(c.status_month)).where(c.authority_id == authority_id)
    value = (await connection.execute(statement)).scalar_one()
    return None if value is None else int(value)


async def released_since(connection: AsyncConnection, authority_id: str, after_seq: int) -> list[int]:
    """Serials whose hold ended after feed position `after_seq`."""
    f = feed_table.c
    statement = select(f.serial).where(f.seq > after_seq, f.kind == "released", f.authority_id == authority_id)
    return [int.from_bytes(serial, "big") for serial in (await connection.execute(statement)).scalars()]


@dataclass(frozen=True, slots=True)
class StatusSetSummary:
    """A row without its file; `size` is its length in bytes."""

    authority_id: str
    number: int
    base_number: int
    this_update_ms: int
    next_update_ms: int
    feed_seq: int
    certificates: int
    revoked: int
    held: int
    size: int


async def summaries(connection: AsyncConnection) -> list[StatusSetSummary]:
    """The newest delta of every authority that has a set, by authority, each followed by its set."""
    c = status_sets.c
    newest = (
        select(c.authority_id, func.max(c.number).label("number"), func.max(c.base_number).label("base"))
        .group_by(c.authority_id)
        .subquery()
    )
    columns = [column for column in _COLUMNS if column.name != "body"]
    same = and_(c.authority_id == newest.c.authority_id, or_(c.number == newest.c.number, c.number == newest.c.base))
    statement = select(*columns, func.length(c.body).label("size")).join(newest, same)
    rows = await connection.execute(statement.order_by(c.authority_id, c.number.desc()))
    return [StatusSetSummary(**row._mapping) for row in rows]
