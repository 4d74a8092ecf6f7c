"""Issues certificates, replaces them, and changes their state: what the RA's side asks of issuance.

Each operation is one method, takes who asks (`actor`) and an idempotency key (caller, key) under which a retry gets the
same answer, handles the pair together, and leaves nothing half done (`making`, `lifecycle`). What may be done in which
state is said in `states`.

Refusals are on record (R-23): an audit row with the code, and the request's digest in place of personal data.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1 import names
from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, Malformed, NotFound, QianyanError, Refused, TooLarge
from core.model import RevocationReason
from core.ports import Signer
from core.store import audit, contention
from core.store.certificates import CertificateRecord
from core.store.database import Database
from signer._native import sm2, sm3
from signer.holders.claim import HolderClaim
from signer.holders.service import Holders
from signer.issuance import lifecycle, pairs, serials
from signer.issuance.csr import parse_request
from signer.issuance.grounds import Ground
from signer.issuance.issued import Issued
from signer.issuance.kmc import KeyManagement, KeySource, KeyWrapper
from signer.issuance.looking import Lookout, Question
from signer.issuance.making import Maker
from signer.issuance.metrics import IssuanceMetrics
from signer.issuance.order import Once, Order, Settlement
from signer.issuance.policy import grant
from signer.issuance.profiles import Profiles
from signer.issuance.replacement import Replacement, Wish
from signer.issuance.settings import IssuanceSettings
from signer.issuance.states import Operation

_REFUSALS: Final = (Malformed, Refused, NotFound, Conflict, TooLarge)
log = structlog.get_logger()


class Issuer:
    """See the module. `signer_for` gives the signer of a key id; `wrapper` puts encryption keys into escrow.

    keys: key management, where spare keys are to be used. holders: where certificates may name their holders. centres:
    other key-management centres, for the authorities that have one.
    """

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
        keys: KeyManagement | None = None,
        holders: Holders | None = None,
        centres: KeySource | None = None,
    ) -> None:
        self._database = database
        self._profiles = profiles
        self._settings = settings
        self._clock = clock
        self._metrics = metrics or IssuanceMetrics.create()
        self._holders = holders
        self._maker = Maker(
            database, signer_for, keys or KeyManagement(wrapper), settings, clock, self._metrics, entropy, centres
        )
        self._lookout = Lookout(database)
        self._replacement = Replacement(database, self._maker, profiles, settings, clock, holders)

    async def issue(
        self,
        csr: bytes,
        profile: str,
        *,
        actor: str,
        idempotency: tuple[str, str] | Settlement | None = None,
        authority_id: str | None = None,
        holder: HolderClaim | None = None,
    ) -> Issued:
        """Issues by `profile`; returns once everything is durable.

        csr: PKCS#10, DER or PEM. idempotency: (caller, key); the same request under the same key gives the same
        answer; or what else is settled with it. holder: for whom; registered with it where it is new. Raises Malformed,
        Refused, NotFound, Conflict, TooLarge (all on record), Busy or Unavailable; and what the settlement raises.
        """
        authority_id = authority_id or self._settings.authority
        try:
            with self._metrics.seconds.time():
                claim_hash = b"" if holder is None else await self._known_holders().claim_hash(holder)
                once = idempotency
                if isinstance(once, tuple):
                    once = Once(*once, _digest(csr, profile, authority_id, claim_hash))
                return await self._issue(csr, profile, actor, once, authority_id, holder)
        except _REFUSALS as error:
            await self._record_refusal(f"csr:{sm3.sm3(csr).hex()}", Operation.ISSUE, actor, error)
            raise

    async def _issue(
        self,
        csr: bytes,
        profile_name: str,
        actor: str,
        once: Settlement | None,
        authority_id: str,
        claim: HolderClaim | None,
    ) -> Issued:
        known = self._holders
        number_hash = None if known is None or claim is None else await known.number_hash(claim)
        looked = await self._lookout.look(Question(once, number_hash))
        if looked.before is not None:
            return looked.before
        profile = self._profiles.get(profile_name)
        request = parse_request(csr, max_bytes=self._settings.max_csr_bytes)
        granted = grant(request, profile)
        admission = None if known is None else await known.admit(claim, looked.found)
        days = profile.validity_days
        order = Order(
            operation=Operation.ISSUE,
            profile_name=profile_name,
            profile=profile,
            authority_id=authority_id,
            subject=granted.subject,
            extensions=granted.extensions,
            public_key=request.public_key,
            not_after=lambda now: now + timedelta(days=days) - timedelta(seconds=1),  # both ends are included
            dual=profile.dual,
            actor=actor,
            admission=admission,
            once=once,
        )
        return await self._maker.make(order)

    async def rehearse(self) -> None:
        """Issues once for nobody, and leaves nothing behind: before a process is sent requests, so that the
        first is as quick as others. Raises as `Maker.rehearse`."""
        name, profile = next(
            ((name, one) for name, one in self._profiles.profiles.items() if one.dual),
            next(iter(self._profiles.profiles.items())),
        )
        order = Order(
            operation=Operation.ISSUE,
            profile_name=name,
            profile=profile,
            authority_id=self._settings.authority,
            subject=names.build_name({"C": "CN", "CN": "-"}).public_bytes(),
            extensions=(),
            public_key=sm2.PrivateKey.generate().public_key.to_bytes(),
            not_after=lambda now: now + timedelta(days=1),
            dual=profile.dual,
            actor="system",
        )
        await self._maker.rehearse(order)

    def _known_holders(self) -> Holders:
        if self._holders is None:
            raise Refused("this service keeps no holders", code="holders_off", field="holder")
        return self._holders

    async def renew(
        self,
        serial: int,
        *,
        actor: str,
        csr: bytes | None = None,
        authority_id: str | None = None,
        idempotency: tuple[str, str] | Settlement | None = None,
    ) -> Issued:
        """A pair valid one profile's term past the old end; the old one stays valid until that.

        Within the settings' window before the end. Without a request for the same keys; with one for the new signing
        key in it and a new encryption key. Raises as `issue`, and the codes of `states` and "renewal_early",
        "subject_changed".
        """
        wish = Wish(Operation.RENEW, serial, authority_id, actor, csr, None, idempotency)
        return await self._replace(wish)

    async def change(
        self,
        serial: int,
        csr: bytes,
        *,
        actor: str,
        authority_id: str | None = None,
        idempotency: tuple[str, str] | Settlement | None = None,
    ) -> Issued:
        """A pair with the request's subject and extensions, the same keys and the same end; the old one is revoked.

        Raises as `renew`, with "key_changed" for a request of another key.
        """
        wish = Wish(Operation.CHANGE, serial, authority_id, actor, csr, Ground.DATA_CHANGED, idempotency)
        return await self._replace(wish)

    async def reissue(
        self,
        serial: int,
        csr: bytes,
        ground: Ground,
        *,
        actor: str,
        authority_id: str | None = None,
        idempotency: tuple[str, str] | Settlement | None = None,
    ) -> Issued:
        """A pair with new keys and the same end, for a lost or damaged medium; the old one is revoked with it.

        Raises as `renew`, with "key_not_new" for a request of the old key and "reissue_ground".
        """
        return await self._replace(Wish(Operation.REISSUE, serial, authority_id, actor, csr, ground, idempotency))

    async def _replace(self, wish: Wish) -> Issued:
        try:
            with self._metrics.seconds.time():
                return await self._replacement.make(wish)
        except _REFUSALS as error:
            await self._record_refusal(wish.reference(), wish.operation, wish.actor, error)
            raise

    async def _record_refusal(self, subject: str, operation: Operation, actor: str, error: QianyanError) -> None:
        self._metrics.refusals.labels(error.kind).inc()
        log.info("certificate request refused", actor=actor, code=error.code, field=error.field)
        detail: dict[str, str | int] = {} if operation is Operation.ISSUE else {"operation": operation.value}
        event = AuditEvent(actor, "certificate.refuse", subject, error.code, detail)
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
        ground: Ground | None = None,
    ) -> list[CertificateRecord]:
        """Revokes, or suspends with reason certificateHold, a certificate and its pair; see `lifecycle.apply`.

        ground: the reason in the process's own words, kept with the business (`grounds.REASONS` gives the other one).
        """
        change = lifecycle.Change(serial, authority_id, reason, invalidity_at_ms, allow_authority, ground)
        return await self._change(change, actor, idempotency)

    async def suspend(
        self,
        serial: int,
        *,
        actor: str,
        authority_id: str | None = None,
        idempotency: tuple[str, str] | None = None,
        ground: Ground | None = None,
    ) -> list[CertificateRecord]:
        """Suspends a certificate and its pair, until `release` or a revocation; see `lifecycle.apply`."""
        change = lifecycle.Change(serial, authority_id, RevocationReason.CERTIFICATE_HOLD, ground=ground)
        return await self._change(change, actor, idempotency)

    async def release(
        self,
        serial: int,
        *,
        actor: str,
        authority_id: str | None = None,
        idempotency: tuple[str, str] | None = None,
    ) -> list[CertificateRecord]:
        """Resumes: ends the suspension of a certificate and its pair; see `lifecycle.apply`."""
        return await self._change(lifecycle.Change(serial, authority_id, None), actor, idempotency)

    async def apply(
        self, connection: AsyncConnection, change: lifecycle.Change, *, actor: str
    ) -> list[CertificateRecord]:
        """A change in the caller's write transaction, who records refusals and calls `count_changes` after the commit.

        Raises as `lifecycle.apply`.
        """
        return await lifecycle.apply(connection, change, actor=actor, now_ms=self._clock(), once=None)

    def count_changes(self, change: lifecycle.Change, count: int) -> None:
        """Counts certificates whose state was changed by `apply`."""
        self._metrics.changes.labels(change.word).inc(count)

    async def _change(
        self, change: lifecycle.Change, actor: str, once: tuple[str, str] | None
    ) -> list[CertificateRecord]:
        try:
            records = await contention.or_conflict(lambda: self._apply(change, actor, once))
        except _REFUSALS as error:
            subject = f"{change.authority_id or ''}/{change.serial:x}"
            await self._record_refusal(subject, change.operation, actor, error)
            raise
        self._metrics.changes.labels(change.word).inc(len(records))
        return records

    async def _apply(
        self, change: lifecycle.Change, actor: str, once: tuple[str, str] | None
    ) -> list[CertificateRecord]:
        async with self._database.write() as connection:
            return await lifecycle.apply(connection, change, actor=actor, now_ms=self._clock(), once=once)

    async def find(self, serial: int, authority_id: str | None = None) -> lifecycle.Holding:
        """A certificate with its pair. Raises NotFound or Conflict (code "serial_ambiguous")."""
        async with self._database.read() as connection:
            pair = await pairs.load(connection, serial, authority_id)
        named, other = pair.first, pair.second
        if other is not None and other.serial == serial:
            named, other = other, pair.first
        return lifecycle.Holding(named, other, pair.state(self._clock()))


def _digest(csr: bytes, profile: str, authority_id: str, claim_hash: bytes) -> bytes:
    """Names a request: its bytes and what was asked with them, unambiguously joined."""
    return sm3.sm3(b"\0".join((profile.encode(), authority_id.encode(), csr)) + claim_hash)
