"""Parts are killed, frozen, slowed, emptied, filled with lies and put back, under load: no answer is ever wrong.

Two workers of a real service on a real PostgreSQL with a synchronous standby, and a real Redis behind a proxy. Printed
for each fault: answers, errors, and the time to recover. QIANYAN_SOAK_SECONDS makes each fault last so long, again and
again for `QIANYAN_SOAK_ROUNDS` (`make soak`).
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from core.store.database import open_database
from core.store.settings import StoreSettings, StoreTarget
from tests.faults_world import BOUND_S, Load, SteppedClock, Truth, add_certificates, eventually
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.postgres import Server
from tests.redis_world import DelayProxy, RedisServer
from tests.running import Installation, Service, free_port
from tests.status_world import read, word
from tests.test_service_workers import Workers

SOAK_S = float(os.environ.get("QIANYAN_SOAK_SECONDS", "0"))
ROUNDS = int(os.environ.get("QIANYAN_SOAK_ROUNDS", "1"))
pytestmark = pytest.mark.timeout(400 + 12 * SOAK_S * ROUNDS)


@dataclass
class Site:
    """Everything that is up."""

    server: Server
    replica: Server
    redis: RedisServer
    proxy: DelayProxy
    clock: SteppedClock
    workers: Workers
    truth: Truth
    load: Load

    @property
    def redis_client(self) -> Any:
        """For looking and for lying."""
        return self.redis.client

    async def go_on(self, questions: int = 60) -> None:
        """Changes and questions for a while, the fault being there."""
        until = time.monotonic() + SOAK_S
        while True:
            await self.truth.flip(4)
            await self.load.asked(questions)
            if time.monotonic() >= until:
                return


def postgres_pair() -> tuple[Server, Server]:
    """A primary and a synchronous standby, both up."""
    server = Server.make().initialise().start()
    replica = server.replica()
    replica.configure(wal_retrieve_retry_interval="200ms")  # until it follows again, no commit is confirmed
    replica.start()
    server.configure(synchronous_standby_names="replica")
    server.reload()
    return server, replica


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    clock = SteppedClock(tmp_path)
    redis = RedisServer().start()
    server, replica = await asyncio.to_thread(postgres_pair)
    try:
        await eventually(lambda: server.execute("SELECT true FROM pg_stat_replication WHERE sync_state = 'sync'"))
        url = f"postgresql+asyncpg://qianyan@127.0.0.1:{server.port},127.0.0.1:{replica.port}/postgres"
        installation = await asyncio.to_thread(Installation(tmp_path / "var").init, "--store-url", url)
        database = await open_database(StoreTarget(url, StoreSettings(statement_timeout_s=20)))
        authority, serials = await add_certificates(database, 150)
        async with DelayProxy(redis.port) as proxy:
            installation.set("redis", f'url = "redis://127.0.0.1:{proxy.port}/0"')
            installation.set("redis", "retry_s = 0.2")
            installation.set("store", "feed_patience_s = 4")
            installation.set("ocsp", "presign_per_s = 200")
            for name, value in clock.environment.items():
                monkeypatch.setenv(name, value)
            workers = Workers(installation)
            await asyncio.to_thread(workers.start)
            for name in clock.environment:
                monkeypatch.delenv(name)
            truth = Truth(database, authority, serials)
            load = Load(truth, [installation.public_port], clock)
            try:
                yield Site(server, replica, redis, proxy, clock, workers, truth, load)
            finally:
                await load.end()
                await asyncio.to_thread(workers.stop)
        await database.close()
    finally:
        redis.remove()
        replica.remove()
        server.remove()


def lie(redis: RedisServer) -> int:
    """Puts each value under another's key, or spoils it; returns how many."""
    client = cast(Any, redis.client)
    keys = client.keys("qianyan:ocsp:*")
    values = [value for value in client.mget(keys) if value] if keys else []
    if not values:
        return 0
    lies = [lambda: random.choice(values), lambda: random.randbytes(900), lambda: b""]
    client.mset({key: random.choice(lies)() for key in keys})
    return len(keys)


async def redis_faults(site: Site) -> None:
    """Redis in every bad state: it never costs an answer."""
    redis, load = site.redis, site.load
    async with load.during("Redis killed") as phase:
        await asyncio.to_thread(redis.kill)
        await site.go_on()
    assert phase.errors == 0
    async with load.during("Redis restarted empty") as phase:
        await asyncio.to_thread(redis.start)
        await site.go_on()
        await load.until(lambda: bool(site.redis_client.keys("qianyan:ocsp:*")), "nothing is written to Redis again")
    assert phase.errors == 0
    async with load.during("Redis filled with wrong values") as phase:
        for _ in range(4):
            await asyncio.to_thread(lie, redis)
            await site.go_on(40)
    assert phase.errors == 0
    async with load.during("Redis that remembers what was") as phase:
        old = {key: site.redis_client.get(key) for key in site.redis_client.keys("qianyan:ocsp:*")}
        await site.go_on()
        site.redis_client.mset({key: value for key, value in old.items() if value})
        await site.go_on()
    assert phase.errors == 0
    async with load.during("Redis frozen") as phase:
        redis.freeze()
        await site.go_on()
        redis.thaw()
    assert phase.errors == 0
    async with load.during("Redis slow") as phase:
        site.proxy.delay_s = 0.3
        await site.go_on()
        site.proxy.delay_s = 0.0
    assert phase.errors == 0


