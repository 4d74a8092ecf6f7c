"""DER as far as requests and answers need it: writing and taking apart TLVs. Knows octets, nothing of their meaning."""

from __future__ import annotations

from typing import Final

SEQUENCE: Final = 0x30
SET: Final = 0x31
SM3_OID: Final = (1, 2, 156, 10197, 1, 401)
SM2_SM3_OID: Final = (1, 2, 156, 10197, 1, 501)
EC_PUBLIC_KEY_OID: Final = (1, 2, 840, 10045, 2, 1)
SM2_CURVE_OID: Final = (1, 2, 156, 10197, 1, 301)


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element with a definite length."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of elements."""
    return tlv(SEQUENCE, *parts)


def integer(value: int, tag: int = 0x02) -> bytes:
    """A non-negative INTEGER (or ENUMERATED, by its tag)."""
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    """An OCTET STRING."""
    return tlv(0x04, value)


def bits(value: bytes) -> bytes:
    """A BIT STRING of whole octets."""
    return tlv(0x03, b"\0", value)


def oid(arcs: tuple[int, ...]) -> bytes:
    """An OBJECT IDENTIFIER."""
    body = bytearray()
    for arc in (arcs[0] * 40 + arcs[1], *arcs[2:]):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        body += bytes(reversed(groups))
    return tlv(0x06, bytes(body))


def head(data: bytes, at: int = 0) -> tuple[int, int, int]:
    """(tag, where its content begins, where it ends). ValueError where the element is not whole."""
    if len(data) < at + 2:
        raise ValueError("DER ends early")
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    if start + length > len(data):
        raise ValueError("DER ends early")
    return tag, start, start + length


def children(data: bytes) -> list[bytes]:
    """The elements inside a constructed one, each whole."""
    _, at, end = head(data)
    found = []
    while at < end:
        _, _, stop = head(data, at)
        found.append(data[at:stop])
        at = stop
    return found


def content(data: bytes) -> bytes:
    """What is inside one element."""
    _, start, end = head(data)
    return data[start:end]
