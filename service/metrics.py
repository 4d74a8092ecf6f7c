"""Metrics of the listeners themselves; each package brings its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)


class HttpMetrics:
    """Requests by listener, route pattern and status; seconds by listener and route."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "qianyan_http_requests", "Requests answered", ["listener", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "qianyan_http_request_seconds",
            "Time from the request's headers to its answer, in seconds",
            ["listener", "route"],
            registry=registry,
            buckets=_BUCKETS_S,
        )
        # labels() locks and builds a tuple of text each time; the children are looked up once.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, listener: str, route: str, status: int, seconds: float) -> None:
        """Counts one answered request."""
        key = (listener, route, status)
        child = self._children.get(key)
        if child is None:
            child = (self._requests.labels(listener, route, str(status)), self._seconds.labels(listener, route))
            self._children[key] = child
        child[0].inc()
        child[1].observe(seconds)
