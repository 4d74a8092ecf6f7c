"""Measure `POST /v1/sign` against the same aiohttp answering the same body without a signature, in one run.

Usage: python tests/bench/http_bench.py [--json] [--rounds N] [--seconds S] [--connections N]

Server and load generator (wrk) each have a core of their own; the contenders take turns in each round, and every
figure is the median over rounds. The peer parses the body with orjson and answers a constant of the same size: what
the front end costs by itself. `generator` is wrk's own share of its core: near 1.0, it was the limit, not the server.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.running import Installation, Service, free_port  # noqa: E402 - found by the line above

SERVER_CORE, WRK_CORE = 0, 1

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


@dataclass(frozen=True)
class Load:
    """One run of wrk."""

    rate: float
    p50_ms: float
    p99_ms: float
    generator: float


def _milliseconds(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def wrk(url: str, script: Path, seconds: float, connections: int) -> Load:
    """Loads `url` and reads wrk's own report. Raises where an answer was not 200."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["taskset", "-c", str(WRK_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    out = subprocess.run([*command, "-s", str(script), url], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Non-2xx" in out:
        raise SystemExit(f"{url} answered errors:\n{out}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    latency = dict(re.findall(r"^\s+(50|99)%\s+(\S+)$", out, re.MULTILINE))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))  # type: ignore[union-attr]
    return Load(rate, _milliseconds(latency["50"]), _milliseconds(latency["99"]), used / seconds)


def pin(pid: int) -> None:
    """Keeps a process and its threads on the server's core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {SERVER_CORE})


@contextmanager
def peer() -> Iterator[str]:
    """The front end alone."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", PEER, str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    pin(process.pid)
    try:
        yield f"http://127.0.0.1:{port}/v1/sign"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="Measure POST /v1/sign beside aiohttp alone.")
    parser.add_argument("--json", action="store_true", help="print a document instead of a table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    runs: dict[str, list[Load]] = {"aiohttp alone": [], "/v1/sign": []}
    with tempfile.TemporaryDirectory() as directory:
        installation = Installation(Path(directory) / "var").init()
        body = json.dumps({"key": "demo", "digest": base64.b64encode(bytes(range(32))).decode()})
        script = Path(directory) / "sign.lua"
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = 'application/json'\n"
            f"wrk.headers['Authorization'] = 'Bearer {installation.token}'\n"
        )
        with Service(installation) as service, peer() as alone:
            pin(service.process.pid)
            urls = {"aiohttp alone": alone, "/v1/sign": service.private + "/v1/sign"}
            for url in urls.values():
                wrk(url, script, 1, options.connections)
            for _ in range(options.rounds):
                for name, url in urls.items():
                    runs[name].append(wrk(url, script, options.seconds, options.connections))
    report(runs, as_json=options.json)


def report(runs: dict[str, list[Load]], *, as_json: bool) -> None:
    """Medians, and the ratio of the two within each round."""
    ratio = statistics.median(
        ours.rate / alone.rate for ours, alone in zip(runs["/v1/sign"], runs["aiohttp alone"], strict=True)
    )
    rows = {
        name: {field: statistics.median(getattr(run, field) for run in loads) for field in Load.__annotations__}
        for name, loads in runs.items()
    }
    if as_json:
        print(json.dumps({"machine": platform.processor(), "ratio": ratio, "runs": rows}, indent=2))
        return
    print(f"{'':16}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'generator':>11}")
    for name, row in rows.items():
        print(f"{name:16}{row['rate']:12,.0f}{row['p50_ms']:10.2f}{row['p99_ms']:10.2f}{row['generator']:11.2f}")
    print(f"ratio {ratio:.2f} (median of {len(runs['/v1/sign'])} rounds)")


if __name__ == "__main__":
    main()
