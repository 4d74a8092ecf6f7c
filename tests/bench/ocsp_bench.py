"""Measure OCSP beside nginx serving a static file of the same size, a bare aiohttp handler, and the kernel's own floor.

Usage: python tests/bench/ocsp_bench.py [--json] [--rounds N] [--seconds S] [--connections N] [--only NAME...]

Server and load generator (wrk) each have a core of their own; contenders take turns in each round, and every figure is
the median over rounds. Ratios are taken within each round. `server` and `generator` are the processor time that each
used, as a share of one core: where the generator is near 1.00, it was the limit and not the server. `us/request` is the
server's processor time for a request, which tells contenders apart there, too.

contenders: floor (floor.c, compiled here: a bare epoll loop that sends one answer of ours, head and body, for each
read: what the kernel takes); nginx (one worker, GET of a static file as long as an OCSP answer, with the same caching
headers); aiohttp (a handler that looks its body up in a dictionary and answers as many octets); get, post (a cached
answer); nonce (a live SM2 signature for every request); and, of these, a new connection for each request (`-new`) and
16 requests written at once (`-pipelined`); `post-2`: two workers; `-uvloop`: server.wire_transport = "uvloop".

p99 at 70 % is from an open loop (loadtest's compiled driver): requests are sent at their moments, 70 % of the maximum a
second, whatever has been answered, and a request's time runs from its moment. `late p99` is how late the generator
itself was to send: a latency of that size is its own.

One caution: the two cores are shared with the generator when there are two workers, and the table says so.
"""

from __future__ import annotations

import argparse
import base64
import http.client
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from core.asn1 import der  # noqa: E402 - found by the line above
from loadtest import _engine  # noqa: E402
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
"""
PIPELINED = """
local many
init = function(args) many = string.rep(wrk.format(), {pipeline}) end
request = function() return many end
"""
#: Connections of the open loop.
OPEN_CONNECTIONS = 256


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
    nonce: bytes = b""

    def request(self) -> bytes:
        """As a plain client writes it."""
        parts = urlsplit(self.url)
        head = f"{'GET' if self.body is None else 'POST'} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        if self.body is not None:
            head += f"Content-Type: application/ocsp-request\r\nContent-Length: {len(self.body)}\r\n"
        return f"{head}\r\n".encode() + (self.body or b"")


@dataclass(frozen=True)
class Open:
    """One run of the open loop."""

    rate: float
    p50_us: float
    p99_us: float
    late_p99_us: float


def _microseconds(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 1.0, "ms": 1e3, "s": 1e6}[unit]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wrk(contender: Contender, directory: Path, seconds: float, connections: int) -> Load:
    """Loads a contender and reads wrk's own report. Raises where an answer was not 200."""
    body = "" if contender.body is None else "".join(f"\\{octet:03d}" for octet in contender.body)
    script = directory / "load.lua"
    script.write_text(
        LUA.format(
            method="GET" if contender.body is None else "POST",
            body="" if contender.body is None else f'wrk.body = "{body}"',
            pipelined=PIPELINED.format(pipeline=contender.pipeline) if contender.pipeline > 1 else "",
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


@contextmanager
def floor(directory: Path, answer: bytes, *words: str) -> Iterator[tuple[str, list[int]]]:
    """The bare loop, compiled here; `answer`: what it says, head and body."""
    port, program = free_port(), directory / "floor"
    file = directory / f"answer{port}"
    file.write_bytes(answer)
    if not program.exists():
        subprocess.run(["cc", "-O2", "-o", program, ROOT / "tests" / "bench" / "floor.c"], check=True)
    command = ["taskset", "-c", str(SERVER_CORE), str(program), str(port), str(file), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}/ocsp", [process.pid]
    finally:
        process.kill()
        process.wait()


def whole_answer(contender: Contender) -> bytes:
    """An answer with its head, as it came."""
    parts = urlsplit(contender.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    try:
        connection.request("GET" if contender.body is None else "POST", parts.path, contender.body)
        answer = connection.getresponse()
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.getheaders())
        return f"HTTP/1.1 {answer.status} {answer.reason}\r\n{head}\r\n".encode() + answer.read()
    finally:
        connection.close()


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


def ours(stack: ExitStack, directory: Path, transport: str) -> tuple[list[Contender], bytes, int]:
    """The service; a plain request, and its answer's size."""
    installation = Installation(directory / transport).init()
    installation.set("server", f'wire_transport = "{transport}"')
    nonce = os.urandom(32)
    plain, live = a_request(installation), a_request(installation, nonce)
    service = stack.enter_context(Service(installation))
    pin(service.process.pid)
    size = len(service.ocsp(plain).body)
    post = service.public + "/ocsp"
    get = f"{post}/{quote(base64.b64encode(plain).decode(), safe='')}"

    def pids() -> list[int]:
        return [service.process.pid]

    found = [
        Contender("get", get, pids),
        Contender("post", post, pids, plain),
        Contender("nonce", post, pids, live, nonce=nonce),
        Contender("post-new", post, pids, plain, close=True),
        Contender("post-pipelined", post, pids, plain, pipeline=PIPELINE),
    ]
    return found, plain, size


def contenders(stack: ExitStack, directory: Path) -> list[Contender]:
    """Starts everything."""
    own, plain, size = ours(stack, directory, "own")
    uvloop, _, _ = ours(stack, directory, "uvloop")
    two = Installation(directory / "var2").init()
    static, static_pids = stack.enter_context(nginx(directory / "nginx", size))
    bare, bare_pids = stack.enter_context(peer(size, plain))
    answer = whole_answer(own[0])
    least, least_pids = stack.enter_context(floor(directory, answer))
    closing = answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    least_new, least_new_pids = stack.enter_context(floor(directory, closing, "close"))
    workers = stack.enter_context(Workers(two))
    return [
        Contender("floor", least, lambda: least_pids),
        Contender("nginx", static, lambda: static_pids),
        Contender("aiohttp", bare, lambda: bare_pids, plain),
        *own[:3],
        *(replace(one, name=f"{one.name}-uvloop") for one in uvloop[:3]),
        Contender("floor-new", least_new, lambda: least_new_pids, close=True),
        Contender("nginx-new", static, lambda: static_pids, close=True),
        own[3],
        Contender("nginx-pipelined", static, lambda: static_pids, pipeline=PIPELINE),
        own[4],
        Contender("post-2", workers.public + "/ocsp", lambda: children(workers.process.pid), a_request(two)),
    ]


def percentile_us(counts: dict[int, int], share: float) -> float:
    """Of a histogram of the driver's."""
    left = sum(counts.values()) * share
    for number in sorted(counts):
        left -= counts[number]
        if left <= 0:
            return _engine.bucket_top(number, _engine.WHOLE_BITS) / 1000
    return 0.0


def at_part(contender: Contender, best: Load, seconds: float) -> Open:
    """Requests at 70 % of the maximum, each at its moment. Raises where one was not answered with 200."""
    parts = urlsplit(contender.url)
    record = _engine.Record(1, int(seconds) + 2, 10**9)
    schedule = _engine.Schedule([(0, 0.7 * best.rate)], seconds)
    octets = contender.request()
    at = octets.index(contender.nonce) if contender.nonce else 0
    driver = _engine.Driver(
        record,
        schedule,
        [(octets, at, len(contender.nonce), 1, 1 << 16, 0, 0, 200)],
        [(str(parts.hostname), parts.port or 80)],
        connections=OPEN_CONNECTIONS,
        timeout_s=10,
        sample_every=0,
    )
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {WRK_CORE})
    try:
        driver.run()
    finally:
        os.sched_setaffinity(0, before)
    errors, _, _, _, counts = record.kind(0)
    if sum(errors[1:]):
        raise SystemExit(f"{contender.name} failed in the open loop: {errors}, {driver.troubles}")
    lag, _ = record.lag()
    rate = sum(counts.values()) / seconds
    return Open(rate, percentile_us(counts, 0.5), percentile_us(counts, 0.99), percentile_us(lag, 0.99))


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="Measure OCSP beside nginx and aiohttp.")
    parser.add_argument("--json", action="store_true", help="print a document instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender has its turn")
    parser.add_argument("--seconds", type=int, default=4, help="how long a turn takes")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these; nginx and floor among them give the ratios"
    )
    options = parser.parse_args()
    for program in ("wrk", "nginx", "cc"):
        if shutil.which(program, path=os.defpath + ":/usr/sbin:" + os.environ.get("PATH", "")) is None:
            raise SystemExit(f"{program} is not installed: apt-get install {program}")
    os.environ["PATH"] += ":/usr/sbin"
    runs: dict[str, list[Load]] = {}
    partial: dict[str, Open] = {}
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
                partial[one.name] = at_part(one, best, options.seconds)
    report(runs, partial, as_json=options.json)


