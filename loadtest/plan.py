"""What one generator process is told: written by the run, read by the worker."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

from loadtest import shapes
from loadtest._engine import Schedule

#: More intervals than this are not told apart: a long run has longer ones.
MOST_PARTS = 300


@dataclass(frozen=True)
class Plan:
    """rates: scenario → uses a second at a multiple of 1. sample: share of answers that are judged whole."""

    target: str
    rates: dict[str, float]
    shape: str
    duration_s: float
    seed: int
    poisson: bool
    connections: int
    timeout_s: float
    sample: float
    closed: bool = False

    @property
    def part_s(self) -> int:
        """Seconds of an interval."""
        return max(1, ceil(self.duration_s / MOST_PARTS))

    @property
    def parts(self) -> int:
        """How many intervals: the run's, and one for what ends later."""
        return ceil(self.duration_s / self.part_s) + 1

    def schedule(self, scenarios: list[str], *, seed: int) -> Schedule:
        """Arrivals of some scenarios together; they have the first one's shape."""
        rate = sum(self.rates[name] for name in scenarios)
        found = shapes.points(self.shape, scenarios[0], self.duration_s)
        return Schedule([(at, times * rate) for at, times in found], self.duration_s, poisson=self.poisson, seed=seed)

    def save(self, file: Path) -> None:
        """Writes it."""
        file.write_text(json.dumps(asdict(self)))


def load_plan(file: Path) -> Plan:
    """Reads it."""
    return Plan(**json.loads(file.read_text()))
