"""Strict DER, as much of it as requests, keys and certificates need. Whatever is not DER raises BadMessage("der")."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NoReturn

from qianyan_ra._errors import BadMessage

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31
CONTEXT_0: Final = 0xA0
CONTEXT_1: Final = 0xA1


def bad(why: str) -> NoReturn:
    """Raises for bytes that are not DER."""
    raise BadMessage(f"not DER: {why}", code="der")


class Reader:
    """A cursor over the elements of `data`; one pass, definite minimal lengths only (X.690 §10.1)."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    def __bool__(self) -> bool:
        return self._at < self._end

    def peek(self) -> int:
        """The next tag octet; -1 at the end."""
        return self._data[self._at] if self else -1

    def _bounds(self, tag: int) -> tuple[int, int]:
        data, at, end = self._data, self._at, self._end
        if at + 2 > end:
            bad("it ends early")
        if data[at] != tag:
            bad(f"tag {data[at]:#04x} where {tag:#04x} belongs")
        length, start = data[at + 1], at + 2
        if length >= 0x80:
            octets = length & 0x7F
            if not 1 <= octets <= 4 or start + octets > end:
                bad("a length that is indefinite, too long or cut off")
            length = int.from_bytes(data[start : start + octets], "big")
            start += octets
            if length < 0x80 or length < 1 << 8 * (octets - 1):
                bad("a length that is not minimal")
        if start + length > end:
            bad("an element that ends outside its parent")
        return start, start + length

    def take(self, tag: int) -> bytes:
        """Contents of the next element, which must have `tag`."""
        start, self._at = self._bounds(tag)
        return self._data[start : self._at]

    def take_tlv(self, tag: int | None = None) -> bytes:
        """The next element whole, tag and length included."""
        begin = self._at
        _, self._at = self._bounds(self.peek() if tag is None else tag)
        return self._data[begin : self._at]

    def enter(self, tag: int) -> Reader:
        """A Reader over the contents of the next element; this one moves past it."""
        start, self._at = self._bounds(tag)
        return Reader(self._data, start, self._at)

    def integer(self) -> int:
        """A non-negative INTEGER, minimally encoded (X.690 §8.3.2)."""
        octets = self.take(INTEGER)
        if not octets or octets[0] & 0x80 or (len(octets) > 1 and octets[0] == 0 and not octets[1] & 0x80):
            bad("an INTEGER that is empty, negative or padded")
        return int.from_bytes(octets, "big")

    def bit_string(self) -> bytes:
        """A BIT STRING of whole octets."""
        octets = self.take(BIT_STRING)
        if not octets or octets[0] != 0:
            bad("a BIT STRING that is not whole octets")
        return octets[1:]

    def finish(self) -> None:
        """Raises where anything is left."""
        if self:
            bad("bytes follow the end")


def tlv(tag: int, *contents: bytes) -> bytes:
    """One element around the joined `contents`."""
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    octets = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + body


def sequence(*contents: bytes) -> bytes:
    """SEQUENCE of the already encoded `contents`."""
    return tlv(SEQUENCE, *contents)


def set_of(tag: int, elements: list[bytes]) -> bytes:
    """SET OF under `tag`, in DER's order."""
    return tlv(tag, *sorted(elements))


def integer(value: int) -> bytes:
    """INTEGER of a non-negative value."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octet_string(value: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, value)


def bit_string(value: bytes) -> bytes:
    """BIT STRING of whole octets."""
    return tlv(BIT_STRING, b"\x00", value)


def null() -> bytes:
    """NULL."""
    return b"\x05\x00"


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    out = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        out += bytes(reversed(groups))
    return tlv(OBJECT_IDENTIFIER, bytes(out))


def time(at: datetime) -> bytes:
    """UTCTime through 2049, GeneralizedTime from 2050 (RFC 5652 §11.3)."""
    at = at.astimezone(UTC)
    if 1950 <= at.year < 2050:
        return tlv(UTC_TIME, at.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return tlv(GENERALIZED_TIME, at.strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def read_time(reader: Reader) -> datetime:
    """A Time to the second in UTC (RFC 5652 §11.3)."""
    two_digits = reader.peek() == UTC_TIME
    text = reader.take(UTC_TIME if two_digits else GENERALIZED_TIME).decode("ascii", "replace")
    if two_digits:
        text = ("19" if text[:2] >= "50" else "20") + text
    if len(text) != 15 or not text[:14].isdecimal() or not text.isascii() or text[14] != "Z":
        bad("a time that is not in UTC to the second")
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        bad("a time that is none")
