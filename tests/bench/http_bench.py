"""Measure signing over HTTP beside aiohttp answering the same bodies without a signature, in one run.

Usage: python tests/bench/http_bench.py [--json] [--rounds N] [--seconds S] [--connections N] [--only NAME...]

Server and load generator (wrk) each have a core of their own; the contenders take turns in each round, and every
figure is the median over rounds; ratios are taken within each round. `server` and `generator` are the processor time
that each used, as a share of one core: where the generator is near 1.00, it was the limit and not the server.

contenders: aiohttp (parses the body with orjson and answers a constant of the same size: what a front end costs by
itself); sign-aiohttp (`POST /v1/sign` with private.hot_path = "off"); sign (with "on"); octets-1 (one digest in
octets); data (`POST /v1/sign` with data to be hashed). p99 at 70 % is of a run whose connections each wait so long
between requests that the rate is about 70 % of the maximum.

bulk: `POST /v1/keys/{key}/sign` with 1,024 digests a call, and `POST /v1/verify` in octets with 1,024 signatures, one
connection after another's answer, beside the native core signing and verifying as many at once on the server's core.
Rates are signatures a second; `share` is of the core's own. Bulk work is done in a thread beside the event loop, so
that it is measured with the server on one core as well.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from signer._native import sm2  # noqa: E402 - found by the line above
from tests.running import Installation, Service, free_port  # noqa: E402

SERVER_CORE, WRK_CORE = 0, 1
BULK = 1_024
TICKS = os.sysconf("SC_CLK_TCK")
OCTETS = "application/octet-stream"

PEER = """
import sys, orjson, uvloop
from aiohttp import web
ANSWER = orjson.dumps({"signature": "M" * 96, "algorithm": "sm2-with-sm3"})
async def sign(request):
    orjson.loads(await request.read())
    return web.Response(body=ANSWER, content_type="application/json")
