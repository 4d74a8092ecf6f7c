"""Holders of certificates, as the store keeps them: a hash to find them by, and sealed bytes.

Owns the rule that of two requests for one holder at the same time one is told: each names the version that it saw.
Nothing readable of a person is in here; what is in the bytes is known to signer.holders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound
from core.store.schema import holder_keys, holders
from core.store.upsert import among, hold, on_postgres, upsert

#: How many values an IN list gets.
_AT_ONCE = 1_000

#: PostgreSQL: one statement whatever their number, which arrays make.
_ADD_MANY = text("""
INSERT INTO holders (id, kind, number_hash, key_id, sealed, version, created_at_ms, changed_at_ms)
SELECT * FROM unnest(CAST(:id AS text[]), CAST(:kind AS text[]), CAST(:number_hash AS bytea[]),
  CAST(:key_id AS integer[]), CAST(:sealed AS bytea[]), CAST(:version AS bigint[]), CAST(:created_at_ms AS bigint[]),
  CAST(:changed_at_ms AS bigint[]))
ON CONFLICT (number_hash) DO NOTHING
RETURNING id
""")


@dataclass(frozen=True, slots=True)
class HolderRecord:
    """A row. `number_hash`: 32 bytes; `sealed`: under the holder key `key_id`; `version`: grows with each business."""

    id: str
    kind: str
    number_hash: bytes
    key_id: int
    sealed: bytes
    version: int
    created_at_ms: int
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class HolderKey:
    """A wrapped key. `purpose`: "seal" or "index"."""

    id: int
    purpose: str
    wrapped: bytes
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Touch:
    """A business done for a holder who was seen at a version; see `touch`."""

    holder_id: str
    seen_version: int
    sealed: tuple[int, bytes] | None = None


def _record(row: Row[Any]) -> HolderRecord:
    return HolderRecord(*(getattr(row, name) for name in HolderRecord.__dataclass_fields__))


def changed_meanwhile() -> Conflict:
    """What the later of two requests for one holder is told."""
    return Conflict(
        "another request changed this holder meanwhile; look what it did, then ask again", code="holder_busy"
    )


async def get(connection: AsyncConnection, holder_id: str) -> HolderRecord:
    """Raises NotFound (code "holder_unknown")."""
    row = (await connection.execute(select(holders).where(holders.c.id == holder_id))).one_or_none()
    if row is None:
        raise NotFound("there is no such holder", code="holder_unknown")
    return _record(row)


async def find(connection: AsyncConnection, number_hash: bytes) -> HolderRecord | None:
    """The holder whose kind and number have that keyed hash."""
    row = (await connection.execute(select(holders).where(holders.c.number_hash == number_hash))).one_or_none()
    return None if row is None else _record(row)


async def find_many(connection: AsyncConnection, number_hashes: Sequence[bytes]) -> dict[bytes, HolderRecord]:
    """Those of the holders with these keyed hashes that there are, by hash."""
    rows = await connection.execute(select(holders).where(among(connection, holders.c.number_hash, number_hashes)))
    return {row.number_hash: row for row in map(_record, rows)}


async def add_many(connection: AsyncConnection, records: Sequence[HolderRecord]) -> set[str]:
    """Registers each of different holders that is not registered yet; returns the ids of those that were."""
    if not records:
        return set()
    # In one order, so that two transactions with the same holders wait for each other and do not lock up.
    ordered = sorted(records, key=lambda record: record.number_hash)
    columns = tuple(HolderRecord.__dataclass_fields__)
    if on_postgres(connection):
        arrays = {name: [getattr(record, name) for record in ordered] for name in columns}
        return set((await connection.execute(_ADD_MANY, arrays)).scalars())
    rows = [{name: getattr(record, name) for name in columns} for record in ordered]
    await connection.execute(upsert(connection, holders).on_conflict_do_nothing(index_elements=["number_hash"]), rows)
    added: set[str] = set()
    for start in range(0, len(ordered), _AT_ONCE):
        ids = [record.id for record in ordered[start : start + _AT_ONCE]]
        added.update((await connection.execute(select(holders.c.id).where(holders.c.id.in_(ids)))).scalars())
    return added


async def touch_many(connection: AsyncConnection, touches: Sequence[Touch], *, at_ms: int) -> set[str]:
    """Counts a business for each of different holders that is still as it was seen; returns the ids of those."""
    touched: set[str] = set()
    for one in sorted(touches, key=lambda touch: touch.holder_id):
        try:
            await touch(connection, one.holder_id, one.seen_version, at_ms=at_ms, sealed=one.sealed)
        except Conflict:
            continue
        touched.add(one.holder_id)
    return touched


async def touch(
    connection: AsyncConnection,
    holder_id: str,
    seen_version: int,
    *,
    at_ms: int,
    sealed: tuple[int, bytes] | None = None,
) -> None:
    """Counts a business done for the holder; with `sealed` (key id, bytes), replaces what is kept of it.

    Raises Conflict (code "holder_busy") where the holder is no longer at `seen_version`.
    """
    values: dict[str, object] = {"version": seen_version + 1, "changed_at_ms": at_ms}
    if sealed is not None:
        values["key_id"], values["sealed"] = sealed
    seen = (holders.c.id == holder_id) & (holders.c.version == seen_version)
    if (await connection.execute(update(holders).where(seen).values(**values))).rowcount != 1:
        raise changed_meanwhile()


async def bump(connection: AsyncConnection, holder_id: str, *, at_ms: int) -> None:
    """Counts a business that must not fail for another one at the same time: a revocation, a suspension."""
    counted = update(holders).where(holders.c.id == holder_id)
    await connection.execute(counted.values(version=holders.c.version + 1, changed_at_ms=at_ms))


async def sealed_otherwise(
    connection: AsyncConnection, key_id: int, *, after: str = "", limit: int
) -> Sequence[HolderRecord]:
    """Holders behind the id `after` whose data is sealed under another key than `key_id`, locked until the transaction
    ends, by id."""
    others = (holders.c.key_id != key_id) & (holders.c.id > after)
    statement = select(holders).where(others).order_by(holders.c.id).limit(limit)
    return [_record(row) for row in await connection.execute(statement.with_for_update())]


async def reseal(connection: AsyncConnection, holder_id: str, key_id: int, sealed: bytes) -> None:
    """Replaces the sealed bytes of a holder that the caller has locked."""
    await connection.execute(update(holders).where(holders.c.id == holder_id).values(key_id=key_id, sealed=sealed))


async def list_keys(connection: AsyncConnection) -> Sequence[HolderKey]:
    """Every key, oldest first."""
    rows = await connection.execute(select(holder_keys).order_by(holder_keys.c.id))
    return [HolderKey(row.id, row.purpose, row.wrapped, row.created_at_ms) for row in rows]


async def drop_keys(connection: AsyncConnection, key_ids: Sequence[int]) -> None:
    """Removes keys: what is under them cannot be read again. The caller holds `lock_keys`."""
    await connection.execute(delete(holder_keys).where(holder_keys.c.id.in_(key_ids)))


async def lock_keys(connection: AsyncConnection) -> None:
    """Whoever makes keys waits here for others who do, until their transaction has ended."""
    await hold(connection, "holder_keys")


async def add_key(connection: AsyncConnection, key: HolderKey) -> None:
    """Adds a key; the caller holds `lock_keys` and has read which ids are taken."""
    row = {name: getattr(key, name) for name in HolderKey.__dataclass_fields__}
    await connection.execute(insert(holder_keys).values(row))
