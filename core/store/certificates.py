"""Certificates and their status.

Owns the rule that `revoked` is final and `held` alone may go back to `good` (DESIGN rule 3): every change of state
goes through `revoke` and `release` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound, Refused
from core.model import CertificateState, CertificateStatus, RevocationReason, serial_to_bytes, serial_to_hex
from core.store import feed
from core.store.schema import certificates, escrowed_keys, status_indexes

Usage = Literal["sign", "encrypt", "ca", "ocsp"]

#: How many bound parameters one IN list gets; SQLite's default limit is 32,766, PostgreSQL's 65,535 per statement.
_IN_CHUNK = 5_000

#: How many rows of a long result are taken from the database at a time.
_STREAM_CHUNK = 2_000

_REASONS = {int(reason): reason for reason in RevocationReason}


@dataclass(frozen=True, slots=True)
class NewCertificate:
    """A signed certificate, ready to be recorded. `subject`: DER Name; `public_key`: 65 bytes."""

    authority_id: str
    serial: int
    usage: Usage
    profile: str
    subject: bytes
    public_key: bytes
    not_before_ms: int
    not_after_ms: int
    partition: int
    status_month: int
    status_index: int
    certificate: bytes


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A row of the table, with the serial as a number and the state typed."""

    id: int
    authority_id: str
    serial: int
    usage: str
    profile: str
    pair_id: int | None
    subject: bytes
    public_key: bytes
    not_before_ms: int
    not_after_ms: int
    partition: int
    certificate: bytes
    issued_at_ms: int
    state: CertificateState
    revoked_at_ms: int | None
    reason: RevocationReason | None
    invalidity_at_ms: int | None

    @property
    def status(self) -> CertificateStatus:
        """The part of it that relying parties ask for."""
        return CertificateStatus(
            self.serial, self.state, self.revoked_at_ms, self.reason, self.invalidity_at_ms, self.not_after_ms
        )


@dataclass(frozen=True, slots=True)
class RevokedEntry:
    """What a CRL needs to know of one revoked or held certificate."""

    serial: int
    revoked_at_ms: int
    reason: RevocationReason
    invalidity_at_ms: int | None
    not_after_ms: int


def _reason(value: int | None) -> RevocationReason | None:
    return None if value is None else RevocationReason(value)


def _record(row: Row[Any]) -> CertificateRecord:
    return CertificateRecord(
        id=row.id,
        authority_id=row.authority_id,
        serial=int.from_bytes(row.serial, "big"),
        usage=row.usage,
        profile=row.profile,
        pair_id=row.pair_id,
        subject=row.subject,
        public_key=row.public_key,
        not_before_ms=row.not_before_ms,
        not_after_ms=row.not_after_ms,
        partition=row.partition,
        certificate=row.certificate,
        issued_at_ms=row.issued_at_ms,
        state=CertificateState(row.state),
        revoked_at_ms=row.revoked_at_ms,
        reason=_reason(row.reason),
        invalidity_at_ms=row.invalidity_at_ms,
    )


async def take_status_index(connection: AsyncConnection, authority_id: str, month: int, count: int = 1) -> int:
    """Reserves `count` consecutive status indexes of (authority, month of expiry) and returns the first, from 0.

    Committed with the issuance, so never given twice; a rolled-back issuance gives them back.
    """
    key = (status_indexes.c.authority_id == authority_id) & (status_indexes.c.month == month)
    statement = (
        update(status_indexes)
        .where(key)
        .values(next_index=status_indexes.c.next_index + count)
        .returning(status_indexes.c.next_index)
    )
    following = (await connection.execute(statement)).scalar_one_or_none()
    if following is None:
        row = {"authority_id": authority_id, "month": month, "next_index": count}
        await connection.execute(insert(status_indexes).values(row))
        following = count
    return int(following) - count


async def record(connection: AsyncConnection, new: NewCertificate, *, at_ms: int, pair_id: int | None = None) -> int:
    """Records an issued certificate and its feed entry; links the pair both ways where `pair_id` is given.

    Returns the row's id. Raises Conflict (code "serial_taken") where the authority has that serial already.
    """
    change = feed.FeedChange("issued", new.authority_id, new.serial)
    seq = await feed.append(connection, [change], at_ms=at_ms)
    row = {
        **{name: getattr(new, name) for name in NewCertificate.__dataclass_fields__},
        "serial": serial_to_bytes(new.serial),
        "issued_at_ms": at_ms,
        "state": CertificateState.GOOD.value,
        "pair_id": pair_id,
        "changed_seq": seq,
    }
    try:
        identity = (
            await connection.execute(insert(certificates).values(row).returning(certificates.c.id))
        ).scalar_one()
    except IntegrityError as error:
        raise Conflict("the serial or status index is taken", code="serial_taken") from error
    if pair_id is not None:
        await connection.execute(update(certificates).where(certificates.c.id == pair_id).values(pair_id=identity))
    return int(identity)


async def escrow_key(
    connection: AsyncConnection, certificate_id: int, public_key: bytes, wrapped_key: bytes, *, at_ms: int
) -> None:
    """Keeps an encryption key, wrapped under the key-management part's master key, for recovery."""
    row = {
        "certificate_id": certificate_id,
        "public_key": public_key,
        "wrapped_key": wrapped_key,
        "created_at_ms": at_ms,
    }
    await connection.execute(insert(escrowed_keys).values(row))


async def find(connection: AsyncConnection, serial: int, authority_id: str | None = None) -> CertificateRecord:
    """The certificate with that serial. Raises NotFound, or Conflict where several authorities have the serial."""
    statement = select(certificates).where(certificates.c.serial == serial_to_bytes(serial))
    if authority_id is not None:
        statement = statement.where(certificates.c.authority_id == authority_id)
    rows = (await connection.execute(statement.limit(2))).all()
    if not rows:
        raise NotFound(f"no certificate has serial {serial_to_hex(serial)}", code="certificate_unknown")
    if len(rows) > 1:
        raise Conflict("several authorities issued that serial; name the authority", code="serial_ambiguous")
    return _record(rows[0])


