"""SM3 as GB/T 32905-2016 writes it: one function per formula, no speed."""

import struct

IV = (0x7380166F, 0x4914B2B9, 0x172442D7, 0xDA8A0600, 0xA96F30BC, 0x163138AA, 0xE38DEE4D, 0xB0FB0E4E)
_MASK = 0xFFFFFFFF


def _rotl(x: int, bits: int) -> int:
    bits %= 32
    return (x << bits | x >> (32 - bits)) & _MASK


def _t(j: int) -> int:
    """4.2: the constants."""
    return 0x79CC4519 if j < 16 else 0x7A879D8A


def _ff(x: int, y: int, z: int, j: int) -> int:
    """4.3: the first boolean function."""
    return x ^ y ^ z if j < 16 else (x & y) | (x & z) | (y & z)


def _gg(x: int, y: int, z: int, j: int) -> int:
    """4.3: the second boolean function."""
    return x ^ y ^ z if j < 16 else (x & y) | (~x & _MASK & z)


def _p0(x: int) -> int:
    """4.4."""
    return x ^ _rotl(x, 9) ^ _rotl(x, 17)


def _p1(x: int) -> int:
    """4.4."""
    return x ^ _rotl(x, 15) ^ _rotl(x, 23)


def pad(message: bytes) -> bytes:
    """5.2: a one bit, zeros, the bit length in 64 bits; a whole number of 64-byte blocks."""
    zeros = (55 - len(message)) % 64
    return message + b"\x80" + bytes(zeros) + struct.pack(">Q", 8 * len(message))


def _expand(block: bytes) -> tuple[list[int], list[int]]:
    """5.3.2: 68 words W and 64 words W'."""
    w = list(struct.unpack(">16I", block))
    for j in range(16, 68):
        w.append(_p1(w[j - 16] ^ w[j - 9] ^ _rotl(w[j - 3], 15)) ^ _rotl(w[j - 13], 7) ^ w[j - 6])
    return w, [w[j] ^ w[j + 4] for j in range(64)]


def compress(state: tuple[int, ...], block: bytes) -> tuple[int, ...]:
    """5.3.3: the compression function CF."""
    w, w_prime = _expand(block)
    a, b, c, d, e, f, g, h = state
    for j in range(64):
        ss1 = _rotl((_rotl(a, 12) + e + _rotl(_t(j), j)) & _MASK, 7)
        ss2 = ss1 ^ _rotl(a, 12)
        tt1 = (_ff(a, b, c, j) + d + ss2 + w_prime[j]) & _MASK
        tt2 = (_gg(e, f, g, j) + h + ss1 + w[j]) & _MASK
        a, b, c, d = tt1, a, _rotl(b, 9), c
        e, f, g, h = _p0(tt2), e, _rotl(f, 19), g
    return tuple(x ^ y for x, y in zip((a, b, c, d, e, f, g, h), state, strict=True))


def sm3(message: bytes) -> bytes:
    """The 32-byte digest."""
    state: tuple[int, ...] = IV
    padded = pad(message)
    for at in range(0, len(padded), 64):
        state = compress(state, padded[at : at + 64])
    return struct.pack(">8I", *state)
