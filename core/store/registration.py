"""Registration authorities, their people and these people's certificates, as the store keeps them.

Owns the rule that whatever changes of an authority moves its `version`, under the row's lock: who judges a request by
what is in memory compares the version in the transaction of the effect (`lock_version`), and a change waits for it.
Knows ids and octets; not what a role may do or what a name is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound, TooLarge
from core.model import serial_to_bytes
from core.store.schema_registration import ra_certificates, ra_people, ras

#: What one authority may have: as much as is loaded, judged and withdrawn at a time.
PEOPLE_MAX: Final = 2_000
CERTIFICATES_MAX: Final = 8_000
RAS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class RaRecord:
    """An authority. profiles, regions, customers: ids, or "*" for every one. callers: who may read its requests."""

    id: str
    name: str
    profiles: tuple[str, ...]
    regions: tuple[str, ...]
    customers: tuple[str, ...]
    unassigned: bool
    callers: tuple[str, ...]
    state: str
    version: int
    created_at_ms: int
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """A person of an authority. `sealed`: the name."""

    ra_id: str
    id: str
    sealed: bytes = field(repr=False)
    roles: tuple[str, ...]
    state: str
    created_at_ms: int
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class RaCertificate:
    """A person's certificate. authority_id None: issued elsewhere. name_digest: SM3 over issuer and serial."""

    ra_id: str
    person_id: str
    name_digest: bytes
    authority_id: str | None
    serial: int
    certificate: bytes
    public_key: bytes
    not_before_ms: int
    not_after_ms: int
    state: str
    created_at_ms: int


_LISTS: Final = frozenset({"profiles", "regions", "customers", "callers"})


def _ra(row: Row[Any]) -> RaRecord:
    values: dict[str, Any] = {name: getattr(row, name) for name in RaRecord.__dataclass_fields__}
    values |= {name: tuple(values[name].split()) for name in _LISTS}
    return RaRecord(**values)


def _ra_row(record: RaRecord) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in RaRecord.__dataclass_fields__}
    return {name: " ".join(value) if name in _LISTS else value for name, value in values.items()}


def _person(row: Row[Any]) -> PersonRecord:
    roles = tuple(row.roles.split())
    return PersonRecord(row.ra_id, row.id, row.sealed, roles, row.state, row.created_at_ms, row.changed_at_ms)


def _certificate(row: Row[Any]) -> RaCertificate:
    values = {name: getattr(row, name) for name in RaCertificate.__dataclass_fields__}
    return RaCertificate(**{**values, "serial": int.from_bytes(row.serial, "big")})


async def add(connection: AsyncConnection, record: RaRecord) -> None:
    """Registers an authority. Raises Conflict (code "ra_exists"), TooLarge (code "ra_count")."""
    if len((await connection.execute(select(ras.c.id).limit(RAS_MAX))).all()) == RAS_MAX:
        raise TooLarge(f"at most {RAS_MAX} registration authorities are kept", code="ra_count")
    try:
        await connection.execute(insert(ras).values(_ra_row(record)))
    except IntegrityError as error:
        raise Conflict(f"there is a registration authority {record.id!r} already", code="ra_exists") from error


async def find(connection: AsyncConnection, ra_id: str) -> RaRecord | None:
    """The authority of that id."""
    row = (await connection.execute(select(ras).where(ras.c.id == ra_id))).one_or_none()
    return None if row is None else _ra(row)


