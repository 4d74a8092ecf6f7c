"""Sorted keys of a bounded space, decoded; whatever is not the one canonical encoding is refused.

A space of `size` positions is cut into blocks of 65,536 (`block_bits` 16), or is one block. Each block begins with a
header octet: 00 empty, 01 full, 02 raw (a bitmap, least significant bit first), or 1ikkkkkk: Rice codes of the gaps
between keys with parameter k, of the keys that are *not* in the set where i is 1. A payload without any key has no
octets at all. docs/status-set.md says which form a block must have; there is never a choice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NoReturn

from qianyan_status._errors import StatusSetError

BLOCK_BITS: Final = 16
EMPTY: Final = 0x00
FULL: Final = 0x01
RAW: Final = 0x02
RICE: Final = 0x80
INVERTED: Final = 0x40
MAX_PARAMETER: Final = 47

_BITS_OF: Final = [[bit for bit in range(8) if octet >> bit & 1] for octet in range(256)]


def uncanonical(why: str) -> NoReturn:
    """Raises for an encoding that is not the canonical one."""
    raise StatusSetError(f"not canonical: {why}", code="canonical")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where the next begins): base 128, least significant group first, minimal, below 2^56."""
    value = shift = 0
    while True:
        if at >= len(data) or shift >= 56:
            uncanonical("a number that ends early or is too long")
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            if octet == 0 and shift:
                uncanonical("a number that is not minimal")
            return value, at
        shift += 7


def _rice_block(data: bytes, at: int, parameter: int, size: int) -> tuple[list[int], int]:
    """(the coded positions, where the next block begins)."""
    begin = at
    count, at = read_varint(data, at)
    if not 1 <= count <= size:
        uncanonical("a count that is not possible")
    blocked = size <= 1 << BLOCK_BITS
    # A block that is longer than its bitmap is refused anyway, so no more than that is looked at.
    window = data[at : at + 8192] if blocked else data[at:]
    bits = f"{int.from_bytes(bytes((1,)) + window, 'big'):b}"[1:]
    members: list[int] = []
    place, here, find = 0, -1, bits.find
    for _ in range(count):
        one = find("1", place)
        end = one + 1 + parameter
        if one < 0 or end > len(bits):
            uncanonical("gaps that end early")
        rest = int(bits[one + 1 : end], 2) if parameter else 0
        here += 1 + (one - place << parameter | rest)
        members.append(here)
        place = end
    if here >= size:
        uncanonical("a key outside its space")
    octets = (place + 7) // 8
    if "1" in bits[place : octets * 8]:
        uncanonical("bits after the last gap")
    _check_parameter(members, parameter, MAX_PARAMETER if not blocked else BLOCK_BITS - 1)
    at += octets
    if blocked and at - begin > (size + 7) // 8:
        uncanonical("codes that are longer than a bitmap")
    return members, at


def _cost(gaps: list[int], parameter: int) -> int:
    """How many bits the gaps take."""
    return sum(gap >> parameter for gap in gaps) + len(gaps) * (parameter + 1)


def _gaps(members: list[int]) -> list[int]:
    return [members[0], *(after - before - 1 for before, after in pairwise(members))]


def _check_parameter(members: list[int], parameter: int, most: int) -> None:
    """The smallest parameter of those with the fewest bits; the cost is convex, so its neighbours decide."""
    if parameter > most:
        uncanonical("a parameter past its bound")
    gaps = _gaps(members)
    cost = _cost(gaps, parameter)
    if parameter and _cost(gaps, parameter - 1) <= cost:
        uncanonical("a parameter that is larger than needed")
    if parameter < most and _cost(gaps, parameter + 1) < cost:
        uncanonical("a parameter that is too small")


def _raw_block(data: bytes, at: int, size: int) -> tuple[list[int], int]:
    end = at + (size + 7) // 8
    if end > len(data):
        uncanonical("a bitmap that ends early")
    members = [base << 3 | bit for base, octet in enumerate(data[at:end]) for bit in _BITS_OF[octet]]
    if not members or len(members) == size or members[-1] >= size:
        uncanonical("a bitmap that is empty, full or too long")
    coded = members
    if 2 * len(members) > size:
        coded = _complement(members, size)
    gaps = _gaps(coded)
    parameter = 0
    cost = _cost(gaps, 0)
    while parameter < BLOCK_BITS - 1 and (following := _cost(gaps, parameter + 1)) < cost:
        parameter, cost = parameter + 1, following
    if _varint_octets(len(coded)) + (cost + 7) // 8 <= end - at:
        uncanonical("a bitmap where codes are not longer")
    return members, end


def _varint_octets(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _complement(members: list[int], size: int) -> list[int]:
    flags = bytearray(size)
    for member in members:
        flags[member] = 1
    return [place for place, flag in enumerate(flags) if not flag]


def _block(data: bytes, at: int, size: int) -> tuple[list[int] | range, int]:
    head, at = data[at], at + 1
    if head & RICE:
        members, at = _rice_block(data, at, head & 0x3F, size)
        if head & INVERTED:
            if 2 * len(members) >= size:
                uncanonical("an inversion that saves nothing")
            return _complement(members, size), at
        if 2 * len(members) > size:
            uncanonical("more than half, and not inverted")
        return members, at
    if head == RAW:
        return _raw_block(data, at, size)
    if head == EMPTY:
        return [], at
    if head == FULL:
        return range(size), at
    uncanonical("a block of an unknown kind")


def decode(payload: bytes, size: int, *, whole: bool = False) -> list[int]:
    """The keys, ascending, of a space of `size` positions. `whole`: one block, Rice codes only (hash spaces).

    Raises StatusSetError("canonical") for anything but the canonical encoding, trailing octets included.
    """
    if not payload:
        return []
    if whole:
        if size <= 1 << BLOCK_BITS or not payload[0] & RICE or payload[0] & INVERTED:
            uncanonical("a hash space is one block of Rice codes")
        found, at = _rice_block(payload, 1, payload[0] & 0x3F, size)
        if at != len(payload):
            uncanonical("octets after the last block")
        return found
    keys: list[int] = []
    at = 0
    for start in range(0, size, 1 << BLOCK_BITS):
        if at >= len(payload):
            uncanonical("a block is missing")
        members, at = _block(payload, at, min(1 << BLOCK_BITS, size - start))
        keys += members if start == 0 else [start + member for member in members]
    if at != len(payload):
        uncanonical("octets after the last block")
    if not keys:
        uncanonical("an empty set that takes octets")
    return keys
