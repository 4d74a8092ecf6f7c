"""The numbers that say whether CRLs are fresh. One struct, registered where the caller says; help texts included.

Labels are outcomes only: "published", "superseded" and the kinds of `core.errors`. Freshness is told for the scope
that is worst off, read when it is scraped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: To a day, past which no status may be out of date.
_VISIBLE_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
_BUILD_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


@dataclass(frozen=True, slots=True)
class CrlMetrics:
    """See `make`."""

    builds: Counter
    build_seconds: Histogram
    age_seconds: Gauge
    seconds_left: Gauge
    entries: Gauge
    size_bytes: Gauge
    missing: Gauge
    late: Gauge
    visible_seconds: Histogram
    files_written: Counter
    files_failing: Gauge
    store_down_serves: Counter

    @classmethod
    def make(cls, registry: CollectorRegistry | None = None) -> CrlMetrics:
        """The struct, registered with `registry` where there is one."""
        return cls(
            builds=Counter("qianyan_crl_builds", "CRL builds by outcome.", ["outcome"], registry=registry),
            build_seconds=Histogram(
                "qianyan_crl_build_seconds",
                "Time from reading the store to the published CRL.",
                buckets=_BUILD_BUCKETS,
                registry=registry,
            ),
            age_seconds=Gauge("qianyan_crl_age_seconds", "Age of the oldest current CRL.", registry=registry),
            seconds_left=Gauge(
                "qianyan_crl_seconds_left",
                "Time to nextUpdate of the current CRL that reaches it first; negative where it has passed.",
                registry=registry,
            ),
            entries=Gauge("qianyan_crl_entries", "Entries in all current CRLs.", registry=registry),
            size_bytes=Gauge("qianyan_crl_size_bytes", "Size of all current CRLs together.", registry=registry),
            missing=Gauge("qianyan_crl_missing", "Partitions that have no CRL yet.", registry=registry),
            late=Gauge(
                "qianyan_crl_late",
                "Partitions whose CRL has less of its life left than crl.alarm_s; readiness is red with them.",
                registry=registry,
            ),
            visible_seconds=Histogram(
                "qianyan_crl_visible_seconds",
                "From the commit of a revocation, hold or release to that of the list, or to the file, that shows it.",
                ["channel"],
                buckets=_VISIBLE_BUCKETS,
                registry=registry,
            ),
            files_written=Counter(
                "qianyan_crl_files_written",
                "CRLs, deltas and certificates written to crl.directory.",
                registry=registry,
            ),
            files_failing=Gauge(
                "qianyan_crl_files_failing", "1 while crl.directory cannot be written, else 0.", registry=registry
            ),
            store_down_serves=Counter(
                "qianyan_crl_store_down_serves",
                "CRLs served from memory, within their nextUpdate, because the store could not be asked.",
                registry=registry,
            ),
        )

    def watch(self, freshness: Callable[[], tuple[float, float]]) -> None:
        """Reads age and seconds left from `freshness` whenever they are scraped."""
        self.age_seconds.set_function(lambda: freshness()[0])
        self.seconds_left.set_function(lambda: freshness()[1])