async def get(connection: AsyncConnection, ra_id: str, *, lock: bool = False) -> RaRecord:
    """Raises NotFound (code "ra_unknown"). lock: nobody judges by it or changes it until the transaction has ended."""
    statement = select(ras).where(ras.c.id == ra_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    if row is None:
        raise NotFound("there is no such registration authority", code="ra_unknown")
    return _ra(row)


async def list_all(connection: AsyncConnection) -> Sequence[RaRecord]:
    """Every authority, by id."""
    return [_ra(row) for row in await connection.execute(select(ras).order_by(ras.c.id))]


async def lock_version(connection: AsyncConnection, ra_id: str) -> tuple[int, str] | None:
    """(version, state) of an authority, which stays as it is until the caller's transaction has ended.

    Any number of transactions may hold it so at a time; a change waits for them.
    """
    statement = select(ras.c.version, ras.c.state).where(ras.c.id == ra_id).with_for_update(read=True)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else (row.version, row.state)


async def version(connection: AsyncConnection, ra_id: str) -> int | None:
    """The version of an authority, as the transaction sees it."""
    found: int | None = (await connection.execute(select(ras.c.version).where(ras.c.id == ra_id))).scalar_one_or_none()
    return found


async def change(connection: AsyncConnection, now: RaRecord) -> None:
    """Writes an authority that the caller has locked; its version moves on."""
    values = {**_ra_row(now), "version": ras.c.version + 1}
    await connection.execute(update(ras).where(ras.c.id == now.id).values(**values))


async def touch(connection: AsyncConnection, ra_id: str, *, at_ms: int) -> None:
    """Moves the version of an authority that the caller has locked."""
    await connection.execute(
        update(ras).where(ras.c.id == ra_id).values(version=ras.c.version + 1, changed_at_ms=at_ms)
    )


async def people(connection: AsyncConnection, ra_id: str) -> Sequence[PersonRecord]:
    """An authority's people, by id."""
    statement = select(ra_people).where(ra_people.c.ra_id == ra_id).order_by(ra_people.c.id)
    return [_person(row) for row in await connection.execute(statement)]


async def put_person(connection: AsyncConnection, person: PersonRecord, *, known: bool) -> None:
    """Adds a person, or with `known` writes what changed of one; the caller holds the authority's lock."""
    values = {name: getattr(person, name) for name in PersonRecord.__dataclass_fields__}
    values["roles"] = " ".join(person.roles)
    if not known:
        await connection.execute(insert(ra_people).values(values))
        return
    same = (ra_people.c.ra_id == person.ra_id) & (ra_people.c.id == person.id)
    await connection.execute(update(ra_people).where(same).values(**values))


async def certificates_of(connection: AsyncConnection, ra_id: str) -> Sequence[RaCertificate]:
    """The certificates of an authority's people, those that were withdrawn as well, oldest first."""
    c = ra_certificates.c
    statement = select(ra_certificates).where(c.ra_id == ra_id).order_by(c.id)
    return [_certificate(row) for row in await connection.execute(statement)]


async def key_owner(connection: AsyncConnection, public_key: bytes) -> tuple[str, str] | None:
    """(authority, person) for whom a certificate of that key was ever registered."""
    c = ra_certificates.c
    row = (await connection.execute(select(c.ra_id, c.person_id).where(c.public_key == public_key).limit(1))).first()
    return None if row is None else (row.ra_id, row.person_id)


async def add_certificate(connection: AsyncConnection, certificate: RaCertificate) -> None:
    """Registers a person's certificate. Raises Conflict (code "certificate_registered") for one that was ever so."""
    row = {name: getattr(certificate, name) for name in RaCertificate.__dataclass_fields__}
    row["serial"] = serial_to_bytes(certificate.serial)
    named = select(ra_certificates.c.id).where(ra_certificates.c.name_digest == certificate.name_digest)
    taken = Conflict("that certificate is or was registered already", code="certificate_registered")
    if (await connection.execute(named)).first() is not None:
        raise taken
    try:
        await connection.execute(insert(ra_certificates).values(row))
    except IntegrityError as error:
        raise taken from error


async def withdraw_certificates(connection: AsyncConnection, ra_id: str, person_id: str | None = None) -> None:
    """Takes a person's certificates, or with None all of the authority's, out of use."""
    these = ra_certificates.c.ra_id == ra_id
    if person_id is not None:
        these &= ra_certificates.c.person_id == person_id
    await connection.execute(update(ra_certificates).where(these).values(state="withdrawn"))


async def withdraw_people(connection: AsyncConnection, ra_id: str, *, at_ms: int) -> None:
    """Every one of an authority's people."""
    these = (ra_people.c.ra_id == ra_id) & (ra_people.c.state == "active")
    await connection.execute(update(ra_people).where(these).values(state="withdrawn", changed_at_ms=at_ms))
