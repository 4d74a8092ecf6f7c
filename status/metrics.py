"""What is counted about status answers. Labels are fixed words only, never anything a client chose."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Values of `result`: "ok", or the kind of the error (core.errors) that the answer came from.
RESULTS: Final = ("ok", "malformed", "not_found", "unavailable", "busy", "refused", "too_large", "internal")

_BUCKETS_S: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class StatusMetrics:
    """The metrics of this package; registered with `registry` where one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        requests = Counter(
            "qianyan_ocsp_requests", "OCSP requests by what they were answered with", ["result"], registry=registry
        )
        cache = Counter(
            "qianyan_ocsp_cache",
            "OCSP requests that may be cached: found (hit), made (miss), or shared with one being made (joined)",
            ["outcome"],
            registry=registry,
        )
        self._requests = {result: requests.labels(result) for result in RESULTS}
        self.hits = cache.labels("hit")
        self.misses = cache.labels("miss")
        self.joined = cache.labels("joined")
        self.signatures = Counter("qianyan_ocsp_signatures", "OCSP answers signed", registry=registry)
        self.cache_bytes = Gauge("qianyan_ocsp_cache_bytes", "Memory used by cached OCSP answers", registry=registry)
        self.cache_entries = Gauge("qianyan_ocsp_cache_entries", "Cached OCSP answers", registry=registry)
        self.seconds = Histogram(
            "qianyan_ocsp_seconds",
            "Time from a whole OCSP request to its answer",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.bulk_serials = Counter("qianyan_status_serials", "Serials asked by POST /v1/status", registry=registry)

    def request(self, result: str) -> None:
        """Counts a request under "ok" or an error's kind."""
        self._requests.get(result, self._requests["internal"]).inc()
