"""Asks another authority's OCSP responder, and reads what it answers (RFC 6960).

Pure: builds request bytes, judges response bytes against times it is handed; knows neither network nor clock. No nonce
is sent: an answer is relied on for as long as it says of itself. Everything wrong is raised as `NotUsable`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from core import oids
from core.asn1 import der
from core.asn1.x509 import Signed
from core.errors import QianyanError
from core.model import CertificateState, CertificateStatus, RevocationReason
from signer.signing.foreign_crl import NotUsable, reason_of, time_ms
from signer.signing.parsed import Parsed, check_signature, holds, parse

_BASIC: Final = der.oid(oids.OCSP_BASIC)
_INVALIDITY: Final = der.oid(oids.INVALIDITY_DATE)
_ARCHIVE_CUTOFF: Final = der.oid(oids.OCSP_ARCHIVE_CUTOFF)
#: OCSPResponseStatus (RFC 6960 §4.2.1), as words for people.
_STATUSES: Final = {1: "malformedRequest", 2: "internalError", 3: "tryLater", 5: "sigRequired", 6: "unauthorized"}
_CERTIFICATES_MAX: Final = 8
_RESPONSES_MAX: Final = 64
_OIDS: Final = {"sm3": oids.SM3, "sha1": oids.SHA1, "sha256": oids.SHA256}


class UnknownHash(NotUsable):
    """The responder has no answer for a CertID under this digest: another may do."""


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """A checked answer. `responder`: the delegated signer's certificate where the issuer did not sign by itself."""

    status: CertificateStatus
    produced_at_ms: int
    this_update_ms: int
    next_update_ms: int
    responder: Parsed | None


def _digest(name: str, data: bytes) -> bytes:
    if name == "sm3":
        digest = hashes.Hash(hashes.SM3())
        digest.update(data)
        return digest.finalize()
    return hashlib.new(name, data, usedforsecurity=False).digest()


def cert_id(certificate: Parsed, issuer: Parsed, hash_name: str) -> bytes:
    """CertID (RFC 6960 §4.1.1): digests of the issuer's name and of its key's bits."""
    return der.sequence(
        der.sequence(der.oid(_OIDS[hash_name]), der.null()),
        der.octet_string(_digest(hash_name, issuer.subject)),
        der.octet_string(_digest(hash_name, issuer.point)),
        der.integer(certificate.serial),
    )


def request(certificate: Parsed, issuer: Parsed, hash_name: str) -> bytes:
    """OCSPRequest for one certificate, unsigned."""
    return der.sequence(der.sequence(der.sequence(der.sequence(cert_id(certificate, issuer, hash_name)))))


def read_answer(
    encoded: bytes, certificate: Parsed, issuer: Parsed, *, now_ms: int, skew_ms: int, max_age_ms: int
) -> OcspAnswer:
    """Reads and checks an answer about `certificate`. Raises NotUsable, whatever the bytes are.

    `max_age_ms`: how old an answer without nextUpdate may be. Whether a delegated signer without id-pkix-ocsp-nocheck
    still stands is left to the caller (RFC 6960 §4.2.2.2.1).
    """
    try:
        signed, certificates = _basic(encoded)
        responder_id, produced_at_ms, singles = _response_data(signed.tbs)
        responder = _responder(responder_id, certificates, signed, issuer, produced_at_ms)
        wanted = {_normal(cert_id(certificate, issuer, name)) for name in _OIDS}
        found = [single for single in singles if _normal(single.cert_id) in wanted]
    except (QianyanError, ValueError) as error:
        detail = getattr(error, "detail", "it cannot be read")
        raise NotUsable(f"the OCSP answer is not sound: {detail}") from error
    if len(found) != 1:
        raise UnknownHash("the OCSP answer is not about this certificate")
    return _judged(found[0], certificate, produced_at_ms, responder, now_ms, skew_ms, max_age_ms)


