"""All of verification that needs neither store nor network: parsing, signatures, paths, times, usage.

Pure and run in a thread for long calls. Every signature of a call, those on its certificates included, is verified in
one native batch with the GIL released; a certificate that occurs often is parsed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.x509.oid import ExtendedKeyUsageOID

from core.errors import Malformed, Refused
from signer._native import sm2
from signer.signing.parsed import ParseCache, Parsed
from signer.signing.paths import Path, PathFinder
from signer.signing.verdicts import Reason, VerifyItem

#: How far ahead of our clock a time `at` may lie: the caller's clock may be a little fast.
_AHEAD_MAX_MS: Final = 300_000
#: A certificate whose extended usages are all among these is for one machine's one job, not for signing data.
_NOT_FOR_DATA: Final = frozenset({ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.TIME_STAMPING})


@dataclass(slots=True)
class Case:
    """An item under way: what it was parsed into, and the first thing found against it.

    `paths`: those that hold at its time, the certificate itself left out.
    """

    item: VerifyItem
    at_ms: int
    parsed: Parsed | None = None
    candidates: list[Parsed] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    reason: Reason | None = None
    detail: str | None = None

    @property
    def needs_status(self) -> bool:
        """Whether nothing stands against it but, perhaps, a status."""
        return self.reason is None and self.parsed is not None and self.item.depth == "status"


#: Whose signature it is: an item's, or a certificate's under an issuer.
_Target = Case | tuple[Parsed, Parsed]


@dataclass(slots=True)
class _Batch:
    """Signatures to be verified in one native call."""

    keys: list[sm2.PublicKey] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    signatures: list[bytes] = field(default_factory=list)
    targets: list[_Target] = field(default_factory=list)
    messages: dict[bytes, list[tuple[int, bytes]]] = field(default_factory=dict)
    queued: set[tuple[bytes, bytes]] = field(default_factory=set)

    def add(self, target: _Target, key: sm2.PublicKey, digest: bytes, signature: bytes) -> None:
        """Over a digest that is known."""
        self.keys.append(key)
        self.digests.append(digest)
        self.signatures.append(signature)
        self.targets.append(target)

    def add_message(self, target: _Target, key: sm2.PublicKey, message: bytes, user_id: bytes, raw: bytes) -> None:
        """Over a message, which is hashed with the others of its user id."""
        self.messages.setdefault(user_id, []).append((len(self.keys), message))
        self.add(target, key, b"", raw)

    def run(self) -> list[tuple[_Target, bool]]:
        """Each target and whether its signature verifies."""
        if not self.keys:
            return []
        for user_id, found in self.messages.items():
            keys = [self.keys[at] for at, _ in found]
            hashed = sm2.digest_many(keys, [message for _, message in found], user_id=user_id)
            for number, (at, _) in enumerate(found):
                self.digests[at] = hashed[number * 32 : number * 32 + 32]
        results = sm2.verify_many(self.keys, b"".join(self.digests), b"".join(self.signatures))
        return [(target, good == 1) for target, good in zip(self.targets, results, strict=True)]


def examine(
    items: Sequence[VerifyItem], finder: PathFinder, cache: ParseCache, now_ms: int, max_certificate: int
) -> list[Case]:
    """A case per item, in order."""
    cases = [Case(item, now_ms if item.at_ms is None else item.at_ms) for item in items]
    batch = _Batch()
    known = _Known(finder, cache)
    for case in cases:
        try:
            _prepare(case, known, now_ms, max_certificate, batch)
        except (Malformed, Refused) as error:
            case.reason, case.detail = "malformed", error.detail
    for target, good in batch.run():
        if isinstance(target, tuple):
            finder.remember(*target, good)
        elif not good and target.reason is None:
            target.reason = "signature"
    found: dict[tuple[bytes, int, str, bool], Case] = {}
    for case in cases:
        if case.reason is None and case.parsed is not None:
            like = found.setdefault(
                (case.parsed.encoded, case.at_ms, case.item.depth, case.item.signature is None), case
            )
            if like is case:
                case.reason = _against(case, case.parsed, finder)
            else:  # the same certificate, judged for the same: what is true of it does not change within a call
                case.reason, case.detail, case.paths = like.reason, like.detail, like.paths
    return cases


@dataclass(slots=True)
class _Known:
    """What one call found out of keys and certificates, so that it does so once."""

    finder: PathFinder
    cache: ParseCache
    keys: dict[bytes, sm2.PublicKey] = field(default_factory=dict)
    certificates: dict[bytes, Parsed] = field(default_factory=dict)
    candidates: dict[bytes, list[Parsed]] = field(default_factory=dict)

    def certificate(self, encoded: bytes) -> Parsed:
        """Parsed. Raises as `parse`."""
        found = self.certificates.get(encoded)
        if found is None:
            found = self.certificates[encoded] = self.cache.parse(encoded)
        return found

    def key(self, encoded: bytes) -> sm2.PublicKey:
        """A bare key. Raises Malformed."""
        found = self.keys.get(encoded)
        if found is None:
            try:
                found = self.keys[encoded] = sm2.PublicKey.from_bytes(encoded)
            except sm2.InvalidKey as error:
                raise Malformed("the public key is not an SM2 point", code="public_key") from error
        return found


def _prepare(case: Case, known: _Known, now_ms: int, max_certificate: int, batch: _Batch) -> None:
    """Parses an item and lines up its signatures. Raises Malformed or Refused: the item is malformed."""
    item = case.item
    if case.at_ms > now_ms + _AHEAD_MAX_MS:
        raise Malformed("at lies in the future", code="at")
    if item.certificate is not None:
        if len(item.certificate) > max_certificate:
            raise Malformed(f"the certificate has more than {max_certificate} bytes", code="certificate")
        case.parsed = known.certificate(item.certificate)
    if item.signature is not None:
        key = known.key(item.public_key or b"") if case.parsed is None else case.parsed.public_key
        raw = _raw_signature(item.signature)
        if item.digest is not None:
            batch.add(case, key, item.digest, raw)
        else:
            assert item.data is not None  # an item has one of the two
            batch.add_message(case, key, item.data, item.user_id, raw)
    if case.parsed is not None and item.depth != "time":
        before = known.candidates.get(case.parsed.encoded)
        if before is not None:
            case.candidates = before
            return
        case.candidates = known.candidates[case.parsed.encoded] = known.finder.issuers_of(case.parsed)
        for issuer in case.candidates:
            _line_up(case.parsed, issuer, known.finder, batch)


def _line_up(child: Parsed, issuer: Parsed, finder: PathFinder, batch: _Batch) -> None:
    """A certificate's signature, where it is neither known nor lined up yet."""
    pair = (child.encoded, issuer.point)
    if pair in batch.queued or finder.verified(child, issuer) is not None:
        return
    try:
        raw = sm2.signature_from_der(child.signed.signature) if child.signed.is_sm2 else None
    except sm2.InvalidEncoding:
        raw = None
    if raw is None:
        finder.remember(child, issuer, False)
        return
    batch.queued.add(pair)
    batch.add_message((child, issuer), issuer.public_key, child.signed.tbs, sm2.DEFAULT_ID, raw)


