"""One certificate of an SM2 key, taken apart: what verification looks at, and nothing about whom to trust.

Pure: bytes in, `Parsed` out; knows neither store, clock nor network. Strict DER and RFC 5280 §4 throughout, with one
exception: a BasicConstraints that writes out `cA FALSE`, which DER leaves out (X.690 §11.5). CAs in the field write it,
`cryptography` refuses the whole certificate for it, and it can only be read one way.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final, TypeVar

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from core.asn1 import der
from core.asn1.x509 import Signed, load_certificate, public_key_from_spki, spki_of_certificate, split_signed
from core.clock import from_datetime
from core.errors import Malformed, QianyanError, Refused
from signer._native import sm2

E = TypeVar("E", bound=x509.ExtensionType)

#: Critical extensions that are processed here; any other critical one refuses the certificate (RFC 5280 §4.2). Any
#: certificate policy is acceptable and none is asked for, so that policies constrain nothing (§6.1.1 (c), (e)). Policy
#: constraints, policy mappings and inhibitAnyPolicy are not processed: where critical, the certificate is refused.
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

_BASIC_CONSTRAINTS_OID: Final = bytes.fromhex("0603551d13")
_EXPLICIT_FALSE: Final = bytes.fromhex("3003010100")
_EMPTY_SEQUENCE: Final = bytes.fromhex("3000")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What is looked at in a certificate. Times in milliseconds; `not_after_ms` is the last moment it is valid.

    `ocsp_urls`, `crl_points`: where its issuer says that its status is to be had (RFC 5280 §4.2.2.1, §4.2.1.13).
    """

    encoded: bytes
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
    name_constraints: bool
    ocsp_nocheck: bool
    ocsp_urls: tuple[str, ...]
    crl_points: tuple[x509.DistributionPoint, ...]

    def valid_at(self, at_ms: int) -> bool:
        """Whether `at_ms` lies in the validity period, both ends included (RFC 5280 §4.1.2.5)."""
        return self.not_before_ms <= at_ms <= self.not_after_ms

    @property
    def is_authority(self) -> bool:
        """Whether it may stand above another: CA flag, keyCertSign, nothing critical that is not processed.

        Name constraints are not processed, so that an authority under any, critical or not, is none here.
        """
        constraints, usage = self.basic_constraints, self.key_usage
        flagged = constraints is not None and constraints.ca and not self.name_constraints
        return flagged and usage is not None and usage.key_cert_sign and self.understood

    @property
    def is_self_issued(self) -> bool:
        """Whether subject and issuer are one name (RFC 5280 §6.1)."""
        return self.subject == self.issuer

    def text_of(self, name: bytes) -> str:
        """A DER Name as RFC 4514 text, for people."""
        return x509.Name.from_bytes(name).rfc4514_string()


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
    point = public_key_from_spki(spki_of_certificate(encoded))
    try:
        key = sm2.PublicKey.from_bytes(point)
        certificate = load_certificate(_without_explicit_false(encoded, signed))
        names = (certificate.issuer, certificate.subject)  # read now: a name that is none would be found too late
        extensions = certificate.extensions
        not_before_ms = from_datetime(certificate.not_valid_before_utc)
        not_after_ms = from_datetime(certificate.not_valid_after_utc) + 999
        found = _Extensions(extensions)
        _check_names(names)
        return Parsed(
            encoded,
            signed,
            serial,
            issuer,
            subject,
            key,
            point,
            not_before_ms,
            not_after_ms,
            found.get(x509.KeyUsage),
            found.get(x509.ExtendedKeyUsage),
            found.get(x509.BasicConstraints),
            None if (own := found.get(x509.SubjectKeyIdentifier)) is None else own.digest,
            None if (named := found.get(x509.AuthorityKeyIdentifier)) is None else named.key_identifier,
            all(extension.oid in _UNDERSTOOD for extension in extensions if extension.critical),
            found.get(x509.NameConstraints) is not None,
            found.get(x509.OCSPNoCheck) is not None,
            _ocsp_urls(found.get(x509.AuthorityInformationAccess)),
            tuple(found.get(x509.CRLDistributionPoints) or ()),
        )
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Malformed("the certificate's key, times or extensions are not sound", code="certificate") from error


