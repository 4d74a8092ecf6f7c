"""Distinguished names without objects, for volume: the same rules and the same octets as `core.asn1.names`.

Each attribute is checked and encoded once and remembered, because the names of a province repeat most of theirs. A test
holds both modules against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from core import oids
from core.asn1 import der, names
from core.errors import Malformed, Refused

_REMEMBERED: Final = 8_192
_PRINTABLE_STRING: Final = 0x13
_UTF8_STRING: Final = 0x0C
_LABEL_BY_OID: Final = {der.oid(one.oid)[2:]: one.label for one in names.ATTRIBUTES}
_STATE: Final = der.oid(oids.STATE)
_LOCALITY: Final = der.oid(oids.LOCALITY)
_KNOWN: Final = {one.label: one for one in names.ATTRIBUTES}


def read_plain(attributes: Iterable[tuple[bytes, int, bytes]]) -> dict[str, list[str]] | None:
    """As `names.read_fields`, of (OID contents, string tag, contents); None for what only that can judge."""
    fields: dict[str, list[str]] = {}
    for dotted, tag, octets in attributes:
        found = _read(dotted, tag, octets)
        if found is None:
            return None
        label, value = found
        if label in fields:
            if label != "OU":
                return None
            fields[label].append(value)
        else:
            fields[label] = [value]
    return fields or None


@lru_cache(maxsize=_REMEMBERED)
def _read(dotted: bytes, tag: int, octets: bytes) -> tuple[str, str] | None:
    label = _LABEL_BY_OID.get(dotted)
    if label is None:
        return None
    try:
        if tag == _PRINTABLE_STRING:
            value = octets.decode("ascii")
            if not names.PRINTABLE.issuperset(value):
                return None
        elif tag == _UTF8_STRING:
            value = octets.decode("utf-8")
        else:
            return None
        return label, names.check(_KNOWN[label], value)
    except (UnicodeDecodeError, Refused):
        return None


def region_of_own(subject: bytes) -> str:
    """As `names.region_of`, of a Name that was encoded here: no value in it holds a control character."""
    return "/".join(part for part in (_value_of(subject, _STATE), _value_of(subject, _LOCALITY)) if part)


def _value_of(subject: bytes, dotted: bytes) -> str:
    at = subject.find(dotted)
    if at < 0:
        return ""
    begin = at + len(dotted) + 2  # behind the string's tag and the first octet of its length
    length = subject[begin - 1]
    if length >= 0x80:
        octets = length & 0x7F
        length = int.from_bytes(subject[begin : begin + octets], "big")
        begin += octets
    return subject[begin : begin + length].decode("utf-8").replace("/", " ")


def encode_plain(fields: Mapping[str, Iterable[str]]) -> bytes:
    """As `names.build_name(fields).public_bytes()`. Raises as that."""
    for label in fields:
        if label not in _KNOWN:
            raise Malformed(f"unknown subject field {label!r}", code="subject_field", field=f"subject.{label}")
    parts = [_encode(one.label, value) for one in names.ATTRIBUTES for value in fields.get(one.label, ())]
    if not parts:
        raise Refused("the subject is empty", code="subject_empty", field="subject")
    return der.sequence(*parts)


@lru_cache(maxsize=_REMEMBERED)
def _encode(label: str, value: str) -> bytes:
    attribute = _KNOWN[label]
    octets = names.check(attribute, value).encode("utf-8")
    tag = _PRINTABLE_STRING if attribute.printable else _UTF8_STRING
    return der.tlv(der.SET, der.sequence(der.oid(attribute.oid), der.tlv(tag, octets)))
