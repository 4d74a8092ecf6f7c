"""What the suites share: peers that are measured in the same run, and what every benchmark is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from signer._native import cpu


@pytest.fixture(autouse=True)
def machine(benchmark: Any) -> None:
    """Which backend a figure belongs to."""
    benchmark.extra_info["backend"] = cpu.backend()


@pytest.fixture
def timed(benchmark: Any) -> Callable[..., Any]:
    """`timed(work, peer, per=n)`: measures `work`, n things a call, with the time of `peer` beside it, in one run.

    The ratio (peer's best time over ours) stays comparable when the machine is slower as a whole.
    """

    def run(work: Callable[[], Any], peer: Callable[[], Any] | None = None, *, per: int = 1) -> Any:
        result = benchmark(work)
        benchmark.extra_info["per_call"] = per
        if peer is not None:
            best = min(_seconds(peer) for _ in range(5))
            benchmark.extra_info["peer_s"] = best
            benchmark.extra_info["ratio_to_peer"] = best / benchmark.stats.stats.min
        return result

    return run


def _seconds(work: Callable[[], Any]) -> float:
    """Of one call, over as many of them as take a few milliseconds: short ones are lost in reading the clock."""
    calls = 1
    while True:
        began = time.perf_counter()
        for _ in range(calls):
            work()
        seconds = time.perf_counter() - began
        if seconds > 0.003:
            return seconds / calls
        calls *= 4