async def find_pair(connection: AsyncConnection, certificate_id: int) -> CertificateRecord | None:
    """The other certificate of the pair."""
    statement = select(certificates).where(certificates.c.pair_id == certificate_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def statuses(connection: AsyncConnection, authority_id: str, serials: Sequence[int]) -> list[CertificateStatus]:
    """The status of each serial under `authority_id`, in order; `state` None where it was never issued."""
    known: dict[int, CertificateStatus] = {}
    c = certificates.c
    columns = (c.serial, c.state, c.revoked_at_ms, c.reason, c.invalidity_at_ms, c.not_after_ms)
    for start in range(0, len(serials), _IN_CHUNK):
        wanted = [serial_to_bytes(serial) for serial in serials[start : start + _IN_CHUNK]]
        rows = await connection.execute(select(*columns).where(c.authority_id == authority_id, c.serial.in_(wanted)))
        for row in rows:
            serial = int.from_bytes(row.serial, "big")
            known[serial] = CertificateStatus(
                serial,
                CertificateState(row.state),
                row.revoked_at_ms,
                _reason(row.reason),
                row.invalidity_at_ms,
                row.not_after_ms,
            )
    return [known.get(serial) or CertificateStatus(serial, None) for serial in serials]


async def revoke(
    connection: AsyncConnection,
    certificate: CertificateRecord,
    reason: RevocationReason,
    *,
    at_ms: int,
    invalidity_at_ms: int | None = None,
) -> CertificateStatus:
    """Revokes or, with reason certificateHold, holds; feed entry included.

    A held certificate may be revoked for good (its revocation time stays that of the hold). Raises Refused
    (code "already_revoked", "already_held").
    """
    holding = reason is RevocationReason.CERTIFICATE_HOLD
    if certificate.state is CertificateState.REVOKED:
        raise Refused("the certificate is revoked already", code="already_revoked")
    if certificate.state is CertificateState.HELD and holding:
        raise Refused("the certificate is on hold already", code="already_held")
    state = CertificateState.HELD if holding else CertificateState.REVOKED
    revoked_at_ms = certificate.revoked_at_ms or at_ms
    change = feed.FeedChange("held" if holding else "revoked", certificate.authority_id, certificate.serial)
    await _change_state(
        connection,
        certificate,
        change,
        at_ms,
        {
            "state": state.value,
            "revoked_at_ms": revoked_at_ms,
            "reason": int(reason),
            "invalidity_at_ms": invalidity_at_ms,
        },
    )
    return CertificateStatus(
        certificate.serial, state, revoked_at_ms, reason, invalidity_at_ms, certificate.not_after_ms
    )


async def release(connection: AsyncConnection, certificate: CertificateRecord, *, at_ms: int) -> CertificateStatus:
    """Ends a hold. Raises Refused (code "not_held") for any other state."""
    if certificate.state is not CertificateState.HELD:
        raise Refused("the certificate is not on hold", code="not_held")
    change = feed.FeedChange("released", certificate.authority_id, certificate.serial)
    cleared = {"revoked_at_ms": None, "reason": None, "invalidity_at_ms": None}
    await _change_state(connection, certificate, change, at_ms, {"state": CertificateState.GOOD.value, **cleared})
    return CertificateStatus(certificate.serial, CertificateState.GOOD, not_after_ms=certificate.not_after_ms)


async def _change_state(
    connection: AsyncConnection,
    certificate: CertificateRecord,
    change: feed.FeedChange,
    at_ms: int,
    values: dict[str, object],
) -> None:
    """Writes the new state where the row is still in the state that was read; raises Conflict where it is not."""
    seq = await feed.append(connection, [change], at_ms=at_ms)
    unchanged = (certificates.c.id == certificate.id) & (certificates.c.state == certificate.state.value)
    result = await connection.execute(update(certificates).where(unchanged).values(changed_seq=seq, **values))
    if result.rowcount != 1:
        raise Conflict("the certificate was changed by another request", code="state_changed")


async def revoked_entries(
    connection: AsyncConnection, authority_id: str, partition: int, *, expired_after_ms: int
) -> list[RevokedEntry]:
    """Revoked and held certificates of a partition whose notAfter is at or past `expired_after_ms`, by serial.

    Read and sorted in the database and taken in small chunks, so that a long list does not hold up the event loop.
    """
    c = certificates.c
    statement = (
        select(c.serial, c.revoked_at_ms, c.reason, c.invalidity_at_ms, c.not_after_ms)
        .where(
            c.authority_id == authority_id,
            c.partition == partition,
            or_(c.state == CertificateState.REVOKED.value, c.state == CertificateState.HELD.value),
            c.not_after_ms >= expired_after_ms,
        )
        .order_by(func.length(c.serial), c.serial)  # minimal big-endian bytes: shorter is smaller
    )
    entries: list[RevokedEntry] = []
    rows = await connection.stream(statement)
    async for chunk in rows.partitions(_STREAM_CHUNK):
        entries.extend(
            RevokedEntry(int.from_bytes(serial, "big"), revoked_at_ms, _REASONS[reason], invalidity_at_ms, not_after_ms)
            for serial, revoked_at_ms, reason, invalidity_at_ms, not_after_ms in chunk
        )
    return entries


async def count(connection: AsyncConnection) -> int:
    """How many certificates there are."""
    return int((await connection.execute(select(func.count()).select_from(certificates))).scalar_one())