async def main():
    app = web.Application()
    app.add_routes([web.post("/v1/sign", sign)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    print("ready", flush=True)
    import asyncio
    await asyncio.Event().wait()
uvloop.run(main())
"""

CORE = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
from signer._native import sm2
n, seconds = int(sys.argv[2]), float(sys.argv[3])
keys = [sm2.PrivateKey.generate() for _ in range(n)]
digests = os.urandom(32 * n)
raw = sm2.sign_many(keys, digests)
public = [key.public_key for key in keys]
works = {"sign": lambda: sm2.sign_many(keys[0], digests), "verify": lambda: sm2.verify_many(public, digests, raw)}
for name in ("sign", "verify"):
    work, done, began = works[name], 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        done += n
    print(name, done / (time.perf_counter() - began))
"""

SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "{media_type}"
wrk.headers["Authorization"] = "Bearer {token}"
local wait = {wait_ms}
local one
init = function(args) one = wrk.format() end
request = function() return one end
{delay}
"""
DELAY = "delay = function() return math.random(0, 2 * wait) end"


@dataclass(frozen=True)
class Load:
    """One run of wrk."""

    rate: float
    p50_us: float
    p99_us: float
    server: float
    generator: float


@dataclass(frozen=True)
class Contender:
    """What is loaded: a URL, what is sent to it, whose processor time counts. `size`: signatures in a request."""

    name: str
    url: str
    pid: int
    body: bytes
    media_type: str = "application/json"
    token: str = ""
    size: int = 1


def _microseconds(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 1.0, "ms": 1e3, "s": 1e6}[unit]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wrk(contender: Contender, directory: Path, seconds: float, connections: int, wait_ms: int = 0) -> Load:
    """Loads a contender and reads wrk's own report. Raises where an answer was not 200."""
    body, script = directory / "load.body", directory / "load.lua"
    body.write_bytes(contender.body)
    script.write_text(
        SCRIPT.format(
            body=body,
            media_type=contender.media_type,
            token=contender.token,
            wait_ms=wait_ms,
            delay=DELAY if wait_ms else "",
        )
    )
    command = ["taskset", "-c", str(WRK_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    before, times, began = _cpu_s(contender.pid), os.times(), time.monotonic()
    ran = subprocess.run([*command, "-s", str(script), contender.url], capture_output=True, text=True, check=True)
    took, ended, out = time.monotonic() - began, os.times(), ran.stdout
    if "Non-2xx" in out:
        raise SystemExit(f"{contender.name} answered errors:\n{out}")
    latency = dict(re.findall(r"^\s+(50|99)%\s+(\S+)$", out, re.MULTILINE))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))  # type: ignore[union-attr]
    generator = ended.children_user + ended.children_system - times.children_user - times.children_system
    return Load(
        rate,
        _microseconds(latency["50"]),
        _microseconds(latency["99"]),
        (_cpu_s(contender.pid) - before) / took,
        generator / took,
    )


def pin(pid: int) -> None:
    """Keeps a process and its threads on the server's core; threads that it starts later inherit that."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {SERVER_CORE})


@contextmanager
def peer() -> Iterator[tuple[str, int]]:
    """The front end alone."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", PEER, str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    pin(process.pid)
    try:
        yield f"http://127.0.0.1:{port}/v1/sign", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def core_rates(seconds: float) -> dict[str, float]:
    """Signatures and verifications a second by the native core on the server's core, BULK a call."""
    command = [sys.executable, "-c", CORE, str(SERVER_CORE), str(BULK), str(seconds)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return {name: float(rate) for name, rate in (line.split() for line in out.splitlines())}


def verify_octets() -> bytes:
    """A body of POST /v1/verify: BULK signatures by as many keys."""
    keys = [sm2.PrivateKey.generate() for _ in range(BULK)]
    digests = os.urandom(32 * BULK)
    raw = sm2.sign_many(keys, digests)
    return b"".join(
        digests[32 * at : 32 * at + 32] + key.public_key.to_bytes() + raw[64 * at : 64 * at + 64]
        for at, key in enumerate(keys)
    )


def contenders(stack: ExitStack, directory: Path) -> list[Contender]:
    """Starts everything."""
    services: dict[str, Service] = {}
    for way in ("on", "off"):
        installation = Installation(directory / f"var-{way}").init()
        installation.set("private", f'hot_path = "{way}"')
        services[way] = stack.enter_context(Service(installation))
        pin(services[way].process.pid)
    url, pid = stack.enter_context(peer())
    digest = base64.b64encode(bytes(range(32))).decode()
    body = json.dumps({"key": "demo", "digest": digest}).encode()
    data = json.dumps({"key": "demo", "data": base64.b64encode(bytes(200)).decode()}).encode()

    def ours(name: str, way: str, path: str, body: bytes, media_type: str = OCTETS, size: int = 1) -> Contender:
        service = services[way]
        token = service.installation.token
        return Contender(name, service.private + path, service.process.pid, body, media_type, token, size)

    many = bytes(32 * BULK)
    return [
        Contender("aiohttp", url, pid, body),
        ours("sign-aiohttp", "off", "/v1/sign", body, "application/json"),
        ours("sign", "on", "/v1/sign", body, "application/json"),
        ours("octets-1", "on", "/v1/keys/demo/sign", bytes(32)),
        ours("data", "on", "/v1/sign", data, "application/json"),
        ours("bulk-aiohttp", "off", "/v1/keys/demo/sign", many, size=BULK),
        ours("bulk", "on", "/v1/keys/demo/sign", many, size=BULK),
        ours("verify-bulk", "on", "/v1/verify", verify_octets(), size=BULK),
    ]


def at_part(contender: Contender, directory: Path, best: Load, seconds: float, connections: int) -> Load:
    """A run at about 70 % of the maximum: more connections, each of which waits between its requests."""
    many = connections * 8
    wait_ms = max(1, round(many / (0.7 * best.rate) * 1000))
    return wrk(contender, directory, seconds, many, wait_ms)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="Measure signing over HTTP beside aiohttp alone and the native core.")
    parser.add_argument("--json", action="store_true", help="print a document instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender has its turn")
    parser.add_argument("--seconds", type=int, default=4, help="how long a turn takes")
    parser.add_argument("--connections", type=int, default=64, help="kept-alive connections (bulk: an eighth of them)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contenders, aiohttp among them")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    runs: dict[str, list[Load]] = {}
    partial: dict[str, Load] = {}
    core: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        chosen = [one for one in contenders(stack, directory) if not options.only or one.name in options.only]

        def connections(one: Contender) -> int:
            return int(options.connections) if one.size == 1 else max(1, options.connections // 8)

        for one in chosen:
            wrk(one, directory, 1, connections(one))
        for _ in range(options.rounds):
            for one in chosen:
                runs.setdefault(one.name, []).append(wrk(one, directory, options.seconds, connections(one)))
            if any(one.size > 1 for one in chosen):
                core.append(core_rates(options.seconds / 4))
        for one in chosen:
            if one.size == 1:
                best = max(runs[one.name], key=lambda load: load.rate)
                partial[one.name] = at_part(one, directory, best, options.seconds, options.connections)
    report(chosen, runs, partial, core, as_json=options.json)


def rows_of(
    chosen: list[Contender], runs: dict[str, list[Load]], core: list[dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Medians over rounds, with the ratio to the peer, or the share of the core's own rate, within each round."""
    rows = {}
    for one in chosen:
        loads = runs[one.name]
        row = {field: statistics.median(getattr(load, field) for load in loads) for field in Load.__annotations__}
        if one.size > 1:
            work = "verify" if one.name.startswith("verify") else "sign"
            row["signatures"] = row["rate"] * one.size
            row["core"] = statistics.median(rates[work] for rates in core)
            row["share"] = statistics.median(
                a.rate * one.size / rates[work] for a, rates in zip(loads, core, strict=True)
            )
        elif "aiohttp" in runs:
            row["ratio"] = statistics.median(a.rate / b.rate for a, b in zip(loads, runs["aiohttp"], strict=True))
        rows[one.name] = row
    return rows


def report(
    chosen: list[Contender],
    runs: dict[str, list[Load]],
    partial: dict[str, Load],
    core: list[dict[str, float]],
    *,
    as_json: bool,
) -> None:
    """A table, or a document."""
    rows = rows_of(chosen, runs, core)
    if as_json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        at70 = {name: asdict(load) for name, load in partial.items()}
        print(json.dumps({"machine": machine, "runs": rows, "at_70_percent": at70}, indent=2))
        return
    print(
        f"{'':14}{'requests/s':>12}{'p50 us':>9}{'p99 us':>9}{'server':>8}{'generator':>11}{'x aiohttp':>11}"
        f"{'70%: /s':>10}{'p99 us':>9}"
    )
    cell: Callable[[dict[str, float]], str] = lambda row: (  # noqa: E731
        f"{row['rate']:12,.0f}{row['p50_us']:9,.0f}{row['p99_us']:9,.0f}{row['server']:8.2f}{row['generator']:11.2f}"
    )
    for name, row in rows.items():
        line = f"{name:14}{cell(row)}"
        if "share" in row:
            line += f"   {row['signatures']:,.0f} signatures/s, {row['share']:.0%} of the core's {row['core']:,.0f}"
        else:
            line += f"{row.get('ratio', float('nan')):11.2f}"
        if name in partial:
            line += f"{partial[name].rate:10,.0f}{partial[name].p99_us:9,.0f}"
        print(line)


if __name__ == "__main__":
    main()
