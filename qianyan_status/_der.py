"""Strict DER, as much of it as status sets and certificates need. Whatever is not DER raises StatusSetError("der")."""

from __future__ import annotations

import re
from calendar import timegm
from datetime import datetime
from typing import Final, NoReturn

from qianyan_status._errors import StatusSetError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
CONTEXT_0: Final = 0xA0
CONTEXT_0_PRIMITIVE: Final = 0x80
CONTEXT_3: Final = 0xA3

_GENERALIZED: Final = re.compile(rb"\d{14}Z")
_UTC: Final = re.compile(rb"\d{12}Z")


def bad(why: str) -> NoReturn:
    """Raises for bytes that are not DER."""
    raise StatusSetError(f"not DER: {why}", code="der")


class Reader:
    """A cursor over the elements of `data`."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    def peek(self) -> int:
        """The next tag; -1 at the end."""
        return self._data[self._at] if self._at < self._end else -1

    def _bounds(self, tag: int) -> tuple[int, int]:
        data, at = self._data, self._at
        if at + 2 > self._end:
            bad("it ends early")
        if data[at] != tag:
            bad(f"tag {data[at]:#04x} where {tag:#04x} belongs")
        length, start = data[at + 1], at + 2
        if length >= 0x80:
            octets = length & 0x7F
            if not 1 <= octets <= 4 or start + octets > self._end:
                bad("a length that is indefinite, too long or cut off")
            length = int.from_bytes(data[start : start + octets], "big")
            start += octets
            if length < 0x80 or length < 1 << 8 * (octets - 1):
                bad("a length that is not minimal")
        if start + length > self._end:
            bad("an element that ends outside its parent")
        return start, start + length

    def take(self, tag: int) -> bytes:
        """The contents of the next element, which must have `tag`."""
        start, self._at = self._bounds(tag)
        return self._data[start : self._at]

    def whole(self, tag: int | None = None) -> bytes:
        """The next element with its tag and length."""
        begin = self._at
        _, self._at = self._bounds(self.peek() if tag is None else tag)
        return self._data[begin : self._at]

    def enter(self, tag: int = SEQUENCE) -> Reader:
        """A Reader over the contents of the next element; this one moves past it."""
        start, self._at = self._bounds(tag)
        return Reader(self._data, start, self._at)

    def integer(self) -> int:
        """A non-negative INTEGER below 2^63."""
        octets = self.take(INTEGER)
        if not octets or octets[0] & 0x80 or (len(octets) > 1 and octets[0] == 0 and not octets[1] & 0x80):
            bad("an INTEGER that is empty, negative or padded")
        if len(octets) > 8:
            bad("an INTEGER past 2^63")
        return int.from_bytes(octets, "big")

    def bits(self) -> bytes:
        """A BIT STRING of whole octets."""
        octets = self.take(BIT_STRING)
        if not octets or octets[0]:
            bad("a BIT STRING that is not whole octets")
        return octets[1:]

    def time(self) -> int:
        """A GeneralizedTime to the second, in UTC; seconds since 1970."""
        return _seconds(self.take(GENERALIZED_TIME), _GENERALIZED, "%Y%m%d%H%M%SZ")

    def x509_time(self) -> int:
        """UTCTime through 2049, else GeneralizedTime (RFC 5280 §4.1.2.5); seconds since 1970."""
        if self.peek() == GENERALIZED_TIME:
            return self.time()
        text = self.take(UTC_TIME)
        century = b"20" if text[:1] < b"5" else b"19"
        if _UTC.fullmatch(text) is None:
            bad("a time that is not written as X.509 has it")
        return _seconds(century + text, _GENERALIZED, "%Y%m%d%H%M%SZ")

    def finish(self) -> None:
        """Raises where anything follows."""
        if self._at != self._end:
            bad("bytes follow the end")


def _seconds(text: bytes, form: re.Pattern[bytes], layout: str) -> int:
    if form.fullmatch(text) is None:
        bad("a time that is not written as X.509 has it")
    try:
        return timegm(datetime.strptime(text.decode("ascii"), layout).timetuple())  # noqa: DTZ007 - timegm takes UTC
    except ValueError:
        bad("a time that does not exist")


def split_signed(encoded: bytes) -> tuple[bytes, bytes, bytes, bytes | None]:
    """(tbs, algorithm, signature, [0] where there is one) of a signed structure; nothing may follow."""
    outer = Reader(encoded)
    body = outer.enter()
    outer.finish()
    tbs, algorithm, signature = body.whole(SEQUENCE), body.whole(SEQUENCE), body.bits()
    more = body.take(CONTEXT_0) if body.peek() == CONTEXT_0 else None
    body.finish()
    return tbs, algorithm, signature, more
