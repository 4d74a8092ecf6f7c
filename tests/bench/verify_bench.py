"""Measure `POST /v1/verify`, JSON and octets, beside the native core, in one run.

Usage: python tests/bench/verify_bench.py [--json] [--rounds N] [--items N] [--keys N]

The service runs alone on core 0; the client (this process, a prepared body on one kept connection) on core 1. In each
round the contenders take turns; the figure is the best over rounds for the core and each form, with the share of the
core's rate. `client` is this process's own share of its core during the calls: near 1.0, it was the limit. JSON comes
in two kinds: bare public keys over digests, and certificates named by number, whose paths and status are looked at too.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from core.asn1.names import build_name  # noqa: E402
from core.asn1.x509 import join_signed  # noqa: E402 - found by the line above
from service.holder import request_info  # noqa: E402
from signer._native import sm2  # noqa: E402
from tests.running import Installation, Service  # noqa: E402

SERVER_CORE, CLIENT_CORE = 0, 1


def text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


@dataclass
class Contender:
    """What is called, and how fast it was: signatures a second."""

    call: Callable[[], bytes]
    expected: int
    rates: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)

    def run(self, items: int) -> None:
        began, used = time.perf_counter(), time.process_time()
        answer = self.call()
        seconds = time.perf_counter() - began
        self.client.append((time.process_time() - used) / seconds)
        self.rates.append(items / seconds)
        found = answer.count(1) if len(answer) == items else answer.count(b'"valid":true')
        if found != self.expected:
            raise SystemExit(f"{found} of {self.expected} valid signatures were found")


@dataclass
class Signatures:
    """The work: `items` signatures under `keys` keys in turn."""

    keys: list[sm2.PrivateKey]
    digests: list[bytes]
    raw: list[bytes]

    @classmethod
    def make(cls, keys: int, items: int) -> Signatures:
        made = sm2.generate_many(keys)
        digests = [os.urandom(32) for _ in range(items)]
        raw = sm2.sign_many([made[number % keys] for number in range(items)], b"".join(digests))
        return cls(made, digests, [raw[at : at + 64] for at in range(0, len(raw), 64)])

    def point(self, number: int) -> bytes:
        return self.keys[number % len(self.keys)].public_key.to_bytes()

    def octets(self) -> bytes:
        return b"".join(digest + self.point(at) + self.raw[at] for at, digest in enumerate(self.digests))

    def json_keys(self) -> bytes:
        return json.dumps(
            {
                "items": [
                    {"public_key": text(self.point(at)), "digest": text(digest), "signature": text(self.raw[at])}
                    for at, digest in enumerate(self.digests)
                ]
            }
        ).encode()

    def json_certificates(self, certificates: list[bytes]) -> bytes:
        items = [
            {"certificate": at % len(certificates), "digest": text(digest), "signature": text(self.raw[at])}
            for at, digest in enumerate(self.digests)
        ]
        return json.dumps({"certificates": [text(one) for one in certificates], "items": items}).encode()

    def core(self) -> Callable[[], bytes]:
        keys = [self.keys[at % len(self.keys)].public_key for at in range(len(self.digests))]
        digests, raw = b"".join(self.digests), b"".join(self.raw)
        return lambda: sm2.verify_many(keys, digests, raw)


def issue(service: Service, key: sm2.PrivateKey, number: int) -> bytes:
    """A signing certificate for `key`."""
    subject = build_name({"C": "CN", "O": "bench", "CN": f"bench {number}"}).public_bytes()
    info = request_info(key.public_key.to_bytes(), subject)
    csr = join_signed(info, sm2.signature_to_der(key.sign(info)))
    return service.issue(csr).certificates["sign"]


def poster(service: Service, body: bytes, media_type: str) -> Callable[[], bytes]:
    parts = urlsplit(service.public)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def post() -> bytes:
        connection.request("POST", "/v1/verify", body, {"Content-Type": media_type})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"/v1/verify answered {response.status}: {answer[:300]!r}")
        return answer

    return post


def pin(pid: int, core: int) -> None:
    """Keeps a process and its threads on a core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="Measure POST /v1/verify beside the native core.")
    parser.add_argument("--json", action="store_true", help="print a document instead of a table")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--items", type=int, default=8_192, help="signatures in a call (at most 10,000)")
    parser.add_argument("--keys", type=int, default=64, help="how many keys, and certificates, they are under")
    options = parser.parse_args()
    work = Signatures.make(options.keys, options.items)
    with (
        tempfile.TemporaryDirectory() as directory,
        Service(Installation(Path(directory) / "var").init()) as service,
    ):
        certificates = [issue(service, key, number) for number, key in enumerate(work.keys)]
        pin(service.process.pid, SERVER_CORE)
        pin(os.getpid(), CLIENT_CORE)
        contenders = {
            "native core": Contender(work.core(), options.items),
            "octets": Contender(poster(service, work.octets(), "application/octet-stream"), options.items),
            "JSON, keys": Contender(poster(service, work.json_keys(), "application/json"), options.items),
            "JSON, certificates": Contender(
                poster(service, work.json_certificates(certificates), "application/json"), options.items
            ),
        }
        for contender in contenders.values():
            contender.run(options.items)
            contender.rates.clear()
            contender.client.clear()
        for _ in range(options.rounds):
            for contender in contenders.values():
                contender.run(options.items)
    report(contenders, options.items, as_json=options.json)


def report(contenders: dict[str, Contender], items: int, *, as_json: bool) -> None:
    """The best of each, and its share of the core's."""
    best = max(contenders["native core"].rates)
    rows = {
        name: {
            "per_second": max(contender.rates),
            "share": max(contender.rates) / best,
            "client": contender.client[contender.rates.index(max(contender.rates))],
        }
        for name, contender in contenders.items()
    }
    if as_json:
        print(json.dumps({"machine": platform.processor(), "items": items, "runs": rows}, indent=2))
        return
    print(f"{items} signatures a call, one core each for service and client")
    print(f"{'':20}{'signatures/s':>14}{'share':>8}{'client':>8}")
    for name, row in rows.items():
        print(f"{name:20}{row['per_second']:14,.0f}{row['share']:8.2f}{row['client']:8.2f}")


if __name__ == "__main__":
    main()
