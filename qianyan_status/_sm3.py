"""SM3 (GB/T 32905-2016): by hashlib where its OpenSSL has it, else in Python. Only ever sees public data."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

_MASK: Final = 0xFFFFFFFF
_START: Final = (
    *(0x7380166F, 0x4914B2B9, 0x172442D7, 0xDA8A0600),
    *(0xA96F30BC, 0x163138AA, 0xE38DEE4D, 0xB0FB0E4E),
)


def _rotate(value: int, by: int) -> int:
    by %= 32
    return (value << by | value >> (32 - by)) & _MASK


_CONSTANTS: Final = tuple(_rotate(0x79CC4519 if j < 16 else 0x7A879D8A, j) for j in range(64))


def _compress(state: tuple[int, ...], block: bytes) -> tuple[int, ...]:
    """CF of GB/T 32905 §5.3.3."""
    w = list(struct.unpack(">16I", block))
    for j in range(16, 68):
        x = w[j - 16] ^ w[j - 9] ^ _rotate(w[j - 3], 15)
        w.append(x ^ _rotate(x, 15) ^ _rotate(x, 23) ^ _rotate(w[j - 13], 7) ^ w[j - 6])
    a, b, c, d, e, f, g, h = state
    for j in range(64):
        a12 = _rotate(a, 12)
        ss1 = _rotate((a12 + e + _CONSTANTS[j]) & _MASK, 7)
        if j < 16:
            ff, gg = a ^ b ^ c, e ^ f ^ g
        else:
            ff, gg = (a & b) | (a & c) | (b & c), (e & f) | (~e & g)
        tt1 = (ff + d + (ss1 ^ a12) + (w[j] ^ w[j + 4])) & _MASK
        tt2 = (gg + h + ss1 + w[j]) & _MASK
        a, b, c, d = tt1, a, _rotate(b, 9), c
        e, f, g, h = tt2 ^ _rotate(tt2, 9) ^ _rotate(tt2, 17), e, _rotate(f, 19), g
    return tuple(new ^ old for new, old in zip((a, b, c, d, e, f, g, h), state, strict=True))


def sm3_in_python(data: bytes) -> bytes:
    """The digest without any help: slow (about 1 MB in 5 s), and the same everywhere."""
    padded = data + b"\x80" + bytes(-(len(data) + 9) % 64) + struct.pack(">Q", 8 * len(data))
    state: tuple[int, ...] = _START
    for at in range(0, len(padded), 64):
        state = _compress(state, padded[at : at + 64])
    return struct.pack(">8I", *state)


def _by_hashlib(data: bytes) -> bytes:
    return hashlib.new("sm3", data).digest()


sm3 = _by_hashlib if "sm3" in hashlib.algorithms_available else sm3_in_python
