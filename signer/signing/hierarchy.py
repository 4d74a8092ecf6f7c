"""Our authorities as a relying party sees them: whose certificates may issue, and for how long.

Knows certificates and the native core; not the store, the clock or HTTP. What does not depend on the time is checked
once when a `Hierarchy` is built: names, keys, signatures, CA flag, key usage, path length, critical extensions
(RFC 5280 §6.1). An authority that fails is left out, so nothing chains to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from cryptography import x509

from core.asn1 import der
from core.asn1.x509 import (
    Signed,
    load_certificate,
    public_key_from_spki,
    spki_of_certificate,
    split_signed,
)
from core.clock import from_datetime
from core.errors import Malformed, QianyanError, Refused
from core.store.authorities import Authority
from signer._native import sm2

_log = structlog.get_logger()

E = TypeVar("E", bound=x509.ExtensionType)

#: Critical extensions that are understood here; any other critical one refuses the certificate (RFC 5280 §4.2).
_UNDERSTOOD: Final = frozenset(
    {
        x509.KeyUsage.oid,
        x509.BasicConstraints.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,
        x509.CertificatePolicies.oid,
        x509.CRLDistributionPoints.oid,
    }
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What is looked at in a certificate. Times in milliseconds; `not_after_ms` is the last moment it is valid."""

    signed: Signed
    serial: int
    issuer: bytes
    subject: bytes
    public_key: sm2.PublicKey
    point: bytes
    not_before_ms: int
    not_after_ms: int
    key_usage: x509.KeyUsage | None
    extended_key_usage: x509.ExtendedKeyUsage | None
    basic_constraints: x509.BasicConstraints | None
    subject_key_id: bytes | None
    authority_key_id: bytes | None
    understood: bool

    def valid_at(self, at_ms: int) -> bool:
        """Whether `at_ms` lies in the validity period, both ends included (RFC 5280 §4.1.2.5)."""
        return self.not_before_ms <= at_ms <= self.not_after_ms


def parse(encoded: bytes) -> Parsed:
    """Takes a DER certificate of an SM2 key apart. Raises Malformed or Refused, whatever the bytes are."""
    signed = split_signed(encoded)
    tbs = der.Reader(signed.tbs).enter(der.SEQUENCE)
    if tbs.peek() == der.context(0):
        tbs.take_tlv()
    serial = tbs.integer()
    inner_algorithm = tbs.take_tlv(der.SEQUENCE)
    issuer = tbs.take_tlv(der.SEQUENCE)
    tbs.take_tlv(der.SEQUENCE)
    subject = tbs.take_tlv(der.SEQUENCE)
    if not 0 < serial < 1 << 160 or inner_algorithm != signed.algorithm:
        raise Malformed("the certificate's serial or algorithm is not sound", code="certificate")
    certificate = load_certificate(encoded)
    point = public_key_from_spki(spki_of_certificate(encoded))
    try:
        key = sm2.PublicKey.from_bytes(point)
        extensions = certificate.extensions
        not_before_ms = from_datetime(certificate.not_valid_before_utc)
        not_after_ms = from_datetime(certificate.not_valid_after_utc) + 999
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Malformed("the certificate's key, times or extensions are not sound", code="certificate") from error
    return Parsed(
        signed,
        serial,
        issuer,
        subject,
        key,
        point,
        not_before_ms,
        not_after_ms,
        _find(extensions, x509.KeyUsage),
        _find(extensions, x509.ExtendedKeyUsage),
        _find(extensions, x509.BasicConstraints),
        None if (found := _find(extensions, x509.SubjectKeyIdentifier)) is None else found.digest,
        None if (named := _find(extensions, x509.AuthorityKeyIdentifier)) is None else named.key_identifier,
        all(extension.oid in _UNDERSTOOD for extension in extensions if extension.critical),
    )


def _find(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority that may issue. `parent` None: the end of the path, trusted because it is ours."""

    authority_id: str
    parsed: Parsed
    parent: Issuer | None

    def path(self) -> Iterable[Issuer]:
        """This authority, then those above it."""
        link: Issuer | None = self
        while link is not None:
            yield link
            link = link.parent


class Hierarchy:
    """The authorities that hold, by name and key. Made by `build`."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self._by_name: dict[bytes, list[Issuer]] = {}
        for issuer in issuers:
            self._by_name.setdefault(issuer.parsed.subject, []).append(issuer)

    @classmethod
    def build(cls, authorities: Sequence[Authority]) -> Hierarchy:
        """From the store's rows; those without a certificate, or whose certificate does not hold, are left out."""
        rows = {row.id: row for row in authorities}
        built: dict[str, Issuer | None] = {}

        def link(authority_id: str, below: int) -> Issuer | None:
            if authority_id in built or below > len(rows):
                return built.get(authority_id)
            row = rows[authority_id]
            parent = None if row.parent_id is None else link(row.parent_id, below + 1)
            try:
                built[authority_id] = _issuer(row, parent)
            except QianyanError as error:
                _log.warning("authority_does_not_hold", authority=authority_id, code=error.code, detail=error.detail)
                built[authority_id] = None
            return built[authority_id]

        return cls(found for row in authorities if row.certificate and (found := link(row.id, 0)) is not None)

    def issuer_of(self, certificate: Parsed) -> Issuer | None:
        """The authority that the certificate names as its issuer, by name and key identifier; None: not one of ours.

        That its signature verifies under that authority's key is left to the caller.
        """
        named = self._by_name.get(certificate.issuer, [])
        if certificate.authority_key_id is None:
            return named[0] if len(named) == 1 else None
        for issuer in named:
            if issuer.parsed.subject_key_id == certificate.authority_key_id:
                return issuer
        return None


def _issuer(row: Authority, parent: Issuer | None) -> Issuer:
    if row.certificate is None:
        raise Refused("it has no certificate", code="authority_certificate")
    parsed = parse(row.certificate)
    if parsed.subject != row.subject or parsed.point != row.public_key:
        raise Refused("its certificate is not for its name and key", code="authority_certificate")
    if row.parent_id is not None and parent is None:
        raise Refused("the authority above it does not hold", code="authority_parent")
    if parent is not None or parsed.issuer == parsed.subject:
        above = parsed if parent is None else parent.parsed
        if parsed.issuer != above.subject:
            raise Refused("its certificate names another issuer", code="authority_certificate")
        check_signature(above.public_key, parsed.signed)
    issuer = Issuer(row.id, parsed, parent)
    for below, link in enumerate(issuer.path()):
        _check_may_issue(link.parsed, below)
    return issuer


def _check_may_issue(parsed: Parsed, below: int) -> None:
    """CA flag, keyCertSign, and room for `below` authorities under it (RFC 5280 §4.2.1.9, §4.2.1.3)."""
    constraints, usage = parsed.basic_constraints, parsed.key_usage
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign or not parsed.understood:
        raise Refused("its certificate is not that of an authority", code="authority_certificate")
    if constraints.path_length is not None and constraints.path_length < below:
        raise Refused("the path length above it is used up", code="authority_path_length")


def check_signature(key: sm2.PublicKey, signed: Signed) -> None:
    """Raises Refused (code "signature") where the certificate's signature is not one under `key`."""
    try:
        if not signed.is_sm2:
            raise Refused("the certificate is not signed by SM2 with SM3", code="signature")
        key.verify(signed.tbs, sm2.signature_from_der(signed.signature), user_id=sm2.DEFAULT_ID)
    except (sm2.InvalidEncoding, sm2.InvalidSignature) as error:
        raise Refused("the certificate's signature does not verify", code="signature") from error
