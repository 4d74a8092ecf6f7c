"""Copies a whole store into an empty one, as from SQLite to PostgreSQL, and shows that nothing is missing.

The source is read as one snapshot; nothing else may write to it meanwhile. All tables go in one transaction, which is
committed only where each has as many rows as the source, references hold, the feed has no gap and the audit chain
verifies up to the same head. Knows the tables from the schema, so a table that is added is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Table, and_, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import SettingsError
from core.store import audit, bulk, partitions, tail
from core.store.database import Database
from core.store.schema import counters, feed, holders, metadata
from core.store.schema_certificates import certificate_serials, certificates, of_identity
from core.store.upsert import on_postgres

_AT_ONCE: Final = 5_000

#: Called with a table's name, how many of its rows are copied, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Condition:
    """What a check of a store found. `rows`: by table. `audit_head`: hash of the last audit row."""

    revision: str
    rows: dict[str, int]
    feed_head: int
    audit_rows: int
    audit_head: bytes
    faults: tuple[str, ...]


async def check(database: Database) -> Condition:
    """Looks through the whole store: counts, feed, audit chain, pairs. Raises Unavailable."""
    async with database.read() as connection:
        return await _examine(connection, await database.revision() or "none")


async def _examine(connection: AsyncConnection, revision: str) -> Condition:
    if on_postgres(connection):
        await connection.execute(tail.NO_TIME_LIMIT)
    # A plain str: SQLAlchemy's names are a class of its own, which is no key of a JSON object.
    rows = {f"{table.name}": await _count(connection, table) for table in metadata.sorted_tables}
    faults = []
    stored = {row.name: int(row.value) for row in await connection.execute(select(counters))}
    head = stored.get("feed", 0)
    lowest, highest = (await connection.execute(select(func.min(feed.c.seq), func.max(feed.c.seq)))).one()
    if (highest or 0) != head or (rows["feed"] and highest - lowest + 1 != rows["feed"]):
        faults.append(f"the change feed has a gap, or does not end at {head} as its counter says")
    verification = await audit.verify(connection)
    if verification.broken_at is not None:
        faults.append(f"the audit record is broken at row {verification.broken_at}")
    faults += await _faulty_certificates(connection, stored.get(partitions.KEPT_FROM, 0))
    return Condition(revision, rows, head, verification.rows, verification.head, tuple(faults))


async def _faulty_certificates(connection: AsyncConnection, kept_from: int) -> list[str]:
    """What is wrong with rows that no foreign key of the database watches (core/store/schema_certificates.py)."""
    c, s, other = certificates.c, certificate_serials.c, certificates.alias()
    same = and_(of_identity, c.authority_id == s.authority_id, c.serial == s.serial)
    whole = certificate_serials.outerjoin(certificates, same)
    pairs = certificates.outerjoin(other, c.pair_id == other.c.id)
    looks = (
        ("certificates that were issued are missing", whole, and_(c.id.is_(None), s.status_month >= kept_from * 12)),
        (
            "certificates have no identity of their own",
            certificates.outerjoin(certificate_serials, same),
            s.id.is_(None),
        ),
        (
            "certificates name a pair that does not name them",
            pairs.outerjoin(certificate_serials, c.pair_id == s.id),
            and_(c.pair_id.is_not(None), or_(s.id.is_(None), other.c.pair_id != c.id)),
        ),
        (
            "certificates name a holder that there is not",
            certificates.outerjoin(holders, c.holder_id == holders.c.id),
            and_(c.holder_id.is_not(None), holders.c.id.is_(None)),
        ),
    )
    found = []
    for fault, rows, wrong in looks:
        if (await connection.execute(select(func.count()).select_from(rows).where(wrong))).scalar_one():
            found.append(fault)
    return found


async def _count(connection: AsyncConnection, table: Table) -> int:
    return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


async def copy(source: Database, target: Database, progress: Progress) -> Condition:
    """Copies everything; returns what the check of the copy found.

    Raises SettingsError where the target is not empty (code "store_exists"), or the source or the copy has a fault
    (code "store_copy"): nothing was copied then.
    """
    async with source.read() as origin:
        revision = await source.revision() or "none"
        before = await _examine(origin, revision)
        if before.faults:
            raise SettingsError(f"the store is not copied: {before.faults[0]}", code="store_copy")
        async with target.write() as copying:
            await _require_empty(copying)
            await partitions.ensure(copying, await _months(origin))
            for table in metadata.sorted_tables:
                await _copy_table(origin, copying, table, before.rows[table.name], progress)
            if on_postgres(copying):
                await _set_sequences(copying)
            after = await _examine(copying, revision)
            _compare(before, after)
    return after


async def _require_empty(connection: AsyncConnection) -> None:
    for table in metadata.sorted_tables:
        if table is not counters and await _count(connection, table):
            raise SettingsError(f"the target store is not empty: {table.name} has rows", code="store_exists")
    await connection.execute(counters.delete())


async def _months(connection: AsyncConnection) -> list[int]:
    """The months in which certificates end."""
    return list((await connection.execute(select(certificates.c.status_month).distinct())).scalars())


async def _copy_table(
    origin: AsyncConnection, copying: AsyncConnection, table: Table, total: int, progress: Progress
) -> None:
    """Rows in the order of their key, so that a row is never before one it refers to; pairs are linked afterwards."""
    late = [column for column in table.c if any(key.column.table is table for key in column.foreign_keys)]
    links: list[dict[str, Any]] = []
    done = 0
    result = await origin.stream(select(table).order_by(*table.primary_key.columns))
    async for chunk in result.mappings().partitions(_AT_ONCE):
        rows = [dict(row) for row in chunk]
        for row in rows:
            if any(row[column.name] is not None for column in late):
                links.append({"of_" + c.name: row[c.name] for c in (*table.primary_key.columns, *late)})
                row.update({column.name: None for column in late})
        await bulk.insert_rows(copying, table, rows)
        done += len(rows)
        progress(table.name, done, total)
    if links:
        await _link(copying, table, [column.name for column in late], links)


async def _link(copying: AsyncConnection, table: Table, late: list[str], links: list[dict[str, Any]]) -> None:
    keys = [column.name for column in table.primary_key.columns]
    settings = ", ".join(f"{name} = :of_{name}" for name in late)
    where = " AND ".join(f"{name} = :of_{name}" for name in keys)
    statement = text(f"UPDATE {table.name} SET {settings} WHERE {where}")  # noqa: S608 - names of our schema
    for start in range(0, len(links), _AT_ONCE):
        await copying.execute(statement, links[start : start + _AT_ONCE])


async def _set_sequences(connection: AsyncConnection) -> None:
    """Lets generated ids go on after the copied ones."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        statement = text(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'),"  # noqa: S608 - our schema
            f" greatest((SELECT max({column.name}) FROM {table.name}), 1))"
            f" WHERE pg_get_serial_sequence('{table.name}', '{column.name}') IS NOT NULL"
        )
        await connection.execute(statement)


def _compare(before: Condition, after: Condition) -> None:
    faults = list(after.faults)
    faults += [
        f"{name} has {after.rows[name]} rows in the copy and {count} in the store"
        for name, count in before.rows.items()
        if after.rows[name] != count
    ]
    if (before.audit_head, before.feed_head) != (after.audit_head, after.feed_head):
        faults.append("the copy's audit record or feed ends elsewhere")
    if faults:
        raise SettingsError(f"the copy is not good and was undone: {faults[0]}", code="store_copy")
