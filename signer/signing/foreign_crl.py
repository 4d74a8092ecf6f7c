"""Reads another authority's CRL and says what it means for one certificate (RFC 5280 §5, §6.3).

Pure: bytes in, facts out; knows neither network nor clock. Full CRLs by the certificate's own issuer only: delta and
indirect CRLs, CRLs for some reasons only, and anything critical that is not processed are refused, and so is a CRL
whose scope does not cover the certificate. Everything is raised as `NotUsable`: the status is then unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from core.asn1 import der
from core.asn1.x509 import Signed, split_signed
from core.clock import from_datetime
from core.errors import QianyanError
from core.model import CertificateState, CertificateStatus, RevocationReason
from signer.signing.parsed import Parsed, check_signature

_IDP: Final = "2.5.29.28"
_EXPIRED_CERTS_ON_CRL: Final = der.oid("2.5.29.60")
_REASON: Final = der.oid("2.5.29.21")
_INVALIDITY: Final = der.oid("2.5.29.24")
_TIME_FIELDS: Final = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14))
#: About what an entry takes in memory.
_ENTRY_BYTES: Final = 130


class NotUsable(Exception):
    """It says nothing about the certificate, or is not to be relied on; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL whose signature verifies under `issuer_point`. Times in milliseconds.

    `entries`: by serial, (revoked_at_ms, reason, invalidity_at_ms). `expired_since_ms`: it keeps revoked certificates
    that expired since then (expiredCertsOnCRL, X.509 §9.5.2.8); None: it may drop them once they expire.
    """

    issuer: bytes
    issuer_point: bytes
    number: int | None
    this_update_ms: int
    next_update_ms: int
    idp: x509.IssuingDistributionPoint | None
    expired_since_ms: int | None
    entries: dict[int, tuple[int, RevocationReason | None, int | None]]
    sm3: bytes
    size: int

    @property
    def cost_bytes(self) -> int:
        """About what it takes in memory."""
        return 2_000 + _ENTRY_BYTES * len(self.entries)


def read_crl(encoded: bytes, issuer: Parsed, sm3: bytes) -> Crl:
    """Reads and checks what depends on neither time nor certificate. Raises NotUsable, whatever the bytes are.

    Its AuthorityKeyIdentifier is not looked at: the signature says which key made it.
    """
    usage = issuer.key_usage
    if usage is None or not usage.crl_sign:
        raise NotUsable("the issuer's certificate is not for signing CRLs")
    try:
        signed = split_signed(encoded)
        check_signature(issuer.public_key, signed)
        parsed = x509.load_der_x509_crl(encoded)
        extensions = list(parsed.extensions)
        next_update = parsed.next_update_utc
        name, algorithm, entries, expired_since_ms = _walk(signed)
    except (QianyanError, ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise NotUsable(f"the CRL is not sound: {getattr(error, 'detail', 'it cannot be read')}") from error
    except x509.InvalidVersion as error:
        raise NotUsable("the CRL is of an unknown version") from error
    if name != issuer.subject or algorithm != signed.algorithm:
        raise NotUsable("the CRL is of another issuer, or names two algorithms")
    if next_update is None:
        raise NotUsable("the CRL does not say how long it is good for")
    for extension in extensions:
        if extension.critical and extension.oid.dotted_string != _IDP:
            raise NotUsable(f"the CRL has a critical extension {extension.oid.dotted_string} that is not processed")
    values = {type(extension.value): extension.value for extension in extensions}
    if x509.DeltaCRLIndicator in values:
        raise NotUsable("it is a delta CRL")
    number = values.get(x509.CRLNumber)
    idp = values.get(x509.IssuingDistributionPoint)
    return Crl(
        name,
        issuer.point,
        number.crl_number if isinstance(number, x509.CRLNumber) else None,
        from_datetime(parsed.last_update_utc),
        from_datetime(next_update),
        idp if isinstance(idp, x509.IssuingDistributionPoint) else None,
        expired_since_ms,
        entries,
        sm3,
        len(encoded),
    )


def status_by(crl: Crl, certificate: Parsed, point: x509.DistributionPoint | None) -> CertificateStatus:
    """What the CRL says of a certificate of its issuer. `point`: where its certificate sent us. Raises NotUsable."""
    _check_scope(crl.idp, certificate, point)
    entry = crl.entries.get(certificate.serial)
    if entry is not None:
        revoked_at_ms, reason, invalidity_at_ms = entry
        held = reason is RevocationReason.CERTIFICATE_HOLD
        state = CertificateState.HELD if held else CertificateState.REVOKED
        return CertificateStatus(
            certificate.serial, state, revoked_at_ms, reason, invalidity_at_ms, certificate.not_after_ms
        )
    kept = crl.expired_since_ms is not None and crl.expired_since_ms <= certificate.not_after_ms
    if certificate.not_after_ms < crl.this_update_ms and not kept:
        raise NotUsable("the certificate expired before the CRL was made, which need not list it any more")
    return CertificateStatus(certificate.serial, CertificateState.GOOD, not_after_ms=certificate.not_after_ms)


def _check_scope(
    idp: x509.IssuingDistributionPoint | None, certificate: Parsed, point: x509.DistributionPoint | None
) -> None:
    """RFC 5280 §6.3.3 (b): the CRL's scope covers the certificate."""
    if idp is None:
        return
    if idp.indirect_crl or idp.only_contains_attribute_certs or idp.only_some_reasons is not None:
        raise NotUsable("the CRL is indirect, for attribute certificates, or for some reasons only")
    authority = certificate.basic_constraints is not None and certificate.basic_constraints.ca
    if (idp.only_contains_user_certs and authority) or (idp.only_contains_ca_certs and not authority):
        raise NotUsable("the CRL is for the other kind of certificate")
    if idp.relative_name is not None:
        raise NotUsable("the CRL's distribution point is named in a way that is not processed")
    if idp.full_name is not None:
        names = () if point is None else tuple(point.full_name or ())
        if not any(name in names for name in idp.full_name):
            raise NotUsable("the CRL is for another distribution point")


