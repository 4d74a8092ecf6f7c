"""What is measured beside the requests: processor time and memory of processes, and the service's own metrics.

Reads /proc and GET /metrics; owns the series, judges nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    try:
        texts = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(text) for line in texts for text in line.split()]


def waited_s(pid: int) -> float:
    """Seconds that the threads of a process and of all below it stood ready and no core was free (schedstat); 0 where
    the kernel does not tell."""
    found = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError):
            found += int(file.read_text().split()[1])
    return found / 1e9 + sum(waited_s(child) for child in _children(pid))


def usage(pid: int, *, tree: bool = True) -> tuple[float, int]:
    """(processor seconds, resident octets) of a process and, with `tree`, of all below it; zeros where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0
    cpu, memory = (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE
    for child in _children(pid) if tree else []:
        more = usage(child)
        cpu, memory = cpu + more[0], memory + more[1]
    return cpu, memory


def machine_busy() -> tuple[float, float]:
    """(busy, all) processor seconds of the machine since it started."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    whole = sum(fields) / _TICKS
    return whole - (fields[3] + fields[4]) / _TICKS, whole


def machine() -> dict[str, Any]:
    """What this machine is."""
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith(("model name", "Hardware", "Processor"))), "unknown",
    )  # fmt: skip
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE
    return {"processor": cpu, "cores": len(os.sched_getaffinity(0)), "memory_mb": memory >> 20,
            "kernel": os.uname().release, "architecture": os.uname().machine}  # fmt: skip


@dataclass
class Process:
    """One process, or a tree of them, over time: [second, share of a core, resident MB, share of the time in which a
    thread of it waited for a core]. threads: cores that it can fill."""

    name: str
    pid: int
    role: str
    series: list[tuple[float, float, float, float]] = field(default_factory=list)
    threads: int = 1
    _last: tuple[float, float, float] | None = None

    def look(self, second: float) -> None:
        """Adds what it used since the last look."""
        now, (cpu, memory), waited = time.monotonic(), usage(self.pid), waited_s(self.pid)
        if self._last is not None and memory:
            passed = now - self._last[2]
            used, stood = max(0.0, cpu - self._last[0]) / passed, max(0.0, waited - self._last[1]) / passed
            self.series.append((round(second, 2), round(used, 4), round(memory / 1e6, 1), round(stood, 4)))
        self._last = (cpu, waited, now)

    def mean(self, column: int) -> float:
        """Of a column of the series."""
        return sum(row[column] for row in self.series) / len(self.series) if self.series else 0.0


#: Counters and histograms whose growth is kept, and gauges that are kept as they are.
_GROWTH: Final = {
    "batches": ("qianyan_sign_batch_size_count", {}),
    "signatures": ("qianyan_sign_batch_size_sum", {}),
    "cache_hits": ("qianyan_ocsp_cache_total", {"outcome": "hit"}),
    "cache_misses": ("qianyan_ocsp_cache_total", {"outcome": "miss"}),
    "cache_joined": ("qianyan_ocsp_cache_total", {"outcome": "joined"}),
    "ocsp_signatures": ("qianyan_ocsp_signatures_total", {}),
    "ocsp_requests": ("qianyan_ocsp_requests_total", {}),
    "redis_hits": ("qianyan_redis_lookups_total", {"outcome": "hit"}),
    "redis_lookups": ("qianyan_redis_lookups_total", {}),
}
_ROUTES: Final = "qianyan_http_request_seconds"
_LARGEST: Final = {
    "crl_age_s": "qianyan_crl_age_seconds",
    "set_age_s": "qianyan_status_set_age_seconds",
    "feed_age_s": "qianyan_feed_age_seconds",
    "directory_lag_s": "qianyan_directory_lag_seconds",
    "sign_pending": "qianyan_sign_pending",
}


def read_metrics(text: str) -> dict[str, float]:
    """The figures that are kept, summed over workers (gauges: the largest)."""
    found = dict.fromkeys((*_GROWTH, *_LARGEST), 0.0)
    wanted = {metric for metric, _ in _GROWTH.values()} | set(_LARGEST.values())
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name not in wanted:
                continue
            for name, (metric, labels) in _GROWTH.items():
                if metric == sample.name and labels.items() <= sample.labels.items():
                    found[name] += sample.value
            for name, metric in _LARGEST.items():
                if metric == sample.name:
                    found[name] = max(found[name], sample.value)
    return found


def _route_times(text: str) -> dict[tuple[str, str], tuple[float, dict[float, float]]]:
    """(listener, route) → (seconds in all, {bound in seconds: answers within it}), summed over workers."""
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    buckets: defaultdict[tuple[str, str], defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        if family.name != _ROUTES:
            continue
        for sample in family.samples:
            key = (sample.labels["listener"], sample.labels["route"])
            if sample.name.endswith("_bucket"):
                buckets[key][float(sample.labels["le"])] += sample.value
            elif sample.name.endswith("_sum"):
                seconds[key] += sample.value
    return {key: (seconds[key], dict(some)) for key, some in buckets.items()}


def _within_ms(buckets: dict[float, float], wanted: float) -> float | None:
    """The lowest bound that so many answers do not pass."""
    bound = next((bound for bound in sorted(buckets) if buckets[bound] >= wanted), inf)
    return None if bound == inf else bound * 1e3


@dataclass
class ServiceMetrics:
    """GET /metrics over time. `series`: (second, figures); empty where the service does not tell them."""

    url: str
    token: str
    ca_file: str = ""
    series: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    failure: str = ""
    _first: str = ""
    _last: str = ""

    async def look(self, session: aiohttp.ClientSession, second: float) -> None:
        """One scrape; a failure is told once and does not end the run."""
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            async with session.get(f"{self.url}/metrics", headers=headers) as response:
                text = await response.text()
                if response.status != 200:
                    self.failure = f"GET /metrics answered {response.status}: the token needs the scope `metrics`"
                    return
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.failure = f"GET /metrics: {error!r}"
            return
        self._first, self._last = self._first or text, text
        self.series.append((round(second, 2), await asyncio.to_thread(read_metrics, text)))

    def routes(self) -> list[dict[str, Any]]:
        """What the service says of each route over the whole run, most asked first: {"listener", "route", "count",
        "mean_ms", "p50_ms", "p99_ms"}; percentiles are bounds of the service's buckets, None past the last."""
        before, after = _route_times(self._first), _route_times(self._last)
        found = []
        for (listener, route), (total_s, buckets) in after.items():
            was_s, was = before.get((listener, route), (0.0, {}))
            grown = {bound: count - was.get(bound, 0.0) for bound, count in buckets.items()}
            count = grown.get(inf, 0.0)
            if count > 0:
                row = {
                    "listener": listener,
                    "route": route,
                    "count": int(count),
                    "mean_ms": (total_s - was_s) / count * 1e3,
                }
                found.append(row | {f"p{share}_ms": _within_ms(grown, count * share / 100) for share in (50, 99)})
        return sorted(found, key=lambda one: -one["count"])

    def growth(self, name: str) -> float:
        """Over the whole run."""
        return self.series[-1][1][name] - self.series[0][1][name] if len(self.series) > 1 else 0.0
