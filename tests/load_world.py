"""A whole service of its own to be loaded: PostgreSQL, Redis, slapd and workers, and a population of known status.

`python -m tests.load_world` is `make load`: it starts everything on free ports in temporary folders, runs
`qianyan-load` against it, and takes everything away again. The generator knows nothing of this: it gets a target file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from core.clock import system_clock
from core.model import RevocationReason
from core.store import authorities, certificates, counters
from core.store.certificates import NewCertificate
from core.store.database import open_database
from loadtest.measure import machine
from loadtest.prepare import Wish, prepare
from loadtest.target import Target
from loadtest.x509 import Issuer
from tests.directory_world import SUFFIX, Slapd
from tests.postgres import BINARIES, Server
from tests.redis_world import RedisServer
from tests.running import QIANYAN, Installation, Service
from tests.test_service_workers import Workers

LOAD = Path(sys.executable).parent / "qianyan-load"
PATIENCE_S = 120
_YEAR_MS = 365 * 86_400_000
_MONTH = 24_330
_CHUNK = 5_000


@dataclass(frozen=True)
class Population:
    """How many certificates are in the store beforehand, and how many holders of them can sign."""

    certificates: int = 20_000
    revoked: float = 0.05
    held: float = 0.005
    holders: int = 60


def until(holds: Callable[[], object], what: str) -> None:
    """Waits for a condition, with a deadline."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.1)


async def fill(url: str, population: Population) -> dict[str, list[int]]:
    """Writes certificates' rows into the store; their serials by status. They are encryption certificates, which the
    stand's directory does not publish."""
    database = await open_database(url)
    serials = [int.from_bytes(b"\x51" + os.urandom(15), "big") for _ in range(population.certificates)]
    revoked = round(population.certificates * population.revoked)
    held = round(population.certificates * population.held)
    for first in range(0, len(serials), _CHUNK):
        some = serials[first : first + _CHUNK]
        async with database.write() as connection:
            authority = next(one for one in await authorities.list_all(connection) if one.id == "issuing")
            now_ms = await counters.advance_time(connection, system_clock())
            index = await certificates.take_status_index(connection, "issuing", _MONTH, len(some))
            new = [
                NewCertificate("issuing", serial, "encrypt", "person", authority.subject, authority.public_key, now_ms,
                               now_ms + _YEAR_MS, 0, _MONTH, index + n, b"0")
                for n, serial in enumerate(some)
            ]  # fmt: skip
            await certificates.load(connection, new, at_ms=now_ms)
    async with database.write() as connection:
        now_ms = await counters.advance_time(connection, system_clock())
        for place, serial in enumerate(serials[: revoked + held]):
            reason = RevocationReason.KEY_COMPROMISE if place < revoked else RevocationReason.CERTIFICATE_HOLD
            record = await certificates.find(connection, serial, "issuing")
            await certificates.revoke(connection, record, reason, at_ms=now_ms)
    await database.close()
    return {"revoked": serials[:revoked], "held": serials[revoked : revoked + held], "good": serials[revoked + held :]}


def _configured(directory: Path, url: str, redis: RedisServer | None, slapd: Slapd | None) -> Installation:
    more = ("--store-url", url) if url else ()
    installation = Installation(directory / "var").init(*more)
    if redis is not None:
        installation.set("redis", f'url = "{redis.url}"')
    if slapd is not None:
        with installation.config.open("a") as file:
            file.write(
                f'\n[[directory.targets]]\nname = "main"\nurl = "{slapd.url}"\nbind_dn = "cn=publisher,{SUFFIX}"\n'
                f'password_file = "{slapd.password_file}"\nbase = "{SUFFIX}"\nusages = ["sign"]\n'
            )
    return installation


def _facts(workers: int, *, postgres: bool, redis: bool, slapd: bool) -> dict[str, Any]:
    """What the report says of the service."""
    programs: dict[str, list[str | Path]] = {"qianyan": [QIANYAN, "--version"]}
    if postgres:
        programs["postgresql"] = [BINARIES / "postgres", "--version"]
    if redis:
        programs["redis"] = ["redis-server", "--version"]
    versions = {}
    for name, command in programs.items():
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        versions[name] = re.search(r"\d+\.[\d.]+", said).group()  # type: ignore[union-attr]
    settings = {
        "workers": workers,
        "store": "PostgreSQL, fsync on, same machine" if postgres else "SQLite",
        "redis": "on, same machine" if redis else "off",
        "directory": "slapd, same machine" if slapd else "none",
        "private.tls": "off",
        "other settings": "defaults",
    }
    return {"signing": "software", "versions": versions, "settings": settings, "machine": machine(), "partitions": 1}


