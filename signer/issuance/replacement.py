"""Renewal, change and reissue: what the new pair takes from the old one, and how the old one ends.

|         | signing key        | encryption key      | subject      | end              | old pair              |
| renew   | same, or a new one | same, or a new one  | same         | old end + a term | valid until its end   |
| change  | same               | same                | the request's | old end         | revoked in that commit |
| reissue | new                | new                 | same         | old end          | revoked in that commit |

An encryption key that stays is not handed out again: the holder has it, and who has lost it asks for its recovery. So
no old encryption key ever goes to a new signing key without two approvals. Knows requests, pairs and profiles; the
making itself is `making`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import Extension, load_certificate
from core.clock import Clock, rfc3339, to_datetime
from core.errors import NotFound, Refused
from core.model import serial_to_hex
from core.store import escrow
from core.store.certificates import CertificateRecord
from core.store.database import Database
from core.store.escrow import WrappedKey
from signer._native import sm3
from signer.holders.service import Holders
from signer.issuance import lifecycle, pairs, states
from signer.issuance.csr import CertificateRequest, parse_request
from signer.issuance.grounds import REASONS, REISSUE_GROUNDS, Ground
from signer.issuance.issued import Issued
from signer.issuance.making import Maker, Once, Order, Replaced, Settlement
from signer.issuance.pairs import Pair
from signer.issuance.policy import grant
from signer.issuance.profiles import GM_EXTENSION_OIDS, Profile, Profiles
from signer.issuance.settings import IssuanceSettings
from signer.issuance.states import Operation

_SUBJECT_ALTERNATIVE_NAME: Final = "2.5.29.17"
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for. `ground`: why the old pair ends, where it does. `idempotency`: (caller, key), or what else is
    settled with it."""

    operation: Operation
    serial: int
    authority_id: str | None
    actor: str
    csr: bytes | None
    ground: Ground | None
    idempotency: tuple[str, str] | Settlement | None

    def once(self) -> Settlement | None:
        """The idempotency key with what it stands for."""
        if not isinstance(self.idempotency, tuple):
            return self.idempotency
        head = (
            self.operation,
            self.authority_id or "",
            f"{self.serial:x}",
            self.ground or "",
            "csr" if self.csr else "",
        )
        return Once(*self.idempotency, sm3.sm3("\0".join(head).encode() + b"\0" + (self.csr or b"")))

    def reference(self) -> str:
        """How the audit record names the certificate that was meant."""
        return f"{self.authority_id or ''}/{serial_to_hex(self.serial)}"


@dataclass(frozen=True, slots=True)
class _Content:
    """What the new pair says and which keys it is for."""

    subject: bytes
    extensions: tuple[Extension, ...]
    public_key: bytes
    new_key: bool


