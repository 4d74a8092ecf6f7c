"""Takes signed messages in: whose they are, whether the signatures hold and are of now, and what is refused.

What every signed message passes, whatever it asks for. Refusals are on record; who signed is named there once the
signatures hold, and addresses whose messages do not authenticate are bounded, as are people who were withdrawn. Knows
people and signatures; not what is asked for.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Busy, Conflict, Denied, Malformed, QianyanError, Refused, Unavailable
from core.store import audit
from core.store.database import Database
from signer.holders.vault import Vault
from signer.registration.attempts import Attempts
from signer.registration.checker import Checker, Claim
from signer.registration.directory import Directory, RaView
from signer.registration.envelope import Signed, open_signed
from signer.registration.filing import Replayed, request_subject
from signer.registration.metrics import RegistrationMetrics
from signer.registration.payloads import RA_ID, REQUEST_ID
from signer.registration.sealed_names import request_name
from signer.registration.settings import RegistrationSettings
from signer.registration.standing import Verification, require_foreign

#: What says nothing of the message itself.
UNRECORDED: Final = (Busy, Unavailable, Replayed)
#: What is said to people who are no longer in force, whatever they ask for.
_ENDED: Final = frozenset(
    {"ra_withdrawn", "person_withdrawn", "certificate_expired", "certificate_revoked", "certificate_suspended"}
)
_log = structlog.get_logger()


@dataclass(slots=True)
class Asked:
    """What is known so far of a message that is worked on. `people`: who signed, once that is sure."""

    source: str
    ra: str = ""
    request_id: str = ""
    people: str = ""

    def require(self, ra_id: str, request_id: str) -> None:
        """What was signed is about the request of the path. Raises Malformed (code "request_content")."""
        if (ra_id, request_id) != (self.ra, self.request_id):
            raise Malformed("what was signed names another request than the path", code="request_content")


def asked_of_path(source: str, ra_id: str, request_id: str) -> Asked:
    """A message about a request that the path names; ids that are none are left out of the record."""
    return Asked(
        source,
        ra_id if re.fullmatch(RA_ID, ra_id) else "",
        request_id if re.fullmatch(REQUEST_ID, request_id) else "",
    )


class Reception:
    """See the module. `foreign`: judges certificates that were issued elsewhere; None: none are taken."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        vault: Vault,
        settings: RegistrationSettings,
        clock: Clock,
        metrics: RegistrationMetrics,
        *,
        foreign: Verification | None = None,
    ) -> None:
        self._database = database
        self._directory = directory
        self._vault = vault
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._foreign = foreign
        self._checker = Checker(metrics)
        self._attempts = Attempts(settings.refusals_per_minute, clock)

    @asynccontextmanager
    async def recorded(self, asked: Asked) -> AsyncIterator[None]:
        """What is refused within is on record; else Busy (code "refused_too_often") is raised in its place."""
        try:
            yield
        except UNRECORDED:
            raise
        except QianyanError as error:
            await self._record(asked, error)
            raise

    def open(self, message: bytes) -> Signed:
        """The message, taken apart; nothing of it is sure yet. Raises as `open_signed`."""
        return open_signed(message, max_bytes=self._settings.max_request_bytes)

    async def verified(self, ra_id: str, signed: Signed, asked: Asked, *, signers: int | None = None) -> RaView:
        """The authority, once every signature holds under a certificate of one of its people.

        signers: how many there must be. Raises Denied (codes "ra_unknown", "signer_unknown", "signer_certificate",
        "request_signature"), Refused (code "request_signers").
        """
        view = await self._directory.view(ra_id)
        if any(signer not in view.credentials for signer in signed.signers):
            view = await self._directory.view(ra_id, anew=True)
        claims: list[Claim] = []
        for one in signed.signatures:
            credential = view.credentials.get(one.name_digest)
            if credential is None:
                raise Denied("the certificate is not one of the registration authority's people", code="signer_unknown")
            if credential.certificate != one.certificate:
                raise Denied("the signer's certificate is not the one that is registered", code="signer_certificate")
            claims.append(Claim.of(credential.key, one.to_be_signed, one.signature))
        if not await self._checker.hold(claims):
            raise Denied("a signature is not the signer's over that content", code="request_signature")
        asked.people = "+".join(view.credentials[signer].person_id for signer in signed.signers)
        if signers is not None and len(signed.signatures) != signers:
            raise Refused("that takes one signature", code="request_signers")
        return view

    async def stand_elsewhere(self, view: RaView, signers: Sequence[bytes]) -> None:
        """Certificates that others issued stand: their status cannot be had within a transaction. Raises Denied."""
        known = [view.credentials[one] for one in signers if one in view.credentials]
        await require_foreign(self._foreign, [one.certificate for one in known if one.authority_id is None])

    def in_window(self, signed: Signed) -> bool:
        """Whether every signature is of now."""
        now_ms = self._clock()
        oldest, newest = now_ms - self._settings.signing_window_s * 1000, now_ms + self._settings.signing_skew_s * 1000
        return all(oldest <= one.signing_at_ms <= newest for one in signed.signatures)

    def require_window(self, signed: Signed) -> None:
        """Raises Refused (code "signing_time")."""
        if not self.in_window(signed):
            raise Refused(
                "the signing time is too old or in the future: set the signer's clock, sign again", code="signing_time"
            )

    def require_past(self, received_ms: int) -> None:
        """Raises Conflict (code "evidence_held") while a message that came then may still be of now."""
        settings = self._settings
        left_ms = received_ms + (settings.signing_window_s + settings.signing_skew_s) * 1000 - self._clock()
        if left_ms >= 0:
            raise Conflict(
                f"a message that unlocks is shown once it is too old to be sent again, in {left_ms // 1000 + 1} s",
                code="evidence_held",
            )

    async def sealed(self, ra_id: str, request_id: str, message: bytes) -> bytes:
        """A message as it is kept."""
        return await self._vault.seal_octets(request_name(ra_id, request_id), message)

    async def unsealed(self, ra_id: str, request_id: str, sealed: bytes) -> bytes:
        """A message that was kept."""
        return await self._vault.open_octets(request_name(ra_id, request_id), sealed)

    async def _record(self, asked: Asked, error: QianyanError) -> None:
        self._metrics.refusals.labels(error.kind).inc()
        if not asked.people:
            self._attempts.failed(asked.source)
        elif error.code in _ENDED:  # whose key is of no use any more must not fill the record with it
            self._attempts.failed(f"{asked.ra}/{'+'.join(sorted(asked.people.split('+')))}")
        actor = f"ra:{asked.ra}/{asked.people}" if asked.people else "unauthenticated"
        _log.info("signed request refused", actor=actor, code=error.code, field=error.field)
        subject = request_subject(asked.ra or "-", asked.request_id or "-")
        event = AuditEvent(actor, "request.refuse", subject, error.code)
        async with self._database.write() as connection:
            await audit.append(connection, event, at_ms=self._clock())
