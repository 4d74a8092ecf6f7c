"""How fast holders get their certificates: one by one over HTTP, 64 at a time, a file of them at once; and at volume.

    python -m tests.bench.issuance_bench [--holders 20000] [--single 300] [--busy 4000] [--connections 64]
                                         [--workers 2] [--volume 0] [--url URL] [--json]

Without --url a PostgreSQL of its own is started in a temporary directory, whose disk is then what is measured;
database, service and generator share the machine. Every request has a new holder and an Idempotency-Key, and gets two
certificates. `--holders 1000000` is a year; `--volume 10000000` compares issue, revoke and look-up in a store with so
many certificates with an empty one. Run it alone on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from core.model import serial_from_hex
from tests.bench.status_bench import until_calm
from tests.bench.volume import fill
from tests.bulk_world import bodies, write_requests
from tests.postgres import Server
from tests.running import QIANYAN, Installation
from tests.test_service_workers import Workers as TwoWorkers

_WARM = 20


class Workers(TwoWorkers):
    """`qianyan serve --workers N`."""

    def __init__(self, installation: Installation, count: int) -> None:
        super().__init__(installation)
        self.arguments = ("--workers", str(count))


class Connection:
    """HTTP/1.1 over one connection, as little of it as the generator needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self._reader, self._writer, self._head = reader, writer, head

    @classmethod
    async def open(cls, installation: Installation) -> Connection:
        """To the private listener."""
        reader, writer = await asyncio.open_connection("127.0.0.1", installation.private_port)
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {installation.token}\r\nContent-Type: application/json\r\n"
        return cls(reader, writer, head)

    async def ask(self, method: str, path: str, body: bytes = b"", key: str = "") -> bytes:
        """The body of the answer, which must be 200 or 201."""
        once = f"Idempotency-Key: {key}\r\n" if key else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{once}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        status = int((await self._reader.readline()).split()[1])
        length = 0
        while (line := await self._reader.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        answer = await self._reader.readexactly(length)
        assert status in (200, 201), (status, answer)
        return answer

    def close(self) -> None:
        """Closes it."""
        self._writer.close()


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of them are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


class Figures:
    """What was measured, printed as it comes."""

    def __init__(self, *, quiet: bool) -> None:
        self.values: dict[str, float] = {}
        self._quiet = quiet

    def told(self, rows: int) -> None:
        """How far the filling is, on standard error."""
        print(f"\r{rows:,} certificates ", end="", file=sys.stderr, flush=True)

    def add(self, name: str, value: float, unit: str) -> None:
        """One figure."""
        self.values[name] = value
        if not self._quiet:
            print(f"{name}: {value:,.2f} {unit}", flush=True)


async def issue_each(connection: Connection, requests: Iterator[bytes], mark: str) -> list[tuple[float, bytes]]:
    """Issues from what `requests` still has; seconds and answer of each."""
    found = []
    for number, body in enumerate(requests):
        began = time.perf_counter()
        answer = await connection.ask("POST", "/v1/certificates", body, f"{mark}-{number}")
        found.append((time.perf_counter() - began, answer))
    return found


@asynccontextmanager
async def connected(installation: Installation, count: int) -> AsyncIterator[list[Connection]]:
    """Open connections, closed in the end."""
    connections = [await Connection.open(installation) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


async def over_http(
    installation: Installation, figures: Figures, single: int, busy: int, at_once: int
) -> list[tuple[float, bytes]]:
    """Alone, then with many connections. Returns what the lone requests gave."""
    mark = os.urandom(4).hex()
    lone_requests, busy_requests = list(bodies(3_000_001, single)), list(bodies(4_000_001, busy))
    async with connected(installation, 1) as (connection,):
        await issue_each(connection, bodies(2_900_001, 50), f"{mark}-warm")
        lone = await issue_each(connection, iter(lone_requests), f"{mark}-single")
    figures.add("one at a time, p50", percentile([t for t, _ in lone], 0.5) * 1000, "ms")
    figures.add("one at a time, p99", percentile([t for t, _ in lone], 0.99) * 1000, "ms")
    async with connected(installation, at_once) as connections:
        shared = iter(busy_requests)
        began = time.perf_counter()
        each = await asyncio.gather(
            *(issue_each(one, shared, f"{mark}-{place}") for place, one in enumerate(connections))
        )
        seconds = time.perf_counter() - began
    figures.add(f"{at_once} connections", busy / seconds, "holders/s")
    times = [t for found in each for t, _ in found]
    figures.add(f"{at_once} connections, p50", percentile(times, 0.5) * 1000, "ms")
    figures.add(f"{at_once} connections, p99", percentile(times, 0.99) * 1000, "ms")
    return lone


def in_bulk(installation: Installation, figures: Figures, directory: Path, holders: int) -> None:
    """The command, as a process; its memory is that of the largest child so far."""
    requests = write_requests(directory / "requests.jsonl", holders)
    began = time.perf_counter()
    command = [QIANYAN, "bulk", "issue", "--requests", requests, "--config", installation.config, "--json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["holders"] == holders
    figures.add(f"bulk, {holders:,} holders", seconds / 60, "minutes")
    figures.add("bulk", holders / seconds, "holders/s")
    figures.add("bulk, memory", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, "MiB")


async def change_times(installation: Installation, lone: list[tuple[float, bytes]]) -> dict[str, float]:
    """p50 in seconds of issuing, looking up and revoking, one at a time."""
    serials = [json.loads(answer)["certificates"][0]["serial"] for _, answer in lone]
    assert all(serial_from_hex(serial) for serial in serials)
    found: dict[str, list[float]] = {"look-up": [], "revoke": []}
    async with connected(installation, 1) as (connection,):
        for serial in serials:
            began = time.perf_counter()
            await connection.ask("GET", f"/v1/certificates/{serial}")
            found["look-up"].append(time.perf_counter() - began)
        for serial in serials:
            began = time.perf_counter()
            body = b'{"reason": "superseded"}'
            await connection.ask("POST", f"/v1/certificates/{serial}/revoke", body)
            found["revoke"].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in found.items()}
    return medians | {"issue": statistics.median(t for t, _ in lone)}


async def lone_medians(installation: Installation, requests: Sequence[bytes]) -> dict[str, float]:
    """p50 in seconds of each kind of change, after a few that are not counted."""
    async with connected(installation, 1) as (connection,):
        await issue_each(connection, iter(requests[:_WARM]), os.urandom(4).hex())
        lone = await issue_each(connection, iter(requests[_WARM:]), os.urandom(4).hex())
    return await change_times(installation, lone)


def at_volume(installation: Installation, figures: Figures, url: str, asked: argparse.Namespace) -> None:
    """Issue, look-up and revoke with `volume` certificates in the store, beside a store with few."""
    single, total = max(asked.single, 100), asked.volume
    medians = []
    for first in (5_000_001, 6_000_001):
        if medians:
            seconds = asyncio.run(fill(url, total, figures.told))
            figures.add(f"filling with {total:,} certificates", seconds / 60, "minutes")
        with Workers(installation, asked.workers) as workers:
            until_calm(workers.pids())
            medians.append(asyncio.run(lone_medians(installation, list(bodies(first, single + _WARM)))))
    for name in ("issue", "look-up", "revoke"):
        few, many = (one[name] for one in medians)
        figures.add(f"{name}, few certificates, p50", few * 1000, "ms")
        figures.add(f"{name}, {total:,} certificates, p50", many * 1000, "ms")
        figures.add(f"{name}, ratio", many / few, "times")


@contextmanager
def database_url(url: str | None) -> Iterator[str]:
    """The URL given, or that of a PostgreSQL of its own."""
    if url is not None:
        yield url
        return
    server = Server.make().initialise()
    server.configure(shared_buffers="1GB", max_wal_size="8GB", checkpoint_timeout="15min")
    server.start()
    try:
        yield server.url()
    finally:
        server.remove()


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure that was asked for."""
    figures = Figures(quiet=arguments.json)
    with tempfile.TemporaryDirectory() as temporary, database_url(arguments.url) as url:
        directory = Path(temporary)
        installation = Installation(directory / "installation").init("--store-url", url)
        if arguments.single or arguments.busy:
            with Workers(installation, arguments.workers):
                asyncio.run(over_http(installation, figures, arguments.single, arguments.busy, arguments.connections))
        if arguments.volume:
            at_volume(installation, figures, url, arguments)
        if arguments.holders:
            in_bulk(installation, figures, directory, arguments.holders)
    return dict(figures.values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--holders", type=int, default=20_000, help="In bulk; 0: none.")
    parser.add_argument("--single", type=int, default=300, help="Requests one after the other; 0: none.")
    parser.add_argument("--busy", type=int, default=4_000, help="Requests over many connections; 0: none.")
    parser.add_argument("--connections", type=int, default=64, help="So many of them.")
    parser.add_argument("--workers", type=int, default=2, help="Of the service.")
    parser.add_argument("--volume", type=int, default=0, help="Compare with so many certificates in the store.")
    parser.add_argument("--url", help="An empty database.")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    measured = main(asked)
    if asked.json:
        print(json.dumps(measured, indent=2))
