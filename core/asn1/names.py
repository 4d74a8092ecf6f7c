"""Distinguished names as Chinese CAs write them: C, ST, L, O, OU, CN in that order; C as PrintableString of two
letters, serialNumber as PrintableString, everything else as UTF8String (GM/T 0015; measured on issued CA certificates).

Bounds are those of RFC 5280 Appendix A.1 (ub-common-name and its kin), in characters.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.name import _ASN1Type

from core import oids
from core.asn1 import der
from core.errors import Malformed, Refused

# `cryptography` counts a name's octets where RFC 5280 counts characters, and warns of each longer one that it meets,
# read or written: every Chinese name of 22 characters.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A kind of attribute, by its label. `printable`: its string type is PrintableString."""

    label: str
    oid: str
    max_chars: int
    printable: bool = False


ATTRIBUTES: Final = (
    Attribute("C", oids.COUNTRY, 2, printable=True),
    Attribute("ST", oids.STATE, 128),
    Attribute("L", oids.LOCALITY, 128),
    Attribute("O", oids.ORGANIZATION, 64),
    Attribute("OU", oids.ORGANIZATIONAL_UNIT, 64),
    Attribute("CN", oids.COMMON_NAME, 64),
    Attribute("SERIALNUMBER", oids.SERIAL_NUMBER, 64, printable=True),
)
LABELS: Final = tuple(attribute.label for attribute in ATTRIBUTES)
_BY_LABEL: Final = {attribute.label: attribute for attribute in ATTRIBUTES}
_BY_OID: Final = {attribute.oid: attribute for attribute in ATTRIBUTES}
PRINTABLE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
#: String types that a request may use for a DirectoryString (RFC 5280 §4.1.2.4); BMPString is read, never written.
_READABLE: Final = {_ASN1Type.PrintableString, _ASN1Type.UTF8String, _ASN1Type.BMPString}


def check(attribute: Attribute, value: str) -> str:
    """The value, where it may stand in a certificate. Raises Refused naming the field."""
    field = f"subject.{attribute.label}"
    if not value or value != value.strip():
        raise Refused(f"{attribute.label} is empty or begins or ends with a space", code="subject_field", field=field)
    if len(value) > attribute.max_chars:
        raise Refused(
            f"{attribute.label} has {len(value)} characters; at most {attribute.max_chars} are allowed",
            code="subject_field_too_long",
            field=field,
        )
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in value):
        raise Refused(f"{attribute.label} holds a control or unassigned character", code="subject_field", field=field)
    if attribute.printable and not set(value) <= PRINTABLE:
        raise Refused(f"{attribute.label} must be a PrintableString", code="subject_field", field=field)
    if attribute.label == "C" and not (len(value) == 2 and value.isascii() and value.isalpha() and value.isupper()):
        raise Refused("C must be two capital letters (ISO 3166)", code="subject_field", field=field)
    return value


def build_name(fields: Mapping[str, str | Iterable[str]]) -> x509.Name:
    """A Name from labels (`C`, `ST`, `L`, `O`, `OU`, `CN`, `SERIALNUMBER`); OU may have several values.

    Raises Refused naming the field (`subject.CN`), Malformed for an unknown label.
    """
    unknown = [label for label in fields if label not in _BY_LABEL]
    if unknown:
        raise Malformed(f"unknown subject field {unknown[0]!r}", code="subject_field", field=f"subject.{unknown[0]}")
    attributes = []
    for attribute in ATTRIBUTES:
        values = fields.get(attribute.label, ())
        for value in (values,) if isinstance(values, str) else values:
            kind = _ASN1Type.PrintableString if attribute.printable else _ASN1Type.UTF8String
            attributes.append(
                x509.RelativeDistinguishedName(
                    [
                        x509.NameAttribute(
                            x509.ObjectIdentifier(attribute.oid), check(attribute, value), kind, _validate=False
                        )
                    ]
                )
            )
    if not attributes:
        raise Refused("the subject is empty", code="subject_empty", field="subject")
    return x509.Name(attributes)


def read_fields(name: x509.Name) -> dict[str, list[str]]:
    """The fields of a requested Name by label, in order, checked as `build_name` would.

    Raises Refused naming the field that is of an unknown kind, in a multi-valued RDN, or of a wrong string type.
    """
    fields: dict[str, list[str]] = {}
    for rdn in name.rdns:
        entries = list(rdn)
        if len(entries) != 1:
            raise Refused("a multi-valued name component is not accepted", code="subject_field", field="subject")
        entry = entries[0]
        attribute = _BY_OID.get(entry.oid.dotted_string)
        if attribute is None:
            label = entry.oid.dotted_string
            raise Refused(f"subject field {label} is not accepted", code="subject_field", field=f"subject.{label}")
        field = f"subject.{attribute.label}"
        if entry._type not in _READABLE or not isinstance(entry.value, str):
            raise Refused(
                f"{attribute.label} has an ASN.1 type that is not accepted", code="subject_field_type", field=field
            )
        if attribute.label in fields and attribute.label != "OU":
            raise Refused(f"{attribute.label} appears twice", code="subject_field", field=field)
        fields.setdefault(attribute.label, []).append(check(attribute, entry.value))
    return fields


_REGION: Final = {der.oid(oids.STATE): 0, der.oid(oids.LOCALITY): 1}
_TEXT: Final = {0x0C: "utf-8", 0x13: "ascii", 0x1E: "utf-16-be"}
_REGION_PART_MAX: Final = 128


def region_of(subject: bytes) -> str:
    """ST and L of a DER Name, with "/" between, for statistics; "" where it has neither or they cannot be read."""
    parts = ["", ""]
    try:
        body = der.Reader(subject).enter(der.SEQUENCE)
        while body:
            entry = body.enter(der.SET).enter(der.SEQUENCE)
            place = _REGION.get(entry.take_tlv())
            if place is not None:
                tag = entry.peek()
                parts[place] = entry.take(tag).decode(_TEXT.get(tag, "utf-8"))[:_REGION_PART_MAX].replace("/", " ")
    except (Malformed, UnicodeDecodeError):
        return ""
    return "/".join(parts).strip("/").replace("\x00", "")
