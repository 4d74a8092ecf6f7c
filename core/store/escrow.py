"""The three stores of key management: spare keys, keys in use, history.

Owns which store a key is in: spare keys have rows of their own until they are taken; a key in use belongs to an
encryption certificate, and becomes history when that ends. Nothing here is ever deleted but a spare key that is taken.
Knows wrapped bytes; not what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import NotFound
from core.store import bulk
from core.store.schema import escrowed_keys, spare_keys
from core.store.schema_certificates import certificate_serials, certificates, of_identity

_IN_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """An encryption key as it is kept. `public_key`: 65 bytes; `wrapped`: under the master key."""

    public_key: bytes
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """How many keys each store holds."""

    spare: int
    in_use: int
    history: int


async def keep(connection: AsyncConnection, certificate_id: int, key: WrappedKey, *, at_ms: int) -> None:
    """Puts an encryption certificate's key into use, from where it can be recovered."""
    row = {
        "certificate_id": certificate_id,
        "public_key": key.public_key,
        "wrapped_key": key.wrapped,
        "created_at_ms": at_ms,
        "ended_at_ms": None,
    }
    await connection.execute(insert(escrowed_keys).values(row))


async def keep_many(connection: AsyncConnection, kept: Sequence[tuple[int, WrappedKey]], *, at_ms: int) -> None:
    """As `keep`, for many certificates by row id (PostgreSQL: COPY)."""
    rows = [
        {
            "certificate_id": certificate_id,
            "public_key": key.public_key,
            "wrapped_key": key.wrapped,
            "created_at_ms": at_ms,
            "ended_at_ms": None,
        }
        for certificate_id, key in kept
    ]
    await bulk.insert_rows(connection, escrowed_keys, rows)


async def get_many(connection: AsyncConnection, certificate_ids: Sequence[int]) -> dict[int, WrappedKey]:
    """The keys of those of these encryption certificates that have one in care."""
    c = escrowed_keys.c
    found = {}
    for start in range(0, len(certificate_ids), _IN_CHUNK):
        these = c.certificate_id.in_(certificate_ids[start : start + _IN_CHUNK])
        rows = await connection.execute(select(c.certificate_id, c.public_key, c.wrapped_key).where(these))
        found.update({row.certificate_id: WrappedKey(row.public_key, row.wrapped_key) for row in rows})
    return found


async def get(connection: AsyncConnection, certificate_id: int) -> WrappedKey:
    """The key of an encryption certificate, in use or history. Raises NotFound (code "key_not_escrowed")."""
    c = escrowed_keys.c
    row = (await connection.execute(select(escrowed_keys).where(c.certificate_id == certificate_id))).one_or_none()
    if row is None:
        raise NotFound("the certificate's key is not in the care of this service", code="key_not_escrowed")
    return WrappedKey(row.public_key, row.wrapped_key)


async def end(connection: AsyncConnection, certificate_ids: Sequence[int], *, at_ms: int) -> None:
    """Moves the keys of these certificates to history; those that are there stay, as does what was never escrowed."""
    c = escrowed_keys.c
    ending = update(escrowed_keys).where(c.certificate_id.in_(certificate_ids), c.ended_at_ms.is_(None))
    await connection.execute(ending.values(ended_at_ms=at_ms))


async def end_expired(connection: AsyncConnection, *, at_ms: int, limit: int) -> int:
    """Moves at most `limit` keys whose certificate has run out to history; returns how many."""
    e = escrowed_keys.c
    expired = (
        select(e.certificate_id)
        .join(certificate_serials, certificate_serials.c.id == e.certificate_id)
        .join(certificates, of_identity)
        .where(e.ended_at_ms.is_(None), certificates.c.not_after_ms < at_ms)
        .limit(limit)
    )
    moved = update(escrowed_keys).where(e.certificate_id.in_(expired), e.ended_at_ms.is_(None))
    return int((await connection.execute(moved.values(ended_at_ms=at_ms))).rowcount)


async def add_spare(connection: AsyncConnection, keys: Sequence[WrappedKey], *, at_ms: int) -> None:
    """Adds keys made in advance."""
    rows = [{"public_key": key.public_key, "wrapped_key": key.wrapped, "created_at_ms": at_ms} for key in keys]
    if rows:
        await connection.execute(insert(spare_keys), rows)


async def take_spares(connection: AsyncConnection, count: int) -> list[WrappedKey]:
    """Up to `count` spare keys, the oldest, which nobody else gets once the caller's transaction is committed."""
    oldest = select(spare_keys.c.id).order_by(spare_keys.c.id).limit(count).with_for_update(skip_locked=True)
    taken = delete(spare_keys).where(spare_keys.c.id.in_(oldest))
    rows = await connection.execute(taken.returning(spare_keys.c.public_key, spare_keys.c.wrapped_key))
    return [WrappedKey(row.public_key, row.wrapped_key) for row in rows]


async def count_spare(connection: AsyncConnection) -> int:
    """How many spare keys there are."""
    return int((await connection.execute(select(func.count()).select_from(spare_keys))).scalar_one())


async def counts(connection: AsyncConnection) -> StoreCounts:
    """The three stores' sizes; looks through all of them."""
    e = escrowed_keys.c
    used = select(func.count(), func.count(e.ended_at_ms)).select_from(escrowed_keys)
    whole, ended = (await connection.execute(used)).one()
    return StoreCounts(await count_spare(connection), int(whole) - int(ended), int(ended))
