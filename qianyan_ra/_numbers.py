"""Holders' numbers, looked at before a request leaves: unified social credit code, identity number, device id.

A wrong number is never repeated in an error: it may be a person's.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from qianyan_ra._errors import Unfit

#: GB 32100-2015: digits and capitals without I, O, S, V, Z; the value of a character is its place.
_CREDIT: Final = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT_FORM: Final = re.compile(rf"[{_CREDIT}]{{2}}[0-9]{{6}}[{_CREDIT}]{{10}}")
_IDENTITY_FORM: Final = re.compile(r"[1-9][0-9]{16}[0-9X]")
_DEVICE_FORM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def _unfit(detail: str) -> Unfit:
    return Unfit(detail, code="holder_number", field="holder.number")


def _organisation(number: str) -> str:
    number = number.upper()
    if not _CREDIT_FORM.fullmatch(number):
        raise _unfit("a unified social credit code has 18 digits and capitals, not I O S V Z (GB 32100)")
    total = sum(_CREDIT.index(c) * pow(3, i, 31) for i, c in enumerate(number[:17]))
    if _CREDIT[-total % 31] != number[17]:
        raise _unfit("the check character of the unified social credit code is wrong (GB 32100)")
    return number


def _person(number: str) -> str:
    number = number.upper()
    if not _IDENTITY_FORM.fullmatch(number):
        raise _unfit("an identity number has 17 digits and a digit or X (GB 11643)")
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError as error:
        raise _unfit("the identity number's date of birth is no date (GB 11643)") from error
    total = sum(int(c) * pow(2, 17 - i, 11) for i, c in enumerate(number[:17]))
    if "10X98765432"[total % 11] != number[17]:
        raise _unfit("the check digit of the identity number is wrong (GB 11643)")
    return number


def _device(number: str) -> str:
    if not _DEVICE_FORM.fullmatch(number):
        raise _unfit("a device id has 1 to 64 letters, digits, '.', '_', ':' or '-', and begins with one of the former")
    return number


_CHECKS: Final = {"organisation": _organisation, "person": _person, "device": _device}
HOLDER_KINDS: Final = tuple(_CHECKS)


def check_number(kind: str, number: str) -> str:
    """The number as the service keeps it. Raises Unfit (codes "holder_kind", "holder_number")."""
    check = _CHECKS.get(kind)
    if check is None:
        raise Unfit(f"a holder is one of: {', '.join(HOLDER_KINDS)}", code="holder_kind", field="holder.kind")
    return check(number.strip())