def standard(name: str, runs: dict[str, list[Load]], of: str) -> list[Load] | None:
    """The runs of `of` that do the same as those of `name`."""
    _, dash, way = name.partition("-")
    return runs.get(f"{of}-{way}" if dash and way not in ("2", "uvloop") else of)


def report(runs: dict[str, list[Load]], partial: dict[str, Open], *, as_json: bool) -> None:
    """Medians, and the ratios to nginx and to the floor (doing the same) within each round."""
    rows = {}
    for name, loads in runs.items():
        row = {field: statistics.median(getattr(load, field) for load in loads) for field in Load.__annotations__}
        row["us_per_request"] = statistics.median(load.server * 1e6 / load.rate for load in loads)
        for of in ("nginx", "floor"):
            if (others := standard(name, runs, of)) is not None:
                row[of] = statistics.median(a.rate / b.rate for a, b in zip(loads, others, strict=True))
        rows[name] = row
    if as_json:
        at70 = {name: asdict(load) for name, load in partial.items()}
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        print(json.dumps({"machine": machine, "runs": rows, "at_70_percent": at70}, indent=2))
        return
    print(
        f"{'':16}{'requests/s':>12}{'p50 us':>8}{'p99 us':>8}{'server':>8}{'generator':>10}{'us/request':>11}"
        f"{'x nginx':>8}{'of floor':>9}{'70%: /s':>10}{'p50 us':>8}{'p99 us':>8}{'late p99':>9}"
    )
    for name, row in rows.items():
        line = f"{name:16}{row['rate']:12,.0f}{row['p50_us']:8,.0f}{row['p99_us']:8,.0f}{row['server']:8.2f}"
        line += f"{row['generator']:10.2f}{row['us_per_request']:11.2f}"
        line += f"{row.get('nginx', float('nan')):8.2f}{row.get('floor', float('nan')):9.2f}"
        if name in partial:
            one = partial[name]
            line += f"{one.rate:10,.0f}{one.p50_us:8,.0f}{one.p99_us:8,.0f}{one.late_p99_us:9,.0f}"
        print(line)


if __name__ == "__main__":
    main()
