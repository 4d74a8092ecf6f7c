"""What GB/T 38629's ParseCert tells of a certificate, by the item numbers of GB/T 33560-2017 table 8.

Knows certificates of any algorithm; not whether they are to be trusted. Texts are UTF-8; what is DER in the certificate
is given as it stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from core.asn1 import der
from core.asn1.x509 import load_certificate, spki_of_certificate, split_signed
from core.clock import from_datetime
from core.errors import Malformed
from core.model import serial_to_hex
from signer.signing.svs_codec import Code, SvsError, time_text

#: Item number → extension, whose value (the octets of extnValue) is told.
_EXTENSIONS: Final = {
    0x11: "2.5.29.35",  # authorityKeyIdentifier
    0x12: "2.5.29.14",  # subjectKeyIdentifier
    0x13: "2.5.29.15",  # keyUsage
    0x14: "2.5.29.16",  # privateKeyUsagePeriod
    0x15: "2.5.29.32",  # certificatePolicies
    0x16: "2.5.29.33",  # policyMappings
    0x17: "2.5.29.19",  # basicConstraints
    0x18: "2.5.29.36",  # policyConstraints
    0x19: "2.5.29.37",  # extKeyUsage
    0x1A: "2.5.29.31",  # cRLDistributionPoints
    0x1B: "2.16.840.1.113730.1.1",  # Netscape certificate type
}
_SELF_DEFINED: Final = 0x1C
_ISSUER: Final = {
    0x21: NameOID.COMMON_NAME,
    0x22: NameOID.ORGANIZATION_NAME,
    0x23: NameOID.ORGANIZATIONAL_UNIT_NAME,
}
_SUBJECT: Final = {
    0x31: NameOID.COMMON_NAME,
    0x32: NameOID.ORGANIZATION_NAME,
    0x33: NameOID.ORGANIZATIONAL_UNIT_NAME,
    0x34: NameOID.EMAIL_ADDRESS,
}


def _validity(certificate: x509.Certificate) -> str:
    return f"{_not_before(certificate)}-{_not_after(certificate)}"


def _not_before(certificate: x509.Certificate) -> str:
    return time_text(from_datetime(certificate.not_valid_before_utc))


def _not_after(certificate: x509.Certificate) -> str:
    return time_text(from_datetime(certificate.not_valid_after_utc))


_TEXTS: Final[dict[int, Callable[[x509.Certificate], str]]] = {
    0x01: lambda certificate: str(certificate.version.value + 1),
    0x02: lambda certificate: serial_to_hex(certificate.serial_number),
    0x05: lambda certificate: certificate.issuer.rfc4514_string(),
    0x06: _validity,
    0x07: lambda certificate: certificate.subject.rfc4514_string(),
    0x35: _not_before,
    0x36: _not_after,
}


def certificate_info(encoded: bytes, item: int) -> bytes | None:
    """What the certificate (DER) says under `item`; None where it does not have that.

    Raises SvsError with CERT_DECODE where it is no certificate, CERT_INFO_TYPE where there is no such item.
    """
    try:
        certificate = load_certificate(encoded)
        if item in _TEXTS:
            return _TEXTS[item](certificate).encode()
        if item == 0x08:
            return spki_of_certificate(encoded)
        if item in _ISSUER:
            return _attribute(certificate.issuer, _ISSUER[item])
        if item in _SUBJECT:
            return _attribute(certificate.subject, _SUBJECT[item])
        if item == 0x09 or item == _SELF_DEFINED or item in _EXTENSIONS:
            return _extensions(encoded, item)
    except (Malformed, ValueError) as error:
        raise SvsError(Code.CERT_DECODE, "the certificate cannot be read") from error
    raise SvsError(Code.CERT_INFO_TYPE, "there is no such item of a certificate")


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> bytes | None:
    """The attribute's value, or its values, one a line."""
    values = [entry.value for entry in name.get_attributes_for_oid(oid)]
    texts = [value if isinstance(value, str) else value.decode("utf-8", "replace") for value in values]
    return "\n".join(texts).encode() if texts else None


def _extensions(encoded: bytes, item: int) -> bytes | None:
    """All extensions (9), those of no other item (0x1C), or one extension's value."""
    tbs = der.Reader(split_signed(encoded).tbs).enter(der.SEQUENCE)
    while tbs and tbs.peek() != der.context(3):
        tbs.take_tlv()
    if not tbs:
        return None
    wrapper = tbs.enter(der.context(3))
    if item == 0x09:
        return wrapper.take_tlv(der.SEQUENCE)
    known = {der.oid(dotted): number for number, dotted in _EXTENSIONS.items()}
    others: list[bytes] = []
    extensions = wrapper.enter(der.SEQUENCE)
    while extensions:
        whole = extensions.take_tlv(der.SEQUENCE)
        extension = der.Reader(whole).enter(der.SEQUENCE)
        number = known.get(extension.take_tlv(der.OBJECT_IDENTIFIER), _SELF_DEFINED)
        if number == item == _SELF_DEFINED:
            others.append(whole)
        elif number == item:
            if extension.peek() == der.BOOLEAN:
                extension.take_tlv()
            return extension.take(der.OCTET_STRING)
    return der.sequence(*others) if others else None
