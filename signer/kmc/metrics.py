"""What CA-KM messages count. Labels are fixed words and names from the settings, never what a message says."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """See the help texts."""

    requests: Counter
    messages: Counter
    seconds: Histogram

    @classmethod
    def create(cls, registry: CollectorRegistry | None = None) -> ServerMetrics:
        """Registers with `registry`; with None the metrics count and are not shown."""
        return cls(
            Counter(
                "qianyan_kmc_requests",
                "Requests of other authorities, by kind (apply, restore, revoke) and outcome (ok, error).",
                ["kind", "outcome"],
                registry=registry,
            ),
            Counter(
                "qianyan_kmc_messages",
                "CA-KM messages of other authorities, by outcome: answered, repeated (a task answered before), "
                "refused (nothing of it was done).",
                ["outcome"],
                registry=registry,
            ),
            Histogram(
                "qianyan_kmc_answer_seconds",
                "From a CA-KM message to its signed answer, in seconds.",
                registry=registry,
                buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            ),
        )


@dataclass(frozen=True, slots=True)
class ClientMetrics:
    """See the help texts."""

    calls: Counter
    seconds: Histogram
    open: Gauge
    keys: Gauge

    @classmethod
    def create(cls, registry: CollectorRegistry | None = None) -> ClientMetrics:
        """Registers with `registry`; with None the metrics count and are not shown."""
        return cls(
            Counter(
                "qianyan_kmc_centre_calls",
                "Messages to another key-management centre, by centre and outcome (ok, error, unavailable, rejected: "
                "its answer was not believed).",
                ["centre", "outcome"],
                registry=registry,
            ),
            Histogram(
                "qianyan_kmc_centre_seconds",
                "Time that a key-management centre took to answer, in seconds.",
                ["centre"],
                registry=registry,
                buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            ),
            Gauge(
                "qianyan_kmc_centre_open",
                "1 while a centre is not asked, because it failed several times in a row.",
                ["centre"],
                registry=registry,
            ),
            Gauge(
                "qianyan_kmc_centre_keys",
                "Keys of another centre, by state (asked, answered, used, ending, ended, refused), as last counted; "
                "ending that stays: the centre does not take the end of keys.",
                ["centre", "state"],
                registry=registry,
            ),
        )
