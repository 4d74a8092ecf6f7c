"""Who a certificate is for, as the one who asks says it; and how it is masked where it is shown.

A claim's data never shows in its repr, so that no log line or traceback has it by accident.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import orjson

from core.errors import Refused
from signer.holders.numbers import HolderKind, check_number

_PHONE: Final = re.compile(r"\+?[0-9][0-9 -]{3,30}")
_MAX_CHARS: Final = {"name": 128, "phone": 32, "address": 256}


@dataclass(frozen=True, slots=True)
class HolderClaim:
    """A holder. `number` is in the form in which it is kept; make one with `of`."""

    kind: HolderKind
    number: str = field(repr=False)
    name: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
    address: str | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, kind: str, number: str, *, name: str | None = None, phone: str | None = None, address: str | None = None
    ) -> HolderClaim:
        """Checked. Raises Refused (codes "holder_kind", "holder_number", "holder_data"), never repeating a value."""
        try:
            of_kind = HolderKind(kind)
        except ValueError as error:
            kinds = ", ".join(HolderKind)
            raise Refused(f"a holder is one of: {kinds}", code="holder_kind", field="holder.kind") from error
        data = {"name": name, "phone": phone, "address": address}
        for label, value in data.items():
            if value is not None and not _acceptable(label, value):
                raise Refused(
                    f"the holder's {label} is empty, too long, or has characters that do not belong there",
                    code="holder_data",
                    field=f"holder.{label}",
                )
        return cls(of_kind, check_number(of_kind, number), **data)

    def encode(self) -> bytes:
        """Everything but the kind, as JSON, to be sealed."""
        return orjson.dumps([self.number, self.name, self.phone, self.address])

    @classmethod
    def decode(cls, kind: str, encoded: bytes) -> HolderClaim:
        """What `encode` wrote."""
        number, name, phone, address = orjson.loads(encoded)
        return cls(HolderKind(kind), number, name, phone, address)

    def masked(self) -> dict[str, str | None]:
        """What may be shown of it."""
        return {
            "number": mask(self.number, 2, 2),
            "name": None if self.name is None else mask(self.name, 1, 0),
            "phone": None if self.phone is None else mask(self.phone, 0, 2),
            "address": None if self.address is None else mask(self.address, 0, 0),
        }


def _acceptable(label: str, value: str) -> bool:
    if not value.strip() or len(value) > _MAX_CHARS[label] or not value.isprintable():
        return False
    return label != "phone" or _PHONE.fullmatch(value) is not None


def mask(value: str, first: int, last: int) -> str:
    """`first` and `last` characters as they are, stars between; all stars where that would leave less than half hidden.

    The number of stars is that of the hidden characters, at most 16.
    """
    if (first + last) * 2 > len(value):
        first = last = 0
    hidden = len(value) - first - last
    return value[:first] + "*" * min(hidden, 16) + (value[-last:] if last else "")
