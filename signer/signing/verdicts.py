"""What is asked of verification and what it answers: values, and the rule by which a status counts at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from core.model import CertificateState, CertificateStatus, RevocationReason
from signer._native import sm2
from signer.signing.foreign import Evidence
from signer.signing.parsed import Parsed

Reason = Literal[
    "malformed",
    "signature",
    "chain",
    "not_yet_valid",
    "expired",
    "key_usage",
    "unknown_status",
    "revoked",
    "suspended",
]

#: How far a certificate is looked into: its time alone; its path too; its status too, which is the whole of it.
Depth = Literal["time", "chain", "status"]

#: Reasons after which somebody else may hold the key.
COMPROMISE: Final = frozenset(
    {RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE, RevocationReason.AA_COMPROMISE}
)


@dataclass(frozen=True, slots=True)
class VerifyItem:
    """One signature to verify: by a certificate (DER) or a bare public key, over data or a digest.

    `signature` None: the certificate alone is judged, whatever its key is for. What `depth` leaves out is not judged.
    """

    signature: bytes | None
    certificate: bytes | None = None
    public_key: bytes | None = None
    data: bytes | None = None
    digest: bytes | None = None
    user_id: bytes = sm2.DEFAULT_ID
    at_ms: int | None = None
    depth: Depth = "status"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one item. `reason` None: every check passed. `checked_at_ms`: when its status was looked at.

    `path`: the certificate, then the authorities up to the anchor, as far as a path was found; `evidence`: what the
    statuses rest on, where it was asked for.
    """

    reason: Reason | None
    detail: str | None = None
    serial: int | None = None
    authority_id: str | None = None
    checked_at_ms: int | None = None
    revoked_at_ms: int | None = None
    revocation_reason: RevocationReason | None = None
    path: tuple[Parsed, ...] = field(default=(), compare=False, repr=False)
    evidence: tuple[Evidence, ...] = field(default=(), compare=False, repr=False)

    @property
    def valid(self) -> bool:
        """Whether every check passed."""
        return self.reason is None


def standing(status: CertificateStatus, at_ms: int) -> Reason | None:
    """What a status says about time `at_ms`: None where it stood then.

    A revocation counts from its time, or from its invalidity date where that is earlier. After a compromise without an
    invalidity date nobody can say since when the key was in other hands, and a signature's time is what its maker says
    it is: the certificate then stands at no time.
    """
    if status.state is None:
        return "unknown_status"
    if status.state is CertificateState.GOOD or status.revoked_at_ms is None:
        return None
    since_ms = status.revoked_at_ms
    if status.invalidity_at_ms is not None:
        since_ms = min(since_ms, status.invalidity_at_ms)
    elif status.reason in COMPROMISE:
        return "revoked"
    if since_ms > at_ms:
        return None
    return "suspended" if status.state is CertificateState.HELD else "revoked"
