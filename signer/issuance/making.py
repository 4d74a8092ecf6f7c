"""Makes certificates to order: the one way in which a holder's certificates come about, new or in place of others.

The order of it, and why. (1) What can be checked without the store was checked before. (2) One short transaction
reserves serials and status indexes. (3) The certificates are linted and signed outside any transaction: the signing
engine keeps its own record in the store, and an HSM may be slow, so a signature must never wait for the write lock or
hold it. (4) One transaction records certificates, pair, escrow, feed, history, audit, outbox and the remembered answer,
and ends the certificates that these replace; only then does the answer leave. An index is thus never given twice, and
what fails between (2) and (4) leaves a gap, which is harmless: the status set never lists what was not issued.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import Extension
from core.audit import AuditEvent
from core.clock import Clock, to_datetime
from core.errors import Refused
from core.model import serial_to_hex
from core.ports import Signer
from core.store import audit, certificates, counters, crl_points, escrow, events, idempotency, outbox
from core.store.crl_points import CrlPoint
from core.store.database import Database
from core.store.escrow import WrappedKey
from core.store.events import Event
from signer.holders.service import Admission
from signer.issuance import lifecycle, pairs, serials, states, template
from signer.issuance.chain import AuthorityChain, load_chain, refuse_authority_key, require_active
from signer.issuance.issued import Issued, IssuedCertificate
from signer.issuance.key_owner import refuse_known_key
from signer.issuance.kmc import EncryptionKey, KeyManagement
from signer.issuance.lint import Linter
from signer.issuance.metrics import IssuanceMetrics
from signer.issuance.profiles import Profile
from signer.issuance.rows import new_certificate, reference
from signer.issuance.settings import IssuanceSettings
from signer.issuance.signing import sign_certificate
from signer.issuance.states import Operation
from signer.issuance.template import CertificatePlan


@dataclass(frozen=True, slots=True)
class Once:
    """An idempotency key with the digest of the request it stands for."""

    caller: str
    key: str
    digest: bytes

    async def recall(self, connection: AsyncConnection) -> Issued | None:
        """The answer given before. Raises Conflict for another request."""
        answer = await idempotency.recall(connection, self.caller, self.key, self.digest)
        return None if answer is None else Issued.from_body(answer.body)


@dataclass(frozen=True, slots=True)
class Replaced:
    """The pair in whose place a new one comes. `change`: how it ends at once; None: it stays until its own end."""

    first_id: int
    serial: int
    change: lifecycle.Change | None


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made. `subject`: DER Name; `public_key`: the signing certificate's, 65 bytes.

    dual: an encryption certificate belongs to it, with a new key, or with `kept` (`wrapped` empty: not ours to recover,
    as of a certificate that was imported). not_after: the end, from the time of
    issue. new_key: `public_key` came with the request and was not certified for this pair before.
    """

    operation: Operation
    profile_name: str
    profile: Profile
    authority_id: str
    subject: bytes
    extensions: tuple[Extension, ...]
    public_key: bytes
    not_after: Callable[[datetime], datetime]
    dual: bool
    actor: str
    kept: WrappedKey | None = None
    new_key: bool = True
    admission: Admission | None = None
    replaced: Replaced | None = None
    once: Once | None = None

    @property
    def holder_id(self) -> str | None:
        """Whose it is, where that is known."""
        return None if self.admission is None else self.admission.holder_id


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What the first transaction settled: who issues, when, under which serials and status indexes."""

    chain: AuthorityChain
    plans: tuple[CertificatePlan, ...]


class Maker:
    """See the module. `signer_for` gives the signer of a key id."""

    def __init__(
        self,
        database: Database,
        signer_for: Callable[[str], Signer],
        keys: KeyManagement,
        settings: IssuanceSettings,
        clock: Clock,
        metrics: IssuanceMetrics,
        entropy: serials.Entropy = os.urandom,
    ) -> None:
        self._database = database
        self._signer_for = signer_for
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._entropy = entropy
        self._linter = Linter()

    async def make(self, order: Order) -> Issued:
        """The certificates, durable. Raises Refused, NotFound, Conflict, Busy or Unavailable; nothing was done then."""
        new = await self._keys.make(order.public_key) if order.dual and order.kept is None else None
        async with self._database.write() as connection:
            reservation = await self._reserve(connection, order, new)
        signer = self._signer_for(reservation.chain.key_id)
        issuer_key = reservation.chain.authority.public_key
        encoded = [await sign_certificate(plan, signer, issuer_key, self._linter) for plan in reservation.plans]
        issued = Issued(
            tuple(IssuedCertificate(p.usage, p.serial, c) for p, c in zip(reservation.plans, encoded, strict=True)),
            reservation.chain.certificates,
            None if new is None else new.enveloped,
            order.holder_id,
        )
        async with self._database.write() as connection:
            if order.once is not None and (before := await order.once.recall(connection)) is not None:
                return before  # an identical request was faster: its certificates stand, these are dropped
            await self._record(connection, order, new, reservation, issued)
        for certificate in issued.certificates:
            self._metrics.certificates.labels(certificate.usage).inc()
        return issued

    async def _reserve(self, connection: AsyncConnection, order: Order, new: EncryptionKey | None) -> _Reservation:
        """Settles time, serials and status indexes in the caller's transaction."""
        now_ms = await counters.advance_time(connection, self._clock())
        chain = await load_chain(connection, order.authority_id)
        issuer = template.issuer_identity(chain.authority)
        await refuse_authority_key(connection, order.public_key)
        if order.new_key:
            await refuse_known_key(connection, order.public_key, order.holder_id, order.subject)
        first = _plan(order, issuer, to_datetime(now_ms))
        count = 2 if order.dual else 1
        drawn = await serials.fresh(connection, order.authority_id, count, self._entropy)
        month = template.status_month(first.not_after)
        index = await certificates.take_status_index(connection, order.authority_id, month, count)
        public_url = self._settings.public_url
        points = [await crl_points.choose(connection, chain.authority, serial, public_url) for serial in drawn]
        plans = [self._numbered(first, order.authority_id, points[0], drawn[0], month, index)]
        encryption = order.kept or new
        if encryption is not None:
            usages = frozenset(order.profile.encrypt_key_usage)
            second = replace(first, usage="encrypt", public_key=encryption.public_key, key_usage=usages)
            plans.append(self._numbered(second, order.authority_id, points[1], drawn[1], month, index + 1))
        return _Reservation(chain, tuple(plans))

    def _numbered(
        self, plan: CertificatePlan, authority_id: str, point: CrlPoint, serial: int, month: int, index: int
    ) -> CertificatePlan:
        """The plan with its serial, and what depends on that: partition and status index."""
        urls = template.urls(self._settings.public_url, authority_id, point.partition)
        return replace(
            plan,
            serial=serial,
            urls=replace(urls, crl=point.url),
            status=template.StatusIndex(self._settings.status_index_oid, month, index),
            partition=point.partition,
        )

    async def _record(
        self,
        connection: AsyncConnection,
        order: Order,
        new: EncryptionKey | None,
        reservation: _Reservation,
        issued: Issued,
    ) -> None:
        """Everything that it leaves behind, in the caller's transaction."""
        now_ms = await counters.advance_time(connection, self._clock())
        authority = reservation.chain.authority
        await require_active(connection, reservation.chain.key_id)  # it may have been frozen since it signed
        if order.new_key:
            await refuse_known_key(connection, order.public_key, order.holder_id, order.subject, final=True)
        old = None if order.replaced is None else await _check_replaced(connection, order, order.replaced, now_ms)
        if order.admission is not None:  # before the old pair's companions, whose end counts for the holder as well
            await order.admission.settle(connection, at_ms=now_ms)
        if old is not None and order.replaced is not None and order.replaced.change is not None:
            await self._end(connection, order, old, order.replaced.change, now_ms)
        kept = order.kept or (None if new is None else WrappedKey(new.public_key, new.wrapped))
        ids: list[int] = []
        for plan, certificate in zip(reservation.plans, issued.certificates, strict=True):
            row = new_certificate(authority, order.profile_name, plan, certificate.der, holder_id=order.holder_id)
            ids.append(await certificates.record(connection, row, at_ms=now_ms, pair_id=ids[0] if ids else None))
            if plan.usage == "encrypt" and kept is not None and kept.wrapped:
                await escrow.keep(connection, ids[-1], kept, at_ms=now_ms)
            await outbox.put(connection, "certificate", reference(authority.id, plan.serial), at_ms=now_ms)
        await self._put_on_record(connection, order, issued, ids[0], now_ms)
        if order.once is not None:
            answer = idempotency.Answer(201, issued.to_body())
            await idempotency.remember(
                connection, order.once.caller, order.once.key, order.once.digest, answer, at_ms=now_ms
            )

    async def _end(
        self, connection: AsyncConnection, order: Order, old: pairs.Pair, change: lifecycle.Change, now_ms: int
    ) -> None:
        changed = await lifecycle.move(connection, old, change, actor=order.actor, at_ms=now_ms, events_for_named=False)
        self._metrics.changes.labels(change.word).inc(len(changed))

    async def _put_on_record(
        self, connection: AsyncConnection, order: Order, issued: Issued, first_id: int, now_ms: int
    ) -> None:
        detail: dict[str, str | int] = {"profile": order.profile_name, "medium": order.profile.medium}
        detail.update({c.usage: serial_to_hex(c.serial) for c in issued.certificates})
        if order.replaced is not None:
            detail["replaces"] = serial_to_hex(order.replaced.serial)
        if order.holder_id is not None:
            detail["holder"] = order.holder_id
        subject = reference(order.authority_id, issued.certificates[0].serial)
        event = AuditEvent(order.actor, f"certificate.{order.operation}", subject, detail=detail)
        await audit.append(connection, event, at_ms=now_ms)
        replaced = order.replaced
        ground = None if replaced is None or replaced.change is None else replaced.change.ground
        done = Event(
            first_id,
            order.operation,
            order.actor,
            None if replaced is None else replaced.first_id,
            order.holder_id,
            ground,
        )
        await events.append(connection, done, at_ms=now_ms)


def _plan(order: Order, issuer: template.IssuerIdentity, now: datetime) -> CertificatePlan:
    """The signing certificate's plan, not yet numbered. Raises Refused where it would outlive its issuer."""
    not_after = order.not_after(now)
    if not_after > issuer.not_after:
        raise Refused(
            f"the certificate would be valid past the issuing authority's own end, {issuer.not_after:%Y-%m-%d}",
            code="issuer_expires",
            field="profile",
        )
    return CertificatePlan(
        usage="sign",
        serial=0,
        issuer=issuer.subject,
        authority_key_identifier=issuer.key_identifier,
        subject=order.subject,
        public_key=order.public_key,
        not_before=now,
        not_after=not_after,
        key_usage=frozenset(order.profile.sign_key_usage),
        extended_key_usage=order.profile.extended_key_usage,
        policies=order.profile.policies,
        more=order.extensions,
    )


async def _check_replaced(connection: AsyncConnection, order: Order, replaced: Replaced, now_ms: int) -> pairs.Pair:
    """The old pair, looked at again under lock: it may have been revoked or replaced since the order was made."""
    old = await pairs.by_id(connection, replaced.first_id, lock=True)
    states.require(order.operation, old.state(now_ms))
    return old
