"""Reads the members of signing and verification bodies by hand: these are the hot paths.

Knows JSON values and bounds; not keys, certificates or HTTP. Everything raises Malformed or TooLarge naming the field
as a dotted path (`items[3].digest`).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from core.clock import from_datetime
from core.errors import Malformed, TooLarge
from core.http import from_base64

#: GB/T 32918.2 §5.5 writes the user id's length in bits into two octets.
_USER_ID_MAX_BYTES = 8_191


def members(value: Any, known: Collection[str], where: str) -> dict[str, Any]:
    """The JSON object `value`, which has only known members."""
    if not isinstance(value, dict):
        raise Malformed(f"{where or 'the body'} is not an object", code="body", field=where or None)
    for name in value:
        if name not in known:
            field = path(where, name)
            raise Malformed(f"{field[:80]} is not known here", code="body", field=field[:80])
    return value


def path(where: str, name: str) -> str:
    """`name` within `where`."""
    return f"{where}.{name}" if where else name


def text(value: dict[str, Any], name: str, where: str, *, max_chars: int) -> str:
    """A required text member."""
    found = value.get(name)
    if not isinstance(found, str) or not 1 <= len(found) <= max_chars:
        field = path(where, name)
        raise Malformed(f"{field} must be a text of 1 to {max_chars} characters", code="body", field=field)
    return found


def binary(value: dict[str, Any], name: str, where: str, *, max_bytes: int) -> bytes:
    """A required base64 member. An empty one is empty bytes."""
    field = path(where, name)
    found = value.get(name)
    if not isinstance(found, str):
        raise Malformed(f"{field} must be base64 text", code="body", field=field)
    if len(found) > (max_bytes + 2) // 3 * 4:
        raise TooLarge(f"{field} has more than {max_bytes} bytes", code="field_size", field=field)
    octets = from_base64(found, field)
    if len(octets) > max_bytes:
        raise TooLarge(f"{field} has more than {max_bytes} bytes", code="field_size", field=field)
    return octets


def digest(value: dict[str, Any], name: str, where: str) -> bytes:
    """A required member of exactly 32 bytes."""
    field = path(where, name)
    found = value.get(name)
    if not isinstance(found, str):
        raise Malformed(f"{field} must be base64 text", code="body", field=field)
    octets = from_base64(found, field) if len(found) == 44 else b""
    if len(octets) != 32:
        raise Malformed(f"{field} must be 32 bytes in base64", code="digest_length", field=field)
    return octets


def user_id(value: dict[str, Any], where: str, default: bytes) -> bytes:
    """The optional user id."""
    if value.get("user_id") is None:
        return default
    return binary(value, "user_id", where, max_bytes=_USER_ID_MAX_BYTES)


def time_ms(value: dict[str, Any], name: str, where: str) -> int | None:
    """An optional RFC 3339 time with its offset, in milliseconds since the epoch."""
    found = value.get(name)
    if found is None:
        return None
    field = path(where, name)
    if not isinstance(found, str) or not 20 <= len(found) <= 40:
        raise Malformed(f"{field} must be an RFC 3339 time", code="time", field=field)
    try:
        at = datetime.fromisoformat(found)
    except ValueError as error:
        raise Malformed(f"{field} must be an RFC 3339 time", code="time", field=field) from error
    if at.tzinfo is None or not 1970 <= at.year <= 9998:
        raise Malformed(f"{field} must be an RFC 3339 time with its offset", code="time", field=field)
    return from_datetime(at)


def flag(value: dict[str, Any], name: str, where: str, *, default: bool) -> bool:
    """An optional truth value."""
    found = value.get(name, default)
    if not isinstance(found, bool):
        field = path(where, name)
        raise Malformed(f"{field} must be true or false", code="body", field=field)
    return found


def one_of(value: dict[str, Any], names: tuple[str, str], where: str) -> str:
    """Which of the two members is there: exactly one must be."""
    first, second = (name for name in names)
    if (first in value) == (second in value):
        field = path(where, first)
        raise Malformed(f"{where or 'the body'} needs either '{first}' or '{second}'", code="body", field=field)
    return first if first in value else second
