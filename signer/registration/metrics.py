"""What signed requests count. Labels are fixed words or an error's `kind`, never what a caller chose."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram


@dataclass(frozen=True, slots=True)
class RegistrationMetrics:
    """See the help texts."""

    requests: Counter
    refusals: Counter
    seconds: Histogram
    batch: Histogram

    @classmethod
    def create(cls, registry: CollectorRegistry | None = None) -> RegistrationMetrics:
        """Registers with `registry`; with None the metrics count and are not shown."""
        return cls(
            Counter(
                "qianyan_ra_requests",
                "Signed requests, by kind and outcome (entered, approved, done, rejected, replayed).",
                ["kind", "outcome"],
                registry=registry,
            ),
            Counter(
                "qianyan_ra_refusals",
                "Signed requests refused, by kind of error.",
                ["kind"],
                registry=registry,
            ),
            Histogram(
                "qianyan_ra_request_seconds",
                "Time from a signed request to its durable outcome, in seconds.",
                registry=registry,
                buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            ),
            Histogram(
                "qianyan_ra_signature_batch",
                "Signatures of requests that were verified in one native call.",
                registry=registry,
                buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            ),
        )
