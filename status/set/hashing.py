"""The hash space for certificates that were imported and carry no status index.

The universe is closed: every certificate that the authority issued before the cutoff and that has not expired. Length
and salt of the keys are chosen so that no certificate that stands meets one that is revoked or on hold; then the
answer is exact for the whole universe. Knows serials; not where they come from.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from core.errors import Refused
from core.model import serial_to_bytes

SALT_BYTES: Final = 8
LEAST_BITS: Final = 17
MOST_BITS: Final = 56
#: How many salts are tried at each length before the keys become one bit longer.
_SALTS: Final = 4


@dataclass(frozen=True, slots=True)
class HashSpace:
    """What qianyan_status calls Imports, ready to be encoded. `cutoff_s`: seconds since 1970; keys ascending."""

    cutoff_s: int
    count: int
    bits: int
    salt: bytes
    revoked: list[int]
    held: list[int]


def contents_octets(serial: int) -> bytes:
    """The contents of the serialNumber INTEGER: two's complement, minimal."""
    octets = serial_to_bytes(serial)
    return b"\x00" + octets if octets[0] & 0x80 else octets


def hash_key(salt: bytes, serial: int, bits: int) -> int:
    """The first `bits` bits of SM3(salt ‖ contents of the serialNumber INTEGER)."""
    digest = hashlib.new("sm3", salt + contents_octets(serial)).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


def _distinct(salt: bytes, bits: int, good: Iterable[int], revoked: list[int], held: list[int]) -> HashSpace | None:
    """The keys where nobody meets anybody of another status; None where somebody does."""
    gone = {hash_key(salt, serial, bits) for serial in revoked}
    waiting = {hash_key(salt, serial, bits) for serial in held}
    if not gone.isdisjoint(waiting):
        return None
    count = len(revoked) + len(held)
    for serial in good:
        key = hash_key(salt, serial, bits)
        if key in gone or key in waiting:
            return None
        count += 1
    return HashSpace(0, count, bits, salt, sorted(gone), sorted(waiting))


def choose(
    good: Callable[[], Iterable[int]],
    revoked: list[int],
    held: list[int],
    *,
    count: int,
    cutoff_s: int,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> HashSpace:
    """The shortest keys that are found without a collision.

    good: gives the serials of the universe that stand, anew at each call, so that they need not be held in memory.
    count: how many they are, for the first guess. Raises Refused (code "set_hash") where no salt does.
    """
    pairs = max(1, (len(revoked) + len(held)) * max(1, count))
    # With 2^bits as many keys as there are pairs to collide, e^-1 of all salts do; a bit less is worth a try.
    for bits in range(min(MOST_BITS, max(LEAST_BITS, pairs.bit_length() - 1)), MOST_BITS + 1):
        for _ in range(_SALTS):
            found = _distinct(random(SALT_BYTES), bits, good(), revoked, held)
            if found is not None:
                return HashSpace(cutoff_s, found.count, bits, found.salt, found.revoked, found.held)
    raise Refused("no keys tell the imported certificates apart", code="set_hash")


def stays_exact(space: HashSpace, good: Iterable[int], revoked: Iterable[int], held: Iterable[int]) -> bool:
    """Whether a change of status can go into a delta: the keys of `space` still tell everybody apart.

    Where not, a new set with other keys is needed.
    """
    return _distinct(space.salt, space.bits, good, list(revoked), list(held)) is not None


def new_salt() -> bytes:
    """A fresh salt."""
    return secrets.token_bytes(SALT_BYTES)


def full_key(salt: bytes, serial: int) -> int:
    """The first 64 bits of the digest, of which a key is the first so many."""
    return int.from_bytes(hashlib.new("sm3", salt + contents_octets(serial)).digest()[:8], "big")


def distinct_bits(keys: array[int]) -> int | None:
    """The fewest bits, of those that are allowed, by which all full keys differ; None where even the most do not.

    Sorted in 256 parts, so that ten million take their own 80 MB and not several times that.
    """
    parts = [array("Q") for _ in range(256)]
    for key in keys:
        parts[key >> 56].append(key)
    bits = LEAST_BITS
    for part in parts:
        before = -1
        for key in sorted(part):
            if before >= 0:
                bits = max(bits, 64 - (key ^ before).bit_length() + 1)
            before = key
    return bits if bits <= MOST_BITS else None
