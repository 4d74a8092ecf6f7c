"""The transaction that makes certificates exist: with it are written the holders, the pairs, the keys in escrow, feed,
history, audit, outbox and the remembered answers; only then do answers leave.

For a group of orders at once. What may be refused is looked at before anything is written for the order, so an order
that must be refused is refused alone, without savepoints; then everything is written, each table once. Two orders of a
group have no key, holder or settlement in common (`Order.claims`); `making` sees to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.plain_names import region_of_own
from core.audit import AuditEvent
from core.errors import Conflict, QianyanError
from core.model import serial_to_hex
from core.store import audit, certificates, escrow, events, idempotency, kmc_external, outbox
from core.store.certificates import NewCertificate
from core.store.escrow import WrappedKey
from core.store.events import Event
from signer.holders import service as holder_service
from signer.issuance import lifecycle, pairs, states
from signer.issuance.chain import require_active
from signer.issuance.issued import Issued
from signer.issuance.key_owner import Claim, known_keys
from signer.issuance.kmc import EncryptionKey
from signer.issuance.metrics import IssuanceMetrics
from signer.issuance.order import Once, Order, Settlement, SharedSettlement
from signer.issuance.reserving import Reservation
from signer.issuance.rows import new_certificate, reference


@dataclass(frozen=True, slots=True)
class Made:
    """An order with the certificates that were signed for it. `new`: its new encryption key, where it has one."""

    order: Order
    reservation: Reservation
    new: EncryptionKey | None
    issued: Issued

    @property
    def kept(self) -> WrappedKey | None:
        """The encryption key, for escrow; None where there is none, or it is not ours to recover."""
        kept = self.order.kept or (None if self.new is None else WrappedKey(self.new.public_key, self.new.wrapped))
        return kept if kept is not None and kept.wrapped else None


@dataclass(slots=True)
class _Entry:
    """How it stands with one order. `outcome` None: nothing speaks against it so far. `fresh`: to be written."""

    made: Made
    outcome: Issued | QianyanError | None = None
    old: pairs.Pair | None = None


Outcome = Issued | QianyanError


def _is_shared(once: Settlement | None) -> TypeGuard[SharedSettlement]:
    """Most are none or by idempotency key, and to ask for a protocol is slow."""
    return once is not None and not isinstance(once, Once) and isinstance(once, SharedSettlement)


async def recall_all(
    connection: AsyncConnection, settlements: Sequence[Settlement | None]
) -> list[Issued | QianyanError | None]:
    """What each settlement gave before, or why it may not be carried out; those by idempotency key in one go."""
    known = [one for one in settlements if isinstance(one, Once)]
    answers = iter(await idempotency.recall_many(connection, [one.question for one in known]))
    shared: dict[type[SharedSettlement], list[SharedSettlement]] = {}
    for one in settlements:
        if _is_shared(one):
            shared.setdefault(type(one), []).append(one)
    together = {
        id(one): answer
        for kind, those in shared.items()
        for one, answer in zip(those, await kind.recall_many(connection, those), strict=True)
    }
    found: list[Issued | QianyanError | None] = []
    for one in settlements:
        if id(one) in together:
            found.append(together[id(one)])
        elif isinstance(one, Once):
            answer = next(answers)
            found.append(Issued.from_body(answer.body) if isinstance(answer, idempotency.Answer) else answer)
        elif one is None:
            found.append(None)
        else:
            try:
                found.append(await one.recall(connection))
            except QianyanError as error:
                found.append(error)
    return found


async def record(
    connection: AsyncConnection, group: Sequence[Made], now_ms: int, metrics: IssuanceMetrics
) -> list[Outcome]:
    """Writes the group; one outcome for each, in order. A certificate that is in no outcome was not recorded.

    now_ms: the time of the transaction (`counters.advance_time`).
    """
    entries = [_Entry(made) for made in group]
    before = await recall_all(connection, [made.order.once for made in group])
    for entry, answer in zip(entries, before, strict=True):
        entry.outcome = answer  # an identical request was faster: its certificates stand, these are dropped
    await _refuse_inactive(connection, _open(entries))
    await _refuse_known(connection, _open(entries))
    await _check_replaced(connection, _open(entries), now_ms)
    await _refuse_taken(connection, _open(entries))
    await _settle_holders(connection, _open(entries), now_ms)
    passed = _open(entries)
    for entry in passed:
        await _end_replaced(connection, entry, now_ms, metrics)
    if passed:
        await _write(connection, [entry.made for entry in passed], now_ms)
    return [entry.made.issued if entry.outcome is None else entry.outcome for entry in entries]


def _open(entries: Sequence[_Entry]) -> list[_Entry]:
    return [entry for entry in entries if entry.outcome is None]


async def _refuse_inactive(connection: AsyncConnection, entries: Sequence[_Entry]) -> None:
    """An authority's key may have been frozen since it signed."""
    for key_id in sorted({entry.made.reservation.chain.key_id for entry in entries}):
        try:
            await require_active(connection, key_id)
        except QianyanError as error:
            for entry in entries:
                if entry.made.reservation.chain.key_id == key_id:
                    entry.outcome = error


