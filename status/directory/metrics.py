"""The numbers that say whether directories are fresh. One struct for all targets; help texts included.

Labels are the targets' names in the settings, and fixed words.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_DELAY_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 14_400, 86_400)


@dataclass(frozen=True, slots=True)
class DirectoryMetrics:
    """See `make`."""

    leading: Gauge
    connected: Gauge
    lag_seconds: Gauge
    pending: Gauge
    aside: Gauge
    loading: Gauge
    published: Counter
    changed: Counter
    refused: Counter
    failures: Counter
    delay_seconds: Histogram

    @classmethod
    def make(cls, registry: CollectorRegistry | None = None) -> DirectoryMetrics:
        """The struct, registered with `registry` where there is one."""

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"qianyan_directory_{name}", text, ["target"], registry=registry)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"qianyan_directory_{name}", text, ["target"], registry=registry)

        return cls(
            leading=gauge("leading", "1 where this process publishes to the target; the others stand by."),
            connected=gauge("connected", "1 while the target answers the process that publishes to it."),
            lag_seconds=gauge("lag_seconds", "Age of the oldest outbox row that the target has not taken, or 0."),
            pending=gauge("pending", "Outbox rows that the target has not taken."),
            aside=gauge("aside", "What the target refused and nobody has settled (qianyan directory status)."),
            loading=gauge("loading", "1 while everything is being delivered anew."),
            published=counter("published", "Outbox rows that the target has taken."),
            changed=counter("changed", "Certificates, authorities and CRLs for which something was changed there."),
            refused=counter("refused", "Refusals by the target, each set aside."),
            failures=counter("failures", "Times that the target could not be used, or the store not asked."),
            delay_seconds=Histogram(
                "qianyan_directory_delay_seconds",
                "Time from the commit of a change to its being visible at the target.",
                ["target", "change"],
                buckets=_DELAY_BUCKETS,
                registry=registry,
            ),
        )
