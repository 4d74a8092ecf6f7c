"""What the compiled record's histograms say: percentiles, sums, merging. Knows buckets and nanoseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtest._engine import PART_BITS, WHOLE_BITS, bucket, bucket_top

#: How a request can end badly, in the order of `enum lt_error` (csrc/record.h); "ok" is none.
ERRORS: Final = ("ok", "status", "size", "closed", "timeout", "protocol", "overflow", "wrong")
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


@dataclass
class Histogram:
    """{bucket: count} of a precision. Percentiles are upper edges of buckets: never less than the true value."""

    bits: int = WHOLE_BITS
    counts: Counter[int] = field(default_factory=Counter)
    max_ns: int = 0

    @classmethod
    def of(cls, counts: Mapping[int, int], *, bits: int = WHOLE_BITS, max_ns: int = 0) -> Histogram:
        """From the compiled record."""
        return cls(bits, Counter(dict(counts)), max_ns)

    def add(self, value_ns: int, times: int = 1) -> None:
        """Counts one value, or as many of it."""
        self.counts[bucket(value_ns, self.bits)] += times
        self.max_ns = max(self.max_ns, value_ns)

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self.counts.values())

    def percentile_ns(self, share: float) -> int:
        """The value that `share` per cent of all values do not pass; 0 where there are none."""
        most, seen = self.count * share / 100, 0
        for number in sorted(self.counts):
            seen += self.counts[number]
            if seen >= most:
                top = bucket_top(number, self.bits)
                return min(top, self.max_ns) if self.max_ns else top
        return 0

    def share_over(self, value_ns: int) -> float:
        """The share of values past a bound, in buckets that lie wholly past it."""
        edge = bucket(value_ns, self.bits)
        return sum(n for number, n in self.counts.items() if number > edge) / self.count if self.count else 0.0

    def packed(self) -> list[list[int]]:
        """For a document."""
        return [[number, self.counts[number]] for number in sorted(self.counts)]

    def summary_ms(self) -> dict[str, float]:
        """Percentiles and maximum in milliseconds."""
        found = {f"p{share:g}": self.percentile_ns(share) / 1e6 for share in PERCENTILES}
        return {**found, "max": self.max_ns / 1e6}


def merged(some: Iterable[Histogram]) -> Histogram:
    """All values of histograms of one precision."""
    whole: Histogram | None = None
    for one in some:
        whole = whole or Histogram(one.bits)
        if one.bits != whole.bits:
            raise ValueError("histograms of different precision are not added")
        whole.counts.update(one.counts)
        whole.max_ns = max(whole.max_ns, one.max_ns)
    return whole or Histogram()


def unpacked(pairs: Sequence[tuple[int, int]], *, bits: int = WHOLE_BITS, max_ns: int = 0) -> Histogram:
    """The reverse of `packed`."""
    return Histogram(bits, Counter(dict(pairs)), max_ns)


__all__ = ["ERRORS", "PART_BITS", "WHOLE_BITS", "Histogram", "bucket", "bucket_top", "merged", "unpacked"]