async def _refuse_known(connection: AsyncConnection, entries: Sequence[_Entry]) -> None:
    new = [entry for entry in entries if entry.made.order.new_key]
    orders = [entry.made.order for entry in new]
    claims = [Claim(order.public_key, order.holder_id, order.subject) for order in orders]
    for entry, refused in zip(new, await known_keys(connection, claims, final=True), strict=True):
        entry.outcome = refused


async def _refuse_taken(connection: AsyncConnection, entries: Sequence[_Entry]) -> None:
    """A key that another centre made may have gone to another certificate, or have been given up."""
    for entry in entries:
        new = entry.made.new
        if new is not None and new.task is not None:
            entry.outcome = await kmc_external.refuse_taken(connection, new.task)


async def _check_replaced(connection: AsyncConnection, entries: Sequence[_Entry], now_ms: int) -> None:
    """The old pair, looked at again under lock: it may have been revoked or replaced since the order was made."""
    for entry in entries:
        order = entry.made.order
        if order.replaced is not None:
            entry.old = await pairs.by_id(connection, order.replaced.first_id, lock=True)
            states.require(order.operation, entry.old.state(now_ms))


async def _settle_holders(connection: AsyncConnection, entries: Sequence[_Entry], now_ms: int) -> None:
    """Before the old pair's companions, whose end counts for the holder as well."""
    admitted = [entry for entry in entries if entry.made.order.admission is not None]
    admissions = [entry.made.order.admission for entry in admitted if entry.made.order.admission is not None]
    settled = await holder_service.settle_all(connection, admissions, at_ms=now_ms)
    for entry, trouble in zip(admitted, settled, strict=True):
        entry.outcome = trouble


async def _end_replaced(connection: AsyncConnection, entry: _Entry, now_ms: int, metrics: IssuanceMetrics) -> None:
    order = entry.made.order
    if entry.old is None or order.replaced is None or order.replaced.change is None:
        return
    change = order.replaced.change
    changed = await lifecycle.move(
        connection, entry.old, change, actor=order.actor, at_ms=now_ms, events_for_named=False
    )
    metrics.changes.labels(change.word).inc(len(changed))