def _raw_signature(signature: bytes) -> bytes:
    """r ‖ s. 64 bytes are taken for r ‖ s themselves; a DER signature has that length once in 2^40 or so."""
    if len(signature) == 64:
        return signature
    try:
        return sm2.signature_from_der(signature)
    except sm2.InvalidEncoding as error:
        raise Malformed("a signature is neither DER nor 64 bytes", code="signature_encoding") from error


def _against(case: Case, parsed: Parsed, finder: PathFinder) -> Reason | None:
    """What stands against a certificate whose signature over the item is right."""
    if case.item.depth != "time":
        case.detail = _find_paths(case, parsed, finder)
        if not case.paths:
            return "chain"
    if case.at_ms < parsed.not_before_ms:
        return "not_yet_valid"
    if case.at_ms > parsed.not_after_ms:
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


def _find_paths(case: Case, parsed: Parsed, finder: PathFinder) -> str | None:
    """Fills in the paths that hold at the case's time; says why where there is none."""
    if not parsed.understood:
        return "the certificate has a critical extension that is not processed"
    issuers = [issuer for issuer in case.candidates if finder.verified(parsed, issuer)]
    if not issuers:
        known = "its signature is not that of the authority it names" if case.candidates else "its issuer is not known"
        return f"no path to a trusted authority: {known}"
    gave_up = found = False
    for issuer in issuers:
        paths, spent = finder.paths(issuer)
        gave_up, found = gave_up or spent, found or bool(paths)
        case.paths += [path for path in paths if all(link.valid_at(case.at_ms) for link in path)]
    if case.paths:
        return None
    if gave_up:
        return "no path to a trusted authority was found within the bounds of the search"
    if found:
        return "an authority above it was not valid at that time"
    return "no path to a trusted authority"
