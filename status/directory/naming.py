"""Names and values of directory entries, from templates over what a certificate says.

Knows RFC 4514 (by way of python-ldap); no directory and no store. Whatever a subject holds, it can only ever be a
value: in a distinguished name it is escaped; `{base}` alone is taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Final

import ldap
import ldap.dn
from cryptography import x509

from core import oids
from core.errors import Refused

_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_LABELS: Final = {
    oids.COUNTRY: "C",
    oids.STATE: "ST",
    oids.LOCALITY: "L",
    oids.ORGANIZATION: "O",
    oids.ORGANIZATIONAL_UNIT: "OU",
    oids.COMMON_NAME: "CN",
    oids.SERIAL_NUMBER: "SERIALNUMBER",
}


def subject_fields(subject: bytes) -> dict[str, str]:
    """The fields of a DER Name that templates know, as `subject.CN`; of several of one kind the first."""
    fields: dict[str, str] = {}
    for attribute in x509.Name.from_bytes(subject):
        label = _LABELS.get(attribute.oid.dotted_string)
        if label is not None and isinstance(attribute.value, str):
            fields.setdefault(f"subject.{label}", attribute.value)
    return fields


class Template:
    """Text with `{fields}`, checked when it is made: ValueError where it is not usable.

    known: the fields that there are values for; "subject" stands for all of `subject.C` to `subject.SERIALNUMBER`.
    """

    def __init__(self, text: str, known: Set[str], *, name: str, is_dn: bool = False) -> None:
        self._parts = _FIELD.split(text)
        self._is_dn = is_dn
        self.fields = frozenset(self._parts[1::2])
        allowed = {*known - {"subject"}, "base"}
        if "subject" in known:
            allowed |= {f"subject.{label}" for label in _LABELS.values()}
        for field in sorted(self.fields - allowed):
            raise ValueError(f"{name}: there is no {{{field}}}; one of: {', '.join(sorted(allowed))}")
        if "{" in "".join(self._parts[::2]) or "}" in "".join(self._parts[::2]):
            raise ValueError(f"{name}: a brace without its other one")
        if is_dn:
            if not text.endswith("{base}"):
                raise ValueError(f"{name} has to end in {{base}}")
            sample = self.fill(dict.fromkeys(self.fields, "x"), "dc=x")
            if not is_name(sample) or any(len(rdn) != 1 for rdn in ldap.dn.str2dn(sample)):
                raise ValueError(f"{name} is not a distinguished name of single-valued parts (RFC 4514)")

    def fill(self, values: Mapping[str, str], base: str) -> str:
        """The text with its fields. Raises Refused (code "directory_field") where the subject has no such field."""
        filled = []
        for place, part in enumerate(self._parts):
            if place % 2 == 0:
                filled.append(part)
            elif part == "base":
                filled.append(base)
            elif values.get(part):
                filled.append(ldap.dn.escape_dn_chars(values[part]) if self._is_dn else values[part])
            else:
                raise Refused(f"there is no {part} to name the entry by", code="directory_field")
        return "".join(filled)


def is_name(text: str) -> bool:
    """Whether `text` is a distinguished name of at least one part."""
    try:
        return bool(ldap.dn.str2dn(text))
    except ldap.DECODING_ERROR:
        return False


def normalised(dn: str) -> str:
    """The same text for two spellings of a name that mean the same entry."""
    parts = [[(kind.lower(), value.casefold(), 1) for kind, value, _ in rdn] for rdn in ldap.dn.str2dn(dn)]
    return str(ldap.dn.dn2str(parts))


def parent(dn: str) -> str:
    """The name one level up; "" above a name of one part."""
    return str(ldap.dn.dn2str(ldap.dn.str2dn(dn)[1:]))


def first_part(dn: str) -> tuple[str, str]:
    """(attribute, value) of the name's own part."""
    kind, value, _ = ldap.dn.str2dn(dn)[0][0]
    return str(kind), str(value)
