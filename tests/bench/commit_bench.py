"""What a primary store carries: durable commits a second, and how many holders share one at a given rate of requests.

    python -m tests.bench.commit_bench [--rates 20 100 300] [--seconds 8] [--connections 64] [--writers 8]
                                       [--workers 2] [--url URL] [--json]

Without --url a PostgreSQL of its own is started in a temporary directory, fsync on, whose disk is then what is
measured. First the smallest change that there is (a time, an audit entry), by some writers at once: commits a second.
Then certificates over HTTP, at each rate (evenly spaced, whatever the service does) and as fast as the connections are
answered: holders a second, requests that shared their transactions, writing transactions as PostgreSQL numbers them,
and the processor time of service and database for a holder. Database, service and generator share the machine; run it
alone there. What the last line gives are coefficients of the capacity model (service/capacity/coefficients.json).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from core.audit import AuditEvent
from core.clock import system_clock
from core.store import audit, counters
from core.store.database import open_database
from loadtest.measure import usage
from tests.bench.issuance_bench import Connection, Workers, connected
from tests.bulk_world import bodies
from tests.postgres import Server
from tests.running import Installation


@dataclass(frozen=True)
class Point:
    """One rate. asked: requests a second, 0: as fast as they are answered; core_s: processor seconds for a holder."""

    asked: float
    holders_per_s: float
    group: float
    holders_per_commit: float
    service_core_s: float
    store_core_s: float


@dataclass(frozen=True)
class Site:
    """What is measured."""

    installation: Installation
    service: Workers
    server: Server | None
    url: str


async def durable_commits(url: str, writers: int, seconds: float) -> float:
    """Commits a second by so many writers at once, each of the smallest change that the store records."""
    database = await open_database(url)
    until, done = time.monotonic() + seconds, 0

    async def write() -> None:
        nonlocal done
        while time.monotonic() < until:
            async with database.write() as connection:
                at_ms = await counters.advance_time(connection, system_clock())
                await audit.append(connection, AuditEvent("system", "bench.commit", "x"), at_ms=at_ms)
            done += 1

    began = time.monotonic()
    try:
        await asyncio.gather(*(write() for _ in range(writers)))
    finally:
        await database.close()
    return done / (time.monotonic() - began)


async def transactions(url: str) -> int:
    """The number that PostgreSQL gives the next transaction that writes."""
    parts = make_url(url)
    store = await asyncpg.connect(
        host=parts.host, port=parts.port, user=parts.username, password=parts.password, database=parts.database
    )
    try:
        return int(await store.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))
    finally:
        await store.close()


def groups(service: Workers) -> tuple[float, float]:
    """(groups, requests in them) so far, over all workers."""
    text = service.call("GET", "/metrics").body.decode()
    count, total = (
        sum(float(n) for n in re.findall(rf"^qianyan_issuance_group_size_{end}(?:{{.*}})? (\S+)$", text, re.MULTILINE))
        for end in ("count", "sum")
    )
    return count, total


async def spaced(connections: list[Connection], requests: Iterator[bytes], rate: float, mark: str) -> int:
    """Requests at even distances, each on a connection that is free; how many there were."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)

    async def one(body: bytes, key: str) -> None:
        connection = await free.get()
        await connection.ask("POST", "/v1/certificates", body, key)
        free.put_nowait(connection)

    loop, tasks = asyncio.get_running_loop(), []
    began = loop.time()
    for number, body in enumerate(requests):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        tasks.append(asyncio.create_task(one(body, f"{mark}-{number}")))
    await asyncio.gather(*tasks)
    return len(tasks)


async def without_pause(connections: list[Connection], requests: Iterator[bytes], seconds: float, mark: str) -> int:
    """Each connection asks again as soon as it was answered; how many requests there were."""
    until, done = time.monotonic() + seconds, 0

    async def one(connection: Connection) -> None:
        nonlocal done
        while time.monotonic() < until:
            done += 1
            await connection.ask("POST", "/v1/certificates", next(requests), f"{mark}-{done}")

    await asyncio.gather(*(one(connection) for connection in connections))
    return done