def _check_names(names: tuple[x509.Name, ...]) -> None:
    """Raises ValueError for an attribute that is no text of a kind that names are made of (RFC 5280 §4.1.2.4)."""
    for name in names:
        for attribute in name:
            if not isinstance(attribute.value, str):
                raise ValueError("a name with an attribute that is no text")


class _Extensions:
    """Extensions by type, walked once."""

    def __init__(self, extensions: x509.Extensions) -> None:
        self._values = {type(extension.value): extension.value for extension in extensions}

    def get(self, kind: type[E]) -> E | None:
        found = self._values.get(kind)
        return found if isinstance(found, kind) else None


def _ocsp_urls(access: x509.AuthorityInformationAccess | None) -> tuple[str, ...]:
    return tuple(
        entry.access_location.value
        for entry in access or ()
        if entry.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(entry.access_location, x509.UniformResourceIdentifier)
    )


def _without_explicit_false(encoded: bytes, signed: Signed) -> bytes:
    """The certificate as DER would have it, where its BasicConstraints writes out `cA FALSE`; else as it is.

    For reading its extensions only; the signature is over what was sent.
    """
    tbs = der.Reader(signed.tbs).enter(der.SEQUENCE)
    before: list[bytes] = []
    while tbs and tbs.peek() != der.context(3):
        before.append(tbs.take_tlv())
    if not tbs:
        return encoded
    extensions = tbs.enter(der.context(3)).enter(der.SEQUENCE)
    tbs.finish()
    rewritten: list[bytes] = []
    changed = False
    while extensions:
        whole = extensions.take_tlv(der.SEQUENCE)
        extension = der.Reader(whole).enter(der.SEQUENCE)
        oid = extension.take_tlv(der.OBJECT_IDENTIFIER)
        if oid == _BASIC_CONSTRAINTS_OID:
            critical = extension.take_tlv() if extension.peek() == der.BOOLEAN else b""
            value = extension.take(der.OCTET_STRING)
            extension.finish()
            if value == _EXPLICIT_FALSE:
                whole, changed = der.sequence(oid, critical, der.octet_string(_EMPTY_SEQUENCE)), True
        rewritten.append(whole)
    if not changed:
        return encoded
    tbs_bytes = der.sequence(*before, der.tlv(der.context(3), der.sequence(*rewritten)))
    return Signed(tbs_bytes, signed.algorithm, signed.signature).encode()


class ParseCache:
    """Certificates that were parsed before, by their bytes; the least recently used go first.

    What cannot be parsed is not kept. Used from several threads.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, Parsed] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def parse(self, encoded: bytes) -> Parsed:
        """As the function `parse`."""
        with self._lock:
            found = self._entries.get(encoded)
            if found is not None:
                self._entries.move_to_end(encoded)
                return found
        parsed = parse(encoded)
        with self._lock:
            self._entries[encoded] = parsed
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        return parsed


def check_signature(key: sm2.PublicKey, signed: Signed) -> None:
    """Raises Refused (code "signature") where a signed structure's signature is not one under `key`."""
    try:
        if not signed.is_sm2:
            raise Refused("it is not signed by SM2 with SM3", code="signature")
        key.verify(signed.tbs, sm2.signature_from_der(signed.signature), user_id=sm2.DEFAULT_ID)
    except (sm2.InvalidEncoding, sm2.InvalidSignature) as error:
        raise Refused("its signature does not verify", code="signature") from error


def holds(key: sm2.PublicKey, signed: Signed) -> bool:
    """Whether `check_signature` passes: for a search that goes on with another candidate where it does not."""
    try:
        check_signature(key, signed)
    except QianyanError:
        return False
    return True
