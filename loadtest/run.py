"""One run: generator processes started together, measured, ended, and put together into a document.

Owns the processes and the temporary folder. Sends no request to the service but GET /metrics.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import aiohttp

from loadtest import measure, result, verdict
from loadtest.plan import Plan
from loadtest.scenarios.catalogue import is_fast
from loadtest.target import Target, TargetError, load_target

Engine = Literal["auto", "native", "python"]
#: How long generators may take to prepare their requests.
_READY_S: Final = 120.0
_SCRAPE_S: Final = 2.0
#: Connections of the engine that asks beside wrk.
_BESIDE: Final = 16


@dataclass(frozen=True)
class Options:
    """What to do. `processes`: of the compiled engine, which share its rate, or wrk's threads. cache_share: told, where
    not measured. wrk: it drives the one scenario that there is, and the compiled engine asks and judges beside it."""

    plan: Plan
    name: str
    engine: Engine = "auto"
    processes: int = 1
    goals: verdict.Goals = field(default_factory=verdict.Goals)
    signing: str | None = None
    cache_share: float | None = None
    wrk: bool = False


class Generator:
    """A worker process: its lines are read, its end waited for."""

    def __init__(self, name: str, engine: str, plan: Plan, directory: Path) -> None:
        self.name, self.engine = name, engine
        self.ended = self.faults = 0
        self._plan_file, self._out = directory / f"{name}.plan", directory / f"{name}.out"
        plan.save(self._plan_file)
        self.threads = int(engine.partition("-")[2] or 1)
        self._process: asyncio.subprocess.Process
        self.ready = asyncio.Event()
        self.error = ""

    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, "-m", "loadtest.worker", self.engine, str(self._plan_file), str(self._out)]

    async def start(self) -> None:
        """Starts the process in a session of its own, so that a Ctrl-C reaches it through us."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def go(self) -> None:
        """Lets it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    def end(self) -> None:
        """Asks for an orderly end."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Whatever it waits for, it ends now."""
        if self._process.returncode is None:
            self._process.terminate()

    async def listen(self) -> None:
        """Reads its lines until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if not line.startswith(b"{"):
                continue  # not ours: locust's own summary
            said = json.loads(line)
            if "error" in said:
                self.error = said["error"]
            elif "ready" in said:
                self.ready.set()
            else:
                self.ended, self.faults = said["ended"], said["faults"]
        if await self._process.wait() and not self.error:
            self.error = f"the generator {self.name} ended with status {self._process.returncode}"
        self.ready.set()

    def documents(self) -> list[dict[str, Any]]:
        """What it counted. Raises TargetError where it failed."""
        if self.error:
            raise TargetError(self.error)
        return [{"name": self.name, **json.loads(self._out.read_text())}]


def split(options: Options) -> list[tuple[str, str, Plan]]:
    """(name, engine, plan) of each generator."""
    plan, found = options.plan, []
    fast = {n: r for n, r in plan.rates.items() if options.engine != "python" and is_fast(n)}
    slow = {n: r for n, r in plan.rates.items() if n not in fast}
    if options.engine == "native" and slow:
        raise TargetError(f"the compiled driver cannot send {', '.join(slow)}; use --engine auto")
    if options.wrk:
        if len(plan.rates) != 1 or not fast:
            raise TargetError(
                "wrk drives one scenario, and one that the compiled engine could send: --scenario NAME=RATE"
            )
        judged = replace(plan, connections=min(_BESIDE, plan.connections), sample=1.0)
        return [("wrk", f"wrk-{options.processes}", plan), ("driver", "native", judged)]
    for number in range(options.processes if fast else 0):
        part = replace(plan, rates={n: r / options.processes for n, r in fast.items()}, seed=plan.seed + number)
        found.append((f"driver-{number}" if options.processes > 1 else "driver", "native", part))
    if slow:
        found.append(("journeys", "python", replace(plan, rates=slow, seed=plan.seed + 1000, closed=False)))
    return found


#: Makes the generators of a run in a folder.
Make: TypeAlias = Callable[[Options, Path], list[Generator]]


def own_generators(options: Options, directory: Path) -> list[Generator]:
    """Those of the open-loop engines."""
    return [Generator(label, engine, plan, directory) for label, engine, plan in split(options)]


class Run:
    """`execute` runs it to its end; `stop` ends it early and still gives the document."""

    def __init__(self, options: Options, progress: Callable[[str], None], make: Make | None = None) -> None:
        self.options = options
        self._make: Make = make or own_generators
        self.target: Target = load_target(Path(options.plan.target))
        self._progress = progress
        self._generators: list[Generator] = []
        self._processes = [measure.Process(name, pid, "service") for name, pid in self.target.processes.items()]
        self._metrics = measure.ServiceMetrics(self.target.private, self.target.token, self.target.ca_file)
        self.interrupted = False

    def stop(self) -> None:
        """An orderly end; what was measured until then is reported."""
        if not self.interrupted:
            self.interrupted = True
            self._progress(
                "ending: no more requests, waiting for what is under way; the report is written all the same"
            )
        for one in self._generators:
            one.end()

    async def execute(self) -> dict[str, Any]:
        """The document of the run. Raises TargetError."""
        with tempfile.TemporaryDirectory(prefix="qianyan-load-") as name:
            self._generators = self._make(self.options, Path(name))
            await asyncio.gather(*(one.start() for one in self._generators))
            listening = [asyncio.create_task(one.listen()) for one in self._generators]
            try:
                return await self._measured(listening)
            finally:
                for one in self._generators:
                    one.kill()
                await asyncio.gather(*listening)

    async def _measured(self, listening: list[asyncio.Task[None]]) -> dict[str, Any]:
        async with asyncio.timeout(_READY_S):
            await asyncio.gather(*(one.ready.wait() for one in self._generators))
        broken = next((one.error for one in self._generators if one.error), "")
        if broken:
            raise TargetError(broken)
        self._processes += [
            measure.Process(one.name, one.pid, "generator", threads=one.threads) for one in self._generators
        ]
        connector, timeout = aiohttp.TCPConnector(force_close=True), aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await self._metrics.look(session, 0.0)
            began, started, busy = time.monotonic(), datetime.now(UTC), measure.machine_busy()
            for one in self._generators:
                one.go()
            watching = asyncio.create_task(self._watch(session, began))
            try:
                await asyncio.gather(*listening)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            took_s, after = time.monotonic() - began, measure.machine_busy()
            await self._metrics.look(session, took_s)
        share = (after[0] - busy[0]) / max(1e-9, after[1] - busy[1])
        return self._document(started, took_s, share)

    async def _watch(self, session: aiohttp.ClientSession, began: float) -> None:
        """Looks at processes and metrics, and says how far it is, once a second or interval."""
        every, scraped = float(self.options.plan.part_s), 0.0
        while True:
            second = time.monotonic() - began
            for one in self._processes:
                one.look(second)
            # A scrape takes some milliseconds of a worker: seldom enough that no percentile of a long run holds it.
            if second - scraped >= max(_SCRAPE_S, self.options.plan.duration_s / 30):
                scraped = second
                await self._metrics.look(session, second)
            self._tell(second)
            await asyncio.sleep(max(0.05, every - (time.monotonic() - began) % every))

    def _tell(self, second: float) -> None:
        ended, faults = sum(one.ended for one in self._generators), sum(one.faults for one in self._generators)
        whole = self.options.plan.duration_s
        self._progress(f"{min(second, whole):5.0f} of {whole:.0f} s  {ended:>11,} answered  {faults:,} faults")

    # ---- the document

    def _document(self, started: datetime, took_s: float, busy: float) -> dict[str, Any]:
        documents = [document for one in self._generators for document in one.documents()]
        plan = self.options.plan
        seconds = min(plan.duration_s, took_s)
        figures = result.combine(documents, plan, seconds)
        total = figures["total"]
        return {
            "format": result.FORMAT,
            "name": self.options.name,
            "started_at": started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "seconds": seconds,
            "interrupted": self.interrupted,
            "interval_s": plan.part_s,
            "plan": {**asdict(plan), "engine": self.options.engine, "processes": self.options.processes},
            "environment": self._environment(figures["kinds"]),
            **figures,
            **({"wrk": wrk} if (wrk := next((one["wrk"] for one in documents if "wrk" in one), None)) else {}),
            "goals": verdict.judge(self.options.goals, total, wrk),
            "generator": self._generator(documents, total, busy),
            "processes": [
                {"name": one.name, "role": one.role, "series": one.series} for one in self._processes if one.series
            ],
            "metrics": {
                "series": self._metrics.series,
                "failure": self._metrics.failure,
                "routes": self._metrics.routes(),
            },
            **self._shape_findings(total),
        }

    def _environment(self, kinds: dict[str, Any]) -> dict[str, Any]:
        facts = self.target.facts
        answered = self._metrics.growth("ocsp_requests")
        told = min(1.0, self._metrics.growth("cache_hits") / answered) if answered else None
        return {
            "machine": facts.get("machine") or (measure.machine() if self.shared else {}),
            "generator_machine": measure.machine(),
            "versions": {
                **facts.get("versions", {}),
                "python": platform.python_version(),
                "generator": metadata.version("qianyan"),
            },
            "settings": facts.get("settings", {}),
            "signing": self.options.signing or facts.get("signing"),
            "nonce_share": result.nonce_share(kinds),
            "cache_share": self.options.cache_share if self.options.cache_share is not None else told,
            "population": {state: len(some) for state, some in self.target.population.items()},
        }

    @property
    def shared(self) -> bool:
        """Whether service and generator are on one machine."""
        host, _ = self.target.address("public")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def _generator(self, documents: list[dict[str, Any]], total: dict[str, Any], busy: float) -> dict[str, Any]:
        lag = result.whole_lag(documents)
        shares = {
            one.name: max((row[1] for row in one.series), default=0.0) / one.threads
            for one in self._processes
            if one.role == "generator"
        }
        checked, cpu = sum(one["checked"] for one in documents), sum(one["check_cpu_s"] for one in documents)
        lag_ms = lag.summary_ms()
        return {
            "lag_ms": lag_ms,
            "core_share": shares,
            "machine_busy": busy,
            "cpu_s": {document["name"]: document["cpu_s"] for document in documents},
            "checked": checked,
            "check_cpu_s": cpu,
            "check_us": cpu / checked * 1e6 if checked else 0.0,
            "samples_left_out": sum(one["left_out"] for one in documents),
            "connect_failures": sum(one["connect_failures"] for one in documents),
            "odd_status": next((one["odd_status"] for one in documents if one["odd_status"]), 0),
            "wrong": [text for one in documents for text in one["wrong"]],
            "limits": verdict.generator_limits(
                shares, lag_ms["p99"], total["latency_ms"]["p99"], busy, shared=self.shared
            ),
            "cautions": self._crowded(busy) if self.shared else [],
        }

    def _crowded(self, busy: float) -> list[str]:
        """What else than service and generator the figures may come from, on a machine that they share."""
        service = [one for one in self._processes if one.role == "service" and one.series]
        known = sum(one.mean(1) for one in self._processes)
        waits = {one.name: one.mean(3) for one in service}
        return verdict.crowding(busy, os.cpu_count() or 1, known if service else None, waits)

    def _shape_findings(self, total: dict[str, Any]) -> dict[str, Any]:
        """What the shape is for: the knee of a ramp, the drift of a soak."""
        rows = total["intervals"]
        if self.options.plan.shape == "ramp":
            share = [row[2] / row[1] if row[1] else 0.0 for row in rows]
            columns = [row[0] for row in rows], [row[1] for row in rows], [row[5] for row in rows]
            return {"knee": {"rate": verdict.knee(*columns, share), "highest": max(columns[1], default=0.0)}}
        if self.options.plan.shape == "soak":
            memory = {one.name: verdict.drift([(row[0], row[2]) for row in one.series]) for one in self._processes}
            latency = [(float(n), row[5]) for n, row in enumerate(rows)]
            return {"drift": {"memory": memory, "p99": verdict.drift(latency)}}
        return {}
