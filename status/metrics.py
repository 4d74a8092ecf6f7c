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
        self.renewals = Counter(
            "qianyan_ocsp_renewals", "Kept OCSP answers made anew before anybody had to wait", registry=registry
        )
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

    def request(self, result: str, count: int = 1) -> None:
        """Counts requests under "ok" or an error's kind."""
        self._requests.get(result, self._requests["internal"]).inc(count)


#: What came of asking Redis for an answer. overtaken: the certificate has changed since; unknown: too old to be judged,
#: or from another history of the store; rejected: not written by one of ours; outdated: past its renewal.
REDIS_OUTCOMES: Final = ("hit", "absent", "overtaken", "unknown", "outdated", "rejected", "failed", "skipped")
_REDIS_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}
_REDIS_BUCKETS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class RedisMetrics:
    """What is counted about the shared cache."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        lookups = Counter(
            "qianyan_redis_lookups", "OCSP answers asked of Redis, by what came of it", ["outcome"], registry=registry
        )
        writes = Counter("qianyan_redis_writes", "OCSP answers for Redis, by what came of it", ["outcome"],
                         registry=registry)  # fmt: skip
        self._lookups = {outcome: lookups.labels(outcome) for outcome in REDIS_OUTCOMES}
        self._writes = {outcome: writes.labels(outcome) for outcome in ("written", "dropped", "failed")}
        self.failures = Counter(
            "qianyan_redis_failures", "Commands that Redis did not answer in time", registry=registry
        )
        self.hints = Counter("qianyan_redis_hints", "Hints that the change feed has moved", registry=registry)
        self.seconds = Histogram(
            "qianyan_redis_seconds", "Time of one MGET", buckets=_REDIS_BUCKETS_S, registry=registry
        )
        self._state = Gauge(
            "qianyan_redis_breaker", "Whether Redis is asked: 0 yes, 1 on trial, 2 no", registry=registry
        )

    def lookups(self, outcome: str, count: int = 1) -> None:
        """Counts answers asked for."""
        self._lookups[outcome].inc(count)

    def writes(self, outcome: str, count: int = 1) -> None:
        """Counts answers to be written."""
        self._writes[outcome].inc(count)

    def state(self, state: str) -> None:
        """The breaker's state."""
        self._state.set(_REDIS_STATES[state])


class PresignMetrics:
    """How far making answers in advance has got."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.certificates = Gauge(
            "qianyan_ocsp_presign_certificates", "Certificates in the pass under way", registry=registry
        )
        self.looked_at = Gauge(
            "qianyan_ocsp_presign_looked_at", "Certificates that the pass under way has looked at", registry=registry
        )
        self.signed = Counter("qianyan_ocsp_presign_signed", "Answers made in advance", registry=registry)
        self.passes = Counter("qianyan_ocsp_presign_passes", "Passes over all certificates", registry=registry)
        self.seconds = Gauge("qianyan_ocsp_presign_pass_seconds", "Time of the last whole pass", registry=registry)
