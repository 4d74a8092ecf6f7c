"""What a process's view of the store looks like from outside: gauges over an open follower."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from core.store.follow import FeedFollower


def register(follower: FeedFollower, registry: CollectorRegistry) -> None:
    """Adds the gauges to the process's registry."""
    position = Gauge("qianyan_feed_position", "Last entry of the change feed that is followed", registry=registry)
    position.set_function(lambda: follower.position)
    age = Gauge(
        "qianyan_feed_age_seconds", "Since when the end of the change feed is unconfirmed (0 on SQLite)",
        registry=registry,
    )  # fmt: skip
    age.set_function(lambda: follower.age_ms / 1000)
    lag = Gauge("qianyan_replica_lag_seconds", "How far the replica is behind its primary (0 elsewhere)",
                registry=registry)  # fmt: skip
    lag.set_function(lambda: follower.lag_ms / 1000)
