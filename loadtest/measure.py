"""What is measured beside the requests: processor time and memory of processes, and the service's own metrics.

Reads /proc and GET /metrics; owns the series, judges nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
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
    """One process, or a tree of them, over time: [second, share of a core, resident MB]."""

    name: str
    pid: int
    role: str
    series: list[tuple[float, float, float]] = field(default_factory=list)
    _last: tuple[float, float] | None = None

    def look(self, second: float) -> None:
        """Adds what it used since the last look."""
        now, (cpu, memory) = time.monotonic(), usage(self.pid)
        if self._last is not None and memory:
            used = max(0.0, cpu - self._last[0]) / (now - self._last[1])
            self.series.append((round(second, 2), round(used, 4), round(memory / 1e6, 1)))
        self._last = (cpu, now)


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


@dataclass
class ServiceMetrics:
    """GET /metrics over time. `series`: (second, figures); empty where the service does not tell them."""

    url: str
    token: str
    ca_file: str = ""
    series: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    failure: str = ""

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
        self.series.append((round(second, 2), await asyncio.to_thread(read_metrics, text)))

    def growth(self, name: str) -> float:
        """Over the whole run."""
        return self.series[-1][1][name] - self.series[0][1][name] if len(self.series) > 1 else 0.0
