"""What the pool measures, read from its counters when metrics are collected: nothing is added to a signature."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """How a device stands, for metrics, readiness and operators. `mistakes`: key index to what to do about it."""

    name: str
    state: str
    description: str
    reason: str | None
    sessions: int
    sessions_wanted: int
    in_use: int
    waiting: int
    abandoned: int
    signatures: int
    call_seconds: float
    failures: dict[str, int] = field(default_factory=dict)
    mistakes: dict[int, str] = field(default_factory=dict)


class _Devices(Collector):
    """Turns `status()` into metric families."""

    def __init__(self, status: Callable[[], list[DeviceStatus]]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        label = ["device"]
        signatures = CounterMetricFamily("qianyan_hsm_signatures", "Signatures a device made.", labels=label)
        seconds = CounterMetricFamily("qianyan_hsm_call_seconds", "Time in calls that signed.", labels=label)
        failures = CounterMetricFamily("qianyan_hsm_failures", "Failures of a device.", labels=["device", "kind"])
        gauges = {
            "in_service": GaugeMetricFamily("qianyan_hsm_in_service", "1 where a device takes work.", labels=label),
            "in_use": GaugeMetricFamily("qianyan_hsm_sessions_in_use", "Sessions with a call out.", labels=label),
            "sessions": GaugeMetricFamily("qianyan_hsm_sessions", "Open sessions.", labels=label),
            "abandoned": GaugeMetricFamily("qianyan_hsm_abandoned_calls", "Calls that never returned.", labels=label),
            "mistakes": GaugeMetricFamily("qianyan_hsm_refused_keys", "Keys a device refuses.", labels=label),
        }
        for one in status:
            signatures.add_metric([one.name], one.signatures)
            seconds.add_metric([one.name], one.call_seconds)
            for kind, count in one.failures.items():
                failures.add_metric([one.name, kind], count)
            gauges["in_service"].add_metric([one.name], one.state == "in_service")
            gauges["in_use"].add_metric([one.name], one.in_use)
            gauges["sessions"].add_metric([one.name], one.sessions)
            gauges["abandoned"].add_metric([one.name], one.abandoned)
            gauges["mistakes"].add_metric([one.name], len(one.mistakes))
        return [signatures, seconds, failures, *gauges.values()]


@dataclass(frozen=True, slots=True)
class HsmMetrics:
    """The time of whole batches; the rest is collected from the pool's own counters."""

    batch_seconds: Histogram

    @classmethod
    def create(cls, registry: CollectorRegistry | None, status: Callable[[], list[DeviceStatus]]) -> HsmMetrics:
        """Registers with `registry`; with None they count for nobody."""
        if registry is not None:
            registry.register(_Devices(status))
        return cls(
            Histogram(
                "qianyan_hsm_batch_seconds",
                "From handing a batch to the devices until its last signature, waiting and moving included.",
                buckets=_SECONDS,
                registry=registry,
            )
        )
