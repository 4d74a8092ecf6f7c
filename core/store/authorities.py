"""Authorities: who issues, under which key and certificate, with how many CRL partitions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound
from core.store import feed, outbox
from core.store.schema import authorities


@dataclass(frozen=True, slots=True)
class Authority:
    """A row. `subject`: DER Name; `public_key`: 65 bytes.

    `certificate` None: waits to be installed from outside. `key_id` None: the key is not here (external root).
    `set_certificate`: of the key that signs status sets; None where the authority does.
    """

    id: str
    parent_id: str | None
    key_id: str | None
    subject: bytes
    public_key: bytes
    certificate: bytes | None
    ocsp_key_id: str | None
    ocsp_certificate: bytes | None
    partitions: int
    created_at_ms: int
    set_key_id: str | None = None
    set_certificate: bytes | None = None


_COLUMNS = [authorities.c[field.name] for field in fields(Authority)]


def _authority(row: Any) -> Authority:
    return Authority(**row._mapping)


async def add(connection: AsyncConnection, authority: Authority) -> None:
    """Records a new authority and its feed entry."""
    await connection.execute(insert(authorities).values({c.name: getattr(authority, c.name) for c in _COLUMNS}))
    await feed.append(connection, [feed.FeedChange("authority", authority.id)], at_ms=authority.created_at_ms)
    if authority.certificate is not None:
        await outbox.put(connection, "authority", authority.id, at_ms=authority.created_at_ms)


async def get(connection: AsyncConnection, authority_id: str) -> Authority:
    """Raises NotFound (code "authority_unknown")."""
    row = (await connection.execute(select(*_COLUMNS).where(authorities.c.id == authority_id))).one_or_none()
    if row is None:
        raise NotFound(f"there is no authority {authority_id!r}", code="authority_unknown")
    return _authority(row)


async def list_all(connection: AsyncConnection) -> list[Authority]:
    """Every authority, the oldest first."""
    rows = await connection.execute(select(*_COLUMNS).order_by(authorities.c.created_at_ms, authorities.c.id))
    return [_authority(row) for row in rows]


async def install_certificate(
    connection: AsyncConnection, authority_id: str, certificate: bytes, *, at_ms: int
) -> None:
    """Gives a waiting authority its certificate. Raises Conflict (code "certificate_installed") where it has one."""
    waiting = (authorities.c.id == authority_id) & authorities.c.certificate.is_(None)
    result = await connection.execute(update(authorities).where(waiting).values(certificate=certificate))
    if result.rowcount != 1:
        raise Conflict(f"authority {authority_id!r} has its certificate already", code="certificate_installed")
    await feed.append(connection, [feed.FeedChange("authority", authority_id)], at_ms=at_ms)
    await outbox.put(connection, "authority", authority_id, at_ms=at_ms)


async def set_parent(connection: AsyncConnection, authority_id: str, parent_id: str) -> None:
    """Says who stands above an authority whose certificate came from outside."""
    await connection.execute(update(authorities).where(authorities.c.id == authority_id).values(parent_id=parent_id))


async def set_ocsp_signer(
    connection: AsyncConnection, authority_id: str, key_id: str, certificate: bytes, *, at_ms: int
) -> None:
    """Sets the delegated OCSP signer's key and certificate."""
    values = {"ocsp_key_id": key_id, "ocsp_certificate": certificate}
    await connection.execute(update(authorities).where(authorities.c.id == authority_id).values(values))
    await feed.append(connection, [feed.FeedChange("authority", authority_id)], at_ms=at_ms)


async def set_set_signer(
    connection: AsyncConnection, authority_id: str, key_id: str | None, certificate: bytes | None, *, at_ms: int
) -> None:
    """Sets the delegated signer of status sets; None and None: the authority signs them itself."""
    values = {"set_key_id": key_id, "set_certificate": certificate}
    await connection.execute(update(authorities).where(authorities.c.id == authority_id).values(values))
    await feed.append(connection, [feed.FeedChange("authority", authority_id)], at_ms=at_ms)
