"""A store of millions of certificates: how long the start takes, how fast look-ups are, what a worker weighs.

    python -m tests.bench.status_bench [--certificates 2000000] [--few 2000] [--postgres] [--json]

Makes an installation, measures it with a few certificates, fills its store (rows and feed entries are written straight
into the tables), measures again. Look-ups are OCSP requests with a nonce about certificates that nobody asked about
before, one after another on one connection, so each reads the store and signs. Run it alone on the machine; it needs
about 1.2 kB of disk for each certificate.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

from core.asn1 import der
from core.clock import to_datetime
from status.issuers import cert_id_issuers
from tests.postgres import Server
from tests.running import Installation
from tests.status_world import read, request, word
from tests.test_service_workers import Workers

_MONTHS = 24
_MONTH_MS = 30 * 86_400_000
_REVOKED_PART = 20
_COLUMNS = [
    *("id", "authority_id", "serial", "usage", "profile", "subject", "public_key", "not_before_ms", "not_after_ms"),
    *("partition", "status_month", "status_index", "certificate", "issued_at_ms", "state", "revoked_at_ms", "reason"),
]
_IDENTITY = ["id", "authority_id", "serial", "status_month"]
_FEED = ["seq", "kind", "authority_id", "serial", "at_ms"]


def serial_of(number: int) -> bytes:
    """16 octets, ascending with `number`, with gaps that nobody can guess by counting."""
    return (0x40 << 120 | number << 90 | random.Random(number).getrandbits(80)).to_bytes(16, "big")


class Filling:
    """What goes into the tables for certificates from `first` to before `end`."""

    def __init__(self, first: int, end: int, first_id: int, first_seq: int, now_ms: int) -> None:
        self.first, self.end, self.first_id, self.first_seq, self.now_ms = first, end, first_id, first_seq, now_ms

    @property
    def last_seq(self) -> int:
        """Of the feed, afterwards."""
        return self.first_seq + self.end - self.first - 1

    def certificates(self) -> Iterator[tuple[Any, ...]]:
        """Rows, one in twenty revoked."""
        key, body, subject = b"\x04" + os.urandom(64), os.urandom(720), os.urandom(90)
        for place, number in enumerate(range(self.first, self.end)):
            ends_ms = self.now_ms + (1 + number % _MONTHS) * _MONTH_MS
            revoked = number % _REVOKED_PART == 0
            yield (
                *(self.first_id + place, "issuing", serial_of(number), "sign", "person", subject, key),
                *(self.now_ms, ends_ms, 0, self.month(number % _MONTHS), 1_000_000 + number, body, self.now_ms),
                *(("revoked", self.now_ms, 1) if revoked else ("good", None, None)),
            )

    def identities(self) -> Iterator[tuple[Any, ...]]:
        """What each of them is known by."""
        for place, number in enumerate(range(self.first, self.end)):
            yield self.first_id + place, "issuing", serial_of(number), self.month(number % _MONTHS)

    def feed(self) -> Iterator[tuple[Any, ...]]:
        """An entry for each."""
        for place, number in enumerate(range(self.first, self.end)):
            yield self.first_seq + place, "issued", "issuing", serial_of(number), self.now_ms

    def month(self, ahead: int) -> int:
        """The status month of a certificate that ends so many months from now."""
        ends = to_datetime(self.now_ms + (1 + ahead) * _MONTH_MS)
        return ends.year * 12 + ends.month - 1

    def months(self) -> set[int]:
        """All of them."""
        return {self.month(ahead) for ahead in range(_MONTHS)}


def fill_sqlite(path: Path, first: int, end: int) -> None:
    """Writes them into the embedded store."""
    with sqlite3.connect(path) as store:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144"):  # nothing to lose here
            store.execute(f"PRAGMA {pragma}")
        (first_id,) = store.execute("SELECT max(id) + 1 FROM certificate_serials").fetchone()
        (now_ms,) = store.execute("SELECT value FROM counters WHERE name = 'last_time_ms'").fetchone()
        (seq,) = store.execute("SELECT value + 1 FROM counters WHERE name = 'feed'").fetchone()
        filling = Filling(first, end, first_id, seq, now_ms)
        marks = ", ".join("?" * len(_COLUMNS))
        store.executemany(f"INSERT INTO certificates ({', '.join(_COLUMNS)}) VALUES ({marks})", filling.certificates())
        store.executemany("INSERT INTO certificate_serials VALUES (?, ?, ?, ?)", filling.identities())
        store.executemany(f"INSERT INTO feed ({', '.join(_FEED)}) VALUES (?, ?, ?, ?, ?)", filling.feed())
        store.execute("UPDATE counters SET value = ? WHERE name = 'feed'", (filling.last_seq,))
        for month in filling.months():
            store.execute("INSERT OR REPLACE INTO status_indexes VALUES ('issuing', ?, ?, 0)", (month, 1_000_000 + end))
    store.execute("PRAGMA journal_mode = WAL")
    store.close()


async def fill_postgres(server: Server, first: int, end: int) -> None:
    """Writes them by COPY."""
    store = await asyncpg.connect(host=str(server.directory), port=server.port, user="qianyan", database="postgres")
    first_id = await store.fetchval("SELECT max(id) + 1 FROM certificate_serials")
    now_ms = await store.fetchval("SELECT value FROM counters WHERE name = 'last_time_ms'")
    seq = await store.fetchval("SELECT value + 1 FROM counters WHERE name = 'feed'")
    filling = Filling(first, end, first_id, seq, now_ms)
    for year in sorted({month // 12 for month in filling.months()}):
        bounds = f"FROM ({year * 12}) TO ({year * 12 + 12})"
        await store.execute(
            f"CREATE TABLE IF NOT EXISTS certificates_{year} PARTITION OF certificates FOR VALUES {bounds}"
        )
    async with store.transaction():
        await store.copy_records_to_table("certificate_serials", records=filling.identities(), columns=_IDENTITY)
        await store.copy_records_to_table("certificates", records=filling.certificates(), columns=_COLUMNS)
        await store.copy_records_to_table("feed", records=filling.feed(), columns=_FEED)
        await store.execute("UPDATE counters SET value = $1 WHERE name = 'feed'", filling.last_seq)
        await store.execute("SELECT setval('certificate_serials_id_seq', $1)", first_id + end - first)
        for month in filling.months():
            await store.execute(
                "INSERT INTO status_indexes VALUES ('issuing', $1, $2, 0) "
                "ON CONFLICT (authority_id, month) DO UPDATE SET next_index = $2",
                *(month, 1_000_000 + end),
            )
    await store.execute("ANALYZE")
    await store.close()


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident, and its own share of what is shared (proportional), in MB."""
    found = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return tuple(int(found[name].split()[0]) / 1024 for name in ("Rss", "Pss"))  # type: ignore[return-value]