async def _write(connection: AsyncConnection, group: Sequence[Made], now_ms: int) -> None:
    """All that the orders leave behind, each table once."""
    rows, firsts, linked = new_rows(group)
    ids = await certificates.load(connection, rows, at_ms=now_ms, pairs=linked)
    kept: list[tuple[int, WrappedKey]] = []
    done: list[Event] = []
    for made, first in zip(group, firsts, strict=True):
        if made.kept is not None and len(made.reservation.plans) > 1:
            kept.append((ids[first + 1], made.kept))
        if len(made.reservation.plans) > 1:
            await _keep_elsewhere(connection, made, ids[first + 1], now_ms)
        done.append(_event(made.order, ids[first]))
        for plan in made.reservation.plans:
            await outbox.put(connection, "certificate", reference(made.order.authority_id, plan.serial), at_ms=now_ms)
        await audit.append(connection, _audit_event(made), at_ms=now_ms)
    await escrow.keep_many(connection, kept, at_ms=now_ms)
    await events.append_many(connection, done, at_ms=now_ms)
    await _remember(connection, group, now_ms)


async def _keep_elsewhere(connection: AsyncConnection, made: Made, certificate_id: int, now_ms: int) -> None:
    """Notes whose the key is that another centre keeps."""
    order, new = made.order, made.new
    if new is not None and new.task is not None:
        await kmc_external.use(connection, new.task, certificate_id, at_ms=now_ms)
    elif order.kept is not None and not order.kept.wrapped and order.kept_from is not None:
        await kmc_external.carry_over(connection, order.kept_from, certificate_id)


def new_rows(group: Sequence[Made]) -> tuple[list[NewCertificate], list[int], list[tuple[int, int]]]:
    """The certificates' rows, the place of each order's first one, and which of them are pairs."""
    rows: list[NewCertificate] = []
    firsts: list[int] = []
    linked: list[tuple[int, int]] = []
    for made in group:
        firsts.append(len(rows))
        if len(made.reservation.plans) > 1:
            linked.append((len(rows), len(rows) + 1))
        ra, customer = getattr(made.order.once, "attribution", ("", ""))
        region = region_of_own(made.order.subject)
        for plan, certificate in zip(made.reservation.plans, made.issued.certificates, strict=True):
            rows.append(
                new_certificate(
                    made.reservation.chain.authority,
                    made.order.profile_name,
                    plan,
                    certificate.der,
                    holder_id=made.order.holder_id,
                    ra=ra,
                    customer=customer,
                    region=region,
                )
            )
    return rows, firsts, linked


async def _remember(connection: AsyncConnection, group: Sequence[Made], now_ms: int) -> None:
    answered = [
        (made.order.once.question, idempotency.Answer(201, made.issued.to_body()))
        for made in group
        if isinstance(made.order.once, Once)
    ]
    await idempotency.remember_many(connection, answered, at_ms=now_ms)
    shared: dict[type[SharedSettlement], list[tuple[SharedSettlement, Issued]]] = {}
    for made in group:
        once = made.order.once
        if _is_shared(once):
            shared.setdefault(type(once), []).append((once, made.issued))
        elif once is not None and not isinstance(once, Once):
            await once.remember(connection, made.issued, at_ms=now_ms)
    for kind, given in shared.items():
        await kind.remember_many(connection, given, at_ms=now_ms)


def _audit_event(made: Made) -> AuditEvent:
    order, issued = made.order, made.issued
    detail: dict[str, str | int] = {"profile": order.profile_name, "medium": order.profile.medium}
    detail.update({c.usage: serial_to_hex(c.serial) for c in issued.certificates})
    if order.replaced is not None:
        detail["replaces"] = serial_to_hex(order.replaced.serial)
    if order.holder_id is not None:
        detail["holder"] = order.holder_id
    subject = reference(order.authority_id, issued.certificates[0].serial)
    return AuditEvent(order.actor, f"certificate.{order.operation}", subject, detail=detail)


def _event(order: Order, first_id: int) -> Event:
    replaced = order.replaced
    return Event(
        first_id,
        order.operation,
        order.actor,
        None if replaced is None else replaced.first_id,
        order.holder_id,
        None if replaced is None or replaced.change is None else replaced.change.ground,
    )


def is_serial_taken(error: BaseException) -> bool:
    """Whether a group failed because a serial was given twice, by nobody's fault; each order alone may succeed."""
    return isinstance(error, Conflict) and error.code == "serial_taken"
