"""How the rate goes over a run: multiples of each scenario's rate at moments of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

Points = list[tuple[float, float]]

#: A working day, hour by hour: requests relative to the morning's rate.
_DAY: Final = (0.10, 0.06, 0.05, 0.05, 0.05, 0.08, 0.15, 0.40, 1.00, 1.60, 1.50, 1.20, 0.60, 0.70, 1.30, 1.40, 1.20,
               0.80, 0.40, 0.30, 0.25, 0.22, 0.18, 0.12)  # fmt: skip
_STEP_S: Final = 0.001

SHAPES: Final = {
    "steady": "the rate throughout",
    "ramp": "from a twentieth up to the rate, to find the knee",
    "spike": "the rate, then ten times as much for a fifth of the time, then the rate",
    "renewal-day": "a day's curve in the time there is, with its peaks at the ninth and fifteenth hour",
    "mass-revocation": "revocations twenty-fold and questions three-fold in the middle third",
    "soak": "the rate throughout, judged by what drifts",
}


def _burst(begin: float, end: float, times: float) -> Points:
    return [(0.0, 1.0), (begin, 1.0), (begin + _STEP_S, times), (end, times), (end + _STEP_S, 1.0)]


def at(curve: Points, second: float) -> float:
    """The multiple at a moment."""
    for (begin, before), (end, after) in pairwise(curve):
        if begin <= second < end:
            return before + (after - before) * (second - begin) / (end - begin)
    return curve[-1][1]


def rates_at(shape: str, rates: Mapping[str, float], duration_s: float, second: float) -> dict[str, float]:
    """What each scenario's rate is at a moment of the run."""
    moment = min(second, duration_s)
    return {name: rate * at(points(shape, name, duration_s), moment) for name, rate in rates.items()}


def points(shape: str, scenario: str, duration_s: float) -> Points:
    """(second, multiple of the rate), piecewise linear. Raises KeyError where there is no such shape."""
    if shape == "ramp":
        return [(0.0, 0.05), (duration_s, 1.0)]
    if shape == "spike":
        return _burst(0.4 * duration_s, 0.6 * duration_s, 10.0)
    if shape == "renewal-day":
        return [(hour * duration_s / len(_DAY), part) for hour, part in enumerate(_DAY)]
    if shape == "mass-revocation":
        return _burst(duration_s / 3, 2 * duration_s / 3, 20.0 if scenario == "revoke" else 3.0)
    _ = SHAPES[shape]
    return [(0.0, 1.0)]
