"""Sorted keys of a bounded space, encoded in the one canonical way (docs/status-set.md, "Keys").

Knows numbers only. The decoder is not here: what this writes is read back by `qianyan_status`, which shares nothing
with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

BLOCK_SIZE: Final = 1 << 16
_EMPTY: Final = b"\x00"
_FULL: Final = b"\x01"
_RAW: Final = b"\x02"
_RICE: Final = 0x80
_INVERTED: Final = 0x40
_MAX_PARAMETER: Final = 47


def varint(value: int) -> bytes:
    """Base 128, least significant group first, minimal."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _gaps(members: Sequence[int]) -> list[int]:
    return [members[0], *(after - before - 1 for before, after in pairwise(members))]


def _parameter(gaps: list[int], most: int) -> int:
    """The smallest Rice parameter of those with the fewest bits.

    The cost Σ(gap >> k) + n(k + 1) is convex in k: from a guess near the mean gap one walks downhill.
    """

    def cost(k: int) -> int:
        return sum(gap >> k for gap in gaps) + len(gaps) * (k + 1)

    k = min(most, max(0, (sum(gaps) // len(gaps)).bit_length() - 1))
    here = cost(k)
    while k < most and (following := cost(k + 1)) < here:
        k, here = k + 1, following
    while k and (before := cost(k - 1)) <= here:
        k, here = k - 1, before
    return k


def _rice(members: Sequence[int], flags: int, most: int) -> bytes:
    gaps = _gaps(members)
    k = _parameter(gaps, most)
    mask, stop = (1 << k) - 1, 1 << k
    bits = "".join(["0" * (gap >> k) + f"{gap & mask | stop:b}" for gap in gaps])
    octets = (len(bits) + 7) // 8
    codes = int(bits.ljust(octets * 8, "0"), 2).to_bytes(octets, "big")
    return bytes((_RICE | flags | k,)) + varint(len(members)) + codes


def _bitmap(members: Sequence[int], size: int) -> bytes:
    out = bytearray((size + 7) // 8)
    for member in members:
        out[member >> 3] |= 1 << (member & 7)
    return bytes(out)


def _block(members: Sequence[int], size: int) -> bytes:
    if not members:
        return _EMPTY
    if len(members) == size:
        return _FULL
    coded, flags = members, 0
    if 2 * len(members) > size:
        present = set(members)
        coded, flags = [place for place in range(size) if place not in present], _INVERTED
    rice = _rice(coded, flags, 15)
    return rice if len(rice) - 1 <= (size + 7) // 8 else _RAW + _bitmap(members, size)


def encode(keys: Sequence[int], size: int) -> bytes:
    """The payload of ascending `keys` of a space of `size` positions, in blocks of 65,536. No keys: no octets."""
    if not keys:
        return b""
    if keys[-1] >= size or keys[0] < 0:
        raise ValueError("a key outside its space")
    out = []
    for start in range(0, size, BLOCK_SIZE):
        end = min(start + BLOCK_SIZE, size)
        inside = keys[bisect_left(keys, start) : bisect_left(keys, end)]
        out.append(_block([key - start for key in inside], end - start))
    return b"".join(out)


def encode_whole(keys: Sequence[int], bits: int) -> bytes:
    """The payload of ascending hash keys of `bits` bits: one block of Rice codes. No keys: no octets."""
    if keys and keys[-1] >> bits:
        raise ValueError("a key outside its space")
    return _rice(keys, 0, _MAX_PARAMETER) if keys else b""
