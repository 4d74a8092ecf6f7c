"""What the engine measures. Owns names and help texts; who wants them exported hands in a registry."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SIZES = (1, 2, 4, 8, 16, 32, 48, 64, 128, 256, 512, 1024, 2048, 4096)
_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Batch size, wait and native time apart, so that queueing can be told from arithmetic."""

    batch_size: Histogram
    wait_seconds: Histogram
    native_seconds: Histogram
    refusals: Counter
    pending: Gauge
    decrypted: Counter
    decrypt_seconds: Histogram

    @classmethod
    def create(cls, registry: CollectorRegistry | None = None) -> EngineMetrics:
        """Registers with `registry`; with None they count for nobody."""
        return cls(
            Histogram("qianyan_sign_batch_size", "Signatures per native call.", buckets=_SIZES, registry=registry),
            Histogram(
                "qianyan_sign_wait_seconds",
                "How long a batch's oldest item waited before its native call.",
                buckets=_SECONDS,
                registry=registry,
            ),
            Histogram("qianyan_sign_native_seconds", "Time in the native call.", buckets=_SECONDS, registry=registry),
            Counter("qianyan_sign_refusals", "Requests that were answered with an error.", ["code"], registry=registry),
            Gauge("qianyan_sign_pending", "Signatures waiting or under way.", registry=registry),
            Counter(
                "qianyan_decrypted", "Ciphertexts that were opened, or could not be.", ["outcome"], registry=registry
            ),
            Histogram(
                "qianyan_decrypt_native_seconds",
                "Time in the native core for one piece of a decryption.",
                buckets=_SECONDS,
                registry=registry,
            ),
        )
