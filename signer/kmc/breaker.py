"""Leaves a party alone that failed several times in a row, and lets one try it after a while.

Knows times and outcomes; not what is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Open after `open_after` failures in a row, for `open_s`; then one attempt is let through, which decides."""

    def __init__(self, open_after: int, open_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._open_after = open_after
        self._open_s = open_s
        self._now = monotonic
        self._failures = 0
        self._until = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether it is left alone."""
        return self._failures >= self._open_after

    @property
    def wait_s(self) -> float:
        """How long it is left alone yet."""
        return max(0.0, self._until - self._now())

    def admit(self) -> bool:
        """Whether it may be asked now; who is admitted says `succeeded`, `failed` or `left`."""
        if not self.open:
            return True
        if self._trying or self.wait_s > 0:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """It answered."""
        self._failures, self._trying = 0, False

    def failed(self) -> None:
        """It did not."""
        self._failures += 1
        self._trying = False
        if self.open:
            self._until = self._now() + self._open_s

    def left(self) -> None:
        """Who was admitted went away before anything was known."""
        self._trying = False
