"""Metrics of the listeners themselves; each package brings its own.

Counted in plain lists and turned into Prometheus families when scraped: a Histogram of the client library takes a lock
and walks its buckets on every request, which is a tenth of what a small request costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

_BUCKETS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)
_BOUNDS: Final = (*(str(bound) for bound in _BUCKETS_S), "+Inf")


class _Series:
    """Requests of one listener, route and status, by time taken."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * len(_BOUNDS)
        self.seconds = 0.0


class HttpMetrics:
    """Requests by listener, route pattern and status; seconds by listener and route. Only the event loop counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._series: dict[tuple[str, str, int], _Series] = {}
        registry.register(self)

    def observe(self, listener: str, route: str, status: int, seconds: float) -> None:
        """Counts one answered request."""
        key = (listener, route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series()
        series.buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        series.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """For the registry: a scrape's view."""
        requests = CounterMetricFamily(
            "qianyan_http_requests", "Requests answered", labels=["listener", "route", "status"]
        )
        merged: dict[tuple[str, str], _Series] = {}
        for (listener, route, status), series in sorted(self._series.items()):
            requests.add_metric([listener, route, str(status)], sum(series.buckets))
            whole = merged.setdefault((listener, route), _Series())
            whole.seconds += series.seconds
            whole.buckets = [a + b for a, b in zip(whole.buckets, series.buckets, strict=True)]
        yield requests
        seconds = HistogramMetricFamily(
            "qianyan_http_request_seconds",
            "Time from the request's headers to its answer, in seconds",
            labels=["listener", "route"],
        )
        for (listener, route), whole in merged.items():
            running, cumulative = 0, []
            for bound, count in zip(_BOUNDS, whole.buckets, strict=True):
                running += count
                cumulative.append((bound, float(running)))
            seconds.add_metric([listener, route], cumulative, whole.seconds)
        yield seconds