class Replacement:
    """See the module."""

    def __init__(
        self,
        database: Database,
        maker: Maker,
        profiles: Profiles,
        settings: IssuanceSettings,
        clock: Clock,
        holders: Holders | None,
    ) -> None:
        self._database = database
        self._maker = maker
        self._profiles = profiles
        self._settings = settings
        self._clock = clock
        self._holders = holders

    async def make(self, wish: Wish) -> Issued:
        """The new pair, the old one ended where it does. Raises as `Issuer.renew`."""
        once = wish.once()
        async with self._database.read() as connection:
            if once is not None and (before := await once.recall(connection)) is not None:
                return before
            old = await pairs.load(connection, wish.serial, wish.authority_id)
            _check_kind(old)
            states.require(wish.operation, old.state(self._clock()))
            escrowed = None if old.second is None else await _escrowed(connection, old.second)
        profile = self._profiles.get(old.first.profile)
        if wish.operation is Operation.RENEW:
            self._check_window(old)
        content = self._content(wish, old, profile)
        return await self._maker.make(await self._order(wish, old, profile, content, escrowed, once))

    async def _order(
        self,
        wish: Wish,
        old: Pair,
        profile: Profile,
        content: _Content,
        escrowed: WrappedKey | None,
        once: Settlement | None,
    ) -> Order:
        admission = None if self._holders is None else await self._holders.standing(old.first.holder_id)
        end = to_datetime(old.first.not_after_ms)
        term = timedelta(days=profile.validity_days) if wish.operation is Operation.RENEW else timedelta()

        def not_after(_now: datetime) -> datetime:
            return end + term

        return Order(
            operation=wish.operation,
            profile_name=old.first.profile,
            profile=profile,
            authority_id=old.first.authority_id,
            subject=content.subject,
            extensions=content.extensions,
            public_key=content.public_key,
            not_after=not_after,
            dual=old.second is not None,
            actor=wish.actor,
            kept=None if content.new_key else escrowed,
            kept_from=None if old.second is None else old.second.id,
            new_key=content.new_key,
            admission=admission,
            replaced=Replaced(old.first.id, old.first.serial, _ending(wish, old)),
            once=once,
        )

    def _check_window(self, old: Pair) -> None:
        opens_ms = old.first.not_after_ms - self._settings.renewal_window_days * _DAY_MS
        if self._clock() < opens_ms:
            raise Refused(
                f"the certificate can be renewed from {rfc3339(opens_ms // 1000 * 1000)} on", code="renewal_early"
            )

    def _content(self, wish: Wish, old: Pair, profile: Profile) -> _Content:
        """Raises Malformed or Refused where the request does not fit the operation."""
        carried = carried_extensions(old.first.certificate)
        same = _Content(old.first.subject, carried, old.first.public_key, new_key=False)
        if wish.csr is None:
            return same
        request = parse_request(wish.csr, max_bytes=self._settings.max_csr_bytes)
        granted = grant(request, profile)
        if wish.operation is Operation.CHANGE:
            _check_change(request, old)
            return _Content(granted.subject, granted.extensions, request.public_key, new_key=False)
        if granted.subject != old.first.subject:
            raise Refused(
                "the request has another subject than the certificate; that is a change, not a renewal or reissue",
                code="subject_changed",
                field="csr.subject",
            )
        if request.public_key == old.first.public_key:
            if wish.operation is Operation.RENEW:
                return same
            raise Refused("the request has the old key; a reissue is for a new one", code="key_not_new", field="csr")
        return _Content(granted.subject, carried, request.public_key, new_key=True)


async def _escrowed(connection: AsyncConnection, certificate: CertificateRecord) -> WrappedKey:
    """Its key as it is kept; nothing wrapped where it is not: then it was made elsewhere, before it came here."""
    try:
        return await escrow.get(connection, certificate.id)
    except NotFound:
        return WrappedKey(certificate.public_key, b"")


def _check_kind(old: Pair) -> None:
    if old.first.usage != "sign":
        raise Refused(
            "that is not a holder's signing certificate or the other one of its pair; it is not replaced by this call",
            code="authority_certificate",
        )


def _check_change(request: CertificateRequest, old: Pair) -> None:
    if request.public_key != old.first.public_key:
        raise Refused(
            "the request has another key than the certificate; a change keeps the key, a reissue makes new ones",
            code="key_changed",
            field="csr.public_key",
        )


def _ending(wish: Wish, old: Pair) -> lifecycle.Change | None:
    """How the old pair ends. Raises Refused (code "reissue_ground")."""
    if wish.ground is None:
        return None
    if wish.operation is Operation.REISSUE and wish.ground not in REISSUE_GROUNDS:
        raise Refused(
            f"a certificate is reissued for one of: {', '.join(sorted(REISSUE_GROUNDS))}",
            code="reissue_ground",
            field="ground",
        )
    return lifecycle.Change(old.first.serial, old.first.authority_id, REASONS[wish.ground], ground=wish.ground)


def carried_extensions(certificate: bytes) -> tuple[Extension, ...]:
    """What a certificate says of its holder besides the subject: GM private extensions and alternative names."""
    return tuple(
        Extension(found.oid.dotted_string, found.critical, found.value.public_bytes())
        for found in load_certificate(certificate).extensions
        if found.oid.dotted_string in GM_EXTENSION_OIDS or found.oid.dotted_string == _SUBJECT_ALTERNATIVE_NAME
    )
