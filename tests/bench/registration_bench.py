"""How fast holders get their certificates by signed requests: one by one over HTTP, and with many connections.

    python -m tests.bench.registration_bench [--single 300] [--busy 4000] [--connections 64] [--workers 2] [--url URL]
                                             [--json]

As tests.bench.issuance_bench, whose generator and database this uses; each request carries the signatures of an
operator and an approver, made beforehand, and no token. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from signer._native import sm2
from tests.bench.issuance_bench import Connection, Figures, Workers, database_url, percentile
from tests.bulk_world import bodies
from tests.registration_world import Signer, b64, content_of, message
from tests.running import Installation, Service


class Signing(Connection):
    """A connection that sends signed messages."""

    @classmethod
    async def open(cls, installation: Installation) -> Signing:
        """To the private listener; nobody says who it is."""
        reader, writer = await asyncio.open_connection("127.0.0.1", installation.private_port)
        return cls(reader, writer, "Host: 127.0.0.1\r\nContent-Type: application/pkcs7-mime\r\n")


def people(service: Service) -> list[Signer]:
    """An authority's operator and approver."""
    made = service.installation.run("token", "create", "bench", "--scope", "registration:write", "--json")
    token = made.json["token"]
    scope = {"profiles": ["*"], "regions": ["*"], "customers": ["*"]}
    assert service.call("POST", "/v1/ras", {"id": "gz", "name": "bench", **scope}, token=token).status == 201
    signers = []
    for person, role in (("li", "operator"), ("wang", "approver")):
        signer = Signer(sm2.PrivateKey.generate())
        body = {"id": person, "name": person, "roles": [role], "csr": b64(signer.csr(person))}
        answer = service.call("POST", "/v1/ras/gz/people", body, token=token)
        assert answer.status == 201, answer.body
        signer.certificate = base64.b64decode(answer.json["certificate"])
        signers.append(signer)
    return signers


def messages(signers: list[Signer], first: int, count: int) -> list[bytes]:
    """Signed requests, each for a holder of its own. Their signing time is now: they are good for some minutes."""
    mark = os.urandom(4).hex()
    return [
        message(content_of("issue", json.loads(body), request_id=f"{mark}-{number}"), signers)
        for number, body in enumerate(bodies(first, count))
    ]


async def send_each(connection: Connection, requests: Iterator[bytes]) -> list[float]:
    """Sends what `requests` still has; seconds of each."""
    found = []
    for body in requests:
        began = time.perf_counter()
        await connection.ask("POST", "/v1/requests", body)
        found.append(time.perf_counter() - began)
    return found


async def over_http(service: Service, figures: Figures, single: int, busy: int, at_once: int) -> None:
    """Alone, then with many connections."""
    signers = people(service)
    lone = await Signing.open(service.installation)
    await send_each(lone, iter(messages(signers, 2_900_001, 50)))
    times = await send_each(lone, iter(messages(signers, 3_000_001, single)))
    figures.add("signed, one at a time, p50", percentile(times, 0.5) * 1000, "ms")
    figures.add("signed, one at a time, p99", percentile(times, 0.99) * 1000, "ms")
    connections = [lone, *[await Signing.open(service.installation) for _ in range(at_once - 1)]]
    shared = iter(messages(signers, 4_000_001, busy))
    began = time.perf_counter()
    each = await asyncio.gather(*(send_each(one, shared) for one in connections))
    figures.add(f"signed, {at_once} connections", busy / (time.perf_counter() - began), "holders/s")
    times = [seconds for found in each for seconds in found]
    figures.add(f"signed, {at_once} connections, p50", percentile(times, 0.5) * 1000, "ms")
    figures.add(f"signed, {at_once} connections, p99", percentile(times, 0.99) * 1000, "ms")
    for connection in connections:
        connection.close()


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure."""
    figures = Figures(quiet=arguments.json)
    with tempfile.TemporaryDirectory() as temporary, database_url(arguments.url) as url:
        installation = Installation(Path(temporary) / "installation").init("--store-url", url)
        with Workers(installation, arguments.workers) as service:
            asyncio.run(over_http(service, figures, arguments.single, arguments.busy, arguments.connections))
    return dict(figures.values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--single", type=int, default=300)
    parser.add_argument("--busy", type=int, default=4_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--url")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    measured = main(asked)
    if asked.json:
        print(json.dumps(measured, indent=2))