async def point(site: Site, rate: float, seconds: float, connections: int, first: int) -> Point:
    """One rate's figures; 0: as fast as they are answered. first: number of the first holder, who are all new."""
    most = round(rate * seconds) if rate else round(2_000 * seconds)
    requests, mark = iter(list(bodies(first, most))), os.urandom(4).hex()
    async with connected(site.installation, connections) as opened:
        before = await asyncio.to_thread(groups, site.service), await transactions(site.url)
        spent = [usage(pid)[0] for pid in _processes(site)]
        began = time.monotonic()
        if rate:
            done = await spaced(opened, requests, rate, mark)
        else:
            done = await without_pause(opened, requests, seconds, mark)
        took_s = time.monotonic() - began
        used = [usage(pid)[0] - was for pid, was in zip(_processes(site), spent, strict=True)]
        after = await asyncio.to_thread(groups, site.service), await transactions(site.url)
    shared = (after[0][1] - before[0][1]) / max(1.0, after[0][0] - before[0][0])
    commits = max(1, after[1] - before[1])
    service_s, store_s = (*used, 0.0)[:2]
    return Point(rate, done / took_s, shared, done / commits, service_s / done, store_s / done)


def _processes(site: Site) -> list[int]:
    """The service's and, where it is ours, the database's."""
    found = [site.service.process.pid]
    if site.server is not None and site.server.process is not None:
        found.append(site.server.process.pid)
    return found


@contextmanager
def primary(url: str | None) -> Iterator[tuple[str, Server | None]]:
    """The URL given, or that of a PostgreSQL of its own."""
    if url is not None:
        yield url, None
        return
    server = Server.make().initialise()
    server.configure(shared_buffers="256MB", max_wal_size="4GB", checkpoint_timeout="15min")
    server.start()
    try:
        yield server.url(), server
    finally:
        server.remove()


@asynccontextmanager
async def site_of(
    installation: Installation, url: str, server: Server | None, workers: int, warm_s: float, *, cold: bool
) -> AsyncIterator[Site]:
    """A running service, asked for so long already. cold: started as the installed command."""
    service = Workers(installation, workers)
    service.cold = cold
    await asyncio.to_thread(service.start)
    try:
        async with connected(installation, 8) as opened:
            requests = iter(list(bodies(7_000_001, round(2_000 * warm_s))))
            await without_pause(opened, requests, warm_s, os.urandom(4).hex())
        yield Site(installation, service, server, url)
    finally:
        await asyncio.to_thread(service.stop)


async def measure(options: argparse.Namespace, ours: tuple[str, Server] | None = None) -> dict[str, Any]:
    """{"coefficients", "points"}. ours: an empty database and the running server that it is of."""
    with tempfile.TemporaryDirectory() as name, nullcontext(ours) if ours else primary(options.url) as (url, server):
        installation = await asyncio.to_thread(Installation(Path(name) / "var").init, "--store-url", url)
        commits = max([await durable_commits(url, options.writers, options.seconds / 3) for _ in range(3)])
        points = []
        warm_s = min(1.0, options.seconds / 4)
        async with site_of(installation, url, server, options.workers, warm_s, cold=ours is None) as site:
            for number, rate in enumerate([*options.rates, 0.0]):
                points.append(
                    await point(site, rate, options.seconds, options.connections, 8_000_001 + 100_000 * number)
                )
    full = points[-1]
    coefficients = {
        "commits_per_s": round(commits, 1),
        "pairs_per_commit": round(full.holders_per_commit, 2),
        "issue_core_s": round(full.service_core_s, 6),
        "issue_store_s": round(full.store_core_s, 6),
    }
    return {"coefficients": coefficients, "points": [asdict(one) for one in points]}


def table(found: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{'asked':>12}{'holders/s':>11}{'in a group':>12}{'a commit':>10}{'service, us':>13}{'store, us':>11}"]
    for one in found["points"]:
        asked = f"{one['asked']:,.0f}/s" if one["asked"] else "all it takes"
        cells = f"{one['holders_per_s']:11,.1f}{one['group']:12.2f}{one['holders_per_commit']:10.2f}"
        lines.append(f"{asked:>12}{cells}{one['service_core_s'] * 1e6:13,.0f}{one['store_core_s'] * 1e6:11,.0f}")
    lines += [f"{name} {value:,g}" for name, value in found["coefficients"].items()]
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="*", default=[20.0, 100.0, 300.0], help="requests a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--writers", type=int, default=8, help="of the smallest change")
    parser.add_argument("--workers", type=int, default=2, help="of the service")
    parser.add_argument("--url", help="an empty PostgreSQL database in place of one of our own")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    print(json.dumps(found, indent=2) if options.as_json else table(found))


if __name__ == "__main__":
    main()