async def clock_faults(site: Site) -> None:
    """Back: nothing is answered until it is right. Forward: answers go on, and stop when it goes back."""
    load, clock = site.load, site.clock
    async with load.during("clock an hour back, and right again") as phase:
        clock.step_to(-3_600_000)
        await load.asked(40)
        assert phase.errors > 0
        clock.step_to(0)
        clock.step_to(0)
    async with load.during("clock four seconds forward, and right again") as phase:
        clock.step_to(4_000)
        await load.asked(60)
        clock.step_to(0)
        await load.asked(20)
    clock.step_to(0)


async def worker_fault(site: Site) -> None:
    """A worker is killed, its successor serves."""
    async with site.load.during("a worker killed"):
        before = site.workers.pids()
        os.kill(before[-1], signal.SIGKILL)
        await site.go_on()
        await site.load.until(
            lambda: len(set(site.workers.pids())) == 2 and set(site.workers.pids()) != set(before), ""
        )


def across(one: Service, two: Service, bouncycastle: BouncyCastle) -> None:
    """Revokes on `one`, asks `two`; what `two` is told by Redis alone is counted there."""
    with two:
        took = []
        for number in range(4):
            issued = one.issue(bouncycastle.make_csr(f"C=CN,O=单位,CN=甲{number}").der)
            serial = issued.serials["sign"]
            asked = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], nonce=False)
            first = [service.ocsp(asked).body for service in (one, two)]
            assert [word(read(body)) for body in first] == ["good", "good"]
            committed = one.call("POST", f"/v1/certificates/{serial}/revoke", {"reason": "key_compromise"})
            assert committed.status == 200
            at = sent = time.monotonic()
            while word(read(two.ocsp(asked).body)) != "revoked":
                assert sent <= at + BOUND_S, "the other node still says good"
                sent = time.monotonic()
            took.append(time.monotonic() - at)
            assert word(read(one.ocsp(asked).body)) == "revoked"
        text = two.call("GET", "/metrics").body.decode()
        hits = re.search(r'^qianyan_redis_lookups_total\{outcome="hit"\} (\S+)$', text, re.MULTILINE)
        assert hits is not None
        print(f"revoked on one node, read on the other: at most {max(took) * 1000:.0f} ms; {hits[1]} answers by Redis")
        assert float(hits[1]) >= 1


async def two_nodes(site: Site, bouncycastle: BouncyCastle, directory: Path) -> None:
    """A second node as a process with settings of its own on the same store and Redis."""
    one = site.workers.installation
    shutil.copytree(one.directory, directory)
    two = Installation(directory, free_port(), free_port())
    two.set("public", f"port = {two.public_port}")
    two.set("private", f"port = {two.private_port}")
    two.set("redis", 'url = "' + site.redis.url + '"')
    await asyncio.to_thread(across, site.workers, Service(two), bouncycastle)
    made = await asyncio.to_thread(two.run, "ocsp", "presign", "--json")
    assert made.status == 0, made.stderr
    assert made.json["certificates"] >= len(site.truth.serials)
    assert 0 < made.json["signed"] <= made.json["certificates"]
    two.set("redis", 'url = "redis://127.0.0.1:1"')
    refused = await asyncio.to_thread(two.run, "ocsp", "presign")
    assert (refused.status, "Redis does not answer" in refused.stderr) == (1, True)


async def test_no_fault_makes_an_answer_wrong(site: Site, bouncycastle: BouncyCastle, tmp_path: Path) -> None:
    load = site.load
    async with load.during("nothing broken") as phase:
        await site.go_on()
        made = len(site.truth.serials)  # in advance, by the leading worker
        await load.until(lambda: len(site.redis_client.keys("qianyan:ocsp:*")) >= made, "too few answers in Redis")
    assert phase.errors == 0
    await two_nodes(site, bouncycastle, tmp_path / "two")
    for _ in range(ROUNDS):
        await redis_faults(site)
        await clock_faults(site)
        await worker_fault(site)
        async with load.during("PostgreSQL killed and restarted"):
            await asyncio.to_thread(site.server.kill)
            await load.asked(30)
            await asyncio.to_thread(site.server.start)
            await load.until(lambda: load.phase.answers > 0, "no answer after the restart")
            await eventually(lambda: site.server.execute("SELECT true FROM pg_stat_replication"))
            await site.go_on()
    async with load.during("PostgreSQL failed over to its standby"):
        await asyncio.to_thread(site.server.kill)
        await load.asked(30)
        await asyncio.to_thread(site.replica.promote)
        await load.until(lambda: load.phase.answers > 0, "no answer after the fail-over")
        await eventually(lambda: site.truth.flip(1))
        await site.go_on()
    certificate = site.truth.authority.certificate
    assert certificate is not None
    assert len(load.samples) >= 10
    for serial, body in load.samples[:: max(1, len(load.samples) // 8)]:
        assert bouncycastle.check_ocsp(body, certificate, serial).status in ("good", "revoked")
        openssl.verify_ocsp(body, certificate)
