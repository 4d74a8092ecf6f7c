"""Master keys that live in hardware modules, as they are kept outside: wrapped there, with a check value.

Also walks what is wrapped under them, so that it can be brought under the newest one. A wrapped value says itself under
which key it is: the octet 02 and four octets of the key's number (signer.kmc.hsm_master); anything else is under the
key file's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, LargeBinary, Table, and_, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.schema import escrowed_keys, holder_keys, spare_keys
from core.store.schema_kmc import kmc_master_keys, kmc_served_keys
from core.store.upsert import hold


@dataclass(frozen=True, slots=True)
class MasterRecord:
    """A row. `wrapped`: under the key-encryption key at `kek_index`; check_*: a block and what the key makes of it."""

    id: int
    kek_index: int
    wrapped: bytes
    check_plain: bytes
    check_cipher: bytes
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Place:
    """A column of wrapped values with its table's primary key. `secret`: wrapped as a secret, not as a private key."""

    name: str
    table: Table
    key: Column[Any]
    wrapped: Column[Any]
    secret: bool = False


PLACES: Final = (
    Place("spare", spare_keys, spare_keys.c.id, spare_keys.c.wrapped_key),
    Place("escrow", escrowed_keys, escrowed_keys.c.certificate_id, escrowed_keys.c.wrapped_key),
    Place("served", kmc_served_keys, kmc_served_keys.c.id, kmc_served_keys.c.wrapped_key),
    Place("holders", holder_keys, holder_keys.c.id, holder_keys.c.wrapped, secret=True),
)
#: Not before any number of a master key: what is under the key file's.
SOFTWARE: Final = 0


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A wrapped value. `purpose`: of a holder key (seal, index); empty elsewhere."""

    id: int
    wrapped: bytes
    purpose: str = ""


async def list_masters(connection: AsyncConnection) -> Sequence[MasterRecord]:
    """All of them, the oldest first."""
    rows = await connection.execute(select(kmc_master_keys).order_by(kmc_master_keys.c.id))
    return [MasterRecord(*(getattr(row, name) for name in MasterRecord.__dataclass_fields__)) for row in rows]


async def add(connection: AsyncConnection, record: MasterRecord) -> None:
    """Adds one; the caller holds `lock` and has read which numbers are taken."""
    await connection.execute(
        insert(kmc_master_keys).values({name: getattr(record, name) for name in MasterRecord.__dataclass_fields__})
    )


async def lock(connection: AsyncConnection) -> None:
    """Whoever makes master keys waits here for others who do."""
    await hold(connection, "kmc_master_keys")


def head(number: int) -> bytes:
    """How a value under the master key of that number begins."""
    return b"\x02" + number.to_bytes(4, "big")


def _not_under(place: Place, number: int) -> ColumnElement[bool]:
    """substr() counts octets of binary values on both databases."""
    begins = func.substr(place.wrapped, 1, 5)
    return begins != literal(head(number), LargeBinary)


async def otherwise(
    connection: AsyncConnection, place: Place, number: int, *, after: int, limit: int
) -> Sequence[Wrapped]:
    """Values after a row that are under another key than that number, in order."""
    purpose = [holder_keys.c.purpose] if place.secret else []
    found = (
        select(place.key, place.wrapped, *purpose)
        .where(and_(place.key > after, _not_under(place, number)))
        .order_by(place.key)
        .limit(limit)
    )
    rows = (await connection.execute(found)).all()
    return [Wrapped(row[0], bytes(row[1]), row[2] if place.secret else "") for row in rows]


async def count_otherwise(connection: AsyncConnection, place: Place, number: int) -> int:
    """How many values are under another key; looks through all of them."""
    counted = select(func.count()).select_from(place.table).where(_not_under(place, number))
    return int((await connection.execute(counted)).scalar_one())


async def replace(connection: AsyncConnection, place: Place, seen: Wrapped, wrapped: bytes) -> None:
    """Writes a value anew, where it is still the one that was seen; it may have gone meanwhile, with its row."""
    changed = update(place.table).where(place.key == seen.id, place.wrapped == seen.wrapped)
    await connection.execute(changed.values({place.wrapped.name: wrapped}))


async def counts(connection: AsyncConnection, numbers: Sequence[int]) -> dict[str, dict[int, int]]:
    """How many values are under which key, by place; SOFTWARE for the key file's. Looks through all of them."""
    found: dict[str, dict[int, int]] = {}
    for place in PLACES:
        whole = int((await connection.execute(select(func.count()).select_from(place.table))).scalar_one())
        by_number = {}
        for number in numbers:
            by_number[number] = whole - await count_otherwise(connection, place, number)
        found[place.name] = {SOFTWARE: whole - sum(by_number.values()), **by_number}
    return found