def used_s(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until_calm(pids: list[int]) -> float:
    """Seconds until the workers have done what they do after a start (CRLs, status sets); at most five minutes."""
    began = time.perf_counter()
    while time.perf_counter() - began < 300:
        before = [used_s(pid) for pid in pids]
        time.sleep(1.0)
        if all(used_s(pid) - was < 0.05 for pid, was in zip(pids, before, strict=True)):
            break
    return time.perf_counter() - began


def look_up(installation: Installation, begins: bytes, total: int, count: int) -> list[float]:
    """Seconds for each of `count` certificates that were not asked about before."""
    connection = http.client.HTTPConnection("127.0.0.1", installation.public_port)
    taken = []
    for number in random.sample(range(total), count):
        serial = int.from_bytes(serial_of(number), "big")
        body = request(der.sequence(begins + der.integer(serial)), nonce=os.urandom(16))
        began = time.perf_counter()
        connection.request("POST", "/ocsp", body)
        answer = connection.getresponse().read()
        taken.append(time.perf_counter() - began)
        assert word(read(answer)) == ("revoked" if number % _REVOKED_PART == 0 else "good")
    connection.close()
    return taken


def measure(installation: Installation, begins: bytes, total: int, lookups: int) -> dict[str, float]:
    """Two workers: start, look-ups, memory."""
    began = time.perf_counter()
    with Workers(installation) as workers:
        start_s = time.perf_counter() - began
        calm_s = until_calm(workers.pids())
        fresh = [memory_mb(pid) for pid in workers.pids()]
        taken = look_up(installation, begins, total, min(lookups, total))
        later = [memory_mb(pid) for pid in workers.pids()]
    return {
        "certificates": total,
        "start_two_workers_s": round(start_s, 2),
        "start_one_worker_s": round(start_s / 2, 2),
        "calm_after_s": round(calm_s, 1),
        "lookup_median_us": round(statistics.median(taken) * 1e6),
        "lookup_best_us": round(min(taken) * 1e6),
        "lookup_p99_us": round(sorted(taken)[int(len(taken) * 0.99)] * 1e6),
        "worker_rss_mb": round(max(rss for rss, _ in later), 1),
        "worker_pss_mb": round(max(pss for _, pss in later), 1),
        "worker_fresh_rss_mb": round(max(rss for rss, _ in fresh), 1),
    }


def run(options: argparse.Namespace, directory: Path, server: Server | None) -> list[dict[str, float]]:
    """With few, then with all."""
    arguments = () if server is None else ("--store-url", server.url())
    installation = Installation(directory / "var").init(*arguments)
    with Workers(installation) as workers:  # makes the first CRLs and status sets
        certificate = workers.get("/ca/issuing.cer").body
    begins = begins_of(certificate)
    results, done = [], 0
    for total in (options.few, options.certificates):
        began = time.perf_counter()
        if server is None:
            fill_sqlite(installation.directory / "store.sqlite3", done, total)
        else:
            asyncio.run(fill_postgres(server, done, total))
        filled_s = time.perf_counter() - began
        done = total
        results.append({**measure(installation, begins, total, options.lookups), "filled_s": round(filled_s, 1)})
    return results


def begins_of(certificate: bytes) -> bytes:
    """What a CertID under SM3 says before its serial."""
    from core.asn1.x509 import load_certificate, public_key_of_certificate

    parsed = load_certificate(certificate)
    return cert_id_issuers(parsed.subject.public_bytes(), public_key_of_certificate(certificate))[1]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificates", type=int, default=2_000_000)
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--lookups", type=int, default=2_000)
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own instead of SQLite")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    server = Server.make().initialise().start() if options.postgres else None
    try:
        with tempfile.TemporaryDirectory(prefix="status-bench-") as directory:
            results = run(options, Path(directory), server)
    finally:
        if server is not None:
            server.remove()
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name in results[0]:
        print(f"{name:24}" + "".join(f"{result[name]:>14,}" for result in results))


if __name__ == "__main__":
    main()
