"""The GM private extensions of GM/T 0015-2012 (arc 1.2.156.10260.4.1): read from a request, written into a certificate.

IdentifyCode ::= CHOICE {
    residenterCardNumber      [0] PrintableString,
    militaryOfficerCardNumber [1] UTF8String,
    passportNumber            [2] PrintableString }
InsuranceNumber, ICRegistrationNumber, OrganizationCode, TaxationNumber ::= PrintableString

The standard does not say whether the CHOICE is tagged implicitly or explicitly, and both are in use; both are read, and
the implicit form is written, so that one request gives one encoding. Knows bytes; not profiles or the store.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from core import oids
from core.asn1 import der
from core.errors import Malformed, Refused

_PRINTABLE_STRING: Final = 0x13
_UTF8_STRING: Final = 0x0C
_MAX_CHARS: Final = 64
_PRINTABLE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
_CHOICES: Final = {0: _PRINTABLE_STRING, 1: _UTF8_STRING, 2: _PRINTABLE_STRING}


def _text(octets: bytes, kind: int, field: str) -> None:
    """Raises where `octets` are not 1 to 64 characters of that string type."""
    try:
        text = octets.decode("ascii" if kind == _PRINTABLE_STRING else "utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("the value is not of its string type", code="extension_value", field=field) from error
    if not 1 <= len(text) <= _MAX_CHARS or text != text.strip():
        raise Refused(
            f"the value has 1 to {_MAX_CHARS} characters, no space around", code="extension_value", field=field
        )
    if kind == _PRINTABLE_STRING and not set(text) <= _PRINTABLE:
        raise Refused("the value must be a PrintableString", code="extension_value", field=field)
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in text):
        raise Refused("the value holds a control or unassigned character", code="extension_value", field=field)


def _identify_code(value: bytes, field: str) -> bytes:
    reader = der.Reader(value)
    tag = reader.peek()
    number = tag & 0x1F
    if number not in _CHOICES or tag not in (der.context(number), der.context(number, constructed=False)):
        raise Malformed("IdentifyCode is [0], [1] or [2]", code="extension_value", field=field)
    kind = _CHOICES[number]
    if tag & 0x20:  # explicit: the string's own tag follows
        inner = reader.enter(tag)
        octets = inner.take(kind)
        inner.finish()
    else:
        octets = reader.take(tag)
    reader.finish()
    _text(octets, kind, field)
    return der.tlv(der.context(number, constructed=False), octets)


def normalise(dotted: str, value: bytes, field: str) -> bytes:
    """The DER of a GM extension's value as it is written, from what a request asked for.

    Raises Malformed or Refused naming `field`.
    """
    try:
        if dotted == oids.IDENTIFY_CODE:
            return _identify_code(value, field)
        reader = der.Reader(value)
        octets = reader.take(_PRINTABLE_STRING)
        reader.finish()
    except Malformed as error:
        raise Malformed(error.detail, code="extension_value", field=field) from error
    _text(octets, _PRINTABLE_STRING, field)
    return der.tlv(_PRINTABLE_STRING, octets)
