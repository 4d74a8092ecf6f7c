"""Reads a CRL as an outsider would: a strict compiled reader, and `cryptography` beside it. Shares no code with the
builder.

Pure. Knows RFC 5280 §5; not what any particular CRL should say (`crl.check`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography import x509

from core import oids
from core.asn1 import der
from core.asn1.x509 import public_key_of_certificate, split_signed
from core.clock import from_datetime
from core.errors import Malformed
from crl._reader import Listing

#: Past this the second parser is left out, unless the caller says otherwise: it holds up the process meanwhile.
SECOND_PARSER_MAX_BYTES: Final = 64 << 20
#: Up to how many entries the two readers are held against each other one by one.
_COMPARED_ENTRIES: Final = 20_000

_SM3_WITH_SM2: Final = bytes.fromhex("300a06082a811ccf55018375"), bytes.fromhex("300c06082a811ccf550183750500")
_AKI, _NUMBER, _IDP, _DELTA, _FRESHEST = (bytes.fromhex(f"551d{n:02x}") for n in (35, 20, 28, 27, 46))
_CRITICAL: Final = frozenset({_IDP, _DELTA})

_SAYS: Final = {
    "crl_duplicate": "serial {0:x} is listed twice",
    "crl_unsorted": "entry {0:x} is not in ascending order",
    "crl_entry_critical": "entry {0:x} has a critical extension",
    "crl_time_form": "a time is not in the form that its year asks for (entry {0:x})",
    "crl_serial": "an entry's serial is {0:x}",
}

#: What reading raises of `cryptography`'s own and of ours.
_UNREADABLE: Final = (
    Malformed,
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Readable(Protocol):
    """A CRL's bytes, or what gives them by the buffer protocol."""

    def __len__(self) -> int: ...

    def __buffer__(self, flags: int, /) -> memoryview: ...


@dataclass(frozen=True, slots=True)
class CrlView:
    """What a CRL says. `idp`: the extension's value as it stands there; `tbs`: (start, end) in the CRL.

    `base_number`: None for a full CRL. `faults`: what is wrong with it whoever issued it, as (code, detail).
    """

    issuer: bytes
    issuer_text: str
    key_identifier: bytes | None
    number: int | None
    base_number: int | None
    idp: bytes | None
    idp_url: str | None
    freshest_url: str | None
    this_update_ms: int
    next_update_ms: int | None
    tbs: tuple[int, int]
    signature: bytes
    entries: Listing
    faults: list[tuple[str, str]] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """Whether its entries are in order, as every comparison takes them to be."""
        return not any(code in ("crl_unsorted", "crl_duplicate") for code, _ in self.faults)


@dataclass(frozen=True, slots=True)
class IssuerView:
    """What an issuer's certificate says that its CRLs are held against."""

    subject: bytes
    key_identifier: bytes | None
    public_key: bytes
    not_after_ms: int


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


def read_crl(crl: Readable, *, second_max_bytes: int = SECOND_PARSER_MAX_BYTES) -> CrlView:
    """The CRL, its faults noted. Raises Malformed (code "crl") where it cannot be read at all.

    second_max_bytes: up to which size `cryptography` reads it, too.
    """
    try:
        listing = Listing(crl)
        values = {oid: value for oid, _, value in listing.extensions or ()}
        faults = [(code, _SAYS[code].format(serial)) for code, serial in listing.faults]
        faults += _envelope_faults(listing)
        aki, number, base = values.get(_AKI), values.get(_NUMBER), values.get(_DELTA)
        idp, freshest = values.get(_IDP), values.get(_FRESHEST)
        view = CrlView(
            issuer=listing.issuer,
            issuer_text="another name",
            key_identifier=None if aki is None else _key_identifier(aki),
            number=None if number is None else _integer(number),
            base_number=None if base is None else _integer(base),
            idp=idp,
            idp_url=None if idp is None else _idp_url(idp),
            freshest_url=None if freshest is None else _freshest_url(freshest),
            this_update_ms=listing.this_update_ms,
            next_update_ms=listing.next_update_ms,
            tbs=listing.tbs,
            signature=listing.signature,
            entries=listing,
            faults=faults,
        )
        return view if len(crl) > second_max_bytes else _second_opinion(view, bytes(crl))
    except _UNREADABLE as error:
        raise Malformed(f"not a CRL: {error}", code="crl") from error


def read_signed(crl: bytes) -> CrlView:
    """A CRL whose every other part was read before it was signed: by the strict reader alone. Raises Malformed."""
    return read_crl(crl, second_max_bytes=-1)


