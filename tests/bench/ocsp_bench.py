"""Measure OCSP beside nginx serving a static file of the same size, and beside a bare aiohttp handler, in one run.

Usage: python tests/bench/ocsp_bench.py [--json] [--rounds N] [--seconds S] [--connections N] [--only NAME...]

Server and load generator (wrk) each have a core of their own; contenders take turns in each round, and every figure is
the median over rounds. Ratios are taken within each round. `server` and `generator` are the processor time that each
used, as a share of one core: where the generator is near 1.00, it was the limit and not the server.

contenders: nginx (one worker, GET of a static file as long as an OCSP answer, with the same caching headers);
aiohttp (a handler that looks its body up in a dictionary and answers as many octets); get, post (a cached answer);
nonce (a live SM2 signature for every request); and, of nginx and ours, a new connection for each request (`-new`) and
16 requests written at once (`-pipelined`); `post-2`: two workers. p99 at 70 % is of a run whose connections each wait
so long between requests that the rate is about 70 % of the maximum.

One caution: the two cores are shared with the generator when there are two workers, and the table says so.
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
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from core.asn1 import der  # noqa: E402 - found by the line above
from status.issuers import cert_id_issuers  # noqa: E402
from tests.running import Installation, Service, free_port  # noqa: E402
from tests.status_world import request as ocsp_request  # noqa: E402

SERVER_CORE, WRK_CORE = 0, 1
PIPELINE = 16
TICKS = os.sysconf("SC_CLK_TCK")

PEER = """
import asyncio, sys, uvloop
from aiohttp import web
ANSWER = bytes(int(sys.argv[2]))
TABLE = {bytes.fromhex(sys.argv[3]): ANSWER}
async def ocsp(request):
    return web.Response(body=TABLE[await request.read()], headers={"Content-Type": "application/ocsp-response"})
