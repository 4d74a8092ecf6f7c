"""Everything that is kept sealed under a holder key outside the holders' own rows: people's names, the reasons of
rejections, the messages that were signed.

Owns where these are, so that a key can be changed everywhere, and where none is left under a key it may go. Such octets
begin with the key's id (4 octets, big-endian; signer.holders.vault). A row is only replaced where it is still what was
read, so nobody is locked out meanwhile. Knows octets; not what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Column, LargeBinary, Table, and_, cast, func, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.schema import holders
from core.store.schema_registration import ra_evidence, ra_people, ra_requests

KEY_ID_BYTES: Final = 4


class Kind(StrEnum):
    """What is sealed."""

    PERSON = "person"
    REASON = "reason"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class _Place:
    """A column of a table. `key`: by what its rows are ordered; `named`: authority, and person or request."""

    table: Table
    key: tuple[Column[Any], ...]
    named: tuple[Column[Any], Column[Any]]
    sealed: Column[Any]


_PLACES: Final = {
    Kind.PERSON: _Place(
        ra_people, (ra_people.c.ra_id, ra_people.c.id), (ra_people.c.ra_id, ra_people.c.id), ra_people.c.sealed
    ),
    Kind.REASON: _Place(
        ra_requests,
        (ra_requests.c.ra_id, ra_requests.c.request_id),
        (ra_requests.c.ra_id, ra_requests.c.request_id),
        ra_requests.c.reason,
    ),
    Kind.REQUEST: _Place(
        ra_evidence, (ra_evidence.c.id,), (ra_evidence.c.ra_id, ra_evidence.c.request_id), ra_evidence.c.sealed
    ),
}


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed value, of whom it is, and where its row stands in the order."""

    kind: Kind
    key: tuple[Any, ...]
    ra_id: str
    of_id: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows in order: `looked_at` of them, with what of them is under another key. `last` None: they were the
    last."""

    found: Sequence[Sealed]
    looked_at: int
    last: tuple[Any, ...] | None


def key_octets(key_id: int) -> bytes:
    """How sealed octets name their key."""
    return key_id.to_bytes(KEY_ID_BYTES, "big")


def key_of(octets: bytes) -> int:
    """The id of the key that octets are sealed under."""
    return int.from_bytes(octets[:KEY_ID_BYTES], "big")


def archived_counter(key_id: int) -> str:
    """Name of the counter of values under a key that left the store for an archive, as they were."""
    return f"archived_key/{key_id}"


def _named_key(column: Column[Any]) -> Any:
    return cast(func.substr(column, 1, KEY_ID_BYTES), LargeBinary)


async def under_other_keys(
    connection: AsyncConnection, kind: Kind, key_id: int, *, after: tuple[Any, ...] | None, limit: int
) -> Page:
    """The next `limit` rows behind `after`, and which of them are not under `key_id`. However many rows there are, one
    statement looks at no more than `limit`."""
    place = _PLACES[kind]
    statement = select(*place.key, *place.named, place.sealed).where(place.sealed.is_not(None))
    if after is not None:
        statement = statement.where(tuple_(*place.key) > tuple_(*map(literal, after)))
    rows = (await connection.execute(statement.order_by(*place.key).limit(limit))).all()
    width, mine = len(place.key), key_octets(key_id)
    found = [
        Sealed(kind, tuple(row[:width]), row[width], row[width + 1], bytes(row[width + 2]))
        for row in rows
        if bytes(row[width + 2])[:KEY_ID_BYTES] != mine
    ]
    return Page(found, len(rows), tuple(rows[-1][:width]) if len(rows) == limit else None)


async def replace(connection: AsyncConnection, changes: Sequence[tuple[Sealed, bytes]]) -> int:
    """Writes each value anew where it is still what was read; returns how many were."""
    done = 0
    for row, sealed in changes:
        place = _PLACES[row.kind]
        same = and_(*(column == value for column, value in zip(place.key, row.key, strict=True)))
        statement = update(place.table).where(same, place.sealed == row.sealed).values({place.sealed: sealed})
        done += (await connection.execute(statement)).rowcount
    return done


async def keys_in_use(connection: AsyncConnection) -> set[int]:
    """The keys that anything is sealed under, holders' own rows among it. Reads every row's beginning."""
    found = set((await connection.execute(select(holders.c.key_id).distinct())).scalars())
    for place in _PLACES.values():
        named = select(_named_key(place.sealed)).distinct().where(place.sealed.is_not(None))
        found |= {key_of(value) for value in (await connection.execute(named)).scalars()}
    return found