def _envelope_faults(listing: Listing) -> list[tuple[str, str]]:
    faults = []
    if listing.version != 1:
        faults.append(("crl_version", "it is not a version 2 CRL"))
    inner, outer = listing.algorithms
    if inner != outer or inner not in _SM3_WITH_SM2:
        faults.append(("crl_algorithm", "its algorithm is not SM2 with SM3, inside and outside alike"))
    for oid, critical, _ in listing.extensions or ():
        if critical != (oid in _CRITICAL):
            faults.append(("crl_critical", f"extension {oid.hex()} is {'' if critical else 'not '}critical"))
    return faults


def _integer(value: bytes) -> int:
    reader = der.Reader(value)
    number = reader.integer()
    reader.finish()
    return number


def _key_identifier(value: bytes) -> bytes | None:
    body = der.Reader(value).enter(der.SEQUENCE)
    return body.take(0x80) if body.peek() == 0x80 else None


def _one_uri(name: der.Reader) -> str | None:
    """The URI of a DistributionPointName of one URI; None for any other."""
    if name.peek() != der.context(0):
        return None
    names = name.enter(der.context(0))
    uri = names.take(0x86).decode("ascii") if names.peek() == 0x86 else None
    return None if names else uri


def _idp_url(value: bytes) -> str | None:
    """The one URI of an IDP that covers every kind of certificate and reason; None for any other (RFC 5280 §5.2.5)."""
    body = der.Reader(value).enter(der.SEQUENCE)
    if body.peek() != der.context(0):
        return None
    url = _one_uri(body.enter(der.context(0)))
    return None if body else url


def _freshest_url(value: bytes) -> str | None:
    points = der.Reader(value).enter(der.SEQUENCE)
    point = points.enter(der.SEQUENCE)
    if points or point.peek() != der.context(0):
        return None
    return _one_uri(point.enter(der.context(0)))


def _second_opinion(view: CrlView, crl: bytes) -> CrlView:
    """The view where `cryptography` reads the same; else one with a fault that says what it reads otherwise."""
    parsed = x509.load_der_x509_crl(crl)
    extensions = {type(extension.value): extension.value for extension in parsed.extensions}
    key = extensions.get(x509.AuthorityKeyIdentifier)
    number = extensions.get(x509.CRLNumber)
    base = extensions.get(x509.DeltaCRLIndicator)
    next_update = parsed.next_update_utc
    same = {
        "thisUpdate": from_datetime(parsed.last_update_utc) == view.this_update_ms,
        "nextUpdate": (None if next_update is None else from_datetime(next_update)) == view.next_update_ms,
        "AKI": (key.key_identifier if isinstance(key, x509.AuthorityKeyIdentifier) else None) == view.key_identifier,
        "number": (number.crl_number if isinstance(number, x509.CRLNumber) else None) == view.number,
        "base": (base.crl_number if isinstance(base, x509.DeltaCRLIndicator) else None) == view.base_number,
        "entries": _same_entries(view.entries, parsed),
    }
    faults = [("crl_readers", f"two readers differ on its {what}") for what, agrees in same.items() if not agrees]
    values = {name: getattr(view, name) for name in CrlView.__dataclass_fields__}
    values |= {"issuer_text": parsed.issuer.rfc4514_string(), "faults": view.faults + faults}
    return CrlView(**values)


def _same_entries(listing: Listing, parsed: x509.CertificateRevocationList) -> bool:
    if len(listing) != len(parsed):
        return False
    if len(listing) > _COMPARED_ENTRIES:
        return True
    theirs = []
    for entry in parsed:
        reason = next(
            (_REASON_CODES[e.value.reason] for e in entry.extensions if isinstance(e.value, x509.CRLReason)), 0
        )
        theirs.append((entry.serial_number, int(entry.revocation_date_utc.timestamp()), reason))
    return theirs == [row[:3] for row in listing.rows()]


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


def distribution_points(certificate: bytes) -> list[bytes] | None:
    """The DistributionPointNames of a certificate's CRLDP, with their [0]; None where it has none or cannot be read."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        value = parsed.extensions.get_extension_for_oid(x509.ObjectIdentifier(oids.CRL_DISTRIBUTION_POINTS)).value
        points = der.Reader(value.public_bytes()).enter(der.SEQUENCE)
        names = []
        while points:
            names.append(points.enter(der.SEQUENCE).take_tlv())
    except (*_UNREADABLE, x509.ExtensionNotFound):
        return None
    return names
