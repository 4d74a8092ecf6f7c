"""What sessions are given to do: a run of signatures under one key, or an errand to one device.

Knows digests and results; not devices or threads. A run may be worked on by many threads at once: each takes one
position at a time, and gives it back where the device failed. Appending to and popping from these containers is atomic.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final, Generic, TypeVar

from core.errors import QianyanError, Unavailable
from signer.engine.sdf.abi import DeviceFault
from signer.engine.sdf.session import DeviceKey, Session

SIGNATURE_BYTES: Final = 64

T = TypeVar("T")


class Run:
    """Positions of a batch to be signed under one key; results go to `out`, which the batch's runs share."""

    __slots__ = ("_finished", "_total", "digests", "done", "error", "key", "out", "todo")

    def __init__(self, key: DeviceKey, digests: bytes, out: bytearray, positions: Iterable[int]) -> None:
        self.key = key
        self.digests = digests
        self.out = out
        self.todo = deque(positions)
        self.done = threading.Event()
        self.error: QianyanError | None = None
        self._total = len(self.todo)
        self._finished: list[int] = []

    def take(self) -> int | None:
        """A position that nobody works on, or None where there is none."""
        try:
            return self.todo.popleft()
        except IndexError:
            return None

    def give_back(self, position: int, fault: DeviceFault) -> None:
        """The position was not signed; it is for whoever comes next."""
        self.todo.appendleft(position)

    def put(self, position: int, signature: bytes) -> None:
        """Takes the result of a position. Each position has one: who lands a flight puts, or gives back."""
        at = position * SIGNATURE_BYTES
        self.out[at : at + SIGNATURE_BYTES] = signature
        self._finished.append(position)
        if len(self._finished) == self._total:
            self.done.set()

    def fail(self, error: QianyanError) -> None:
        """Ends the run; what is under way comes to nothing."""
        if not self.done.is_set():
            self.error = error
            self.todo.clear()
            self.done.set()


class Errand(Generic[T]):
    """Something to be done once in a session of one device; `future` has the result or why there is none."""

    __slots__ = ("_function", "future")

    def __init__(self, function: Callable[[Session], T]) -> None:
        self._function = function
        self.future: Future[T] = Future()

    def perform(self, session: Session) -> T:
        """Raises DeviceFault, DeviceMistake."""
        return self._function(session)

    def give_back(self, position: int, fault: DeviceFault) -> None:
        """It could not be done: an errand is for one device and is not moved."""
        self.future.set_exception(fault)


def out_of_time(milliseconds: int) -> Unavailable:
    """For a run that no device finished."""
    return Unavailable(f"no device made the signature within {milliseconds} ms", code="hsm_deadline", retry_after_s=1)


def runs_of(uses: Sequence[tuple[DeviceKey, int]], digests: bytes, out: bytearray) -> list[Run]:
    """One run per key, with the positions of its digests in the batch."""
    positions: dict[int, list[int]] = {}
    keys: dict[int, DeviceKey] = {}
    at = 0
    for key, count in uses:
        keys[key.index] = key
        positions.setdefault(key.index, []).extend(range(at, at + count))
        at += count
    return [Run(keys[index], digests, out, places) for index, places in positions.items()]
