"""Changes of a certificate's state: revoke, hold, resume. A pair moves together, in one transaction.

The store keeps the rule that `revoked` is final (core.store.certificates); here are the rules on reasons, on whose
certificate it is, and what goes on record. Knows the store; not HTTP or keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.errors import Refused
from core.model import CertificateState, CertificateStatus, RevocationReason, serial_from_hex, serial_to_hex
from core.store import audit, certificates, counters, idempotency, outbox
from core.store.certificates import CertificateRecord
from signer._native import sm3
from signer.issuance.rows import reference

#: Reasons that only make sense for an authority's or an attribute authority's certificate (RFC 5280 §5.3.1).
_AUTHORITY_REASONS: Final = frozenset({RevocationReason.CA_COMPROMISE, RevocationReason.AA_COMPROMISE})
#: How far a caller's invalidity date may stand ahead of our clock.
_AHEAD_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Holding:
    """A certificate with the other one of its pair."""

    certificate: CertificateRecord
    pair: CertificateRecord | None


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked for. `reason` None: resume. `allow_authority`: whether an authority's certificate may be meant."""

    serial: int
    authority_id: str | None
    reason: RevocationReason | None
    invalidity_at_ms: int | None = None
    allow_authority: bool = False

    @property
    def word(self) -> str:
        """revoke, hold or resume."""
        if self.reason is None:
            return "resume"
        return "hold" if self.reason is RevocationReason.CERTIFICATE_HOLD else "revoke"

    def digest(self) -> bytes:
        """Names the request, for idempotency."""
        reason = None if self.reason is None else int(self.reason)
        return sm3.sm3(orjson.dumps([self.word, hex(self.serial), self.authority_id, reason, self.invalidity_at_ms]))


async def apply(
    connection: AsyncConnection, change: Change, *, actor: str, now_ms: int, once: tuple[str, str] | None
) -> list[CertificateRecord]:
    """Makes the change in the caller's transaction and returns the changed certificates, the named one first.

    Raises NotFound, Conflict, Refused (codes "already_revoked", "already_held", "not_held", "reason",
    "invalidity_date", "authority_certificate"), Unavailable where the clock is behind.
    """
    if once is not None:
        answer = await idempotency.recall(connection, *once, change.digest())
        if answer is not None:
            return await _replay(connection, answer.body)
    at_ms = await counters.advance_time(connection, now_ms)
    record = await certificates.find(connection, change.serial, change.authority_id)
    _check(change, record, at_ms)
    changed = [await _change_one(connection, change, record, at_ms)]
    pair = await certificates.find_pair(connection, record.id)
    if pair is not None and pair.state is record.state:
        changed.append(await _change_one(connection, change, pair, at_ms))
    await _put_on_record(connection, change, changed, actor, at_ms)
    if once is not None:
        kept = idempotency.Answer(200, _remembered(changed))
        await idempotency.remember(connection, *once, change.digest(), kept, at_ms=at_ms)
    return changed


def _check(change: Change, record: CertificateRecord, at_ms: int) -> None:
    end_entity = record.usage in ("sign", "encrypt")
    if not end_entity and not change.allow_authority:
        raise Refused(
            "that is an authority's or an OCSP signer's certificate; it is not revoked by this call",
            code="authority_certificate",
        )
    if end_entity and change.reason in _AUTHORITY_REASONS:
        raise Refused("that reason is for authorities only", code="reason", field="reason")
    if change.invalidity_at_ms is not None:
        if change.word != "revoke":
            raise Refused(
                "an invalidity date goes with a revocation only", code="invalidity_date", field="invalidity_at"
            )
        if not 0 < change.invalidity_at_ms <= at_ms + _AHEAD_MS:
            raise Refused("the invalidity date lies in the future", code="invalidity_date", field="invalidity_at")


async def _change_one(
    connection: AsyncConnection, change: Change, record: CertificateRecord, at_ms: int
) -> CertificateRecord:
    if change.reason is None:
        status = await certificates.release(connection, record, at_ms=at_ms)
    else:
        status = await certificates.revoke(
            connection, record, change.reason, at_ms=at_ms, invalidity_at_ms=change.invalidity_at_ms
        )
    return _with_status(record, status)


def _with_status(record: CertificateRecord, status: CertificateStatus) -> CertificateRecord:
    assert status.state is not None
    return replace(
        record,
        state=status.state,
        revoked_at_ms=status.revoked_at_ms,
        reason=status.reason,
        invalidity_at_ms=status.invalidity_at_ms,
    )


async def _put_on_record(
    connection: AsyncConnection, change: Change, changed: list[CertificateRecord], actor: str, at_ms: int
) -> None:
    for record in changed:
        subject = reference(record.authority_id, record.serial)
        detail: dict[str, str | int] = {"usage": record.usage}
        if change.reason is not None:
            detail["reason"] = change.reason.label
        event = AuditEvent(actor, f"certificate.{change.word}", subject, detail=detail)
        await audit.append(connection, event, at_ms=at_ms)
        await outbox.put(connection, "certificate", subject, at_ms=at_ms)


def _remembered(changed: list[CertificateRecord]) -> bytes:
    rows = [
        [
            record.authority_id,
            serial_to_hex(record.serial),
            record.state.value,
            record.revoked_at_ms,
            None if record.reason is None else int(record.reason),
            record.invalidity_at_ms,
        ]
        for record in changed
    ]
    return orjson.dumps(rows)


async def _replay(connection: AsyncConnection, body: bytes) -> list[CertificateRecord]:
    """The records as they were answered, whatever has happened to them since."""
    records = []
    for authority_id, serial, state, revoked_at_ms, reason, invalidity_at_ms in orjson.loads(body):
        record = await certificates.find(connection, serial_from_hex(serial), authority_id)
        status = CertificateStatus(
            record.serial,
            CertificateState(state),
            revoked_at_ms,
            None if reason is None else RevocationReason(reason),
            invalidity_at_ms,
            record.not_after_ms,
        )
        records.append(_with_status(record, status))
    return records
