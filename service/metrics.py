"""Metrics of the listeners themselves; each package brings its own.

Counted in plain lists and turned into Prometheus families when scraped: a Histogram of the client library takes a lock
and walks its buckets on every request, which is a tenth of what a small request costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from aiohttp.web_urldispatcher import AbstractRoute
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

BUCKETS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)
_BOUNDS: Final = (*(str(bound) for bound in BUCKETS_S), "+Inf")


class Series:
    """Requests of one listener, route and status, by time taken."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * len(_BOUNDS)
        self.seconds = 0.0

    def count(self, seconds: float) -> None:
        """Counts one answered request."""
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds


class HttpMetrics:
    """Requests by listener, route pattern and status; seconds by listener and route. Only the event loop counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._series: dict[tuple[str, str, int], Series] = {}
        #: Called before each scrape: whoever counts elsewhere brings it here.
        self.before_scrape: list[Callable[[], None]] = []
        registry.register(self)

    def add(self, listener: str, route: str, status: int, buckets: Sequence[int], seconds: float) -> None:
        """Adds requests that were counted elsewhere, by bucket (BUCKETS_S, and past the last)."""
        series = self._series.setdefault((listener, route, status), Series())
        series.buckets = [a + b for a, b in zip(series.buckets, buckets, strict=True)]
        series.seconds += seconds

    @staticmethod
    def pattern(route: AbstractRoute) -> str:
        """What a route is called in metrics and logs: its pattern; "none" where there is no such path."""
        resource = route.resource
        return "none" if resource is None else resource.canonical

    def listener(self, listener: str) -> Callable[[AbstractRoute, int], Series]:
        """Gives the series of a route and status of that listener.

        Routes are kept as they are: they live as long as the application. The route of a path that is not there is
        made anew for each request, and is not kept.
        """
        known: dict[tuple[AbstractRoute, int], Series] = {}

        def series_of(route: AbstractRoute, status: int) -> Series:
            series = known.get((route, status))
            if series is None:
                key = (listener, self.pattern(route), status)
                series = self._series.setdefault(key, Series())
                if route.resource is not None:
                    known[route, status] = series
            return series

        return series_of

    def collect(self) -> Iterator[Metric]:
        """For the registry: a scrape's view."""
        for bring in self.before_scrape:
            bring()
        requests = CounterMetricFamily(
            "qianyan_http_requests", "Requests answered", labels=["listener", "route", "status"]
        )
        merged: dict[tuple[str, str], Series] = {}
        for (listener, route, status), series in sorted(self._series.items()):
            requests.add_metric([listener, route, str(status)], sum(series.buckets))
            whole = merged.setdefault((listener, route), Series())
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
