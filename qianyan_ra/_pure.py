"""SM2 in plain Python (GB/T 32918.2, .4), for an RA's machine that has neither the compiled core nor a token.

NOT constant time, wherever it touches a key or a nonce: Python's integers take longer for some values than for others,
and their copies cannot be wiped. Whoever can measure this process closely (another user of the same machine, a
neighbour in a cloud) may learn the key. So nothing falls back to this: it is asked for by name
(`arithmetic="pure"`). Verification sees public values only and may always be done here.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final

from cryptography.hazmat.primitives import hashes

P: Final = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
N: Final = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
A: Final = P - 3
B: Final = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
G: Final = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
DEFAULT_ID: Final = b"1234567812345678"
_CURVE: Final = b"".join(value.to_bytes(32, "big") for value in (A, B, *G))

#: A finite point as (x, y), or None for the point at infinity.
Point = tuple[int, int] | None


def sm3(*parts: bytes) -> bytes:
    """SM3 (GB/T 32905) over the joined parts."""
    state = hashes.Hash(hashes.SM3())
    for part in parts:
        state.update(part)
    return state.finalize()


def digest(public_key: bytes, message: bytes, user_id: bytes = DEFAULT_ID) -> bytes:
    """e = SM3(Z ‖ message) for the key of 65 octets (GB/T 32918.2 §5.5, §6.1 A1-A2)."""
    z = sm3((len(user_id) * 8).to_bytes(2, "big"), user_id, _CURVE, public_key[1:])
    return sm3(z, message)


def point_from_bytes(encoded: bytes) -> tuple[int, int]:
    """04 ‖ x ‖ y. ValueError where it is no point of the curve, or −G (under which any s can be made to fit)."""
    x, y = int.from_bytes(encoded[1:33], "big"), int.from_bytes(encoded[33:], "big")
    if len(encoded) != 65 or encoded[0] != 4 or not (x < P and y < P) or (y * y - x * x * x - A * x - B) % P:
        raise ValueError("not a point of the SM2 curve")
    if (x, y) == (G[0], P - G[1]):
        raise ValueError("the public key −G is no key")
    return x, y


def point_to_bytes(point: tuple[int, int]) -> bytes:
    """04 ‖ x ‖ y."""
    return b"\x04" + point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def _double(x: int, y: int, z: int) -> tuple[int, int, int]:
    """Jacobian doubling for a = −3."""
    delta, gamma = z * z % P, y * y % P
    beta = x * gamma % P
    alpha = 3 * (x - delta) * (x + delta) % P
    x3 = (alpha * alpha - 8 * beta) % P
    return x3, (alpha * (4 * beta - x3) - 8 * gamma * gamma) % P, ((y + z) * (y + z) - gamma - delta) % P


def _add(one: tuple[int, int, int], other: tuple[int, int]) -> tuple[int, int, int]:
    """Jacobian plus affine, every case."""
    x1, y1, z1 = one
    x2, y2 = other
    if z1 == 0:
        return x2, y2, 1
    zz = z1 * z1 % P
    h, r = (x2 * zz - x1) % P, (y2 * zz * z1 - y1) % P
    if h == 0:
        return _double(x1, y1, z1) if r == 0 else (1, 1, 0)
    hh = h * h % P
    hhh, v = h * hh % P, x1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - y1 * hhh) % P, z1 * h % P


def _multiply_vartime(scalar: int, point: tuple[int, int]) -> tuple[int, int, int]:
    total = (1, 1, 0)
    for bit in range(scalar.bit_length() - 1, -1, -1):
        total = _double(*total)
        if scalar >> bit & 1:
            total = _add(total, point)
    return total


def _affine(point: tuple[int, int, int]) -> Point:
    x, y, z = point
    if z == 0:
        return None
    inverse = pow(z, -1, P)
    square = inverse * inverse % P
    return x * square % P, y * square * inverse % P


def multiply_vartime(scalar: int, point: tuple[int, int] = G) -> Point:
    """[scalar]point. Its time depends on the scalar."""
    return _affine(_multiply_vartime(scalar, point))


def sign_digest_vartime(private: int, e: bytes) -> bytes:
    """r ‖ s over e (GB/T 32918.2 §6.1). Its time depends on the key and the nonce."""
    number = int.from_bytes(e, "big")
    inverse = pow(1 + private, -1, N)
    while True:
        k = secrets.randbelow(N - 1) + 1
        point = multiply_vartime(k)
        assert point is not None  # 0 < k < N
        r = (number + point[0]) % N
        s = inverse * (k - r * private) % N
        if r and r + k != N and s:
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def verify_digest(public_key: bytes, e: bytes, signature: bytes) -> bool:
    """Whether r ‖ s is over e (GB/T 32918.2 §7.1). Public values only. False for a key that is no point, too."""
    try:
        key = point_from_bytes(public_key)
    except ValueError:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    t = (r + s) % N
    if len(signature) != 64 or not (0 < r < N and 0 < s < N) or t == 0:
        return False
    right = multiply_vartime(t, key)
    assert right is not None  # 0 < t < N, and the key is of order N
    point = _affine(_add(_multiply_vartime(s, G), right))
    return point is not None and (int.from_bytes(e, "big") + point[0]) % N == r


def decrypt_vartime(private: int, c1: bytes, c3: bytes, c2: bytes) -> bytes | None:
    """The plaintext (GB/T 32918.4 §7.1), or None. Its time depends on the key."""
    try:
        shared = multiply_vartime(private, point_from_bytes(c1))
    except ValueError:
        return None
    if shared is None or not c2:
        return None
    x, y = (value.to_bytes(32, "big") for value in shared)
    stream = b"".join(sm3(x, y, (i + 1).to_bytes(4, "big")) for i in range(-(-len(c2) // 32)))[: len(c2)]
    plain = bytes(a ^ b for a, b in zip(c2, stream, strict=True))
    return plain if any(stream) and hmac.compare_digest(sm3(x, plain, y), c3) else None
