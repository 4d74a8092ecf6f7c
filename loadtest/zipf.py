"""Which serials are asked about: a few very often, most rarely, as relying parties do."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T")


class Zipf(Generic[T]):
    """Picks from `items` with probability proportional to 1 / rank^exponent; ranks are dealt out by the seed."""

    def __init__(self, items: Sequence[T], *, exponent: float = 1.0, seed: int = 1) -> None:
        if not items:
            raise ValueError("nothing to pick from")
        shuffled = random.Random(seed)  # noqa: S311 - a load, not a secret
        self._items = list(items)
        shuffled.shuffle(self._items)
        self._edges = list(accumulate(1 / rank**exponent for rank in range(1, len(self._items) + 1)))

    def pick(self, rng: random.Random) -> T:
        """One of them."""
        return self._items[bisect_left(self._edges, rng.random() * self._edges[-1])]