def _judged(
    single: _Single,
    certificate: Parsed,
    produced_at_ms: int,
    responder: Parsed | None,
    now_ms: int,
    skew_ms: int,
    max_age_ms: int,
) -> OcspAnswer:
    """Times, and what the status means."""
    until_ms = single.next_update_ms
    if until_ms is None:
        until_ms = single.this_update_ms + max_age_ms
    if max(single.this_update_ms, produced_at_ms) > now_ms + skew_ms:
        raise NotUsable("the OCSP answer is of a time that has not come")
    if until_ms <= now_ms:
        raise NotUsable("the OCSP answer is past its nextUpdate")
    if responder is not None and not responder.valid_at(now_ms):
        raise NotUsable("the OCSP signer's certificate is not valid now")
    if single.state is None:
        raise UnknownHash("the OCSP responder does not know the certificate")
    if single.state is CertificateState.GOOD and certificate.not_after_ms < single.this_update_ms:
        cutoff_ms = single.archive_cutoff_ms
        if cutoff_ms is None or cutoff_ms > certificate.not_after_ms:
            raise NotUsable("the certificate expired before the OCSP answer, which need not know of it any more")
    status = CertificateStatus(
        certificate.serial,
        single.state,
        single.revoked_at_ms,
        single.reason,
        single.invalidity_at_ms,
        certificate.not_after_ms,
    )
    return OcspAnswer(status, produced_at_ms, single.this_update_ms, until_ms, responder)


def _basic(encoded: bytes) -> tuple[Signed, list[bytes]]:
    """BasicOCSPResponse taken apart: the signed structure, and the certificates along with it."""
    outer = der.Reader(encoded)
    response = outer.enter(der.SEQUENCE)
    outer.finish()
    status = int.from_bytes(response.take(der.ENUMERATED), "big")
    if status:
        kind = UnknownHash if status in (1, 6) else NotUsable
        raise kind(f"the OCSP responder answers {_STATUSES.get(status, str(status))}")
    wrapped = response.enter(der.context(0)).enter(der.SEQUENCE)
    if wrapped.take_tlv(der.OBJECT_IDENTIFIER) != _BASIC:
        raise NotUsable("the OCSP answer is of an unknown type")
    basic = der.Reader(wrapped.take(der.OCTET_STRING)).enter(der.SEQUENCE)
    signed = Signed(basic.take_tlv(der.SEQUENCE), basic.take_tlv(der.SEQUENCE), basic.bit_string())
    certificates: list[bytes] = []
    if basic:
        listed = basic.enter(der.context(0)).enter(der.SEQUENCE)
        while listed and len(certificates) < _CERTIFICATES_MAX:
            certificates.append(listed.take_tlv(der.SEQUENCE))
    basic.finish()
    return signed, certificates


@dataclass(frozen=True, slots=True)
class _Single:
    """A SingleResponse. `state` None: the responder does not know the certificate."""

    cert_id: bytes
    state: CertificateState | None
    revoked_at_ms: int | None
    reason: RevocationReason | None
    this_update_ms: int
    next_update_ms: int | None
    invalidity_at_ms: int | None
    archive_cutoff_ms: int | None


def _response_data(tbs: bytes) -> tuple[bytes, int, list[_Single]]:
    """(ResponderID, producedAt, responses)."""
    data = der.Reader(tbs).enter(der.SEQUENCE)
    if data.peek() == der.context(0):
        data.take_tlv()  # version; only v1 is defined
    responder_id = data.take_tlv()
    produced_at_ms = time_ms(data)
    listed = data.enter(der.SEQUENCE)
    singles: list[_Single] = []
    while listed:
        if len(singles) == _RESPONSES_MAX:
            raise NotUsable("the OCSP answer is about too many certificates")
        singles.append(_single(listed.enter(der.SEQUENCE)))
    if data.peek() == der.context(1):
        _extensions(data.enter(der.context(1)))
    data.finish()
    return responder_id, produced_at_ms, singles


def _single(single: der.Reader) -> _Single:
    identity = single.take_tlv(der.SEQUENCE)
    state, revoked_at_ms, reason = _cert_status(single)
    this_update_ms = time_ms(single)
    next_update_ms = time_ms(single.enter(der.context(0))) if single.peek() == der.context(0) else None
    found: dict[bytes, bytes] = {}
    if single.peek() == der.context(1):
        found = _extensions(single.enter(der.context(1)))
    single.finish()
    times = {oid: time_ms(der.Reader(found[oid])) for oid in (_INVALIDITY, _ARCHIVE_CUTOFF) if oid in found}
    return _Single(
        identity,
        state,
        revoked_at_ms,
        reason,
        this_update_ms,
        next_update_ms,
        times.get(_INVALIDITY),
        times.get(_ARCHIVE_CUTOFF),
    )


