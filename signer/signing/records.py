"""Signatures in octets: records of digest, public key and signature in, a byte for each out.

Pure. A record is e (32) ‖ point (65: 04 ‖ X ‖ Y, or 64: X ‖ Y) ‖ r (32) ‖ s (32), without separators, all big-endian:
161 or 160 octets. The answer is 1 where r ‖ s is a signature of e under the point (GB/T 32918.2 §7.1), else 0, also
where the point is none of the curve's.
"""

from __future__ import annotations

from typing import Final

from core.errors import Malformed
from signer._native import sm2

DIGEST_OCTETS: Final = 32
SIGNATURE_OCTETS: Final = 64


def record_octets(point_octets: int) -> int:
    """How long a record is."""
    return DIGEST_OCTETS + point_octets + SIGNATURE_OCTETS


def verify_records(body: bytes, point_octets: int) -> bytes:
    """n bytes, 1 or 0, for n records. Raises Malformed (code "record_length"): not whole records, or none."""
    size = record_octets(point_octets)
    if not body or len(body) % size:
        raise Malformed(
            f"the body must be one or more records of {size} octets (JSON goes as application/json)",
            code="record_length",
        )
    count = len(body) // size
    known: dict[bytes, sm2.PublicKey | None] = {}
    keys: list[sm2.PublicKey] = []
    places: list[int] = []
    digests, signatures = bytearray(), bytearray()
    for number in range(count):
        at = number * size
        point = body[at + 32 : at + 32 + point_octets]
        key = known[point] if point in known else known.setdefault(point, _key(point))
        if key is None:
            continue
        keys.append(key)
        places.append(number)
        digests += body[at : at + 32]
        signatures += body[at + 32 + point_octets : at + size]
    if not keys:
        return bytes(count)
    results = sm2.verify_many(keys, digests, signatures)
    if len(keys) == count:
        return results
    out = bytearray(count)
    for number, good in zip(places, results, strict=True):
        out[number] = good
    return bytes(out)


def _key(point: bytes) -> sm2.PublicKey | None:
    """The point, where it is one."""
    try:
        return sm2.PublicKey.from_bytes(point if len(point) == 65 else b"\x04" + point)
    except sm2.InvalidKey:
        return None
