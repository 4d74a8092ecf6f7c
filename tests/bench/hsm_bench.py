"""Measure the HSM pool over soft devices of a given latency, beside bare C threads over the same devices.

Usage: python tests/bench/hsm_bench.py [--devices 4] [--sessions 8] [--latency-us 1000] [--seconds 2] [--rounds 3]
                                       [--json] [--check]

The devices' ideal is devices x sessions / latency. A soft device really signs and really sleeps on this machine's
processors, so the bare C threads say how much of the ideal the machine gives to anybody; the pool is to be judged
beside that. Signatures are verified after each round. In the end a device is killed and repaired under load.
With --check the exit status is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import structlog

from core.errors import QianyanError
from signer._native import sm2
from signer.engine.sdf.pool import SdfPool
from signer.engine.sdf.session import DeviceKey
from tests.hsm_world import INDEX, make_devices, settings_for
from tests.native.compiling import compile_program
from tests.softsdf import PASSWORD, SoftDevice

HERE = Path(__file__).resolve().parent
#: Of the devices' ideal, and seconds until a repaired device does as much as the others.
SHARE_GOAL = 0.95
RETURN_GOAL_S = 5.0
VOLUME = "batches of 2,048, 2 at once"


@dataclass
class Measured:
    """One way of asking: rate, processors used, and how long batches took."""

    rates: list[float] = field(default_factory=list)
    processors: list[float] = field(default_factory=list)
    batches_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def line(self, what: str, ideal: float) -> str:
        rate = self.rate
        text = f"{what:<34}{rate:>9,.0f}/s {rate / ideal:>6.1%}   processors {statistics.median(self.processors):.2f}"
        if self.batches_s:
            cuts = statistics.quantiles(self.batches_s, n=100)
            text += f"   batch p50 {cuts[49] * 1e3:.2f} ms, p99 {cuts[98] * 1e3:.2f} ms"
        return text


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[tuple[list[SoftDevice], SdfPool, DeviceKey, sm2.PrivateKey]]:
    with tempfile.TemporaryDirectory(prefix="qianyan-hsm-bench-") as directory:
        key = sm2.PrivateKey.generate()
        devices = make_devices(Path(directory), args.devices, key)
        for device in devices:
            device["latency_us"] = args.latency_us
        pool = SdfPool(settings_for(Path(directory), devices, args.sessions, backoff_min_ms=200, backoff_max_ms=3_000))
        pool.start()
        try:
            yield devices, pool, pool.open(INDEX, key.public_key.to_bytes()), key
        finally:
            pool.close()


def used() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def bare(program: Path, devices: list[SoftDevice], args: argparse.Namespace, into: Measured) -> None:
    """The C threads, in a process of their own: their device counters are the ones that the pool's devices have."""
    command = [str(program), str(args.sessions), str(args.seconds), PASSWORD.decode()]
    ran = subprocess.run([*command, *(str(one.library) for one in devices)], capture_output=True, text=True, check=True)
    rate, processors = map(float, ran.stdout.split())
    into.rates.append(rate)
    into.processors.append(processors)


def pooled(
    pool: SdfPool, handle: DeviceKey, key: sm2.PrivateKey, lanes: int, count: int, seconds: float, into: Measured
) -> None:
    """So many threads, each handing batches of `count` digests to the pool."""
    results: list[tuple[bytes, bytes]] = []
    taken: list[float] = []
    made = [0] * lanes
    until = time.monotonic() + seconds

    def lane(number: int) -> None:
        digests = os.urandom(32 * count)
        signatures = b""
        while (began := time.monotonic()) < until:
            signatures = pool.sign([(handle, count)], digests)
            taken.append(time.monotonic() - began)
            made[number] += count
        results.append((digests, signatures))

    began, spent = time.monotonic(), used()
    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - began
    for digests, signatures in results:
        assert sm2.verify_many(key.public_key, digests, signatures) == b"\1" * count
    into.rates.append(sum(made) / elapsed)
    into.processors.append((used() - spent) / elapsed)
    into.batches_s += taken


def recovery(devices: list[SoftDevice], pool: SdfPool, handle: DeviceKey) -> tuple[float, int, int]:
    """Seconds from a repair until the device does as much as the others; batches asked meanwhile; how many failed."""
    stop = threading.Event()
    asked, errors = [0], [0]

    def lane() -> None:
        while not stop.is_set():
            asked[0] += 1
            try:
                pool.sign([(handle, 512)], bytes(32 * 512))
            except QianyanError:
                errors[0] += 1

    threads = [threading.Thread(target=lane) for _ in range(4)]
    for thread in threads:
        thread.start()
    made(devices, 1.0)
    devices[0].kill()
    made(devices, 2.0)
    devices[0].repair()
    repaired = time.monotonic()
    while time.monotonic() - repaired < 30:
        own, *others = made(devices, 0.1)
        if own >= 0.95 * statistics.mean(others):
            break
    back_s = time.monotonic() - repaired
    stop.set()
    for thread in threads:
        thread.join()
    return back_s, asked[0], errors[0]


def made(devices: list[SoftDevice], seconds: float) -> list[int]:
    """How many signatures each device makes in so long."""
    before = [device["signatures"] for device in devices]
    threading.Event().wait(seconds)
    return [device["signatures"] - was for device, was in zip(devices, before, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the HSM pool over soft devices.")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--latency-us", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    ideal = args.devices * args.sessions * 1e6 / args.latency_us
    shapes = {VOLUME: (2, 2_048), "batches of 512, 4 at once": (4, 512), "lone digests": (1, 1)}
    measured = {what: Measured() for what in ("bare C threads", *shapes)}
    with opened(args) as (devices, pool, handle, key):
        program = Path(tempfile.mkdtemp(prefix="qianyan-hsm-bench-")) / "hsm_bench"
        compile_program(program, "gcc", [str(HERE / "hsm_bench.c")], "-O2", "-lpthread", "-ldl")
        for _ in range(args.rounds):
            bare(program, devices, args, measured["bare C threads"])
            for what, (lanes, count) in shapes.items():
                pooled(pool, handle, key, lanes, count, args.seconds, measured[what])
        back_s, asked, errors = recovery(devices, pool, handle)
        concurrent = sum(device["concurrent"] for device in devices)
    share = measured[VOLUME].rate / ideal
    goals = {
        f"{SHARE_GOAL:.0%} of the ideal": share >= SHARE_GOAL,
        "no request failed": errors == 0,
        f"back at full rate within {RETURN_GOAL_S:g} s": back_s <= RETURN_GOAL_S,
        "no session was used by two threads": concurrent == 0,
    }
    if args.json:
        report = {
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "load": os.getloadavg()[0],
            "ideal_per_s": ideal,
            "share": share,
            "per_s": {what: one.rate for what, one in measured.items()},
            "processors": {what: statistics.median(one.processors) for what, one in measured.items()},
            "back_s": back_s,
            "batches": asked,
            "batches_failed": errors,
            "goals": goals,
        }
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {args.devices} devices"
        )
        print(f"x {args.sessions} sessions, {args.latency_us} us a signature: {ideal:,.0f}/s at best")
        for what, one in measured.items():
            print(one.line(what, ideal if what != "lone digests" else 1e6 / args.latency_us))
        print(f"a device killed and repaired under load: {errors} of {asked} batches failed;", end=" ")
        print(f"it did as much as the others {back_s:.2f} s after the repair")
        print(f"share of {ideal:,.0f}: {share:.1%}")
        for goal, met in goals.items():
            print(f"{'met   ' if met else 'MISSED'} {goal}")
    return 0 if all(goals.values()) or not args.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
