"""The numbers that say how status sets stand. One struct, registered where the caller says; help texts included.

Labels are outcomes only: "set", "delta", "superseded", "judged_wrong" and the kinds of `core.errors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


@dataclass(frozen=True, slots=True)
class StatusSetMetrics:
    """See `make`."""

    builds: Counter
    build_seconds: Histogram
    age_seconds: Gauge
    seconds_left: Gauge
    missing: Gauge
    judged_wrong: Gauge

    @classmethod
    def make(cls, registry: CollectorRegistry | None = None) -> StatusSetMetrics:
        """The struct, registered with `registry` where there is one."""
        return cls(
            builds=Counter(
                "qianyan_status_set_builds", "Status set builds by outcome.", ["outcome"], registry=registry
            ),
            build_seconds=Histogram(
                "qianyan_status_set_build_seconds",
                "Time from reading the store to the published status set or delta.",
                buckets=_BUCKETS,
                registry=registry,
            ),
            age_seconds=Gauge(
                "qianyan_status_set_age_seconds", "Age of the oldest newest status set.", registry=registry
            ),
            seconds_left=Gauge(
                "qianyan_status_set_seconds_left", "Seconds to the first nextUpdate of a status set.", registry=registry
            ),
            missing=Gauge(
                "qianyan_status_set_missing",
                "Authorities that should have a status set and have none.",
                registry=registry,
            ),
            judged_wrong=Gauge(
                "qianyan_status_set_judged_wrong",
                "Authorities whose last build was refused because it did not agree with the store: alarm above 0.",
                registry=registry,
            ),
        )

    def watch(self, freshness: Callable[[], tuple[float, float]]) -> None:
        """Reads age and seconds left from `freshness` whenever they are scraped."""
        self.age_seconds.set_function(lambda: freshness()[0])
        self.seconds_left.set_function(lambda: freshness()[1])
