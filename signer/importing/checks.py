"""Checks certificates of an authority before they are taken over: form, issuer, dates, key usage, and all signatures
of a chunk in one native call.

Pure but for the native core; a chunk's checks may run in a thread. Knows DER and X.509; not the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from core import oids
from core.asn1 import der
from core.asn1 import x509 as codec
from core.asn1.names import region_of
from core.clock import from_datetime
from core.errors import QianyanError
from core.store.certificates import Usage
from signer._native import sm2
from signer.issuance.template import status_month, subject_key_identifier

_SERIAL_MAX_OCTETS: Final = 20
_UNREADABLE: Final = (
    QianyanError,
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Issuer:
    """The authority whose certificates are checked."""

    authority_id: str
    subject: bytes
    public_key: bytes
    key_identifier: bytes | None
    not_before_ms: int
    not_after_ms: int

    @classmethod
    def of(cls, authority_id: str, certificate: bytes) -> Issuer:
        """From its certificate, DER."""
        parsed = codec.load_certificate(certificate)
        _, subject, spki = _names(codec.split_signed(codec.certificate_der(parsed)).tbs)
        return cls(
            authority_id,
            subject,
            codec.public_key_from_spki(spki),
            subject_key_identifier(parsed),
            from_datetime(parsed.not_valid_before_utc),
            from_datetime(parsed.not_valid_after_utc),
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """A certificate that is the issuer's. crl_url: where it says that its CRL is, if it does; warnings: what is unusual
    and no reason to refuse it."""

    encoded: bytes
    serial: int
    usage: Usage
    subject: bytes
    public_key: bytes
    not_before_ms: int
    not_after_ms: int
    status_month: int
    crl_url: str | None
    region: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a certificate is not taken over."""

    code: str
    detail: str


@dataclass(slots=True)
class _Read:
    """A certificate whose signature is still to be checked."""

    checked: Checked
    tbs: bytes
    signature: bytes
    warnings: list[str] = field(default_factory=list)


def check_all(issuer: Issuer, encoded: Sequence[bytes]) -> list[Checked | Refusal]:
    """Each certificate, checked, in order; signatures in one native call."""
    found = [_read(issuer, one) for one in encoded]
    read = [one for one in found if isinstance(one, _Read)]
    if not read:
        return [one for one in found if isinstance(one, Refusal)]
    key = sm2.PublicKey.from_bytes(issuer.public_key)
    digests = sm2.digest_many(key, [one.tbs for one in read])
    good = iter(sm2.verify_many(key, digests, b"".join(one.signature for one in read)))
    bad = Refusal("certificate_signature", "its signature does not verify under the authority's key")
    return [one if isinstance(one, Refusal) else (one.checked if next(good) else bad) for one in found]


def _names(tbs: bytes) -> tuple[bytes, bytes, bytes]:
    """Issuer, subject and SubjectPublicKeyInfo (RFC 5280 §4.1) as they stand there: names in whatever character set, so
    T61String with octets of GBK, which no parser reads, too. Raises Malformed."""
    body = der.Reader(tbs).enter(der.SEQUENCE)
    if body.peek() == der.context(0):
        body.take_tlv()
    body.take_tlv()  # serialNumber
    body.take_tlv()  # signature
    issuer = body.take_tlv(der.SEQUENCE)
    body.take_tlv()  # validity
    return issuer, body.take_tlv(der.SEQUENCE), body.take_tlv(der.SEQUENCE)


def _read(issuer: Issuer, encoded: bytes) -> _Read | Refusal:
    try:
        certificate = x509.load_der_x509_certificate(encoded)
        signed = codec.split_signed(encoded)
        extensions = {one.oid.dotted_string: one for one in certificate.extensions}
        issuer_name, subject, spki = _names(signed.tbs)
        serial = certificate.serial_number
        public_key = codec.public_key_from_spki(spki)
        if signed.encode() != encoded:
            raise ValueError("octets follow the certificate")
    except _UNREADABLE as error:
        return Refusal("certificate", f"not an SM2 certificate in DER: {error}")
    refused = _wrong_issuer(issuer, issuer_name, extensions, signed)
    if refused is not None:
        return refused
    if serial <= 0 or serial.bit_length() > 8 * _SERIAL_MAX_OCTETS:
        return Refusal("certificate_serial", "its serial is not positive, or has more than 20 octets")
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not_after <= not_before or from_datetime(not_after) <= 0:
        return Refusal("certificate_dates", "it ends before it begins, or before 1970")
    try:
        sm2.PublicKey.from_bytes(public_key)
        signature = sm2.signature_from_der(signed.signature)
    except sm2.InvalidKey:
        return Refusal("certificate_key", "its key is not a point of the SM2 curve")
    except sm2.InvalidEncoding:
        return Refusal("certificate_signature", "its signature is no SM2Signature")
    usage, warnings = _usage(extensions)
    if from_datetime(not_after) > issuer.not_after_ms:
        warnings.append("outlives_issuer")
    if from_datetime(not_before) < issuer.not_before_ms:
        warnings.append("before_issuer")
    checked = Checked(
        encoded,
        serial,
        usage,
        subject,
        public_key,
        from_datetime(not_before),
        from_datetime(not_after),
        status_month(not_after),
        _crl_url(extensions),
        region_of(subject),
        tuple(warnings),
    )
    return _Read(checked, signed.tbs, signature)


def _wrong_issuer(
    issuer: Issuer, name: bytes, extensions: dict[str, x509.Extension[x509.ExtensionType]], signed: codec.Signed
) -> Refusal | None:
    if name != issuer.subject:
        return Refusal("certificate_issuer", "another authority issued it")
    if not signed.is_sm2:
        return Refusal("certificate_algorithm", "it is not signed with SM2 and SM3")
    named = extensions.get("2.5.29.35")
    value = None if named is None else named.value
    named_key = value.key_identifier if isinstance(value, x509.AuthorityKeyIdentifier) else None
    if named_key is not None and issuer.key_identifier is not None and named_key != issuer.key_identifier:
        return Refusal("certificate_issuer", "its authority key identifier names another key")
    return None


def _usage(extensions: dict[str, x509.Extension[x509.ExtensionType]]) -> tuple[Usage, list[str]]:
    """What it is for, as the store has it (RFC 5280 §4.2.1.3, §4.2.1.9, §4.2.1.12)."""
    constraints = extensions.get("2.5.29.19")
    if constraints is not None and isinstance(constraints.value, x509.BasicConstraints) and constraints.value.ca:
        return "ca", []
    extended = extensions.get("2.5.29.37")
    purposes = extended.value if extended is not None else ()
    if isinstance(purposes, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.OCSP_SIGNING in purposes:
        return "ocsp", []
    usage = extensions.get("2.5.29.15")
    if usage is None or not isinstance(usage.value, x509.KeyUsage):
        return "sign", ["no_key_usage"]
    value = usage.value
    signs = value.digital_signature or value.content_commitment
    encrypts = value.key_encipherment or value.data_encipherment or value.key_agreement
    if encrypts and not signs:
        return "encrypt", []
    return "sign", ["signs_and_encrypts"] if encrypts else ([] if signs else ["no_key_usage"])


def _crl_url(extensions: dict[str, x509.Extension[x509.ExtensionType]]) -> str | None:
    """Its first distribution point's address, one by HTTP before others."""
    found = extensions.get(oids.CRL_DISTRIBUTION_POINTS)
    if found is None or not isinstance(found.value, x509.CRLDistributionPoints):
        return None
    names = [
        name.value
        for point in found.value
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
    ]
    return next((name for name in names if name.lower().startswith("http")), names[0] if names else None)
