"""Two results side by side: what changed beyond noise.

Each interval of a run is one observation. A difference counts where the Mann-Whitney U test over the intervals finds it
(two-sided, corrected for ties and for the number of comparisons by Holm's method) and the bootstrap's 95 % interval of
the ratio of medians lies past what is worth a word. Intervals of one run are not quite independent, which is why both
are asked for.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import erfc, sqrt
from typing import Any, Final

from loadtest.result import COLUMNS

#: Family-wise: one chance in a hundred of any false alarm.
ALPHA: Final = 0.01
#: A median that differs by less is not told, however certain.
WORTH: Final = 0.03
_ROUNDS: Final = 1_000
_FEWEST: Final = 8
#: What is compared → whether more is better.
_MEASURES: Final = {"done": True, "p50": False, "p99": False}


@dataclass(frozen=True)
class Row:
    """One comparison. ratio: of medians, after over before, with its 95 % interval; p: of no difference."""

    kind: str
    measure: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    p: float
    verdict: str

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p that both come from one distribution (normal approximation with ties and continuity corrected)."""
    n, m = len(first), len(second)
    both = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    rank_sum, ties, at = 0.0, 0.0, 0
    while at < len(both):
        end = at
        while end < len(both) and both[end][0] == both[at][0]:
            end += 1
        middle = (at + 1 + end) / 2
        rank_sum += middle * sum(1 for _, who in both[at:end] if who == 0)
        ties += (end - at) ** 3 - (end - at)
        at = end
    u = rank_sum - n * (n + 1) / 2
    spread = sqrt(n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1))))
    if spread == 0:
        return 1.0
    return min(1.0, erfc(max(0.0, abs(u - n * m / 2) - 0.5) / spread / sqrt(2)))


def bootstrap_ratio(first: Sequence[float], second: Sequence[float], *, seed: int = 1) -> tuple[float, float]:
    """The 95 % interval of median(second) / median(first)."""
    rng = random.Random(seed)  # noqa: S311 - resampling
    ratios = []
    for _ in range(_ROUNDS):
        before = statistics.median(rng.choices(first, k=len(first)))
        after = statistics.median(rng.choices(second, k=len(second)))
        ratios.append(after / before if before else 1.0)
    ratios.sort()
    return ratios[round(0.025 * _ROUNDS)], ratios[round(0.975 * _ROUNDS) - 1]


def _observations(document: dict[str, Any], kind: str, measure: str) -> list[float]:
    one = document["total"] if kind == "all" else document["kinds"][kind]
    column = COLUMNS.index(measure)
    return [row[column] for row in one["intervals"] if row[1] > 0]


def _must_fit(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raises ValueError where the two were not the same experiment."""
    for what in ("shape", "rates", "poisson", "connections", "closed"):
        if before["plan"][what] != after["plan"][what]:
            raise ValueError(
                f"the runs differ in {what} ({before['plan'][what]}, {after['plan'][what]}): compare runs of one plan"
            )
    if before["interval_s"] != after["interval_s"]:
        raise ValueError("the runs have intervals of different length: compare runs of about the same duration")


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Row]:
    """A row for each kind and measure that both have enough intervals of. Raises ValueError."""
    _must_fit(before, after)
    found = []
    for kind in ["all", *sorted(before["kinds"].keys() & after["kinds"].keys())]:
        for measure in _MEASURES:
            first, second = _observations(before, kind, measure), _observations(after, kind, measure)
            if min(len(first), len(second)) >= _FEWEST:
                found.append((kind, measure, first, second, mann_whitney(first, second)))
    if not found:
        raise ValueError(f"a comparison needs {_FEWEST} intervals of each run; run longer")
    return _judged(found)


def _judged(found: list[tuple[str, str, list[float], list[float], float]]) -> list[Row]:
    """Holm: the smallest p is held against alpha / n, the next against alpha / (n - 1), until one does not hold."""
    certain = set()
    for place, at in enumerate(sorted(range(len(found)), key=lambda n: found[n][4])):
        if found[at][4] > ALPHA / (len(found) - place):
            break
        certain.add(at)
    rows = []
    for at, (kind, measure, first, second, p) in enumerate(found):
        low, high = bootstrap_ratio(first, second)
        before, after = statistics.median(first), statistics.median(second)
        ratio = after / before if before else 1.0
        verdict = "same"
        if at in certain and (low > 1 + WORTH or high < 1 - WORTH):
            verdict = "better" if (ratio > 1) == _MEASURES[measure] else "worse"
        rows.append(Row(kind, measure, before, after, ratio, low, high, p, verdict))
    return rows


def table(rows: Sequence[Row]) -> str:
    """For people: what changed first, then how much was looked at."""
    lines = [f"{'':14}{'':7}{'before':>11}{'after':>11}{'ratio':>8}{'95 %':>16}{'p':>10}"]
    for row in sorted(rows, key=lambda one: one.verdict == "same"):
        cells = f"{row.before:11,.3f}{row.after:11,.3f}{row.ratio:8.3f}{row.low:8.3f} –{row.high:6.3f}{row.p:10.2g}"
        lines.append(f"{row.kind:14}{row.measure:7}{cells}  {row.verdict if row.verdict != 'same' else ''}")
    changed = sum(row.verdict != "same" for row in rows)
    lines.append(
        f"{changed} of {len(rows)} comparisons changed beyond noise (Mann-Whitney with Holm at {ALPHA:g}, bootstrap)"
    )
    return "\n".join(lines)
