"""Verifies signatures for applications: the signature, the certificate's path, its validity, usage and status.

Owns the bound on how much is verified at a time, and the checked hierarchy of our authorities as the store last had it.
Knows certificates, the store and a StatusSource; not HTTP or JSON. A bad item gets its reason and affects no other; a
store that cannot be asked fails the call (Unavailable), because no item can then be called valid.

Reasons come in this order, the first that applies: malformed, signature, chain, not_yet_valid or expired, key_usage,
and the status: unknown_status, revoked, suspended. With a time `at`, validity is judged at that time, and a revocation
or hold counts where it took effect by then; a key compromise counts from its invalidity date, where one is recorded.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from cryptography.x509.oid import ExtendedKeyUsageOID

from core.clock import Clock
from core.errors import Busy, Malformed, Refused
from core.model import CertificateState, CertificateStatus, RevocationReason
from core.ports import StatusSource
from core.store import authorities
from core.store.database import Database
from signer._native import sm2
from signer.signing.hierarchy import Hierarchy, Issuer, Parsed, parse
from signer.signing.settings import SigningSettings

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

#: How far ahead of our clock a time `at` may lie: the caller's clock may be a little fast.
_AHEAD_MAX_MS: Final = 300_000
#: A certificate whose extended usages are all among these is for one machine's one job, not for signing data.
_NOT_FOR_DATA: Final = frozenset({ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.TIME_STAMPING})


#: How far a certificate is looked into: its time alone; its path too; its status too, which is the whole of it.
Depth = Literal["time", "chain", "status"]


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
    """What came of one item. `reason` None: every check passed. `checked_at_ms`: when its status was looked at."""

    reason: Reason | None
    detail: str | None = None
    serial: int | None = None
    authority_id: str | None = None
    checked_at_ms: int | None = None
    revoked_at_ms: int | None = None
    revocation_reason: RevocationReason | None = None

    @property
    def valid(self) -> bool:
        """Whether every check passed."""
        return self.reason is None


@dataclass(slots=True)
class _Case:
    """An item under way: what it was parsed into, and the first thing found against it."""

    item: VerifyItem
    at_ms: int
    parsed: Parsed | None = None
    issuer: Issuer | None = None
    reason: Reason | None = None
    detail: str | None = None
    status: CertificateStatus | None = None

    @property
    def needs_status(self) -> bool:
        """Whether nothing stands against it but, perhaps, a status."""
        return self.reason is None and self.issuer is not None and self.item.depth == "status"


@dataclass(slots=True)
class _Checks:
    """Signatures to be verified in one native call, each with whose case it is and what it means when it is wrong."""

    keys: list[sm2.PublicKey] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    signatures: list[bytes] = field(default_factory=list)
    cases: list[tuple[_Case, Reason]] = field(default_factory=list)

    def add(self, case: _Case, reason: Reason, key: sm2.PublicKey, digest: bytes, signature: bytes) -> None:
        self.keys.append(key)
        self.digests.append(digest)
        self.signatures.append(signature)
        self.cases.append((case, reason))

    def run(self) -> None:
        """Marks the cases whose signatures are wrong; the first reason given to a case stands."""
        if not self.keys:
            return
        results = sm2.verify_many(self.keys, b"".join(self.digests), b"".join(self.signatures))
        for (case, reason), good in zip(self.cases, results, strict=True):
            if good != 1 and case.reason is None:
                case.reason = reason


class VerificationService:
    """See the module."""

    def __init__(
        self, database: Database, status_source: StatusSource, clock: Clock, settings: SigningSettings
    ) -> None:
        self._database = database
        self._status_source = status_source
        self._clock = clock
        self._settings = settings
        self._under_way = 0
        self._hierarchy = Hierarchy(())
        self._hierarchy_of: list[authorities.Authority] = []

    async def verify(self, items: Sequence[VerifyItem]) -> list[Verdict]:
        """A verdict per item, in order. Raises Busy where too much is under verification, Unavailable."""
        if self._under_way + len(items) > self._settings.max_verifying:
            raise Busy(
                "too many signatures are under verification",
                code="verify_queue",
                retry_after_s=1 + secrets.randbelow(3),
            )
        self._under_way += len(items)
        try:
            return await self._verify(items)
        finally:
            self._under_way -= len(items)

    async def _verify(self, items: Sequence[VerifyItem]) -> list[Verdict]:
        now_ms = self._clock()
        hierarchy = await self.hierarchy() if any(item.certificate for item in items) else Hierarchy(())
        size = sum(len(item.data or b"") + len(item.certificate or b"") for item in items)
        settings = self._settings
        if len(items) <= settings.verify_inline_max and size <= settings.verify_inline_max_bytes:
            cases = _examine(items, hierarchy, now_ms, settings.max_certificate_bytes)
        else:
            cases = await asyncio.to_thread(_examine, items, hierarchy, now_ms, settings.max_certificate_bytes)
        await self._check_statuses([case for case in cases if case.needs_status])
        return [_verdict(case, now_ms) for case in cases]

    async def hierarchy(self) -> Hierarchy:
        """Our authorities as the store has them now. Raises Unavailable."""
        async with self._database.read() as connection:
            rows = await authorities.list_all(connection)
        if rows != self._hierarchy_of:
            self._hierarchy = await asyncio.to_thread(Hierarchy.build, rows)
            self._hierarchy_of = rows
        return self._hierarchy

    async def _check_statuses(self, cases: list[_Case]) -> None:
        """The status of each certificate, and of the authorities above it, one question per authority."""
        wanted: dict[str, set[int]] = {}
        for case in cases:
            for authority_id, serial in _chain_serials(case):
                wanted.setdefault(authority_id, set()).add(serial)
        known: dict[tuple[str, int], CertificateStatus] = {}
        for authority_id, serials in wanted.items():
            for status in await self._status_source.statuses(authority_id, sorted(serials)):
                known[authority_id, status.serial] = status
        for case in cases:
            (leaf, *above) = (known[key] for key in _chain_serials(case))
            # An authority's certificate from outside is not in our store; one of ours that is must stand.
            if any(_standing(status, case.at_ms) in ("revoked", "suspended") for status in above):
                case.reason, case.detail = "chain", "an authority's certificate is revoked"
            else:
                case.reason, case.status = _standing(leaf, case.at_ms), leaf


def _chain_serials(case: _Case) -> list[tuple[str, int]]:
    """(authority, serial) of the certificate, then of each authority's certificate above it but the topmost."""
    assert case.parsed is not None
    assert case.issuer is not None
    out = [(case.issuer.authority_id, case.parsed.serial)]
    out += [(link.parent.authority_id, link.parsed.serial) for link in case.issuer.path() if link.parent is not None]
    return out


