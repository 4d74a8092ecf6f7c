"""Goes through an authority's certificates in pages, by serial.

Knows columns and order; not what the pages are for. A page is one snapshot; the next may be a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import CertificateState, CertificateStatus, RevocationReason
from core.store.identified import rows_of
from core.store.schema_certificates import certificate_serials, certificates


@dataclass(frozen=True, slots=True)
class Page:
    """Statuses by serial's octets, unexpired ones only, and where the next page begins (None: there is none)."""

    statuses: Sequence[CertificateStatus]
    after: bytes | None


async def statuses_after(
    connection: AsyncConnection, authority_id: str, after: bytes, *, at_ms: int, limit: int
) -> Page:
    """The next `limit` certificates after the serial `after` (b"" for the first page); those expired at `at_ms` are
    passed over."""
    c = certificates.c
    columns = (c.serial, c.state, c.revoked_at_ms, c.reason, c.invalidity_at_ms, c.not_after_ms)
    s = certificate_serials.c
    wanted = rows_of(connection, columns, s.authority_id == authority_id, s.serial > after)
    rows = (await connection.execute(wanted.order_by(s.serial).limit(limit))).all()
    found = [
        CertificateStatus(
            int.from_bytes(row.serial, "big"),
            CertificateState(row.state),
            row.revoked_at_ms,
            None if row.reason is None else RevocationReason(row.reason),
            row.invalidity_at_ms,
            row.not_after_ms,
        )
        for row in rows
        if row.not_after_ms >= at_ms
    ]
    return Page(found, rows[-1].serial if len(rows) == limit else None)


async def count(connection: AsyncConnection, authority_id: str) -> int:
    """How many certificates the authority has, expired ones included."""
    wanted = select(func.count()).select_from(certificates).where(certificates.c.authority_id == authority_id)
    return int((await connection.execute(wanted)).scalar_one())
