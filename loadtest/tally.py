"""What one generator process counts: the compiled record under names, answers judged, and what was wrong with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from loadtest._engine import PART_BITS, Record
from loadtest.call import Answer, Call, Wrong
from loadtest.histogram import ERRORS, Histogram
from loadtest.plan import Plan

_KINDS: Final = 32
#: How many wrong answers are told in words.
_TOLD: Final = 20
NS: Final = 1_000_000_000


@dataclass
class Tally:
    """Owns the record. Kinds get their numbers as they come."""

    plan: Plan
    record: Record = field(init=False)
    numbers: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    checked: int = 0
    check_cpu_s: float = 0.0
    ended: int = 0
    faults: int = 0

    def __post_init__(self) -> None:
        self.record = Record(_KINDS, self.plan.parts, self.plan.part_s * NS)

    def number(self, kind: str) -> int:
        """Of a kind of call."""
        return self.numbers.setdefault(kind, len(self.numbers))

    def finish(self, kind: str, at_ns: int, latency_ns: int, error: str, octets: int) -> None:
        """One call's end."""
        self.record.finish(self.number(kind), at_ns, latency_ns, ERRORS.index(error), octets)
        self.ended += 1
        self.faults += error != "ok"

    def judge(self, call: Call, answer: Answer) -> None:
        """Runs a call's check, and counts what it costs."""
        began = time.thread_time()
        self.guarded(call.kind, lambda: call.check(answer))
        self.check_cpu_s += time.thread_time() - began
        self.checked += 1

    def guarded(self, kind: str, check: Callable[[], None]) -> None:
        """Runs a judgement; one that raises is a wrong answer, whatever it raises: an answer that breaks the judge."""
        try:
            check()
        except Wrong as error:
            self.mark_wrong(kind, str(error))
        except Exception as error:
            self.mark_wrong(kind, f"the answer cannot be judged: {error!r}")

    def mark_wrong(self, kind: str, why: str) -> None:
        """A wrong answer."""
        self.record.wrong(self.number(kind))
        self.faults += 1
        if len(self.wrong) < _TOLD:
            self.wrong.append(f"{kind}: {why}")

    def document(self) -> dict[str, Any]:
        """For the run, which puts several together."""
        lag, lag_max = self.record.lag()
        return {
            "kinds": {name: self._kind(number) for name, number in self.numbers.items()},
            "lag": Histogram.of(lag).packed(),
            "lag_max_ns": lag_max,
            "checked": self.checked,
            "check_cpu_s": self.check_cpu_s,
            "wrong": self.wrong,
        }

    def _kind(self, number: int) -> dict[str, Any]:
        errors, max_ns, sum_ns, octets, counts = self.record.kind(number)
        parts = []
        for place in range(self.plan.parts):
            offered, done, faults, some = self.record.part(number, place)
            parts.append([offered, done, faults, Histogram.of(some, bits=PART_BITS).packed()])
        return {
            "errors": dict(zip(ERRORS, errors, strict=True)),
            "max_ns": max_ns,
            "sum_ns": sum_ns,
            "octets": octets,
            "counts": Histogram.of(counts).packed(),
            "parts": parts,
        }