def _processes(
    service: Workers, server: Server | None, redis: RedisServer | None, slapd: Slapd | None
) -> dict[str, int]:
    found = {f"worker-{n}": pid for n, pid in enumerate(service.pids())}
    for name, peer in (("postgresql", server), ("redis", redis), ("slapd", slapd)):
        if peer is not None and peer.process is not None:
            found[name] = peer.process.pid
    return found


def _signing_key(installation: Installation) -> bytes:
    listed = installation.run("key", "list", "--json").json
    return bytes.fromhex(next(key["public_key"] for key in listed if key["id"] == "demo"))


def _published(slapd: Slapd, target: Target) -> bool:
    """Whether the directory has the certificates of all holders that are good, and of none that is not."""
    found = slapd.certificates(SUFFIX)
    return all((holder.certificate in found) == (holder.state == "good") for holder in target.holders)


@contextmanager
def stand(
    directory: Path, population: Population, *, peers: bool = True, workers: int = 2, cold: bool = False
) -> Iterator[Target]:
    """A running service and the truth about it. peers: PostgreSQL, Redis and slapd; else SQLite alone. cold: started as
    the installed command, as what is to be measured must be."""
    with ExitStack() as stack:
        server = redis = slapd = None
        url = ""
        if peers:
            server = Server.make().initialise().start()
            stack.callback(server.remove)
            redis = RedisServer("--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru").start()
            stack.callback(redis.kill)
            slapd = Slapd().start()
            stack.callback(slapd.remove)
            url = asyncio.run(server.new_database(empty=True))
        installation = _configured(directory, url, redis, slapd)
        store = url or f"sqlite+aiosqlite:///{installation.directory / 'store.sqlite3'}"
        serials = asyncio.run(fill(store, population))
        service = Workers(installation)
        service.arguments, service.cold = ("--workers", str(workers)), cold
        stack.enter_context(service)
        target = Target(
            public=service.public, private=service.private, authority="issuing", issuer=Issuer(b""),
            token=installation.token, signing_public_key=_signing_key(installation),
            directory=slapd.url if slapd is not None else "", directory_base=SUFFIX,
            population=serials,  # type: ignore[arg-type]
            facts=_facts(workers, postgres=peers, redis=peers, slapd=peers),
            processes=_processes(service, server, redis, slapd),
        )  # fmt: skip
        asyncio.run(prepare(target, Wish(population.holders, 0.1, 0.05, ra=True), lambda _: None))
        until(lambda: service.get("/readyz").status == 200, "the service does not get ready")
        until(lambda: _listed(service, target), "the CRL does not list what was revoked")
        if slapd is not None:
            until(lambda: _published(slapd, target), "the directory does not catch up")
        yield target


def _listed(service: Service, target: Target) -> bool:
    answer = service.get("/crl/issuing/0.crl")
    wanted = {*target.population["revoked"], *target.population["held"]}
    return answer.status == 200 and wanted <= {one.serial_number for one in x509.load_der_x509_crl(answer.body)}


def main() -> int:
    """`make load`."""
    parser = argparse.ArgumentParser(description="Start a whole service on this machine, load it, report.")
    parser.add_argument("--duration", default="120", help="seconds of the run (120)")
    parser.add_argument("--out", type=Path, default=Path("var/load"), help="folder for the report (var/load)")
    parser.add_argument("--certificates", type=int, default=20_000, help="in the store beforehand (20000)")
    parser.add_argument("--workers", type=int, default=2, help="of the service (2)")
    options, more = parser.parse_known_args()
    more = more or ["--mix", "standard", "--p99-ms", "250", "--error-rate", "0.001"]
    directory = Path(tempfile.mkdtemp(prefix="load-", dir="/tmp"))
    try:
        print("starting PostgreSQL, Redis, slapd and the service …", flush=True)
        with stand(directory, Population(options.certificates), workers=options.workers, cold=True) as target:
            file = directory / "target.json"
            target.save(file)
            print(f"{len(target.known):,} certificates of known status; the run begins", flush=True)
            return _run([*more, "--target", str(file), "--duration", options.duration, "--out", str(options.out)])
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(arguments: list[str]) -> int:
    """The generator as a process in a session of its own: a Ctrl-C reaches it through us, the service not at all."""
    process = subprocess.Popen([LOAD, "run", *arguments], start_new_session=True)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
