"""How fast a directory is filled, searched, checked and kept up: `python -m tests.bench.directory_bench [--entries N]`.

Makes a store with N certificates, writes it as LDIF, loads that with slapadd, starts slapd on it, searches by serial
number and by name, checks the whole directory against the store, and publishes some more through the outbox. Every
search is one of its own (connections are kept). Exits 1 where an answer takes 3 seconds or more. Run it alone on the
machine; with --entries 1000000 it needs some 6 GB of disk and takes about half an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ldap

from core.asn1.names import build_name
from core.clock import system_clock
from core.model import serial_to_hex
from core.store import certificates, outbox
from core.store.certificates import NewCertificate
from core.store.database import create_database
from status.directory.check import Checker
from status.directory.ldif import LdifExport
from tests.directory_world import (
    SUFFIX,
    YEAR_MS,
    Holders,
    Slapd,
    caught_up,
    directory_settings,
    new_service,
    publishing,
)

_AT_ONCE = 2_000
_LIMIT_S = 3.0


async def fill(holders: Holders, entries: int) -> list[tuple[str, str]]:
    """Certificates in bulk, each of a holder of its own; (serial, name) of some of them."""
    known = []
    now_ms = system_clock()
    for start in range(0, entries, _AT_ONCE):
        rows = []
        for number in range(start, min(start + _AT_ONCE, entries)):
            serial = int.from_bytes(os.urandom(15), "big") + 1
            name = build_name({"C": "CN", "O": f"单位{number % 1000}", "CN": f"持有人{number}"})
            row = NewCertificate(
                authority_id="issuing",
                serial=serial,
                usage="sign",
                profile="person",
                subject=name.public_bytes(),
                public_key=holders.point,
                not_before_ms=now_ms - 1000,
                not_after_ms=now_ms + YEAR_MS,
                partition=0,
                status_month=24_000,
                status_index=number,
                certificate=holders.certify(serial, name, holders.issuer),
            )
            rows.append(row)
            if number % max(1, entries // 2_000) == 0:
                known.append((serial_to_hex(serial), f"持有人{number}"))
        async with holders.database.write() as connection:
            await certificates.load(connection, rows, at_ms=now_ms)
    holders._indexes = entries
    return known


def search(url: str, base: str, known: list[tuple[str, str]], count: int) -> dict[str, list[float]]:
    """Seconds that each search took, by what was searched for."""
    connection = ldap.initialize(url)
    connection.simple_bind_s()
    taken: dict[str, list[float]] = {"serial": [], "name": [], "nobody": []}
    for _ in range(count):
        serial, name = random.choice(known)
        for kind, text in (("serial", f"(qianyanSerial={serial})"), ("name", f"(cn={name})"), ("nobody", "(cn=-)")):
            began = time.perf_counter()
            found = connection.search_s(base, ldap.SCOPE_SUBTREE, text, ["userCertificate;binary"])
            taken[kind].append(time.perf_counter() - began)
            assert len(found) == (kind != "nobody")
    connection.unbind_s()
    return taken


def slapadd(server: Slapd, file: Path) -> None:
    """Loads the file as docs/directory.md says."""
    subprocess.run(
        ["/usr/sbin/slapadd", "-q", "-f", server.directory / "slapd.conf", "-b", SUFFIX, "-l", file], check=True
    )


class Stopwatch:
    """Says what took how long."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self, what: str, count: int) -> None:
        took = time.perf_counter() - self._began
        print(f"{what:34} {took:9.2f} s {count / took:12,.0f} /s")
        self._began = time.perf_counter()


async def main(entries: int, searches: int, later: int, directory: Path) -> bool:
    """Runs it all and prints the figures; whether every answer came in time."""
    server = Slapd(MAXSIZE=str(64 << 30)).start()
    database = await create_database(f"sqlite+aiosqlite:///{directory / 'store.sqlite3'}")
    try:
        holders = await Holders(database).begin()
        target = server.target(f"ou=bench,{SUFFIX}", operation_timeout_s=60)
        service = new_service(database, directory_settings(target))
        watch = Stopwatch()
        known = await fill(holders, entries)
        watch.lap("certificates made and stored", entries)
        file = directory / "all.ldif"
        with file.open("w") as opened:
            await LdifExport(database, target, service.clock, opened, suffix=SUFFIX).write()
        watch.lap("LDIF written", entries)
        server.kill()
        server.empty()
        await asyncio.to_thread(slapadd, server, file)
        watch.lap("slapadd", entries)
        server.start()
        taken = await asyncio.to_thread(search, server.url, target.base, known, searches)
        for kind, seconds in taken.items():
            ordered = [1000 * one for one in sorted(seconds)]
            middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
            print(f"search by {kind:24} {middle:9.2f} ms p50 {high:9.2f} ms p99 {ordered[-1]:9.2f} ms at most")
        watch = Stopwatch()
        report = await Checker(service, target, repair=False).run()
        assert report.good, report.examples
        watch.lap("check of the whole directory", entries)
        await holders.issue(later)
        async with database.read() as connection:
            assert await outbox.head(connection) >= later
        watch = Stopwatch()
        async with publishing(service):
            await caught_up(service)
        watch.lap("published through the outbox", later)
        return max(one for seconds in taken.values() for one in seconds) < _LIMIT_S
    finally:
        await database.close()
        server.remove()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000, help="certificates in the directory (default: 20000)")
    parser.add_argument("--searches", type=int, default=1_000, help="searches of each kind (default: 1000)")
    parser.add_argument("--later", type=int, default=2_000, help="certificates published at the end (default: 2000)")
    chosen = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    print(f"{chosen.entries:,} certificates")
    with tempfile.TemporaryDirectory() as place:
        in_time = asyncio.run(main(chosen.entries, chosen.searches, chosen.later, Path(place)))
    sys.exit(0 if in_time else 1)