def _cert_status(single: der.Reader) -> tuple[CertificateState | None, int | None, RevocationReason | None]:
    """CertStatus (RFC 6960 §4.2.1)."""
    tag = single.peek()
    if tag == der.context(1):
        revoked = single.enter(tag)
        at_ms = time_ms(revoked)
        reason = reason_of(revoked.enter(der.context(0))) if revoked else None
        held = reason is RevocationReason.CERTIFICATE_HOLD
        return (CertificateState.HELD if held else CertificateState.REVOKED), at_ms, reason
    if single.take(tag):
        raise ValueError("a status that is not NULL")
    if tag == der.context(0, constructed=False):
        return CertificateState.GOOD, None, None
    if tag == der.context(2, constructed=False):
        return None, None, None
    raise ValueError("a status that there is not")


def _extensions(reader: der.Reader) -> dict[bytes, bytes]:
    """Extensions by OID. Raises NotUsable for a critical one: none that may come is processed but for its value."""
    out: dict[bytes, bytes] = {}
    extensions = reader.enter(der.SEQUENCE)
    while extensions:
        extension = extensions.enter(der.SEQUENCE)
        oid = extension.take_tlv(der.OBJECT_IDENTIFIER)
        critical = extension.peek() == der.BOOLEAN and extension.take(der.BOOLEAN) != b"\0"
        if critical and oid not in (_INVALIDITY, _ARCHIVE_CUTOFF):
            raise NotUsable("the OCSP answer has a critical extension that is not processed")
        out[oid] = extension.take(der.OCTET_STRING)
    return out


def _normal(identity: bytes) -> bytes:
    """A CertID with its digest's parameters left out, present as NULL or not."""
    body = der.Reader(identity).enter(der.SEQUENCE)
    algorithm = body.enter(der.SEQUENCE)
    parts = [algorithm.take_tlv(der.OBJECT_IDENTIFIER)]
    while body:
        parts.append(body.take_tlv())
    return b"".join(parts)


def _responder(
    responder_id: bytes, certificates: list[bytes], signed: Signed, issuer: Parsed, produced_at_ms: int
) -> Parsed | None:
    """Who signed: None for the issuer itself, else its delegate (RFC 6960 §4.2.2.2). Raises NotUsable, Refused."""
    if _names(responder_id, issuer):
        if holds(issuer.public_key, signed):
            return None
        if not certificates:
            raise NotUsable("the OCSP answer's signature does not verify")
    for encoded in certificates:
        try:
            candidate = parse(encoded)
        except QianyanError:
            continue  # one of another kind may stand beside the signer's
        if _names(responder_id, candidate) and _is_delegate(candidate, issuer, produced_at_ms):
            check_signature(candidate.public_key, signed)
            return candidate
    raise NotUsable("the OCSP answer is signed by nobody whom the issuer has named")


def _names(responder_id: bytes, certificate: Parsed) -> bool:
    """Whether a ResponderID is that of the certificate's holder, by name or by SHA-1 of its key."""
    reader = der.Reader(responder_id)
    if reader.peek() == der.context(1):
        return reader.take(der.context(1)) == certificate.subject
    identifier = reader.enter(der.context(2)).take(der.OCTET_STRING)
    return identifier == hashlib.sha1(certificate.point, usedforsecurity=False).digest()


def _is_delegate(certificate: Parsed, issuer: Parsed, produced_at_ms: int) -> bool:
    """Issued by this issuer and key for OCSP signing, and valid when the answer was produced."""
    purposes, usage = certificate.extended_key_usage, certificate.key_usage
    return (
        certificate.issuer == issuer.subject
        and purposes is not None
        and ExtendedKeyUsageOID.OCSP_SIGNING in purposes
        and (usage is None or usage.digital_signature)
        and certificate.valid_at(produced_at_ms)
        and certificate.understood
        and holds(issuer.public_key, certificate.signed)
    )
