"""Numbers that name holders, checked for form: unified social credit code, identity number, device id.

A wrong number is refused without being repeated: it may be a person's. Pure functions.
"""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from typing import Final

from core.errors import Refused


class HolderKind(StrEnum):
    """What a holder is, and so which number names it."""

    ORGANISATION = "organisation"
    PERSON = "person"
    DEVICE = "device"


#: GB 32100-2015 §5: digits and capitals without I, O, S, V, Z; a character's value is its place.
_CREDIT_ALPHABET: Final = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT_VALUE: Final = {character: value for value, character in enumerate(_CREDIT_ALPHABET)}
#: GB 32100-2015 table 3: 3^(i-1) mod 31.
_CREDIT_WEIGHTS: Final = tuple(pow(3, i, 31) for i in range(17))
#: Positions 1-2 register and kind, 3-8 the district in digits, 9-17 the organisation's own code, 18 the check.
_CREDIT_FORM: Final = re.compile(rf"[{_CREDIT_ALPHABET}]{{2}}[0-9]{{6}}[{_CREDIT_ALPHABET}]{{10}}")

#: GB 11643-1999 §4: 2^(18-i) mod 11 for i = 1..17; the check by sum mod 11.
_IDENTITY_WEIGHTS: Final = tuple(pow(2, 18 - i, 11) for i in range(1, 18))
_IDENTITY_CHECKS: Final = "10X98765432"
_IDENTITY_FORM: Final = re.compile(r"[1-9][0-9]{16}[0-9X]")
_FIRST_BIRTH_YEAR: Final = 1850

_DEVICE_FORM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def _refused(detail: str) -> Refused:
    return Refused(detail, code="holder_number", field="holder.number")


def credit_check_character(first_seventeen: str) -> str:
    """The 18th character of a unified social credit code: 31 - (sum of value * weight mod 31), mod 31."""
    total = sum(_CREDIT_VALUE[c] * weight for c, weight in zip(first_seventeen, _CREDIT_WEIGHTS, strict=True))
    return _CREDIT_ALPHABET[-total % 31]


def identity_check_digit(first_seventeen: str) -> str:
    """The 18th character of an identity number (ISO/IEC 7064 MOD 11-2)."""
    total = sum(int(c) * weight for c, weight in zip(first_seventeen, _IDENTITY_WEIGHTS, strict=True))
    return _IDENTITY_CHECKS[total % 11]


def _credit_code(number: str) -> str:
    number = number.upper()
    if not _CREDIT_FORM.fullmatch(number):
        raise _refused(
            "a unified social credit code has 18 characters as GB 32100 says: digits and capitals, not I O S V Z"
        )
    if credit_check_character(number[:17]) != number[17]:
        raise _refused("the check character of the unified social credit code is wrong (GB 32100)")
    return number


def _identity_number(number: str) -> str:
    number = number.upper()
    if not _IDENTITY_FORM.fullmatch(number):
        raise _refused("an identity number has 17 digits and a digit or X (GB 11643)")
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError as error:
        raise _refused("the identity number's date of birth is no date (GB 11643)") from error
    if born.year < _FIRST_BIRTH_YEAR:
        raise _refused("the identity number's date of birth is too long ago")
    if identity_check_digit(number[:17]) != number[17]:
        raise _refused("the check digit of the identity number is wrong (GB 11643)")
    return number


def _device_id(number: str) -> str:
    if not _DEVICE_FORM.fullmatch(number):
        raise _refused(
            "a device id has 1 to 64 letters, digits, '.', '_', ':' or '-', and begins with a letter or digit"
        )
    return number


_CHECKS: Final = {
    HolderKind.ORGANISATION: _credit_code,
    HolderKind.PERSON: _identity_number,
    HolderKind.DEVICE: _device_id,
}


def check_number(kind: HolderKind, number: str) -> str:
    """The number as it is kept. Raises Refused (code "holder_number", field "holder.number")."""
    return _CHECKS[kind](number.strip())