_Entries = dict[int, tuple[int, RevocationReason | None, int | None]]


def _walk(signed: Signed) -> tuple[bytes, bytes, _Entries, int | None]:
    """(issuer, inner algorithm, entries, expiredCertsOnCRL): by hand, because of lists of hundreds of thousands."""
    outer = der.Reader(signed.tbs)
    tbs = outer.enter(der.SEQUENCE)
    outer.finish()
    if tbs.peek() == der.INTEGER:
        tbs.integer()
    algorithm = tbs.take_tlv(der.SEQUENCE)
    issuer = tbs.take_tlv(der.SEQUENCE)
    while tbs.peek() in (der.UTC_TIME, der.GENERALIZED_TIME):
        tbs.take_tlv()
    entries: _Entries = {}
    if tbs.peek() == der.SEQUENCE:
        listed = tbs.enter(der.SEQUENCE)
        seen: dict[bytes, tuple[RevocationReason | None, int | None]] = {b"": (None, None)}
        while listed:
            entry = listed.enter(der.SEQUENCE)
            serial, at_ms = entry.integer(), time_ms(entry)
            octets = entry.take_tlv(der.SEQUENCE) if entry else b""
            entry.finish()
            if octets not in seen:
                seen[octets] = _entry_extensions(octets)
            if serial in entries:
                raise NotUsable("the CRL lists a serial twice")
            entries[serial] = (at_ms, *seen[octets])
    return issuer, algorithm, entries, _expired_since(tbs)


def _expired_since(tbs: der.Reader) -> int | None:
    if tbs.peek() != der.context(0):
        return None
    extensions = tbs.enter(der.context(0)).enter(der.SEQUENCE)
    while extensions:
        extension = extensions.enter(der.SEQUENCE)
        if extension.take_tlv(der.OBJECT_IDENTIFIER) == _EXPIRED_CERTS_ON_CRL:
            if extension.peek() == der.BOOLEAN:
                extension.take_tlv()
            return time_ms(der.Reader(extension.take(der.OCTET_STRING)))
    return None


def _entry_extensions(octets: bytes) -> tuple[RevocationReason | None, int | None]:
    """(reason, invalidity date). Raises NotUsable for a critical one that is not known: certificateIssuer is one."""
    reason: RevocationReason | None = None
    invalidity_at_ms: int | None = None
    extensions = der.Reader(octets).enter(der.SEQUENCE)
    while extensions:
        extension = extensions.enter(der.SEQUENCE)
        oid = extension.take_tlv(der.OBJECT_IDENTIFIER)
        critical = extension.peek() == der.BOOLEAN and extension.take(der.BOOLEAN) != b"\0"
        value = der.Reader(extension.take(der.OCTET_STRING))
        if oid == _REASON:
            reason = reason_of(value)
        elif oid == _INVALIDITY:
            invalidity_at_ms = time_ms(value)
        elif critical:
            raise NotUsable("an entry of the CRL has a critical extension that is not processed")
    return reason, invalidity_at_ms


def reason_of(reader: der.Reader) -> RevocationReason:
    """A CRLReason (RFC 5280 §5.3.1). Raises NotUsable: removeFromCRL and what has no meaning."""
    octets = reader.take(der.ENUMERATED)
    try:
        return RevocationReason(int.from_bytes(octets, "big", signed=True))
    except ValueError as error:
        raise NotUsable("a reason for revocation has no meaning in a full CRL") from error


def time_ms(reader: der.Reader) -> int:
    """A UTCTime or GeneralizedTime in the forms of RFC 5280 §4.1.2.5, to the second. Raises ValueError, Malformed."""
    short = reader.peek() == der.UTC_TIME
    text = reader.take(der.UTC_TIME if short else der.GENERALIZED_TIME).decode("ascii")
    if len(text) != (13 if short else 15) or not text[:-1].isdigit() or text[-1] != "Z":
        raise ValueError("a time that is not in the form of RFC 5280")
    if short:
        text = ("19" if text[:2] >= "50" else "20") + text
    year, month, day, hour, minute, second = (int(text[a:b]) for a, b in _TIME_FIELDS)
    return from_datetime(datetime(year, month, day, hour, minute, second, tzinfo=UTC))


def points_of(certificate: Parsed) -> list[tuple[str, x509.DistributionPoint]]:
    """Where the certificate says that its CRL is, by URI: points for all reasons, by its own issuer."""
    return [
        (name.value, point)
        for point in certificate.crl_points
        if point.crl_issuer is None and point.reasons is None
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
    ]
