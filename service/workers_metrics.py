"""One scrape for all workers: each serves its own metrics on a socket in the run directory, whoever is scraped asks
the others and answers for all, with a label that says which worker it was.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

#: A worker that does not answer in this time counts as down for this scrape.
_TIMEOUT_S: Final = 2.0
PATH: Final = "/metrics"


class _Snapshot:
    """Metric families that are there already, as a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        """The families."""
        return self._families


async def _ask(path: Path) -> str | None:
    """The metrics text of the worker behind the socket; None where it does not answer."""
    connector = aiohttp.UnixConnector(path=str(path))
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(f"http://worker{PATH}") as response,
        ):
            return await response.text() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None


def merge(texts: dict[str, str | None]) -> bytes:
    """The workers' metrics as one text: every sample with a `worker` label, and which workers answered."""
    families: dict[str, Metric] = {}
    up = GaugeMetricFamily("qianyan_worker_up", "Whether the worker answered this scrape", labels=["worker"])
    for worker, text in sorted(texts.items()):
        up.add_metric([worker], 0 if text is None else 1)
        for family in text_string_to_metric_families(text or ""):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.samples.append(sample._replace(labels={**sample.labels, "worker": worker}))
    registry = CollectorRegistry()
    registry.register(_Snapshot([up, *families.values()]))
    return generate_latest(registry)


def socket_path(run_directory: Path, slot: int, pid: int) -> Path:
    """Where the worker with that process id serves its metrics; a successor in its slot has a socket of its own."""
    return run_directory / f"{slot}-{pid}.sock"


def _by_slot(run_directory: Path) -> dict[str, Path]:
    """The newest socket of each slot: while a worker is replaced there are two."""
    sockets = [name for name in os.listdir(run_directory) if name.endswith(".sock")]
    names = sorted(sockets, key=lambda name: int(name.partition("-")[2].partition(".")[0]))
    return {name.partition("-")[0]: run_directory / name for name in names}


async def collect(run_directory: Path, slot: int, own: bytes) -> bytes:
    """Every worker's metrics; `own` are this one's."""
    others = {worker: path for worker, path in _by_slot(run_directory).items() if worker != str(slot)}
    answers = await asyncio.gather(*(_ask(path) for path in others.values()))
    texts: dict[str, str | None] = dict(zip(others, answers, strict=True))
    return merge({**texts, str(slot): own.decode()})
