"""A strict walk over DER, just enough to take signed objects apart.

Independent of every ASN.1 library under test on purpose: it looks at tags and lengths, never at
meaning, so it can hand the exact signed bytes to a judge and flip exactly one bit of a signature.
"""

from dataclasses import dataclass


class NotDer(ValueError):
    """The bytes are not the definite-length, minimal-length TLVs that DER (X.690 10.1) asks for."""


@dataclass(frozen=True)
class Tlv:
    """One element: its tag byte, its place in the walked bytes, and its content."""

    tag: int
    start: int
    body: int
    end: int
    source: bytes

    @property
    def content(self) -> bytes:
        """The content octets."""
        return self.source[self.body : self.end]

    @property
    def encoded(self) -> bytes:
        """Tag, length and content."""
        return self.source[self.start : self.end]

    def children(self) -> list["Tlv"]:
        """The elements inside a constructed element; they must fill it exactly."""
        if not self.tag & 0x20:
            raise NotDer(f"tag {self.tag:#04x} is primitive")
        found = []
        at = self.body
        while at < self.end:
            child = read(self.source, at, self.end)
            found.append(child)
            at = child.end
        return found


def read(source: bytes, start: int = 0, limit: int | None = None) -> Tlv:
    """The element at `start`, which must end at or before `limit`."""
    limit = len(source) if limit is None else limit
    if start + 2 > limit:
        raise NotDer("truncated header")
    tag, first = source[start], source[start + 1]
    if tag & 0x1F == 0x1F:
        raise NotDer("tag numbers above 30 do not occur in these objects")
    body = start + 2
    length = first
    if first >= 0x80:
        width = first & 0x7F
        if width == 0:
            raise NotDer("indefinite length")
        if body + width > limit:
            raise NotDer("truncated length")
        length = int.from_bytes(source[body : body + width], "big")
        body += width
        if length < 0x80 or length < 1 << 8 * (width - 1):
            raise NotDer("length not minimal")
    if body + length > limit:
        raise NotDer("content runs past its parent")
    return Tlv(tag, start, body, body + length, source)


def whole(source: bytes) -> Tlv:
    """The one element that is all of `source`."""
    element = read(source)
    if element.end != len(source):
        raise NotDer("trailing bytes")
    return element


@dataclass(frozen=True)
class Signed:
    """A signed object taken apart: SEQUENCE { tbs, AlgorithmIdentifier, BIT STRING, ... }."""

    tbs: bytes
    algorithm: bytes
    signature: bytes
    signature_end: int
    """Offset, in the bytes that were split, just past the last byte of the signature."""


def _split_at(element: Tlv) -> Signed:
    parts = element.children()
    if len(parts) < 3 or [part.tag for part in parts[:3]] != [0x30, 0x30, 0x03]:
        raise NotDer("not tbs, algorithm, signature")
    bits = parts[2]
    if bits.content[:1] != b"\x00":
        raise NotDer("signature BIT STRING with unused bits")
    return Signed(parts[0].encoded, parts[1].encoded, bits.content[1:], bits.end)


def split(signed: bytes) -> Signed:
    """A certificate, CRL, PKCS#10 request or BasicOCSPResponse, taken apart."""
    return _split_at(whole(signed))


def basic_response(response: bytes) -> Tlv:
    """The BasicOCSPResponse inside a successful OCSPResponse (RFC 6960 4.2.1)."""
    parts = whole(response).children()
    if len(parts) != 2 or parts[0].content != b"\x00" or parts[1].tag != 0xA0:
        raise NotDer("not a successful OCSPResponse")
    kind, octets = read(response, parts[1].body, parts[1].end).children()
    if kind.encoded != bytes.fromhex("06092b0601050507300101") or octets.tag != 0x04:
        raise NotDer("not id-pkix-ocsp-basic")
    return read(response, octets.body, octets.end)


def split_ocsp(response: bytes) -> Signed:
    """The BasicOCSPResponse of an OCSPResponse, taken apart."""
    return _split_at(basic_response(response))


def _flip(source: bytes, offset: int) -> bytes:
    return source[:offset] + bytes([source[offset] ^ 1]) + source[offset + 1 :]


def flip_signature(signed: bytes) -> bytes:
    """The same object with the lowest bit of its signature's s turned over: still DER, no longer signed."""
    return _flip(signed, split(signed).signature_end - 1)


def flip_ocsp_signature(response: bytes) -> bytes:
    """`flip_signature` for an OCSPResponse."""
    return _flip(response, split_ocsp(response).signature_end - 1)
