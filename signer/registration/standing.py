"""Whether the certificates of those who sign stand now: ours by the store, others by what their issuers say.

Ours are looked at in the transaction of the effect. A status from elsewhere cannot be had within a transaction; it is
asked for right before, by the rules of verification (docs/verification.md), and unknown is a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Denied, Refused
from core.model import CertificateState
from core.store import certificates, tail
from signer.registration.directory import Credential, denied
from signer.signing.verdicts import Verdict, VerifyItem

_FOREIGN: Final[Mapping[str, tuple[str, str]]] = {
    "chain": ("certificate_chain", "no path leads from the certificate to an authority that is trusted here"),
    "revoked": ("certificate_revoked", "the signer's certificate is revoked"),
    "suspended": ("certificate_suspended", "the signer's certificate is suspended"),
    "expired": ("certificate_expired", "the signer's certificate has expired"),
    "not_yet_valid": ("certificate_not_yet_valid", "the signer's certificate is not valid yet"),
    "unknown_status": ("certificate_status_unknown", "nobody tells the status of the signer's certificate"),
}


class Verification(Protocol):
    """What judges certificates that were issued elsewhere (signer.signing.verification.VerificationService)."""

    async def verify(self, items: Sequence[VerifyItem]) -> list[Verdict]:
        """A verdict per item, in order."""


async def require_standing(
    connection: AsyncConnection, credentials: Sequence[Credential], stood: set[tuple[str, int]]
) -> None:
    """Those of ours are neither revoked nor suspended, as the store has it in the caller's transaction.

    stood: which were found good in this transaction already; grows.
    Raises Denied (codes "certificate_revoked", "certificate_suspended", "certificate_unknown").
    """
    wanted: dict[str, list[int]] = {}
    for credential in credentials:
        if credential.authority_id is not None and (credential.authority_id, credential.serial) not in stood:
            wanted.setdefault(credential.authority_id, []).append(credential.serial)
    writing = tail.writing(connection)  # then a revocation waits for us, or we see it
    for authority_id, serials in sorted(wanted.items()):
        for status in await certificates.statuses(connection, authority_id, serials, lock=writing):
            if status.state is CertificateState.REVOKED:
                raise denied("the signer's certificate is revoked", "certificate_revoked")
            if status.state is CertificateState.HELD:
                raise denied("the signer's certificate is suspended", "certificate_suspended")
            if status.state is None:
                raise denied("the signer's certificate is not in the store", "certificate_unknown")
            stood.add((authority_id, status.serial))


async def require_foreign(verification: Verification | None, encoded: Sequence[bytes]) -> None:
    """Certificates from elsewhere (DER) that are trusted, in time and not revoked. Raises Denied."""
    if not encoded:
        return
    if verification is None:
        raise Refused("this service takes certificates of its own authorities alone", code="certificate_chain")
    for verdict in await verification.verify([VerifyItem(None, certificate=one) for one in encoded]):
        if verdict.reason is not None:
            raise _of(verdict)


def _of(verdict: Verdict) -> Denied:
    code, words = _FOREIGN.get(verdict.reason or "", ("certificate_chain", "the signer's certificate is not sound"))
    return denied(words if verdict.detail is None else f"{words}: {verdict.detail}", code)
