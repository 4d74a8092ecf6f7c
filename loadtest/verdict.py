"""What figures mean: goals met or not, whether the generator was the limit, where the knee is, what drifted.

Pure functions over figures; knows no files and no processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

#: A generator process that used more of its core than this cannot be told from a service that was slow.
_FULL_CORE: Final = 0.9
_FULL_MACHINE: Final = 0.95
#: Cores that others used on a machine that was to be ours alone; share of the time that a process waited for a core.
_OTHERS: Final = 0.25
_WAITED: Final = 0.10
#: The generator itself was late: past this and past a tenth of the latency that was measured.
_LAG_MS: Final = 5.0
#: The knee: latency so many times that of the first tenth of the ramp, or so little of what was asked for answered.
_KNEE_LATENCY: Final = 5.0
_KNEE_LEAST_MS: Final = 5.0
_KNEE_SHARE: Final = 0.95
_KNEE_RUN: Final = 3


@dataclass(frozen=True)
class Goals:
    """What a run is to reach. error_rate: share of requests; None: not judged."""

    p99_ms: float | None = None
    error_rate: float | None = None
    rate: float | None = None


def judge(goals: Goals, total: dict[str, Any], wrk: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Each goal with what was reached and whether it was met. A wrong answer is never met, whatever the goals.

    wrk: what it counted, where it was the load; its rate and its faults count with those that were judged.
    """
    count, faulty = total["count"], total["faults"]
    if wrk is not None:
        count, faulty = count + wrk["requests"], faulty + wrk["faults"]
    faults = faulty / count if count else 1.0
    rows: list[dict[str, Any]] = [
        {"goal": "wrong answers", "limit": 0, "reached": total["errors"]["wrong"], "met": not total["errors"]["wrong"]},
        {"goal": "requests", "limit": 1, "reached": total["count"], "met": total["count"] > 0},
    ]
    if goals.p99_ms is not None:
        p99 = total["latency_ms"]["p99"]
        rows.append({"goal": "p99, ms", "limit": goals.p99_ms, "reached": p99, "met": p99 <= goals.p99_ms})
    if goals.error_rate is not None:
        met = faults <= goals.error_rate
        rows.append({"goal": "error rate", "limit": goals.error_rate, "reached": faults, "met": met})
    if goals.rate is not None:
        good = total["rate"] + (wrk["rate"] if wrk is not None else 0.0)
        rows.append({"goal": "good answers a second", "limit": goals.rate, "reached": good, "met": good >= goals.rate})
    return rows


def generator_limits(
    generators: dict[str, float], lag_p99_ms: float, latency_p99_ms: float, machine_busy: float, *, shared: bool
) -> list[str]:
    """Why the figures may be the generator's and not the service's; nothing where they are the service's."""
    found = []
    for name, share in generators.items():
        if share >= _FULL_CORE:
            found.append(f"{name} used {share:.0%} of a core: spread the load over more processes or machines")
    if lag_p99_ms > _LAG_MS and lag_p99_ms > latency_p99_ms / 10:
        found.append(
            f"arrivals were noticed late (p99 {lag_p99_ms:.1f} ms): the latencies hold it; lower the rate, "
            "or give the generator a core of its own"
        )
    if shared and machine_busy >= _FULL_MACHINE:
        found.append(
            f"the machine was {machine_busy:.0%} busy and generator and service share it: "
            "run the generator on another machine for figures of the service alone"
        )
    return found


def crowding(busy: float, cores: int, known: float | None, waits: dict[str, float]) -> list[str]:
    """Why latencies may be the machine's. busy: share of all cores; known: cores that service and generator used on
    average (None: not measured); waits: by process of the service, cores' worth of time in which it was ready to go on
    and no core was free."""
    found = []
    others = busy * cores - known if known is not None else 0.0
    if others >= _OTHERS:
        found.append(
            f"something else on this machine used {others:.1f} of its {cores} cores: neither service nor generator; "
            "repeat the run when nothing else is under way"
        )
    worst = max(waits, key=lambda name: waits[name], default="")
    if worst and waits[worst] >= _WAITED:
        found.append(
            f"{worst} was ready and waited for a core for {waits[worst]:.0%} of the time: that is in the latencies; "
            "too much shares these cores"
        )
    return found


def knee(
    offered: Sequence[float], done: Sequence[float], p99_ms: Sequence[float], errors: Sequence[float]
) -> float | None:
    """The rate of a ramp from which on the service no longer keeps up; None where it kept up throughout.

    All by interval: requests/s asked for and answered, p99, share of errors. It takes three intervals in a row in
    which p99 is five times that of the ramp's first tenth (and past 5 ms), a twentieth is not answered, or one in a
    hundred fails.
    """
    first = max(1, len(offered) // 10)
    calm = sorted(p99_ms[:first])[first // 2] if p99_ms else 0.0
    limit = max(_KNEE_LEAST_MS, _KNEE_LATENCY * calm)
    bad = 0
    for place, asked in enumerate(offered):
        over = p99_ms[place] > limit or done[place] < _KNEE_SHARE * asked or errors[place] > 0.01
        bad = bad + 1 if over and place >= first else 0
        if bad == _KNEE_RUN:
            return offered[place - _KNEE_RUN + 1]
    return None


def drift(series: Sequence[tuple[float, float]]) -> float:
    """The last quarter's mean over the second's, less one: what grows in a soak. 0 where there is too little."""
    quarter = len(series) // 4
    if quarter < 2:
        return 0.0
    early = [value for _, value in series[quarter : 2 * quarter]]
    late = [value for _, value in series[-quarter:]]
    before = sum(early) / len(early)
    return sum(late) / len(late) / before - 1 if before else 0.0
