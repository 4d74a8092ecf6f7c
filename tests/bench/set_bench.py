"""Status sets: bytes beside the entropy bound, time to encode, load and ask; 2,000,000 certificates by default.

python tests/bench/set_bench.py [--certificates N] [--share 0.05] [--changes 300] [--months 24]
Prints the best of several runs, which is what the machine can do when nothing else wants it.
"""

from __future__ import annotations

import argparse
import math
import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from cryptography import x509

from core.asn1.x509 import spki_of_certificate
from qianyan_status import load
from qianyan_status._lookup import PythonIndex
from qianyan_status._reader import _table
from signer.engine.verify import verify_signature
from status.set.format import Base, Heading, MonthState, SetState, delta_tbs, join, set_tbs, sm3
from tests.crl_world import HOUR_MS, NOON_MS, KeySigner, make_certificate

FIRST_MONTH = 24_330
RUNS = 7


def best(call: Callable[[], Any], runs: int = RUNS) -> tuple[float, Any]:
    """(seconds of the fastest run, what it gave)."""
    fastest, result = math.inf, None
    for _ in range(runs):
        began = time.perf_counter()
        result = call()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest, result


def entropy_bytes(total: int, chosen: int) -> float:
    """log2 C(total, chosen) / 8."""
    bits = math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
    return bits / math.log(2) / 8


def state_of(keys: list[int], total: int, months: int) -> SetState:
    """`keys` of one line, cut into months."""
    per, at, parts = total // months, 0, []
    for month in range(months):
        start, end = month * per, total if month == months - 1 else (month + 1) * per
        inside = []
        while at < len(keys) and keys[at] < end:
            inside.append(keys[at] - start)
            at += 1
        parts.append(MonthState(FIRST_MONTH + month, 0, end - start, inside, ()))
    return SetState(tuple(parts))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificates", type=int, default=2_000_000)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--months", type=int, default=24)
    options = parser.parse_args()
    total, chosen = options.certificates, random.Random(1)
    keys = sorted(chosen.sample(range(total), round(total * options.share)))
    changed = sorted(set(keys) ^ set(chosen.sample(range(total), options.changes)))
    before, after = state_of(keys, total, options.months), state_of(changed, total, options.months)

    signer = KeySigner()
    issuer = make_certificate(signer, not_after_ms=NOON_MS + 4000 * 24 * HOUR_MS)
    key_id = x509.load_der_x509_certificate(issuer).extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    heading = Heading(key_id.value.digest, 1, 10, NOON_MS, NOON_MS + HOUR_MS)
    later = Heading(key_id.value.digest, 2, 20, NOON_MS, NOON_MS + HOUR_MS)
    spki = spki_of_certificate(issuer)

    encode_s, tbs = best(lambda: set_tbs(heading, spki, "2.25.160735196", before))
    body = join(tbs, signer.sign_now(tbs))
    base = Base(1, 10, sm3(body), before)
    delta_s, delta = best(lambda: delta_tbs(later, base, after))
    delta = join(delta, signer.sign_now(delta))

    def take(with_delta: bool) -> Any:
        return load(
            body,
            delta if with_delta else None,
            issuer=issuer,
            verify=verify_signature,
            clock=lambda: NOON_MS // 1000,
        )

    load_s, _ = best(lambda: take(False))
    both_s, loaded = best(lambda: take(True))
    print(f"{total:,} certificates, {len(keys):,} revoked, {options.months} months")
    print(
        f"set    {len(body):,} bytes signed (bound {entropy_bytes(total, len(keys)):,.0f}); encoded in {encode_s:.3f} s"
    )
    print(f"delta  {len(delta):,} bytes for {options.changes} changes; encoded in {delta_s:.3f} s")
    print(f"load   set {load_s:.3f} s, set and delta {both_s:.3f} s, signatures and digests checked")

    count = 1_000_000
    per = total // options.months
    questions = [(FIRST_MONTH + chosen.randrange(options.months), chosen.randrange(per)) for _ in range(count)]
    records = b"".join(struct.pack("<IIq", month, index, NOON_MS // 1000 - 9) for month, index in questions)
    fast_s, answers = best(lambda: loaded.query_many(records))
    print(f"bulk   {count / fast_s / 1e6:,.1f} M look-ups/s on one core ({type(loaded._index).__name__})")
    few = records[: 16 * 50_000]
    python = PythonIndex(_table(loaded.contents))
    slow_s, slow = best(lambda: python.find_many(few, False), 3)
    assert slow == answers[:50_000]
    print(f"bulk   {50_000 / slow_s / 1e6:,.2f} M look-ups/s in Python alone")


if __name__ == "__main__":
    main()
