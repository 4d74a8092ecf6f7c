"""Issues certificates, and changes their state.

The order of an issuance, and why. (1) The request is checked against the profile; nothing is stored. (2) One short
transaction reserves serials and status indexes. (3) The certificates are linted and signed outside any transaction:
the signing engine keeps its own record in the store, and an HSM may be slow, so a signature must never wait for the
write lock or hold it. (4) One transaction records certificates, pair, escrow, feed, audit, outbox and the remembered
answer; only then does the answer leave. An index is thus never given twice, and a request that fails between (2) and
(4) leaves a gap, which is harmless: the status set never lists what was not issued.

Refusals are on record (R-23): an audit row with the code, and the request's digest in place of personal data.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock, to_datetime
from core.errors import Conflict, Malformed, NotFound, QianyanError, Refused, TooLarge
from core.model import RevocationReason, serial_to_hex
from core.ports import Signer
from core.store import audit, certificates, counters, idempotency, outbox
from core.store.certificates import CertificateRecord
from core.store.database import Database
from signer._native import sm3
from signer.issuance import lifecycle, serials, template
from signer.issuance.chain import AuthorityChain, load_chain, refuse_authority_key, require_active
from signer.issuance.csr import parse_request
from signer.issuance.issued import Issued, IssuedCertificate
from signer.issuance.kmc import EncryptionKey, KeyManagement, KeyWrapper
from signer.issuance.lint import Linter
from signer.issuance.metrics import IssuanceMetrics
from signer.issuance.policy import Grant, grant
from signer.issuance.profiles import Profile, Profiles
from signer.issuance.rows import new_certificate, reference
from signer.issuance.settings import IssuanceSettings
from signer.issuance.signing import sign_certificate
from signer.issuance.template import CertificatePlan

_REFUSALS: Final = (Malformed, Refused, NotFound, Conflict, TooLarge)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A request that passed: what is to be issued. `holder_key`: the signing certificate's public key."""

    profile_name: str
    profile: Profile
    grant: Grant
    holder_key: bytes
    encryption: EncryptionKey | None


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What the first transaction settled: who issues, when, under which serials and status indexes."""

    chain: AuthorityChain
    plans: tuple[CertificatePlan, ...]


@dataclass(frozen=True, slots=True)
class _Once:
    """An idempotency key with the digest of the request it stands for."""

    caller: str
    key: str
    digest: bytes

    async def recall(self, connection: AsyncConnection) -> Issued | None:
        """The answer given before. Raises Conflict for another request."""
        answer = await idempotency.recall(connection, self.caller, self.key, self.digest)
        return None if answer is None else Issued.from_body(answer.body)


class Issuer:
    """See the module. `signer_for` gives the signer of a key id; `wrapper` puts encryption keys into escrow."""

    def __init__(
        self,
        database: Database,
        signer_for: Callable[[str], Signer],
        wrapper: KeyWrapper,
        profiles: Profiles,
        settings: IssuanceSettings,
        clock: Clock,
        *,
        metrics: IssuanceMetrics | None = None,
        entropy: serials.Entropy = os.urandom,
    ) -> None:
        self._database = database
        self._signer_for = signer_for
        self._keys = KeyManagement(wrapper)
        self._profiles = profiles
        self._settings = settings
        self._clock = clock
        self._metrics = metrics or IssuanceMetrics.create()
        self._entropy = entropy
        self._linter = Linter()

    async def issue(
        self,
        csr: bytes,
        profile: str,
        *,
        actor: str,
        idempotency: tuple[str, str] | None = None,
        authority_id: str | None = None,
    ) -> Issued:
        """Issues by `profile`; returns once everything is durable.

        csr: PKCS#10, DER or PEM. idempotency: (caller, key); the same request under the same key gives the same
        answer. Raises Malformed, Refused, NotFound, Conflict, TooLarge (all on record), Busy or Unavailable.
        """
        authority_id = authority_id or self._settings.authority
        once = None if idempotency is None else _Once(*idempotency, _digest(csr, profile, authority_id))
        try:
            with self._metrics.seconds.time():
                issued = await self._issue(csr, profile, actor, once, authority_id)
        except _REFUSALS as error:
            await self._record_refusal(csr, actor, error)
            raise
        return issued

    async def _issue(self, csr: bytes, profile: str, actor: str, once: _Once | None, authority_id: str) -> Issued:
        if once is not None:
            async with self._database.read() as connection:
                if (before := await once.recall(connection)) is not None:
                    return before
        wanted = await self._examine(csr, profile)
        async with self._database.write() as connection:
            reservation = await self._reserve(connection, wanted, authority_id)
        signer = self._signer_for(reservation.chain.key_id)
        issuer_key = reservation.chain.authority.public_key
        encoded = [await sign_certificate(plan, signer, issuer_key, self._linter) for plan in reservation.plans]
        issued = Issued(
            tuple(IssuedCertificate(p.usage, p.serial, c) for p, c in zip(reservation.plans, encoded, strict=True)),
            reservation.chain.certificates,
            None if wanted.encryption is None else wanted.encryption.enveloped,
        )
        async with self._database.write() as connection:
            if once is not None and (before := await once.recall(connection)) is not None:
                return before  # an identical request was faster: its certificates stand, these are dropped
            await self._record(connection, wanted, reservation, issued, actor, once)
        for certificate in issued.certificates:
            self._metrics.certificates.labels(certificate.usage).inc()
        return issued

    async def _examine(self, csr: bytes, profile_name: str) -> _Wanted:
        """Checks everything that needs no store, and makes the encryption key. Raises Malformed or Refused."""
        profile = self._profiles.get(profile_name)
        request = parse_request(csr, max_bytes=self._settings.max_csr_bytes)
        granted = grant(request, profile)
        encryption = await self._keys.make(request.public_key) if profile.dual else None
        return _Wanted(profile_name, profile, granted, request.public_key, encryption)

    async def _reserve(self, connection: AsyncConnection, wanted: _Wanted, authority_id: str) -> _Reservation:
        """Settles time, serials and status indexes in the caller's transaction."""
        now_ms = await counters.advance_time(connection, self._clock())
        chain = await load_chain(connection, authority_id)
        issuer = template.issuer_identity(chain.authority)
        await refuse_authority_key(connection, wanted.holder_key)
        first = _plan(wanted, issuer, to_datetime(now_ms))
        count = 2 if wanted.encryption is not None else 1
        drawn = await serials.fresh(connection, authority_id, count, self._entropy)
        month = template.status_month(first.not_after)
        index = await certificates.take_status_index(connection, authority_id, month, count)
        plans = [self._numbered(first, issuer, drawn[0], month, index)]
        if wanted.encryption is not None:
            second = replace(
                first,
                usage="encrypt",
                public_key=wanted.encryption.public_key,
                key_usage=frozenset(wanted.profile.encrypt_key_usage),
            )
            plans.append(self._numbered(second, issuer, drawn[1], month, index + 1))
        return _Reservation(chain, tuple(plans))

    def _numbered(
        self, plan: CertificatePlan, issuer: template.IssuerIdentity, serial: int, month: int, index: int
    ) -> CertificatePlan:
        """The plan with its serial, and what depends on that: partition and status index."""
        partition = serial % issuer.partitions
        return replace(
            plan,
            serial=serial,
            urls=template.urls(self._settings.public_url, issuer.authority_id, partition),
            status=template.StatusIndex(self._settings.status_index_oid, month, index),
        )

    async def _record(
        self,
        connection: AsyncConnection,
        wanted: _Wanted,
        reservation: _Reservation,
        issued: Issued,
        actor: str,
        once: _Once | None,
    ) -> None:
        """Everything that an issuance leaves behind, in the caller's transaction."""
        now_ms = await counters.advance_time(connection, self._clock())
        await require_active(connection, reservation.chain.key_id)  # it may have been frozen since it signed
        authority = reservation.chain.authority
        first_id: int | None = None
        for plan, certificate in zip(reservation.plans, issued.certificates, strict=True):
            row = new_certificate(authority, wanted.profile_name, plan, certificate.der)
            row_id = await certificates.record(connection, row, at_ms=now_ms, pair_id=first_id)
            if plan.usage == "encrypt" and wanted.encryption is not None:
                key = wanted.encryption
                await certificates.escrow_key(connection, row_id, key.public_key, key.wrapped, at_ms=now_ms)
            await outbox.put(connection, "certificate", reference(authority.id, plan.serial), at_ms=now_ms)
            first_id = row_id
        detail: dict[str, str | int] = {"profile": wanted.profile_name, "medium": wanted.profile.medium}
        detail.update({c.usage: serial_to_hex(c.serial) for c in issued.certificates})
        subject = reference(authority.id, issued.certificates[0].serial)
        await audit.append(connection, AuditEvent(actor, "certificate.issue", subject, detail=detail), at_ms=now_ms)
        if once is not None:
            answer = idempotency.Answer(201, issued.to_body())
            await idempotency.remember(connection, once.caller, once.key, once.digest, answer, at_ms=now_ms)

    async def _record_refusal(self, csr: bytes, actor: str, error: QianyanError) -> None:
        self._metrics.refusals.labels(error.kind).inc()
        log.info("certificate request refused", actor=actor, code=error.code, field=error.field)
        event = AuditEvent(actor, "certificate.refuse", f"csr:{sm3.sm3(csr).hex()}", error.code)
        async with self._database.write() as connection:
            await audit.append(connection, event, at_ms=self._clock())

    async def revoke(
        self,
        serial: int,
        reason: RevocationReason,
        *,
        actor: str,
        authority_id: str | None = None,
        invalidity_at_ms: int | None = None,
        idempotency: tuple[str, str] | None = None,
        allow_authority: bool = False,
    ) -> list[CertificateRecord]:
        """Revokes, or holds with reason certificateHold, a certificate and its pair; see `lifecycle.revoke`."""
        change = lifecycle.Change(serial, authority_id, reason, invalidity_at_ms, allow_authority)
        return await self._change(change, actor, idempotency)

    async def release(
        self,
        serial: int,
        *,
        actor: str,
        authority_id: str | None = None,
        idempotency: tuple[str, str] | None = None,
    ) -> list[CertificateRecord]:
        """Ends the hold on a certificate and its pair; see `lifecycle.apply`."""
        return await self._change(lifecycle.Change(serial, authority_id, None), actor, idempotency)

    async def _change(
        self, change: lifecycle.Change, actor: str, once: tuple[str, str] | None
    ) -> list[CertificateRecord]:
        async with self._database.write() as connection:
            records = await lifecycle.apply(connection, change, actor=actor, now_ms=self._clock(), once=once)
        self._metrics.changes.labels(change.word).inc(len(records))
        return records

    async def find(self, serial: int, authority_id: str | None = None) -> lifecycle.Holding:
        """A certificate with its pair. Raises NotFound or Conflict (code "serial_ambiguous")."""
        async with self._database.read() as connection:
            record = await certificates.find(connection, serial, authority_id)
            return lifecycle.Holding(record, await certificates.find_pair(connection, record.id))


def _plan(wanted: _Wanted, issuer: template.IssuerIdentity, now: datetime) -> CertificatePlan:
    """The signing certificate's plan, not yet numbered. Raises Refused where it would outlive its issuer."""
    not_after = now + timedelta(days=wanted.profile.validity_days) - timedelta(seconds=1)  # both ends are included
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
        subject=wanted.grant.subject,
        public_key=wanted.holder_key,
        not_before=now,
        not_after=not_after,
        key_usage=frozenset(wanted.profile.sign_key_usage),
        extended_key_usage=wanted.profile.extended_key_usage,
        policies=wanted.profile.policies,
        more=wanted.grant.extensions,
    )


def _digest(csr: bytes, profile: str, authority_id: str) -> bytes:
    """Names a request: its bytes and what was asked with them, unambiguously joined."""
    return sm3.sm3(b"\0".join((profile.encode(), authority_id.encode(), csr)))
