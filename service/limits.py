"""How much each caller may ask for at once: requests and signatures a second, requests under way.

Owns numbers in memory that all workers of a node share: a file of the supervisor, mapped by each, or private memory
where there is one process. A rate is kept as the time at which all that was admitted will have been earned (a generic
cell rate algorithm, one number a bucket), so that a look costs a comparison and no lock. Two workers that write the
same number in the same instant admit one request too many, and the next look is right again. Requests under way are
counted in a column a worker, taken by a lock that the kernel releases when the worker ends, so that a worker that was
killed leaves nothing behind once its place is taken again.

Knows callers by their place (core.store.callers); not names, HTTP or the store.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from core.errors import Busy, SettingsError
from core.store.callers import PLACES_MAX, Limits

#: Workers at once, twice over: a reload starts the new ones beside the old.
_COLUMNS_MAX: Final = 512
_WORD: Final = 8
_SECOND_NS: Final = 1_000_000_000
_FILE: Final = "callers.limits"


class SharedCounts:
    """The numbers: [columns in use] [2 a place: requests, signatures] [columns a place: requests under way]."""

    def __init__(self, buffer: mmap.mmap, columns: int, column: int, descriptor: int | None = None) -> None:
        self._descriptor = descriptor  # closing it, or any other on the file, would give up the column's lock
        self._columns = columns
        self._column = column
        self.words = memoryview(buffer).cast("q")
        for place in range(PLACES_MAX):
            self.words[self._under_way(place) + column] = 0
        self.words[0] = max(self.words[0], column + 1)

    @classmethod
    def private(cls) -> SharedCounts:
        """For a process that serves alone."""
        return cls(mmap.mmap(-1, _WORD * (1 + PLACES_MAX * 3)), 1, 0)

    @classmethod
    def shared(cls, directory: Path) -> SharedCounts:
        """The supervisor's workers' own, in its run directory. Raises SettingsError past 512 workers."""
        size = _WORD * (1 + PLACES_MAX * (2 + _COLUMNS_MAX))
        descriptor = os.open(directory / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(descriptor, size)  # sparse: only the places in use take memory
        for column in range(_COLUMNS_MAX):
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, column)
            except OSError:
                continue
            return cls(mmap.mmap(descriptor, size), _COLUMNS_MAX, column, descriptor)
        raise SettingsError(f"more than {_COLUMNS_MAX} workers share one node's limits", code="workers")

    def bucket(self, place: int, kind: int) -> int:
        """Where a place's bucket is. `kind`: 0 requests, 1 signatures."""
        return 1 + 2 * place + kind

    def _under_way(self, place: int) -> int:
        return 1 + 2 * PLACES_MAX + place * self._columns

    def own_cell(self, place: int) -> int:
        """Where this process counts a place's requests under way."""
        return self._under_way(place) + self._column

    def total(self, place: int) -> int:
        """A place's requests under way in all processes."""
        first = self._under_way(place)
        return sum(self.words[first : first + self.words[0]])


class Gate:
    """One caller's limits, as this process applies them. Only the event-loop thread uses it."""

    __slots__ = (
        "_burst",
        "_cells",
        "_clock_ns",
        "_concurrent",
        "_counts",
        "_interval_ns",
        "_own",
        "_place",
        "_words",
        "limits",
    )

    def __init__(
        self, counts: SharedCounts, place: int, limits: Limits, *, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._clock_ns = clock_ns
        self.limits = limits
        self._counts = counts
        self._words = counts.words
        self._place = place
        self._own = counts.own_cell(place)
        self._cells = (counts.bucket(place, 0), counts.bucket(place, 1))
        rates = (limits.requests_per_s, limits.signatures_per_s)
        self._interval_ns = tuple(0 if rate is None else _SECOND_NS // rate for rate in rates)
        self._burst = (
            limits.requests_burst or limits.requests_per_s or 1,
            limits.signatures_burst or limits.signatures_per_s or 1,
        )
        self._concurrent = limits.concurrent

    def enter(self) -> None:
        """A request begins; `leave` when it ends. Raises Busy (code "caller_rate", "caller_concurrency")."""
        if self._concurrent is not None and self._counts.total(self._place) >= self._concurrent:
            raise Busy(
                f"this caller may have {self._concurrent} requests under way",
                code="caller_concurrency",
                retry_after_s=1,
            )
        if self._interval_ns[0]:
            self._take(0, 1, "requests")
        if self._concurrent is not None:
            self._words[self._own] += 1

    def enter_all(self, count: int) -> bool:
        """As `enter` for so many requests, where all of them may; else nothing is done, and `enter` says why."""
        if self._concurrent is not None and self._counts.total(self._place) + count > self._concurrent:
            return False
        if self._interval_ns[0] and not self._take_all(0, count):
            return False
        if self._concurrent is not None:
            self._words[self._own] += count
        return True

    def leave(self, count: int = 1) -> None:
        """So many requests that entered have ended."""
        if self._concurrent is not None:
            self._words[self._own] -= count

    def signatures(self, count: int) -> None:
        """So many signatures are asked for. Raises Busy (code "caller_rate").

        More than the burst at once is admitted from a full bucket, and what comes after waits for it to be earned.
        """
        if self._interval_ns[1]:
            self._take(1, count, "signatures")

    def signatures_all(self, count: int) -> bool:
        """As `signatures` so many times for one, where all of them are admitted; else nothing is done."""
        return not self._interval_ns[1] or self._take_all(1, count)

    def _take_all(self, kind: int, count: int) -> bool:
        words, cell, interval = self._words, self._cells[kind], self._interval_ns[kind]
        now = self._clock_ns()
        earned = max(words[cell], now)
        if earned - now + (count - self._burst[kind]) * interval > 0:
            return False
        words[cell] = earned + count * interval
        return True

    def _take(self, kind: int, count: int, what: str) -> None:
        words, cell, interval = self._words, self._cells[kind], self._interval_ns[kind]
        now = self._clock_ns()
        earned = max(words[cell], now)
        burst = self._burst[kind]
        over_ns = earned - now + (count if count < burst else burst) * interval - burst * interval
        if over_ns > 0:
            raise Busy(
                f"this caller may ask for {_SECOND_NS // interval} {what} a second",
                code="caller_rate",
                retry_after_s=-(-over_ns // _SECOND_NS),
            )
        words[cell] = earned + count * interval
