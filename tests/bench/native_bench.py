"""Measure the native core beside tongsuopy, gmssl and OpenSSL, all in one run.

Usage: python tests/bench/native_bench.py [--json] [--rounds N] [--seconds S]

Every figure is the median over rounds; in each round the contenders take turns,
so that a disturbance of the machine meets them all. Rates are per second and
for one thread. The peers sign and verify whole messages of 32 bytes, one at a
time (they have nothing else); the core is shown for whole messages as well, and
for batches of digests.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from signer._native import cpu, sm2, sm3

D = "3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8"
PKCS8 = (
    "308193020100301306072a8648ce3d020106082a811ccf5501822d0479307702010104203945208f7b2144b13f36e38ac6d3"
    "9f95889393692860b51a42fb81ef4df7c5b8a00a06082a811ccf5501822da1440342000409f9df311e5421a150dd7d161e4b"
    "c5c672179fad1833fc076bb08ff356f35020ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13"
)
MESSAGE = b"thirty-two bytes make a message."


@dataclass(frozen=True)
class Case:
    """One figure: `work` done once is `amount` of `unit`."""

    row: str
    who: str
    unit: str
    amount: float
    work: Callable[[], object]


def ours() -> list[Case]:
    key = sm2.PrivateKey.from_bytes(bytes.fromhex(D))
    public = key.public_key
    signature = key.sign(MESSAGE)
    cases = [
        Case("sign a message", "qianyan", "/s", 1, lambda: key.sign(MESSAGE)),
        Case("verify a message", "qianyan", "/s", 1, lambda: public.verify(MESSAGE, signature)),
    ]
    for n in (1, 8, 64, 1024):
        digests = os.urandom(32 * n)
        signatures = sm2.sign_many(key, digests)
        assert sm2.verify_many(public, digests, signatures) == b"\x01" * n
        cases.append(Case(f"sign, batch of {n}", "qianyan", "/s", n, partial(sm2.sign_many, key, digests)))
        verify = partial(sm2.verify_many, public, digests, signatures)
        cases.append(Case(f"verify one key, batch of {n}", "qianyan", "/s", n, verify))
    cases += known_and_unknown(1024)
    cases.append(Case("generate, batch of 1024", "qianyan", "/s", 1024, lambda: sm2.generate_many(1024)))
    cases.append(Case("generate, batch of 64", "qianyan", "/s", 64, lambda: sm2.generate_many(64)))
    cases.append(Case("generate a key", "qianyan", "/s", 1, sm2.PrivateKey.generate))
    sealed = public.encrypt(MESSAGE)
    cases.append(Case("encrypt 32 bytes", "qianyan", "/s", 1, lambda: public.encrypt(MESSAGE)))
    cases.append(Case("decrypt 32 bytes", "qianyan", "/s", 1, lambda: key.decrypt(sealed)))
    for n in (64, 1024, 16384):
        data = os.urandom(n)
        cases.append(Case(f"SM3 of {n} bytes", "qianyan", "MB/s", n / 1e6, partial(sm3.sm3, data)))
    for n, count in ((64, 1024), (1024, 1024), (16384, 128)):
        messages = [os.urandom(n) for _ in range(count)]
        assert sm3.sm3_many(messages[:3]) == b"".join(map(sm3.sm3, messages[:3]))
        row = f"SM3 of {count} x {n} bytes"
        cases.append(Case(row, "qianyan", "MB/s", n * count / 1e6, partial(sm3.sm3_many, messages)))
        cases.append(
            Case(f"e of {count} x {n} bytes", "qianyan", "/s", count, partial(sm2.digest_many, public, messages))
        )
    return cases


def known_and_unknown(n: int) -> list[Case]:
    """Verification under n keys without tables, and under 50 that have theirs."""
    digests = os.urandom(32 * n)
    keys = sm2.generate_many(n)
    limit = sm2.key_tables()["limit"]

    def unknown(public: list[sm2.PublicKey], signatures: bytes) -> bytes:
        sm2.set_key_table_limit(0)
        try:
            return sm2.verify_many(public, digests, signatures)
        finally:
            sm2.set_key_table_limit(limit)

    found = []
    for row, count, work in ((f"verify {n} keys", n, unknown), ("verify 50 known keys", 50, None)):
        chosen = [keys[i % count] for i in range(n)]
        public = [one.public_key for one in chosen]
        signatures = sm2.sign_many(chosen, digests)
        assert sm2.verify_many(public, digests, signatures) == b"\x01" * n
        run = partial(work, public, signatures) if work else partial(sm2.verify_many, public, digests, signatures)
        found.append(Case(f"{row}, batch of {n}", "qianyan", "/s", n, run))
    return found


def tongsuo() -> list[Case]:
    """tongsuopy: the C core of Tongsuo behind Python."""
    ec = importlib.import_module("tongsuopy.crypto.asymciphers.ec")
    serialization = importlib.import_module("tongsuopy.crypto.serialization")
    hashes = importlib.import_module("tongsuopy.crypto.hashes")
    key: Any = serialization.load_der_private_key(bytes.fromhex(PKCS8), None)
    public: Any = key.public_key()
    algorithm = ec.ECDSA(hashes.SM3())
    signature = key.sign(MESSAGE, algorithm)

    def hashed(data: bytes) -> bytes:
        h = hashes.Hash(hashes.SM3())
        h.update(data)
        return bytes(h.finalize())

    cases = [
        Case("sign a message", "tongsuopy", "/s", 1, lambda: key.sign(MESSAGE, algorithm)),
        Case("verify a message", "tongsuopy", "/s", 1, lambda: public.verify(signature, MESSAGE, algorithm)),
        Case("generate a key", "tongsuopy", "/s", 1, lambda: ec.generate_private_key(ec.SM2())),
    ]
    for n in (64, 1024, 16384):
        data = os.urandom(n)
        assert hashed(data) == sm3.sm3(data)
        cases.append(Case(f"SM3 of {n} bytes", "tongsuopy", "MB/s", n / 1e6, partial(hashed, data)))
    return cases


def gmssl() -> list[Case]:
    """gmssl of PyPI: Python throughout."""
    module = importlib.import_module("gmssl.sm2")
    hasher = importlib.import_module("gmssl.sm3")
    public = sm2.PrivateKey.from_bytes(bytes.fromhex(D)).public_key.to_bytes()[1:].hex()
    crypt: Any = module.CryptSM2(private_key=D, public_key=public)
    signature = crypt.sign_with_sm3(MESSAGE)
    assert crypt.verify_with_sm3(signature, MESSAGE)
    data = os.urandom(1024)
    return [
        Case("sign a message", "gmssl", "/s", 1, lambda: crypt.sign_with_sm3(MESSAGE)),
        Case("verify a message", "gmssl", "/s", 1, lambda: crypt.verify_with_sm3(signature, MESSAGE)),
        Case("SM3 of 1024 bytes", "gmssl", "MB/s", 1024 / 1e6, lambda: hasher.sm3_hash(list(data))),
    ]


def openssl() -> dict[str, float]:
    """By row, as `openssl speed` measures itself, a second each; empty where there is no such command."""
    command = shutil.which("openssl")
    if command is None:
        return {}

    def speed(*what: str) -> list[str]:
        """The fields of the line that begins with +F: machine-readable results."""
        arguments = [command, "speed", "-mr", "-seconds", "1", *what]
        ran = subprocess.run(arguments, capture_output=True, text=True, check=True)
        return next(line for line in ran.stdout.splitlines() if line.startswith("+F")).split(":")

    *_, signed, verified = speed("sm2")
    found = {"sign a message": float(signed), "verify a message": float(verified)}
    for n in (64, 1024, 16384):
        found[f"SM3 of {n} bytes"] = float(speed("-bytes", str(n), "-evp", "sm3")[-1]) / 1e6
    return found


def measure(case: Case, seconds: float) -> float:
    """The rate over about `seconds` of processor time."""
    case.work()
    repeat, spent = 1, 0.0
    while True:
        begin = time.thread_time()
        for _ in range(repeat):
            case.work()
        spent = time.thread_time() - begin
        if spent >= seconds:
            return case.amount * repeat / spent
        repeat = max(repeat + 1, int(repeat * min(10.0, 1.2 * seconds / max(spent, 1e-9))))


def collect(rounds: int, seconds: float) -> tuple[dict[str, dict[str, float]], dict[str, str], list[str]]:
    cases, absent = ours(), []
    for make in (tongsuo, gmssl):
        try:
            cases += make()
        except ImportError as error:
            absent.append(f"{make.__name__}: {error}")
    seen: dict[tuple[str, str], list[float]] = {(case.row, case.who): [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            seen[case.row, case.who].append(measure(case, seconds))
    rows: dict[str, dict[str, float]] = {}
    for (row, who), rates in seen.items():
        rows.setdefault(row, {})[who] = statistics.median(rates)
    beside = openssl()
    for row, rate in beside.items():
        rows[row]["openssl"] = rate
    if not beside:
        absent.append("openssl: no such command")
    return rows, {case.row: case.unit for case in cases}, absent


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the native core beside tongsuopy, gmssl and OpenSSL.")
    parser.add_argument("--json", action="store_true", help="print a document instead of a table")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="processor time for each figure in each round")
    args = parser.parse_args()
    rows, units, absent = collect(args.rounds, args.seconds)
    machine = {"processor": processor(), "backend": cpu.backend(), "python": platform.python_version()}
    if args.json:
        print(json.dumps({"machine": machine, "rounds": args.rounds, "rows": rows, "units": units, "absent": absent}))
        return 0
    who = ["qianyan", "tongsuopy", "gmssl", "openssl"]
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{'one thread, median of ' + str(args.rounds):<40}" + "".join(f"{name:>14}" for name in who))
    for row, rates in rows.items():
        cells = "".join(
            f"{rates[name]:>14,.{0 if rates[name] >= 100 else 2}f}" if name in rates else f"{'':>14}" for name in who
        )
        print(f"{row + ' (' + units[row] + ')':<40}{cells}")
    for line in absent:
        print(f"not measured: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
