"""Serial numbers: 16 random octets, positive, not yet used by the authority."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Unavailable
from core.store import certificates

#: How many times a taken serial is drawn again. One collision is a 2^-100 event; eight are a broken generator.
_DRAWS: Final = 8
#: How often a zero first octet is drawn again: 1 in 128 is zero, so this many in a row is a 2^-224 event.
_FIRST_OCTETS: Final = 32

Entropy = Callable[[int], bytes]


def draw(entropy: Entropy = os.urandom) -> int:
    """16 octets with the first in 01..7f: positive, and always 16 octets long in DER."""
    for _ in range(_FIRST_OCTETS):
        octets = entropy(16)
        first = octets[0] & 0x7F
        if first:
            return int.from_bytes(bytes((first,)) + octets[1:], "big")
    raise Unavailable("the random generator gives zeros; no serial can be drawn", code="entropy")


async def fresh(connection: AsyncConnection, authority_id: str, count: int, entropy: Entropy = os.urandom) -> list[int]:
    """`count` different serials that the authority has not used. Raises Unavailable where the generator repeats itself.

    The store's unique constraint has the last word.
    """
    for _ in range(_DRAWS):
        drawn = [draw(entropy) for _ in range(count)]
        known = await certificates.statuses(connection, authority_id, drawn)
        if len(set(drawn)) == count and all(status.state is None for status in known):
            return drawn
    raise Unavailable("the random generator repeats itself; no serial can be drawn", code="entropy")
