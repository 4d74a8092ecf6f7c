"""Changes of a certificate's state: revoke, suspend, resume. A pair moves together, in one transaction.

What may follow what is said in `states`; which other pairs move along, in `pairs`. The store keeps the rule that
`revoked` is final (core.store.certificates); here are the rules on reasons, on whose certificate it is, and what goes
on record. Knows the store; not HTTP or keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.errors import Refused
from core.model import CertificateState, CertificateStatus, RevocationReason, serial_from_hex, serial_to_hex
from core.store import audit, certificates, counters, escrow, events, holders, idempotency, kmc_external, outbox
from core.store.certificates import CertificateRecord
from core.store.events import Event
from signer._native import sm3
from signer.issuance import pairs, states
from signer.issuance.grounds import Ground
from signer.issuance.pairs import Pair
from signer.issuance.rows import reference
from signer.issuance.states import Operation, PairState

#: Reasons that only make sense for an authority's or an attribute authority's certificate (RFC 5280 §5.3.1).
_AUTHORITY_REASONS: Final = frozenset({RevocationReason.CA_COMPROMISE, RevocationReason.AA_COMPROMISE})
#: How far a caller's invalidity date may stand ahead of our clock.
_AHEAD_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Holding:
    """A certificate with the other one of its pair, and where the pair stands."""

    certificate: CertificateRecord
    pair: CertificateRecord | None
    state: PairState


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked for. `reason` None: resume. `allow_authority`: whether an authority's certificate may be meant.

    ground: the reason in the words of who asked, where they gave one.
    """

    serial: int
    authority_id: str | None
    reason: RevocationReason | None
    invalidity_at_ms: int | None = None
    allow_authority: bool = False
    ground: Ground | None = None

    @property
    def operation(self) -> Operation:
        """REVOKE, SUSPEND or RESUME."""
        if self.reason is None:
            return Operation.RESUME
        return Operation.SUSPEND if self.reason is RevocationReason.CERTIFICATE_HOLD else Operation.REVOKE

    @property
    def word(self) -> str:
        """revoke, hold or resume: as the audit record and the metrics have it."""
        return "hold" if self.operation is Operation.SUSPEND else self.operation.value

    def digest(self) -> bytes:
        """Names the request, for idempotency."""
        reason = None if self.reason is None else int(self.reason)
        named = [self.word, hex(self.serial), self.authority_id, reason, self.invalidity_at_ms]
        return sm3.sm3(orjson.dumps(named if self.ground is None else [*named, self.ground.value]))


async def apply(
    connection: AsyncConnection, change: Change, *, actor: str, now_ms: int, once: tuple[str, str] | None
) -> list[CertificateRecord]:
    """Makes the change in the caller's transaction and returns the changed certificates, the named one first.

    Raises NotFound, Conflict, Refused (the codes of `states`, and "reason", "invalidity_date",
    "authority_certificate"), Unavailable where the clock is behind.
    """
    if once is not None:
        answer = await idempotency.recall(connection, *once, change.digest())
        if answer is not None:
            return await _replay(connection, answer.body)
    at_ms = await counters.advance_time(connection, now_ms)
    named = await pairs.load(connection, change.serial, change.authority_id, lock=True)
    _check(change, named.first, at_ms)
    states.require(change.operation, named.state(at_ms))
    changed = await move(connection, named, change, actor=actor, at_ms=at_ms)
    changed.sort(key=lambda record: record.serial != change.serial)  # stable: the named one, then as they were changed
    if once is not None:
        kept = idempotency.Answer(200, _remembered(changed))
        await idempotency.remember(connection, *once, change.digest(), kept, at_ms=at_ms)
    return changed


async def move(
    connection: AsyncConnection, named: Pair, change: Change, *, actor: str, at_ms: int, events_for_named: bool = True
) -> list[CertificateRecord]:
    """Makes a change that was found allowed: the pair, those that move with it, the record of it.

    events_for_named: whether the pair itself gets a row of its own in the history; not where a replacement has one.
    """
    changed: list[CertificateRecord] = []
    along = await pairs.companions(connection, named, change.operation, change.reason, at_ms)
    for pair in (named, *along):
        moved = [
            await _change_one(connection, change, member, at_ms)
            for member in pair.members
            if _can_move(change, member, at_ms)
        ]
        if change.operation is Operation.REVOKE:
            await escrow.end(connection, pair.encryption_ids, at_ms=at_ms)
            await kmc_external.end(connection, pair.encryption_ids, at_ms=at_ms)
        await _put_on_record(connection, change, moved, actor, at_ms)
        if pair is not named or events_for_named:
            await _append_event(connection, change, pair, actor, at_ms)
        changed += moved
    return changed


def _can_move(change: Change, member: CertificateRecord, at_ms: int) -> bool:
    state = states.state_of(member.state, member.not_after_ms, replaced=False, at_ms=at_ms)
    return states.may(change.operation, state)


async def _append_event(connection: AsyncConnection, change: Change, pair: Pair, actor: str, at_ms: int) -> None:
    ground = change.ground or (None if change.reason is None else change.reason.label)
    holder_id = pair.first.holder_id
    event = Event(pair.first.id, change.operation, actor, holder_id=holder_id, ground=ground)
    await events.append(connection, event, at_ms=at_ms)
    if holder_id is not None:
        await holders.bump(connection, holder_id, at_ms=at_ms)


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
    connection: AsyncConnection, change: Change, changed: Sequence[CertificateRecord], actor: str, at_ms: int
) -> None:
    for record in changed:
        subject = reference(record.authority_id, record.serial)
        detail: dict[str, str | int] = {"usage": record.usage}
        if change.reason is not None:
            detail["reason"] = change.reason.label
        if change.ground is not None:
            detail["ground"] = change.ground.value
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
