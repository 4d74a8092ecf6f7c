"""Canonical JSON (RFC 8785), for what reports are made of: objects, lists, texts, whole numbers, true, false, null.

Pure. Numbers with fractions or past 2^53 - 1, texts with lone surrogates and names that are no texts are refused on
the way out; on the way in, so is everything that is not byte for byte the canonical form of itself: repeated names,
other order, spaces, other escapes. A record thus has exactly one form, and any changed byte shows.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from core.errors import Malformed

_INTEGER_MAX: Final = (1 << 53) - 1
_DEPTH_MAX: Final = 32


def encode(value: Any) -> bytes:
    """The one form of `value`. Raises ValueError where there is none."""
    # RFC 8785 §3.2.2.2 escapes as orjson does: \b \t \n \f \r \" \\ by letter, other controls as \u00xx, nothing else.
    return orjson.dumps(_ordered(value, 0))


def decode(encoded: bytes) -> Any:
    """The value. Raises Malformed (code "canonical"): no JSON, or not in canonical form."""
    try:
        value = orjson.loads(encoded)
        canonical = encode(value)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not canonical JSON: {error}", code="canonical") from error
    if canonical != encoded:
        raise Malformed("it is not in the canonical form of RFC 8785: it was changed or reformatted", code="canonical")
    return value


def _ordered(value: Any, depth: int) -> Any:
    """The value with its members in the order of RFC 8785 §3.2.3: by UTF-16 code units."""
    if depth > _DEPTH_MAX:
        raise ValueError("it is nested too deeply")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        value.encode("utf-8")  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
        return value
    if isinstance(value, int):
        if not -_INTEGER_MAX <= value <= _INTEGER_MAX:
            raise ValueError("a number past 2^53 - 1")
        return value
    if isinstance(value, list | tuple):
        return [_ordered(entry, depth + 1) for entry in value]
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("a name that is no text")
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return {_ordered(name, depth): _ordered(value[name], depth + 1) for name in names}
    raise ValueError(f"a {type(value).__name__} has no canonical form here")
