"""How fast the store is: look-ups at volume, commits by many writers, loading by COPY; SQLite beside PostgreSQL.

    python -m tests.bench.store_bench [--certificates 2000000] [--url URL]

Without --url a PostgreSQL of its own is started in a temporary directory, whose disk is then what is measured. Prints
the best of several runs: run it alone on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy import text

from core.audit import AuditEvent
from core.store import audit, authorities, certificates, counters
from core.store.database import Database, create_database
from tests.postgres import Server
from tests.store_world import NOW_MS, authority, certificate

_CHUNK = 10_000
_BODY = bytes(range(256)) * 4


async def best(runs: int, work: Callable[[], Awaitable[object]]) -> float:
    """Seconds of the fastest of `runs`."""
    fastest = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        await work()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


async def load(database: Database, total: int) -> float:
    """Loads `total` certificates; rows a second."""
    began = time.perf_counter()
    for first in range(1, total + 1, _CHUNK):
        rows = [
            certificate(serial, serial, certificate=_BODY) for serial in range(first, min(first + _CHUNK, total + 1))
        ]
        async with database.write() as connection:
            await certificates.load(connection, rows, at_ms=NOW_MS)
    return total / (time.perf_counter() - began)


async def commits(database: Database, writers: int, each: int, first: int) -> float:
    """Issuance-like transactions a second by so many writers at once."""

    async def write(serial: int) -> None:
        for number in range(serial, serial + each):
            async with database.write() as connection:
                at_ms = await counters.advance_time(connection, NOW_MS)
                index = await certificates.take_status_index(connection, "issuing", 24_400 + number % 12)
                new = certificate(number, index, status_month=24_400 + number % 12)
                await certificates.record(connection, new, at_ms=at_ms)
                await audit.append(connection, AuditEvent("system", "certificate.issue", str(number)), at_ms=at_ms)

    began = time.perf_counter()
    await asyncio.gather(*(write(first + 1_000_000 * writer) for writer in range(writers)))
    return writers * each / (time.perf_counter() - began)


async def measure(name: str, database: Database, total: int) -> None:
    """Every figure of one store."""
    async with database.write() as connection:
        await authorities.add(connection, authority())
    print(f"{name}: loading {await load(database, total):,.0f} certificates/s, of {total:,}")
    if database.on_postgres:
        async with database.write() as connection:
            await connection.execute(text("ANALYZE"))
    for count in (1, 100, 10_000):
        wanted = random.sample(range(1, total + 1), min(count, total))

        async def look(wanted: list[int] = wanted) -> None:
            async with database.read() as connection:
                await certificates.statuses(connection, "issuing", wanted)

        seconds = await best(20, look)
        print(f"{name}: {len(wanted):>6} statuses in {seconds * 1000:.2f} ms, {len(wanted) / seconds:,.0f}/s")
    first = 1 << 40
    for writers in (1, 8):
        rate = max([await commits(database, writers, 50, first + run * (1 << 30)) for run in range(3)])
        first += 1 << 36
        print(f"{name}: {rate:,.0f} issuing transactions/s by {writers} writers")


async def main(total: int, url: str | None) -> None:
    """SQLite, then PostgreSQL."""
    with tempfile.TemporaryDirectory() as directory:
        database = await create_database(f"sqlite+aiosqlite:///{Path(directory) / 'store.sqlite3'}")
        await measure("sqlite", database, total)
        await database.close()
    server = None
    if url is None:
        server = await asyncio.to_thread(lambda: Server.make().initialise().start())
        url = server.url()
    try:
        database = await create_database(url)
        await measure("postgresql", database, total)
        await database.close()
    finally:
        if server is not None:
            server.remove()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--certificates", type=int, default=2_000_000)
    parser.add_argument("--url")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.certificates, arguments.url))
