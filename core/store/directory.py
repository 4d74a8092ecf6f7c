"""What is published of certificates, authorities and CRLs, as the store has it now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import serial_to_bytes
from core.store.crls import CrlRecord, latest
from core.store.identified import rows_of
from core.store.schema import crls
from core.store.schema_certificates import certificate_serials, certificates
from core.store.upsert import among

_IN_CHUNK: Final = 2_000


@dataclass(frozen=True, slots=True)
class PublicCertificate:
    """What of a certificate's row is published. `subject`: DER Name."""

    id: int
    authority_id: str
    serial: int
    usage: str
    subject: bytes
    not_after_ms: int
    certificate: bytes
    state: str
    revoked_at_ms: int | None


_COLUMNS = [certificates.c[name] for name in PublicCertificate.__dataclass_fields__]


def _certificate(row: Row[Any]) -> PublicCertificate:
    values = dict(row._mapping)
    values["serial"] = int.from_bytes(values["serial"], "big")
    return PublicCertificate(**values)


async def find_many(
    connection: AsyncConnection, wanted: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], PublicCertificate]:
    """The certificates of those (authority, serial) pairs that the store has."""
    found: dict[tuple[str, int], PublicCertificate] = {}
    by_authority: dict[str, list[bytes]] = {}
    for authority_id, serial in wanted:
        by_authority.setdefault(authority_id, []).append(serial_to_bytes(serial))
    for authority_id, serials in by_authority.items():
        for start in range(0, len(serials), _IN_CHUNK):
            s = certificate_serials.c
            these = among(connection, s.serial, serials[start : start + _IN_CHUNK])
            for row in await connection.execute(rows_of(connection, _COLUMNS, s.authority_id == authority_id, these)):
                record = _certificate(row)
                found[authority_id, record.serial] = record
    return found


async def read_after(connection: AsyncConnection, after_id: int, *, limit: int) -> list[PublicCertificate]:
    """Certificates by id from after `after_id` on, at most `limit`; every authority's."""
    statement = select(*_COLUMNS).where(certificates.c.id > after_id).order_by(certificates.c.id).limit(limit)
    return [_certificate(row) for row in await connection.execute(statement)]


async def latest_crls(
    connection: AsyncConnection, authority_id: str, partition: int
) -> tuple[CrlRecord | None, CrlRecord | None]:
    """The newest full CRL of a scope, and the newest delta CRL where it is not older than that."""
    full = await latest(connection, authority_id, partition)
    delta = await latest(connection, authority_id, partition, delta=True)
    if full is None or (delta is not None and delta.number < full.number):
        delta = None
    return full, delta


async def crl_scopes(connection: AsyncConnection) -> list[tuple[str, int]]:
    """Every (authority, partition) that has a CRL."""
    statement = select(crls.c.authority_id, crls.c.partition).distinct()
    return sorted((row.authority_id, row.partition) for row in await connection.execute(statement))
