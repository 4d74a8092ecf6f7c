"""Reads a CRL as an outsider would: `cryptography` and a small walk over the DER. Shares no code with the builder.

Pure. Knows RFC 5280 §5; not what any particular CRL should say (`crl.check`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography import x509

from core import oids
from core.asn1 import der
from core.asn1.x509 import public_key_of_certificate, split_signed
from core.clock import from_datetime
from core.errors import Malformed

_KNOWN_CRITICAL: Final = frozenset({oids.ISSUING_DISTRIBUTION_POINT, oids.DELTA_CRL_INDICATOR})

#: What reading raises of `cryptography`'s own and of ours.
_UNREADABLE: Final = (
    Malformed,
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def listed(revoked_s: int, reason: int) -> int:
    """What a CRL says of one serial, as one number: `reason` 0 where it gives none.

    A dict of numbers is nothing to Python's garbage collector, where one of a hundred thousand objects would stop the
    event loop for as long as it takes to walk them.
    """
    return revoked_s << 8 | reason


@dataclass(frozen=True, slots=True)
class CrlView:
    """What a CRL says. `idp`: the extension's value as it stands there.

    `entries`: by serial, in the CRL's order, each as `listed` makes it.

    `faults`: what is wrong with it whoever issued it, as (code, detail).
    """

    issuer: bytes
    issuer_text: str
    key_identifier: bytes | None
    number: int | None
    idp: bytes | None
    idp_url: str | None
    this_update_ms: int
    next_update_ms: int | None
    entries: dict[int, int]
    faults: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class IssuerView:
    """What an issuer's certificate says that its CRLs are held against."""

    subject: bytes
    key_identifier: bytes | None
    public_key: bytes
    not_after_ms: int


class _Raw(NamedTuple):
    issuer: bytes
    idp: bytes | None
    faults: list[tuple[str, str]]


def read_issuer(certificate: bytes) -> IssuerView:
    """The issuer's certificate. Raises Malformed or Refused where it is none under SM2."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key_identifier = next(
            (e.value.digest for e in parsed.extensions if isinstance(e.value, x509.SubjectKeyIdentifier)), None
        )
    except _UNREADABLE as error:
        raise Malformed("the issuer's certificate is not X.509", code="certificate") from error
    tbs = der.Reader(split_signed(certificate).tbs).enter(der.SEQUENCE)
    if tbs.peek() == der.context(0):
        tbs.take_tlv()
    for _ in range(4):  # serialNumber, signature, issuer, validity
        tbs.take_tlv()
    return IssuerView(
        subject=tbs.take_tlv(der.SEQUENCE),
        key_identifier=key_identifier,
        public_key=public_key_of_certificate(certificate),
        not_after_ms=from_datetime(parsed.not_valid_after_utc),
    )


def read_crl(crl: bytes) -> CrlView:
    """The CRL, its faults noted. Raises Malformed (code "crl") where it cannot be read at all."""
    try:
        raw = _walk(crl)
        parsed = x509.load_der_x509_crl(crl)
        extensions = list(parsed.extensions)
        entries, faults = _entries(parsed)
        issuer_text = parsed.issuer.rfc4514_string()
        next_update = parsed.next_update_utc
    except _UNREADABLE as error:
        raise Malformed(f"not a CRL: {error}", code="crl") from error
    faults = raw.faults + faults + _extension_faults(extensions)
    values = {type(extension.value): extension.value for extension in extensions}
    key = values.get(x509.AuthorityKeyIdentifier)
    number = values.get(x509.CRLNumber)
    return CrlView(
        issuer=raw.issuer,
        issuer_text=issuer_text,
        key_identifier=key.key_identifier if isinstance(key, x509.AuthorityKeyIdentifier) else None,
        number=number.crl_number if isinstance(number, x509.CRLNumber) else None,
        idp=raw.idp,
        idp_url=_url(values.get(x509.IssuingDistributionPoint)),
        this_update_ms=from_datetime(parsed.last_update_utc),
        next_update_ms=None if next_update is None else from_datetime(next_update),
        entries=entries,
        faults=faults,
    )


def _walk(crl: bytes) -> _Raw:
    """What `cryptography` does not give as it stands: version, algorithms, issuer, the IDP's bytes."""
    signed = split_signed(crl)
    outer = der.Reader(signed.tbs)
    tbs = outer.enter(der.SEQUENCE)
    outer.finish()
    faults: list[tuple[str, str]] = []
    if tbs.peek() != der.INTEGER or tbs.integer() != 1:
        faults.append(("crl_version", "it is not a version 2 CRL"))
    algorithm = tbs.take_tlv(der.SEQUENCE)
    if not signed.is_sm2 or algorithm != signed.algorithm:
        faults.append(("crl_algorithm", "its algorithm is not SM2 with SM3, inside and outside alike"))
    issuer = tbs.take_tlv(der.SEQUENCE)
    while tbs and tbs.peek() != der.context(0):
        tbs.take_tlv()  # thisUpdate, nextUpdate, revokedCertificates
    idp = None
    if tbs:
        extensions = tbs.enter(der.context(0)).enter(der.SEQUENCE)
        while extensions:
            extension = extensions.enter(der.SEQUENCE)
            if extension.take_tlv(der.OBJECT_IDENTIFIER) == _IDP_OID:
                if extension.peek() == der.BOOLEAN:
                    extension.take_tlv()
                idp = extension.take(der.OCTET_STRING)
    return _Raw(issuer, idp, faults)


