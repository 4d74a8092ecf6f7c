"""Reads a certificate back before it is really signed, and holds it against what it was to say.

The to-be-signed bytes get a signature by a throw-away key, are parsed by `cryptography.x509`, and every field and
extension is compared with the plan and with RFC 5280, so that a malformed certificate never gets a real signature.
Nothing of `template`'s encoders is used here. A failure is a fault of ours (kind "internal"), not of the request.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Final, TypeVar

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import AuthorityInformationAccessOID

from core import oids
from core.asn1 import der, names
from core.asn1 import x509 as codec
from core.errors import QianyanError
from signer._native import sm2
from signer.issuance.template import CertificatePlan, subject_key_identifier

_USAGE_NAMES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
#: RFC 5280 and GM practice: these are critical, every other one of ours is not.
_CRITICAL: Final = frozenset({"2.5.29.15", "2.5.29.19"})
#: What parsing raises, lax encodings (which the library only warns of) among it.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    Warning,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


class LintFailure(QianyanError):
    """The certificate does not say what was planned; nothing was signed."""


class Linter:
    """Holds the throw-away key; one per process is enough."""

    def __init__(self) -> None:
        self._key = sm2.PrivateKey.generate()

    def check(self, plan: CertificatePlan, tbs: bytes) -> None:
        """Raises LintFailure (code "lint_...") where `tbs` is not what `plan` says."""
        encoded = codec.join_signed(tbs, sm2.signature_to_der(self._key.sign(tbs)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", CryptographyDeprecationWarning)
                certificate = x509.load_der_x509_certificate(encoded)
                _check_body(plan, certificate, encoded)
                _check_extensions(plan, certificate)
        except LintFailure:
            raise
        except (*_UNREADABLE, QianyanError) as error:
            raise LintFailure(f"the certificate cannot be read back: {error}", code="lint_parse") from error


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise LintFailure(f"the certificate is not as planned: {what}", code=f"lint_{what}")


def _check_body(plan: CertificatePlan, certificate: x509.Certificate, encoded: bytes) -> None:
    """Everything but the extensions (RFC 5280 §4.1)."""
    signed = codec.split_signed(encoded)
    _expect(certificate.tbs_certificate_bytes == signed.tbs, "bytes")
    _expect(certificate.version is x509.Version.v3, "version")
    _expect(certificate.serial_number == plan.serial, "serial")
    _expect(0 < plan.serial < 1 << 159, "serial_range")
    if plan.usage in ("sign", "encrypt"):
        _expect(plan.serial.bit_length() > 120 and plan.serial.bit_length() < 128, "serial_entropy")
    _expect(certificate.signature_algorithm_oid.dotted_string == oids.SM3_WITH_SM2, "algorithm")
    inner = der.Reader(signed.tbs).enter(der.SEQUENCE)
    inner.take_tlv(der.context(0))
    inner.integer()
    _expect(inner.take_tlv(der.SEQUENCE) == signed.algorithm, "inner_algorithm")
    _expect(inner.take_tlv(der.SEQUENCE) == plan.issuer, "issuer")
    _expect(certificate.issuer.public_bytes() == plan.issuer, "issuer")
    _expect(certificate.subject.public_bytes() == plan.subject, "subject")
    names.read_fields(certificate.subject)
    _check_string_types(certificate.subject)
    _check_validity(plan, certificate, inner)
    _expect(codec.public_key_of_certificate(encoded) == plan.public_key, "public_key")


def _check_string_types(subject: x509.Name) -> None:
    """C and serialNumber PrintableString, all else UTF8String (GM/T 0015)."""
    for attribute in subject:
        printable = attribute.oid.dotted_string in (oids.COUNTRY, oids.SERIAL_NUMBER)
        _expect(attribute._type.name == ("PrintableString" if printable else "UTF8String"), "subject_encoding")


def _check_validity(plan: CertificatePlan, certificate: x509.Certificate, inner: der.Reader) -> None:
    _expect(certificate.not_valid_before_utc == plan.not_before, "not_before")
    _expect(certificate.not_valid_after_utc == plan.not_after, "not_after")
    _expect(plan.not_before < plan.not_after, "validity")
    times = inner.enter(der.SEQUENCE)
    for at in (plan.not_before, plan.not_after):
        _expect(times.peek() == (der.UTC_TIME if at.year < 2050 else der.GENERALIZED_TIME), "time_encoding")
        times.take_tlv()


def _check_extensions(plan: CertificatePlan, certificate: x509.Certificate) -> None:
    """Exactly the planned extensions, each once, each saying what was planned."""
    present = {e.oid.dotted_string: e for e in certificate.extensions}  # raises on a duplicate
    _expect(set(present) == _planned_oids(plan), "extensions")
    for dotted, extension in present.items():
        _expect(extension.critical == (dotted in _CRITICAL), "criticality")
    _check_identifiers(plan, certificate)
    _check_usages(plan, certificate)
    _check_pointers(plan, certificate)
    for more in plan.more:
        _expect(present[more.oid].value.public_bytes() == more.value, "private_extension")
    if plan.status is not None:
        value = present[plan.status.oid].value
        _expect(isinstance(value, x509.UnrecognizedExtension), "status_index")
        body = der.Reader(value.public_bytes()).enter(der.SEQUENCE)
        at = plan.not_after
        _expect(body.integer() == plan.status.month == at.year * 12 + at.month - 1, "status_month")
        _expect(body.integer() == plan.status.index, "status_index")
        body.finish()


def _planned_oids(plan: CertificatePlan) -> set[str]:
    planned = {"2.5.29.35", "2.5.29.14", "2.5.29.15", *(more.oid for more in plan.more)}
    optional: list[tuple[bool, str]] = [
        (plan.usage == "ca", "2.5.29.19"),
        (bool(plan.extended_key_usage), "2.5.29.37"),
        (plan.nocheck, oids.OCSP_NOCHECK),
        (bool(plan.policies), "2.5.29.32"),
        (plan.urls.crl is not None, oids.CRL_DISTRIBUTION_POINTS),
        (plan.urls.crl is not None and plan.urls.delta, oids.FRESHEST_CRL),
        (plan.urls.ocsp is not None or plan.urls.issuer is not None, "1.3.6.1.5.5.7.1.1"),
    ]
    planned.update(dotted for wanted, dotted in optional if wanted)
    return planned | ({plan.status.oid} if plan.status is not None else set())


def _get(certificate: x509.Certificate, kind: type[_Kind]) -> _Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_identifiers(plan: CertificatePlan, certificate: x509.Certificate) -> None:
    _expect(subject_key_identifier(certificate) == codec.key_identifier(plan.public_key), "subject_key_identifier")
    authority = _get(certificate, x509.AuthorityKeyIdentifier)
    _expect(
        authority is not None
        and authority.key_identifier == plan.authority_key_identifier
        and authority.authority_cert_issuer is None,
        "authority_key_identifier",
    )


def _check_usages(plan: CertificatePlan, certificate: x509.Certificate) -> None:
    usage = _get(certificate, x509.KeyUsage)
    said = {name for name in _USAGE_NAMES if usage is not None and getattr(usage, name)}
    _expect(said == plan.key_usage and bool(said), "key_usage")
    signing = {"key_cert_sign", "crl_sign"}
    _expect(bool(signing & said) == (plan.usage == "ca"), "key_usage_authority")
    purposes = _get(certificate, x509.ExtendedKeyUsage)
    _expect(tuple(p.dotted_string for p in purposes or ()) == plan.extended_key_usage, "extended_key_usage")
    constraints = _get(certificate, x509.BasicConstraints)
    if plan.usage == "ca":
        _expect(constraints is not None and constraints.ca, "basic_constraints")
        _expect(constraints is not None and constraints.path_length == plan.path_length, "path_length")
    policies = _get(certificate, x509.CertificatePolicies)
    _expect(tuple(p.policy_identifier.dotted_string for p in policies or ()) == plan.policies, "policies")


def _check_points(points: Iterable[x509.DistributionPoint] | None, url: str | None, what: str) -> None:
    said = [name.value for point in points or () for name in point.full_name or ()]
    _expect(said == ([] if url is None else [url]), what)
    _expect(all(p.reasons is None and p.crl_issuer is None for p in points or ()), what)


def _check_pointers(plan: CertificatePlan, certificate: x509.Certificate) -> None:
    crl = plan.urls.crl
    _check_points(_get(certificate, x509.CRLDistributionPoints), crl, "crl_distribution_points")
    delta = None if crl is None or not plan.urls.delta else re.sub(r"(\.crl)?$", "-delta.crl", crl, count=1)
    _check_points(_get(certificate, x509.FreshestCRL), delta, "freshest_crl")
    access = _get(certificate, x509.AuthorityInformationAccess)
    said = [(d.access_method, d.access_location.value) for d in access or ()]
    planned = [
        (AuthorityInformationAccessOID.OCSP, plan.urls.ocsp),
        (AuthorityInformationAccessOID.CA_ISSUERS, plan.urls.issuer),
    ]
    _expect(said == [(method, url) for method, url in planned if url is not None], "authority_information_access")