async def main():
    app = web.Application()
    app.add_routes([web.post("/ocsp", ocsp)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    print("ready", flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""

NGINX = """
worker_processes 1;
daemon off;
error_log {directory}/error.log;
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  open_file_cache max=16;
  sendfile on;
  tcp_nopush on;
  default_type application/ocsp-response;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    root {directory}/www;
    add_header Cache-Control "max-age=300, public, no-transform, must-revalidate";
    expires 1h;
  }}
}}
"""

#: What a script of wrk says. Without `request` wrk makes the request once; with it Lua is called for each, which takes
#: a tenth of the generator's core: so only where several are written at once.
LUA = """
wrk.method = "{method}"
{body}
{pipelined}
{delay}
"""
PIPELINED = """
local many
init = function(args) many = string.rep(wrk.format(), {pipeline}) end
request = function() return many end
"""
#: Makes each connection wait between its requests.
DELAY = "delay = function() return math.random(0, {twice_ms}) end"


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
    """What is loaded: a URL, what is sent to it, whose processor time counts."""

    name: str
    url: str
    pids: Callable[[], list[int]]
    body: bytes | None = None
    pipeline: int = 1
    close: bool = False


def _microseconds(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 1.0, "ms": 1e3, "s": 1e6}[unit]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wrk(contender: Contender, directory: Path, seconds: float, connections: int, wait_ms: int = 0) -> Load:
    """Loads a contender and reads wrk's own report. Raises where an answer was not 200."""
    body = "" if contender.body is None else "".join(f"\\{octet:03d}" for octet in contender.body)
    script = directory / "load.lua"
    script.write_text(
        LUA.format(
            method="GET" if contender.body is None else "POST",
            body="" if contender.body is None else f'wrk.body = "{body}"',
            pipelined=PIPELINED.format(pipeline=contender.pipeline) if contender.pipeline > 1 else "",
            delay=DELAY.format(twice_ms=2 * wait_ms) if wait_ms else "",
        )
    )
    command = ["taskset", "-c", str(WRK_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    if contender.close:
        command += ["-H", "Connection: close"]
    if contender.body is not None:
        command += ["-H", "Content-Type: application/ocsp-request"]
    pids = contender.pids()
    before, times = sum(map(_cpu_s, pids)), os.times()
    began = time.monotonic()
    out = subprocess.run([*command, "-s", str(script), contender.url], capture_output=True, text=True, check=True)
    took, ended = time.monotonic() - began, os.times()
    if "Non-2xx" in out.stdout:
        raise SystemExit(f"{contender.name} answered errors:\n{out.stdout}")
    latency = dict(re.findall(r"^\s+(50|99)%\s+(\S+)$", out.stdout, re.MULTILINE))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out.stdout).group(1))  # type: ignore[union-attr]
    generator = ended.children_user + ended.children_system - times.children_user - times.children_system
    return Load(
        rate,
        _microseconds(latency["50"]),
        _microseconds(latency["99"]),
        (sum(map(_cpu_s, pids)) - before) / took,
        generator / took,
    )


def pin(pid: int, core: int = SERVER_CORE) -> None:
    """Keeps a process and its threads on a core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    text = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in text.split()]


@contextmanager
def nginx(directory: Path, size: int) -> Iterator[tuple[str, list[int]]]:
    """nginx with one worker on the server's core, and a file of `size` octets."""
    port = free_port()
    (directory / "www").mkdir(parents=True)
    (directory / "www" / "answer").write_bytes(os.urandom(size))
    # The master may run as root and its worker as another user, who must reach the file.
    for path in (directory, directory / "www", directory.parent):
        path.chmod(0o755)
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(directory=directory, port=port))
    process = subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), "nginx", "-c", configuration], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while not children(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("nginx did not start")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/answer", children(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def peer(size: int, body: bytes) -> Iterator[tuple[str, list[int]]]:
    """A bare aiohttp handler."""
    port = free_port()
    arguments = [sys.executable, "-c", PEER, str(port), str(size), body.hex()]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    pin(process.pid)
    try:
        yield f"http://127.0.0.1:{port}/ocsp", [process.pid]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


class Workers(Service):
    """The service with two workers."""

    arguments = ("--workers", "2")


def a_request(installation: Installation, nonce: bytes | None = None) -> bytes:
    """An OCSP request about a certificate of the installation."""
    with sqlite3.connect(installation.directory / "store.sqlite3") as connection:
        subject, key = connection.execute("SELECT subject, public_key FROM authorities WHERE id = 'issuing'").fetchone()
        (serial,) = connection.execute(
            "SELECT serial FROM certificates WHERE authority_id = 'issuing' LIMIT 1"
        ).fetchone()
    issuer = cert_id_issuers(subject, key)[0]
    return ocsp_request(der.sequence(issuer + der.integer(int.from_bytes(serial, "big"))), nonce=nonce)


def contenders(stack: ExitStack, directory: Path) -> list[Contender]:
    """Starts everything."""
    installation = Installation(directory / "var").init()
    plain, live = a_request(installation), a_request(installation, os.urandom(32))
    two = Installation(directory / "var2").init()
    service = stack.enter_context(Service(installation))
    pin(service.process.pid)
    size = len(service.ocsp(plain).body)
    static, static_pids = stack.enter_context(nginx(directory / "nginx", size))
    bare, bare_pids = stack.enter_context(peer(size, plain))
    workers = stack.enter_context(Workers(two))
    post = service.public + "/ocsp"
    get = f"{post}/{quote(base64.b64encode(plain).decode(), safe='')}"

    def ours() -> list[int]:
        return [service.process.pid]

    return [
        Contender("nginx", static, lambda: static_pids),
        Contender("aiohttp", bare, lambda: bare_pids, plain),
        Contender("get", get, ours),
        Contender("post", post, ours, plain),
        Contender("nonce", post, ours, live),
        Contender("nginx-new", static, lambda: static_pids, close=True),
        Contender("post-new", post, ours, plain, close=True),
        Contender("nginx-pipelined", static, lambda: static_pids, pipeline=PIPELINE),
        Contender("post-pipelined", post, ours, plain, pipeline=PIPELINE),
        Contender("post-2", workers.public + "/ocsp", lambda: children(workers.process.pid), a_request(two)),
    ]


def at_part(contender: Contender, directory: Path, best: Load, seconds: float, connections: int) -> Load:
    """A run at about 70 % of the maximum: more connections, each of which waits between its requests."""
    many = connections * 8
    wait_ms = max(1, round(many / (0.7 * best.rate) * 1000))
    return wrk(contender, directory, seconds, many, wait_ms)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="Measure OCSP beside nginx and aiohttp.")
    parser.add_argument("--json", action="store_true", help="print a document instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender has its turn")
    parser.add_argument("--seconds", type=int, default=4, help="how long a turn takes")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contenders, nginx among them")
    options = parser.parse_args()
    for program in ("wrk", "nginx"):
        if shutil.which(program, path=os.defpath + ":/usr/sbin:" + os.environ.get("PATH", "")) is None:
            raise SystemExit(f"{program} is not installed: apt-get install {program}")
    os.environ["PATH"] += ":/usr/sbin"
    runs: dict[str, list[Load]] = {}
    partial: dict[str, Load] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        all_of_them = [one for one in contenders(stack, directory) if not options.only or one.name in options.only]
        for one in all_of_them:
            wrk(one, directory, 1, options.connections)
        for _ in range(options.rounds):
            for one in all_of_them:
                load = wrk(one, directory, options.seconds, options.connections)
                runs.setdefault(one.name, []).append(load)
        for one in all_of_them:
            if one.pipeline == 1 and not one.close:
                best = max(runs[one.name], key=lambda load: load.rate)
                partial[one.name] = at_part(one, directory, best, options.seconds, options.connections)
    report(runs, partial, as_json=options.json)


def report(runs: dict[str, list[Load]], partial: dict[str, Load], *, as_json: bool) -> None:
    """Medians, and the ratio to nginx (doing the same) within each round."""
    rows = {}
    for name, loads in runs.items():
        _, dash, way = name.partition("-")
        static = runs.get(f"nginx-{way}" if dash and way != "2" else "nginx")
        row = {field: statistics.median(getattr(load, field) for load in loads) for field in Load.__annotations__}
        if static is not None:
            row["ratio"] = statistics.median(a.rate / b.rate for a, b in zip(loads, static, strict=True))
        rows[name] = row
    if as_json:
        at70 = {name: asdict(load) for name, load in partial.items()}
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        print(json.dumps({"machine": machine, "runs": rows, "at_70_percent": at70}, indent=2))
        return
    print(
        f"{'':16}{'requests/s':>12}{'p50 us':>9}{'p99 us':>9}{'server':>8}"
        f"{'generator':>11}{'x nginx':>9}{'70%: /s':>10}{'p99 us':>9}"
    )
    for name, row in rows.items():
        line = f"{name:16}{row['rate']:12,.0f}{row['p50_us']:9,.0f}{row['p99_us']:9,.0f}{row['server']:8.2f}"
        line += f"{row['generator']:11.2f}{row.get('ratio', float('nan')):9.2f}"
        if name in partial:
            line += f"{partial[name].rate:10,.0f}{partial[name].p99_us:9,.0f}"
        print(line)


if __name__ == "__main__":
    main()
