"""Strict DER: the few tags that the hot paths and splitters need.

Reader: one pass, no copies but the slices that are asked for, definite minimal lengths only (X.690 §10.1);
anything else raises Malformed (code "der"). Writer: plain functions that return bytes. Structures that are not on
a hot path are declared with `cryptography.hazmat.asn1` instead.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NoReturn

from core.errors import Malformed

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31


def context(number: int, *, constructed: bool = True) -> int:
    """The tag octet of context class `[number]`."""
    return 0x80 | (0x20 if constructed else 0) | number


def _bad(why: str) -> NoReturn:
    raise Malformed(f"not DER: {why}", code="der")


class Reader:
    """A cursor over one run of TLVs.

    `take(tag)` consumes the next element and gives its contents; `enter(tag)` gives a Reader over them;
    `finish()` raises where anything is left.
    """

    __slots__ = ("_data", "_end", "_pos")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._pos = start
        self._end = len(data) if end is None else end

    def __bool__(self) -> bool:
        return self._pos < self._end

    def peek(self) -> int:
        """The next tag octet; -1 at the end."""
        return self._data[self._pos] if self._pos < self._end else -1

    def _header(self, tag: int) -> tuple[int, int]:
        """The bounds (start, end) of the next element's contents, whose tag must be `tag`."""
        data, pos, end = self._data, self._pos, self._end
        if pos + 2 > end:
            _bad("it ends early")
        if data[pos] != tag:
            _bad(f"tag {data[pos]:#04x} where {tag:#04x} belongs")
        length = data[pos + 1]
        start = pos + 2
        if length >= 0x80:
            octets = length & 0x7F
            if not 1 <= octets <= 4 or start + octets > end:
                _bad("a length that is indefinite, too long or cut off")
            length = int.from_bytes(data[start : start + octets], "big")
            start += octets
            if length < 0x80 or length < 1 << 8 * (octets - 1):
                _bad("a length that is not minimal")
        if start + length > end:
            _bad("an element that ends outside its parent")
        return start, start + length

    def take(self, tag: int) -> bytes:
        """Contents of the next element, which must have `tag`."""
        start, stop = self._header(tag)
        self._pos = stop
        return self._data[start:stop]

    def take_tlv(self, tag: int | None = None) -> bytes:
        """The next element whole, tag and length included."""
        begin = self._pos
        _, stop = self._header(self.peek() if tag is None else tag)
        self._pos = stop
        return self._data[begin:stop]

    def enter(self, tag: int) -> Reader:
        """A Reader over the contents of the next element; this one moves past it."""
        start, stop = self._header(tag)
        self._pos = stop
        return Reader(self._data, start, stop)

    def integer(self) -> int:
        """A non-negative INTEGER, minimally encoded (X.690 §8.3.2)."""
        octets = self.take(INTEGER)
        if not octets or octets[0] & 0x80 or (len(octets) > 1 and octets[0] == 0 and not octets[1] & 0x80):
            _bad("an INTEGER that is empty, negative or padded")
        return int.from_bytes(octets, "big")

    def bit_string(self) -> bytes:
        """A BIT STRING of whole octets."""
        octets = self.take(BIT_STRING)
        if not octets or octets[0] != 0:
            _bad("a BIT STRING that is not whole octets")
        return octets[1:]

    def finish(self) -> None:
        """Raises where anything follows."""
        if self._pos != self._end:
            _bad("bytes follow the end")


def tlv(tag: int, *contents: bytes) -> bytes:
    """One element around the joined `contents`, with a minimal definite length."""
    body = b"".join(contents)
    length = len(body)
    if length < 0x80:
        return bytes((tag, length)) + body
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + body


def sequence(*contents: bytes) -> bytes:
    """SEQUENCE of the already encoded `contents`."""
    return tlv(SEQUENCE, *contents)


def integer(value: int) -> bytes:
    """INTEGER of a non-negative value."""
    if value < 0:
        raise ValueError("only non-negative integers are written here")
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def enumerated(value: int) -> bytes:
    """ENUMERATED of a small non-negative value."""
    return tlv(ENUMERATED, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octet_string(value: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, value)


def bit_string(value: bytes) -> bytes:
    """BIT STRING of whole octets."""
    return tlv(BIT_STRING, b"\x00", value)


def null() -> bytes:
    """NULL."""
    return b"\x05\x00"


def boolean(value: bool) -> bytes:
    """BOOLEAN, FF for true (X.690 §11.1)."""
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER. Arcs of any size (the UUID arc 2.25 has 128-bit ones)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    out = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        out += bytes(reversed(groups))
    return tlv(OBJECT_IDENTIFIER, bytes(out))


def generalized_time(at: datetime) -> bytes:
    """GeneralizedTime to the second, in UTC, as RFC 5280 §4.1.2.5.2 and RFC 6960 §4.2.2.1 have it."""
    return tlv(GENERALIZED_TIME, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def x509_time(at: datetime) -> bytes:
    """UTCTime through 2049, GeneralizedTime from 2050 (RFC 5280 §4.1.2.5)."""
    at = at.astimezone(UTC)
    if at.year < 2050:
        return tlv(UTC_TIME, at.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return generalized_time(at)