_IDP_OID: Final = bytes.fromhex("0603551d1c")


def _entries(parsed: x509.CertificateRevocationList) -> tuple[dict[int, int], list[tuple[str, str]]]:
    entries: dict[int, int] = {}
    faults: list[tuple[str, str]] = []
    last = 0
    for entry in parsed:
        serial, reason = entry.serial_number, 0
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CRLReason):
                reason = _REASON_CODES[extension.value.reason]
            if extension.critical:
                faults.append(("crl_entry_critical", f"entry {serial:x} has a critical extension"))
        if serial in entries:
            faults.append(("crl_duplicate", f"serial {serial:x} is listed twice"))
        elif serial <= last:
            faults.append(("crl_unsorted", f"entry {serial:x} is not in ascending order"))
        last = serial
        entries[serial] = listed(int(entry.revocation_date_utc.timestamp()), reason)
    return entries, faults[:10]


#: RFC 5280 §5.3.1.
_REASON_CODES: Final = {
    x509.ReasonFlags.unspecified: 0,
    x509.ReasonFlags.key_compromise: 1,
    x509.ReasonFlags.ca_compromise: 2,
    x509.ReasonFlags.affiliation_changed: 3,
    x509.ReasonFlags.superseded: 4,
    x509.ReasonFlags.cessation_of_operation: 5,
    x509.ReasonFlags.certificate_hold: 6,
    x509.ReasonFlags.remove_from_crl: 8,
    x509.ReasonFlags.privilege_withdrawn: 9,
    x509.ReasonFlags.aa_compromise: 10,
}


def _extension_faults(extensions: list[x509.Extension[x509.ExtensionType]]) -> list[tuple[str, str]]:
    faults = []
    for extension in extensions:
        oid = extension.oid.dotted_string
        if extension.critical and oid not in _KNOWN_CRITICAL:
            faults.append(("crl_critical", f"extension {oid} is critical"))
        if not extension.critical and oid in _KNOWN_CRITICAL:
            faults.append(("crl_critical", f"extension {oid} is not critical"))
    return faults


def _url(idp: x509.ExtensionType | None) -> str | None:
    """The one URI of an IDP that covers every kind of certificate and reason; None for any other."""
    if not isinstance(idp, x509.IssuingDistributionPoint) or idp.full_name is None or len(idp.full_name) != 1:
        return None
    partial = (
        idp.only_contains_user_certs
        or idp.only_contains_ca_certs
        or idp.only_contains_attribute_certs
        or idp.indirect_crl
        or idp.only_some_reasons is not None
    )
    name = idp.full_name[0]
    return name.value if isinstance(name, x509.UniformResourceIdentifier) and not partial else None
