"""What a certificate is to say, and the to-be-signed bytes that say it.

`CertificatePlan` names everything in terms of X.509, not of DER, so that `lint` can check the bytes against it without
trusting the code that wrote them. Knows bytes; not keys, the store or the clock.

End entities carry no BasicConstraints (RFC 5280 §4.2.1.9: absent means not an authority). The status index is not
critical, its OID a setting; it names the certificate's place in the status set:
    StatusIndex ::= SEQUENCE { month INTEGER, index INTEGER }
month is year * 12 + month - 1 of notAfter in UTC; index counts from 0 per issuer and month and is never reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from core import oids
from core.asn1 import der
from core.asn1 import x509 as codec
from core.asn1.distribution import crl_distribution_points, crl_url, freshest_crl
from core.asn1.x509 import Extension
from core.store.authorities import Authority
from core.store.certificates import Usage

KEY_CERT_SIGN: Final = frozenset({"key_cert_sign", "crl_sign"})
OCSP_SIGNING: Final = "1.3.6.1.5.5.7.3.9"
#: Of a delegated signer of status sets (docs/status-set.md).
SET_SIGNING: Final = f"{oids.STATUS_INDEX_DEFAULT}.3"


@dataclass(frozen=True, slots=True)
class IssuerIdentity:
    """What a certificate takes from its issuer, and what binds it. `subject`: DER Name."""

    authority_id: str
    subject: bytes
    public_key: bytes
    key_identifier: bytes
    not_after: datetime
    partitions: int


def issuer_identity(authority: Authority) -> IssuerIdentity:
    """The identity of an authority that has its certificate; its SKI is taken from there, as RFC 5280 §4.2.1.1 asks."""
    if authority.certificate is None:
        raise ValueError("the authority has no certificate")
    certificate = codec.load_certificate(authority.certificate)
    return IssuerIdentity(
        authority.id,
        certificate.subject.public_bytes(),
        authority.public_key,
        subject_key_identifier(certificate) or codec.key_identifier(authority.public_key),
        certificate.not_valid_after_utc,
        authority.partitions,
    )


def subject_key_identifier(certificate: x509.Certificate) -> bytes | None:
    """The certificate's SKI, where it has one."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


@dataclass(frozen=True, slots=True)
class Urls:
    """The addresses written into a certificate; None leaves the pointer out.

    delta: whether the delta CRL that goes with `crl` is named as well.
    """

    crl: str | None = None
    ocsp: str | None = None
    issuer: str | None = None
    delta: bool = False


def urls(public_url: str, authority_id: str, partition: int, *, ocsp: bool = True) -> Urls:
    """Where `authority_id` publishes what concerns a certificate of `partition`, where nothing else is settled."""
    return Urls(
        crl_url(public_url, authority_id, partition),
        f"{public_url}/ocsp" if ocsp else None,
        f"{public_url}/ca/{authority_id}.cer",
    )


@dataclass(frozen=True, slots=True)
class StatusIndex:
    """A certificate's place in the status set, and the extension that says so."""

    oid: str
    month: int
    index: int


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """Everything that a certificate is to say. `issuer`, `subject`: DER Names; times in whole seconds.

    path_length: for an authority, how many authorities may follow; None for no bound. `more`: GM private extensions
    and subjectAltName, already encoded. partition: whose CRL lists it; None: that of its serial.
    """

    usage: Usage
    serial: int
    issuer: bytes
    authority_key_identifier: bytes
    subject: bytes
    public_key: bytes
    not_before: datetime
    not_after: datetime
    key_usage: frozenset[str]
    path_length: int | None = None
    extended_key_usage: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    urls: Urls = Urls()
    status: StatusIndex | None = None
    more: tuple[Extension, ...] = ()
    partition: int | None = None

    @property
    def nocheck(self) -> bool:
        """Whether it says that its own status is not to be asked: of an OCSP signer's, and of no other."""
        return self.usage == "ocsp" and OCSP_SIGNING in self.extended_key_usage

    def tbs(self) -> bytes:
        """The TBSCertificate."""
        return codec.tbs_certificate(
            serial=self.serial,
            issuer=self.issuer,
            subject=self.subject,
            not_before=self.not_before,
            not_after=self.not_after,
            spki=codec.subject_public_key_info(self.public_key),
            extensions=_extensions(self),
        )


def status_month(not_after: datetime) -> int:
    """year * 12 + month - 1 of `not_after` in UTC."""
    at = not_after.astimezone(UTC)
    return at.year * 12 + at.month - 1


def _key_usage(names: frozenset[str]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital_signature" in names,
        content_commitment="content_commitment" in names,
        key_encipherment="key_encipherment" in names,
        data_encipherment="data_encipherment" in names,
        key_agreement="key_agreement" in names,
        key_cert_sign="key_cert_sign" in names,
        crl_sign="crl_sign" in names,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_information(where: Urls) -> Extension:
    described = []
    if where.ocsp is not None:
        described.append((AuthorityInformationAccessOID.OCSP, where.ocsp))
    if where.issuer is not None:
        described.append((AuthorityInformationAccessOID.CA_ISSUERS, where.issuer))
    access = [x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in described]
    return Extension.of(x509.AuthorityInformationAccess(access))


def _extensions(plan: CertificatePlan) -> list[Extension]:
    """In the order in which Chinese CAs write them: key identifiers, usage, policy, pointers, private ones."""
    out = [
        Extension.of(x509.AuthorityKeyIdentifier(plan.authority_key_identifier, None, None)),
        Extension.of(x509.SubjectKeyIdentifier(codec.key_identifier(plan.public_key))),
    ]
    if plan.usage == "ca":
        out.append(Extension.of(x509.BasicConstraints(ca=True, path_length=plan.path_length), critical=True))
    out.append(Extension.of(_key_usage(plan.key_usage), critical=True))
    if plan.extended_key_usage:
        purposes = [x509.ObjectIdentifier(dotted) for dotted in plan.extended_key_usage]
        out.append(Extension.of(x509.ExtendedKeyUsage(purposes)))
    if plan.nocheck:
        out.append(Extension(oids.OCSP_NOCHECK, False, der.null()))  # RFC 6960 §4.2.2.2.1
    if plan.policies:
        policies = [x509.PolicyInformation(x509.ObjectIdentifier(dotted), None) for dotted in plan.policies]
        out.append(Extension.of(x509.CertificatePolicies(policies)))
    if plan.urls.crl is not None:
        out.append(crl_distribution_points(plan.urls.crl))
        if plan.urls.delta:
            out.append(freshest_crl(plan.urls.crl))
    if plan.urls.ocsp is not None or plan.urls.issuer is not None:
        out.append(_authority_information(plan.urls))
    out.extend(plan.more)
    if plan.status is not None:
        value = der.sequence(der.integer(plan.status.month), der.integer(plan.status.index))
        out.append(Extension(plan.status.oid, False, value))
    return out
