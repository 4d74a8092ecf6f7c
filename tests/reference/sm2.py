"""SM2 as GB/T 32918 writes it: affine points, Python integers, one function per algorithm.

Slow and not constant-time: it holds test keys only. The curve is a parameter, because the standards' own
examples need another one. Points are (x, y), and None at infinity. Verification is a predicate here.
"""

from dataclasses import dataclass

from tests.reference.sm3 import sm3

Point = tuple[int, int] | None
DEFAULT_ID = b"1234567812345678"


class Invalid(ValueError):
    """The input is one that the clauses refuse."""


@dataclass(frozen=True)
class Curve:
    """y^2 = x^3 + ax + b over F_p, base point of prime order n, cofactor 1."""

    p: int
    a: int
    b: int
    n: int
    gx: int
    gy: int

    @property
    def g(self) -> Point:
        """The base point."""
        return (self.gx, self.gy)

    def contains(self, point: Point) -> bool:
        """GB/T 32918.1 6.2: finite, coordinates in the field, equation fulfilled."""
        if point is None:
            return False
        x, y = point
        return 0 <= x < self.p and 0 <= y < self.p and (y * y - x**3 - self.a * x - self.b) % self.p == 0

    def add(self, left: Point, right: Point) -> Point:
        """GB/T 32918.1 3.2.3.1: the group law."""
        if left is None:
            return right
        if right is None:
            return left
        (x1, y1), (x2, y2) = left, right
        if x1 == x2 and (y1 + y2) % self.p == 0:
            return None
        if left == right:
            slope = (3 * x1 * x1 + self.a) * pow(2 * y1, -1, self.p)
        else:
            slope = (y2 - y1) * pow(x2 - x1, -1, self.p)
        x3 = (slope * slope - x1 - x2) % self.p
        return x3, (slope * (x1 - x3) - y1) % self.p

    def negate(self, point: Point) -> Point:
        """The inverse in the group."""
        return None if point is None else (point[0], -point[1] % self.p)

    def multiply(self, k: int, point: Point) -> Point:
        """k times a point, by doubling and adding."""
        result: Point = None
        for bit in bin(k % self.n)[2:]:
            result = self.add(result, result)
            if bit == "1":
                result = self.add(result, point)
        return result

    def lift_x(self, x: int) -> Point:
        """A point with this x and an even y; p must be 3 mod 4. Invalid where there is none."""
        y = pow(x**3 + self.a * x + self.b, (self.p + 1) // 4, self.p)
        point = (x, y if y % 2 == 0 else self.p - y)
        if not self.contains(point):
            raise Invalid("no point with this x")
        return point


SM2 = Curve(
    p=0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF,
    a=0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFC,
    b=0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93,
    n=0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123,
    gx=0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    gy=0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
"""GB/T 32918.5 clause 2."""


def _bytes(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _finite(point: Point) -> tuple[int, int]:
    if point is None:
        raise Invalid("point at infinity")
    return point


def encode_point(point: Point) -> bytes:
    """GB/T 32918.1 4.2.9, uncompressed: 04, x, y."""
    x, y = _finite(point)
    return b"\x04" + _bytes(x) + _bytes(y)


def decode_point(data: bytes, curve: Curve = SM2) -> tuple[int, int]:
    """GB/T 32918.1 4.2.10: 65 bytes uncompressed or 33 compressed, checked to be on the curve."""
    if len(data) == 65 and data[0] == 4:
        point: Point = (int.from_bytes(data[1:33], "big"), int.from_bytes(data[33:], "big"))
    elif len(data) == 33 and data[0] in (2, 3) and int.from_bytes(data[1:], "big") < curve.p:
        point = curve.lift_x(int.from_bytes(data[1:], "big"))
        point = point if data[0] == 2 else curve.negate(point)
    else:
        raise Invalid("not the encoding of a point")
    if not curve.contains(point):
        raise Invalid("not on the curve")
    return _finite(point)


def public_key(d: int, curve: Curve = SM2) -> tuple[int, int]:
    """GB/T 32918.1 6.1: P = dG, d in [1, n-2]."""
    if not 1 <= d <= curve.n - 2:
        raise Invalid("private key out of range")
    return _finite(curve.multiply(d, curve.g))


# ---- GB/T 32918.2: signatures


def z_value(public: Point, user_id: bytes = DEFAULT_ID, curve: Curve = SM2) -> bytes:
    """5.5: Z = SM3(ENTL, ID, a, b, xG, yG, xA, yA); ENTL is the ID's length in bits, two bytes."""
    if len(user_id) > 0xFFFF // 8:
        raise Invalid("user ID too long")
    x, y = _finite(public)
    numbers = (curve.a, curve.b, curve.gx, curve.gy, x, y)
    return sm3((8 * len(user_id)).to_bytes(2, "big") + user_id + b"".join(map(_bytes, numbers)))


def digest(public: Point, message: bytes, user_id: bytes = DEFAULT_ID, curve: Curve = SM2) -> bytes:
    """6.1 A1, A2: e = SM3(Z, M)."""
    return sm3(z_value(public, user_id, curve) + message)


def sign_digest(d: int, e: bytes, k: int, curve: Curve = SM2) -> tuple[int, int]:
    """6.1 A3 to A7 with the k given; Invalid where the clauses say to draw another k."""
    x1, _ = _finite(curve.multiply(k, curve.g))
    r = (int.from_bytes(e, "big") + x1) % curve.n
    if r == 0 or r + k == curve.n:
        raise Invalid("this k gives no signature: r")
    s = pow(1 + d, -1, curve.n) * (k - r * d) % curve.n
    if s == 0:
        raise Invalid("this k gives no signature: s")
    return r, s


def verify_digest(public: Point, e: bytes, r: int, s: int, curve: Curve = SM2) -> bool:
    """7.1 B1 to B7. The public key is checked as at import."""
    if not curve.contains(public) or public == curve.negate(curve.g):
        return False
    if not 1 <= r <= curve.n - 1 or not 1 <= s <= curve.n - 1:
        return False
    t = (r + s) % curve.n
    if t == 0:
        return False
    found = curve.add(curve.multiply(s, curve.g), curve.multiply(t, public))
    if found is None:
        return False
    return (int.from_bytes(e, "big") + found[0]) % curve.n == r


# ---- GB/T 32918.4: encryption


def kdf(shared: bytes, length: int) -> bytes:
    """5.4.3: SM3 over the input and a 32-bit counter from 1, cut to length."""
    blocks = -(-length // 32)
    return b"".join(sm3(shared + ct.to_bytes(4, "big")) for ct in range(1, blocks + 1))[:length]


@dataclass(frozen=True)
class Cipher:
    """The parts of a ciphertext: C1 as a point, C3 the hash, C2 the masked text."""

    x: int
    y: int
    c3: bytes
    c2: bytes

    def raw(self) -> bytes:
        """GB/T 32918.4-2016 6.1 A8: C1, C3, C2."""
        return b"\x04" + _bytes(self.x) + _bytes(self.y) + self.c3 + self.c2

    def der(self) -> bytes:
        """GM/T 0009 7.2: SM2Cipher."""
        return der_sequence(der_integer(self.x), der_integer(self.y), der_octets(self.c3), der_octets(self.c2))


def seal(shared: Point, c1: Point, plaintext: bytes) -> Cipher:
    """6.1 A4 to A8 once the shared point (x2, y2) is known; Invalid where t is all zero."""
    (x1, y1), (x2, y2) = _finite(c1), _finite(shared)
    t = kdf(_bytes(x2) + _bytes(y2), len(plaintext))
    if not any(t):
        raise Invalid("key stream all zero (or nothing to encrypt)")
    c2 = bytes(a ^ b for a, b in zip(plaintext, t, strict=True))
    return Cipher(x1, y1, sm3(_bytes(x2) + plaintext + _bytes(y2)), c2)


def encrypt(public: Point, plaintext: bytes, k: int, curve: Curve = SM2) -> Cipher:
    """6.1 with the k given."""
    if not curve.contains(public):
        raise Invalid("public key not on the curve")
    return seal(curve.multiply(k, public), curve.multiply(k, curve.g), plaintext)


def decrypt(d: int, cipher: Cipher, curve: Curve = SM2) -> bytes:
    """7.1 B1 to B7; Invalid at every refusal, with nothing of the text released."""
    c1 = (cipher.x, cipher.y)
    if not curve.contains(c1):
        raise Invalid("C1 not on the curve")
    x2, y2 = _finite(curve.multiply(d, c1))
    t = kdf(_bytes(x2) + _bytes(y2), len(cipher.c2))
    if not any(t):
        raise Invalid("key stream all zero (or nothing to decrypt)")
    plaintext = bytes(a ^ b for a, b in zip(cipher.c2, t, strict=True))
    if sm3(_bytes(x2) + plaintext + _bytes(y2)) != cipher.c3:
        raise Invalid("C3 does not fit")
    return plaintext


# ---- GB/T 32918.3: key exchange


@dataclass(frozen=True)
class Party:
    """One side's long-term and ephemeral keys: points always, scalars where they are our own."""

    user_id: bytes
    public: Point
    ephemeral: Point
    d: int | None = None
    r: int | None = None


@dataclass(frozen=True)
class Exchanged:
    """The agreed key and both confirmation values."""

    key: bytes
    s_b: bytes
    s_a: bytes


def exchange(initiator: Party, responder: Party, length: int, curve: Curve = SM2) -> Exchanged:
    """6.1: run by whichever side has its scalars; A is always the initiator."""
    own, peer = (initiator, responder) if initiator.d is not None else (responder, initiator)
    assert own.d is not None
    assert own.r is not None
    if not curve.contains(peer.ephemeral) or not curve.contains(peer.public):
        raise Invalid("the peer's point is not on the curve")
    w = (curve.n - 1).bit_length() // 2 + (curve.n - 1).bit_length() % 2 - 1

    def bar(point: Point) -> int:
        return (1 << w) + (_finite(point)[0] & ((1 << w) - 1))

    t = (own.d + bar(own.ephemeral) * own.r) % curve.n
    mixed = curve.add(peer.public, curve.multiply(bar(peer.ephemeral), peer.ephemeral))
    xu, yu = _finite(curve.multiply(t, mixed))
    za = z_value(initiator.public, initiator.user_id, curve)
    zb = z_value(responder.public, responder.user_id, curve)
    points = (*_finite(initiator.ephemeral), *_finite(responder.ephemeral))
    inner = sm3(_bytes(xu) + za + zb + b"".join(map(_bytes, points)))
    return Exchanged(
        key=kdf(_bytes(xu) + _bytes(yu) + za + zb, length),
        s_b=sm3(b"\x02" + _bytes(yu) + inner),
        s_a=sm3(b"\x03" + _bytes(yu) + inner),
    )


# ---- GM/T 0009 clause 7: DER


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def der_integer(value: int) -> bytes:
    """X.690 8.3: two's complement, as short as it goes; here never negative."""
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def der_octets(value: bytes) -> bytes:
    """OCTET STRING."""
    return _tlv(0x04, value)


def der_sequence(*parts: bytes) -> bytes:
    """SEQUENCE."""
    return _tlv(0x30, b"".join(parts))


def _read(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Content of the first element, and what follows it. Lax: strictness is encoding again and comparing."""
    if len(data) < 2 or data[0] != tag:
        raise Invalid("wrong tag or truncated")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise Invalid("truncated")
    return data[start : start + length], data[start + length :]


def _read_integer(data: bytes) -> tuple[int, bytes]:
    content, rest = _read(data, 0x02)
    value = int.from_bytes(content, "big", signed=True)
    if not 0 <= value < 1 << 256:
        raise Invalid("integer out of range")
    return value, rest


def signature_to_der(r: int, s: int) -> bytes:
    """SM2Signature."""
    return der_sequence(der_integer(r), der_integer(s))


def signature_from_der(data: bytes) -> tuple[int, int]:
    """SM2Signature, strictly: only the DER that `signature_to_der` writes. Ranges are the verifier's."""
    body, _ = _read(data, 0x30)
    r, rest = _read_integer(body)
    s, _ = _read_integer(rest)
    if signature_to_der(r, s) != data:
        raise Invalid("not DER")
    return r, s


def cipher_from_der(data: bytes) -> Cipher:
    """SM2Cipher, strictly."""
    body, _ = _read(data, 0x30)
    x, rest = _read_integer(body)
    y, rest = _read_integer(rest)
    c3, rest = _read(rest, 0x04)
    c2, _ = _read(rest, 0x04)
    cipher = Cipher(x, y, c3, c2)
    if cipher.der() != data or len(c3) != 32:
        raise Invalid("not the DER of an SM2Cipher")
    return cipher


def cipher_from_raw(data: bytes) -> Cipher:
    """C1, C3, C2 with an uncompressed C1."""
    if len(data) < 97 or data[0] != 4:
        raise Invalid("not C1 C3 C2")
    x, y = int.from_bytes(data[1:33], "big"), int.from_bytes(data[33:65], "big")
    return Cipher(x, y, data[65:97], data[97:])
