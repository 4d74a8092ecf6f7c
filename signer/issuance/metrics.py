"""What issuance counts. Labels are fixed words or an error's `kind`, never what a caller chose."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(frozen=True, slots=True)
class IssuanceMetrics:
    """See the help texts."""

    certificates: Counter
    refusals: Counter
    changes: Counter
    seconds: Histogram
    groups: Histogram

    @classmethod
    def create(cls, registry: CollectorRegistry | None = None) -> IssuanceMetrics:
        """Registers with `registry`; with None the metrics count and are not shown."""
        return cls(
            Counter(
                "qianyan_certificates_issued",
                "Certificates issued, by usage (sign, encrypt).",
                ["usage"],
                registry=registry,
            ),
            Counter(
                "qianyan_certificate_refusals",
                "Certificate requests refused, by kind of error.",
                ["kind"],
                registry=registry,
            ),
            Counter(
                "qianyan_certificate_changes",
                "Certificates whose state changed, by change (revoke, hold, resume).",
                ["change"],
                registry=registry,
            ),
            Histogram(
                "qianyan_issuance_seconds",
                "Time from a request to its committed certificates, in seconds.",
                registry=registry,
                buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            ),
            Histogram(
                "qianyan_issuance_group_size",
                "Requests for certificates that shared their transactions.",
                registry=registry,
                buckets=(1, 2, 4, 8, 16, 32),
            ),
        )


@dataclass(frozen=True, slots=True)
class KmcMetrics:
    """See the help texts."""

    keys: Gauge
    made: Counter
    handed_out: Counter

    @classmethod
    def create(cls, registry: CollectorRegistry | None = None) -> KmcMetrics:
        """Registers with `registry`; with None the metrics count and are not shown."""
        return cls(
            Gauge(
                "qianyan_kmc_keys",
                "Encryption keys in each store of key management (spare, in_use, history), as last counted.",
                ["store"],
                registry=registry,
            ),
            Counter("qianyan_kmc_keys_made", "Encryption keys made in advance.", registry=registry),
            Counter(
                "qianyan_kmc_keys_handed_out",
                "Encryption keys enveloped for somebody, by origin (spare, made, recovered; "
                "served: for another authority).",
                ["origin"],
                registry=registry,
            ),
        )