def _standing(status: CertificateStatus, at_ms: int) -> Reason | None:
    """What a status says about time `at_ms`."""
    if status.state is None:
        return "unknown_status"
    if status.state is CertificateState.GOOD or status.revoked_at_ms is None:
        return None
    since_ms = status.revoked_at_ms
    if status.reason is RevocationReason.KEY_COMPROMISE and status.invalidity_at_ms is not None:
        since_ms = min(since_ms, status.invalidity_at_ms)
    if since_ms > at_ms:
        return None
    return "suspended" if status.state is CertificateState.HELD else "revoked"


def _examine(items: Sequence[VerifyItem], hierarchy: Hierarchy, now_ms: int, max_certificate: int) -> list[_Case]:
    """All that needs no store: parsing, one native verification of everything, path, times and usage."""
    cases = [_Case(item, now_ms if item.at_ms is None else item.at_ms) for item in items]
    checks = _Checks()
    for case in cases:
        try:
            _prepare(case, hierarchy, now_ms, max_certificate, checks)
        except (Malformed, Refused) as error:
            case.reason, case.detail = "malformed", error.detail
    checks.run()
    for case in cases:
        if case.reason is None and case.parsed is not None:
            case.reason = _against(case, case.parsed)
    return cases


def _prepare(case: _Case, hierarchy: Hierarchy, now_ms: int, max_certificate: int, checks: _Checks) -> None:
    """Parses an item and lines up its signatures. Raises Malformed or Refused: the item is malformed."""
    item = case.item
    if case.at_ms > now_ms + _AHEAD_MAX_MS:
        raise Malformed("at lies in the future", code="at")
    if item.certificate is not None:
        if len(item.certificate) > max_certificate:
            raise Malformed(f"the certificate has more than {max_certificate} bytes", code="certificate")
        case.parsed = parse(item.certificate)
    key = _bare_key(item.public_key) if case.parsed is None else case.parsed.public_key
    if item.signature is not None:
        signature = _raw_signature(item.signature)
        digest = item.digest
        if digest is None:
            assert item.data is not None  # an item has one of the two
            digest = key.digest(item.data, user_id=item.user_id)
        checks.add(case, "signature", key, digest, signature)
    if case.parsed is not None and item.depth != "time":
        case.issuer = hierarchy.issuer_of(case.parsed)
        signed = case.parsed.signed
        if case.issuer is not None and signed.is_sm2:
            above = case.issuer.parsed.public_key
            digest = above.digest(signed.tbs, user_id=sm2.DEFAULT_ID)
            checks.add(case, "chain", above, digest, _from_der(signed.signature))
        else:
            case.issuer = None


def _bare_key(encoded: bytes | None) -> sm2.PublicKey:
    try:
        return sm2.PublicKey.from_bytes(encoded or b"")
    except sm2.InvalidKey as error:
        raise Malformed("the public key is not an SM2 point", code="public_key") from error


def _raw_signature(signature: bytes) -> bytes:
    """r ‖ s. 64 bytes are taken for r ‖ s themselves; a DER signature has that length once in 2^40 or so."""
    return signature if len(signature) == 64 else _from_der(signature)


def _from_der(signature: bytes) -> bytes:
    try:
        return sm2.signature_from_der(signature)
    except sm2.InvalidEncoding as error:
        raise Malformed("a signature is neither DER nor 64 bytes", code="signature_encoding") from error


def _against(case: _Case, parsed: Parsed) -> Reason | None:
    """What stands against a certificate whose signatures are right."""
    issuer, at_ms = case.issuer, case.at_ms
    if case.item.depth != "time" and (
        issuer is None or not parsed.understood or not all(link.parsed.valid_at(at_ms) for link in issuer.path())
    ):
        return "chain"
    if at_ms < parsed.not_before_ms:
        return "not_yet_valid"
    if at_ms > parsed.not_after_ms:
        return "expired"
    if case.item.signature is None:
        return None
    usage = parsed.key_usage
    if usage is None or not (usage.digital_signature or usage.content_commitment):
        return "key_usage"
    extended = parsed.extended_key_usage
    if extended is not None and all(purpose in _NOT_FOR_DATA for purpose in extended):
        return "key_usage"
    return None


def _verdict(case: _Case, now_ms: int) -> Verdict:
    if case.parsed is None:
        return Verdict(case.reason, case.detail)
    status = case.status
    told = status if status is not None and case.reason in ("revoked", "suspended") else None
    return Verdict(
        case.reason,
        case.detail,
        case.parsed.serial,
        None if case.issuer is None else case.issuer.authority_id,
        now_ms,
        None if told is None else told.revoked_at_ms,
        None if told is None else told.reason,
    )
