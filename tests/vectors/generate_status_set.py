"""Writes status_set.json: payloads, a state digest, and a set with its delta and what they say.

What is signed is taken over from the file where it is there, because SM2 signatures are random; everything else is
made anew, byte for byte. Run from the root: python -m tests.vectors.generate_status_set
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from core.asn1.x509 import key_identifier, spki_of_certificate
from status.set.codec import encode, encode_whole
from status.set.format import Base, Heading, MonthState, SetState, delta_tbs, join, set_tbs, sm3, state_digest
from status.set.hashing import HashSpace, hash_key
from tests.crl_world import KeySigner, make_certificate
from tests.set_world import leaf

FILE: Final = Path(__file__).parent / "status_set.json"
NOON_MS: Final = 1_795_003_200_000  # 2026-11-18T12:00:00Z
HOUR_MS: Final = 3_600_000
MONTH: Final = 2027 * 12 + 7
INDEX_OID: Final = "2.25.160735196"
SALT: Final = bytes.fromhex("0011223344556677")

#: name, size of the space, keys as runs (first, last)
PAYLOADS: Final[list[tuple[str, int, list[tuple[int, int]]]]] = [
    ("no key", 100, []),
    ("one key", 100, [(5, 5)]),
    ("all keys", 100, [(0, 99)]),
    ("first and last", 65_536, [(0, 0), (65_535, 65_535)]),
    ("second block only", 65_537, [(65_536, 65_536)]),
    ("more than half, inverted", 1000, [(0, 399), (402, 999)]),
    ("exactly half, not inverted", 16, [(0, 7)]),
    ("every other, a bitmap", 64, [(i, i) for i in range(0, 64, 2)]),
    ("a run and one far away", 70_000, [(10, 60), (69_999, 69_999)]),
]


def keys_of(runs: list[tuple[int, int]]) -> list[int]:
    """The keys that the runs stand for."""
    return [key for first, last in runs for key in range(first, last + 1)]


def states() -> tuple[SetState, SetState]:
    """The worked example: two months and three imports; then a revocation, a release, a hold that became final."""
    bits = 20
    imports = HashSpace(
        NOON_MS // 1000, 3, bits, SALT, [hash_key(SALT, 0x80, bits)], [hash_key(SALT, 0x1234567890, bits)]
    )
    before = SetState((MonthState(MONTH, 0, 1000, (3, 9, 500), (4, 8)), MonthState(MONTH + 2, 0, 10, (), ())), imports)
    after = SetState(
        (
            MonthState(MONTH, 0, 1003, (3, 8, 9, 500, 1001), ()),
            MonthState(MONTH + 1, 0, 2, (), (1,)),
            MonthState(MONTH + 2, 0, 10, (), ()),
        ),
        HashSpace(imports.cutoff_s, 3, bits, SALT, sorted([*imports.revoked, *imports.held]), []),
    )
    return before, after


def unsigned(issuer: bytes, key_id: bytes, base: bytes | None) -> bytes:
    """The to-be-signed part of the example's set or, given the signed set, of its delta."""
    before, after = states()
    if base is None:
        heading = Heading(key_id, 41, 7000, NOON_MS, NOON_MS + 6 * HOUR_MS)
        return set_tbs(heading, spki_of_certificate(issuer), INDEX_OID, before)
    heading = Heading(key_id, 45, 7200, NOON_MS + HOUR_MS, NOON_MS + 7 * HOUR_MS)
    return delta_tbs(heading, Base(41, 7000, sm3(base), before), after)


def _files() -> dict[str, Any]:
    """Issuer, set, delta and certificates, newly signed."""
    signer = KeySigner()
    issuer = make_certificate(signer, not_after_ms=NOON_MS + 4000 * 24 * HOUR_MS)
    key_id = key_identifier(signer.public_key)
    tbs = unsigned(issuer, key_id, None)
    base = join(tbs, signer.sign_now(tbs))
    tbs = unsigned(issuer, key_id, base)
    delta = join(tbs, signer.sign_now(tbs))
    ends = {MONTH: NOON_MS + 270 * 24 * HOUR_MS, MONTH + 1: NOON_MS + 300 * 24 * HOUR_MS}
    cases = [
        ("good", MONTH, 0, "good", "good"),
        ("revoked", MONTH, 9, "revoked", "revoked"),
        ("on hold, released", MONTH, 4, "revoked, on hold", "good"),
        ("on hold, then revoked", MONTH, 8, "revoked, on hold", "revoked"),
        ("issued since, revoked", MONTH, 1001, "not_covered", "revoked"),
        ("a new month, on hold", MONTH + 1, 1, "not_covered", "revoked, on hold"),
        ("not issued yet", MONTH, 1003, "not_covered", "not_covered"),
    ]
    certificates = [
        {
            "what": what,
            "certificate": leaf(
                signer,
                serial=index + 1,
                not_before_ms=NOON_MS - HOUR_MS,
                not_after_ms=ends[month],
                place=(month, index),
            ).hex(),
            "by_set": by_set,
            "by_set_and_delta": by_delta,
        }
        for what, month, index, by_set, by_delta in cases
    ]
    for what, serial, by_set, by_delta in (
        ("imported, revoked", 0x80, "revoked", "revoked"),
        ("imported, on hold, then revoked", 0x1234567890, "revoked, on hold", "revoked"),
        ("imported, good", 77, "good", "good"),
    ):
        body = leaf(signer, serial=serial, not_before_ms=NOON_MS - HOUR_MS, not_after_ms=ends[MONTH], place=None)
        certificates.append({"what": what, "certificate": body.hex(), "by_set": by_set, "by_set_and_delta": by_delta})
    return {"issuer": issuer.hex(), "set": base.hex(), "delta": delta.hex(), "certificates": certificates}


def build(files: dict[str, Any] | None) -> dict[str, Any]:
    """The whole file; `files`: what is signed, where it is there already."""
    before, after = states()
    salted = [
        {"serial": f"{serial:x}", "bits": bits, "salt": SALT.hex(), "key": hash_key(SALT, serial, bits)}
        for serial in (1, 0x7F, 0x80, 0x1234567890)
        for bits in (20, 37)
    ]
    hashes = sorted({hash_key(SALT, serial, 37) for serial in range(1, 9)})
    return {
        "payloads": [
            {"what": what, "size": size, "runs": runs, "payload": encode(keys_of(runs), size).hex()}
            for what, size, runs in PAYLOADS
        ],
        "hash_payloads": [{"bits": 37, "keys": hashes, "payload": encode_whole(hashes, 37).hex()}],
        "hash_keys": salted,
        "state_digests": {"set": state_digest(before).hex(), "delta": state_digest(after).hex()},
        "example": files or _files(),
    }


def main() -> None:
    """Writes the file."""
    files = json.loads(FILE.read_text())["example"] if FILE.exists() else None
    FILE.write_text(json.dumps(build(files), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
