"""What sessions are given to do: runs of signatures under one key (`_lane.Run`), or an errand to one device.

Knows digests and results; not devices or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, Generic, TypeVar

from core.errors import Unavailable
from signer.engine.sdf._lane import Run
from signer.engine.sdf.abi import DeviceFault
from signer.engine.sdf.session import DeviceKey, Session

SIGNATURE_BYTES: Final = 64

T = TypeVar("T")


class Errand(Generic[T]):
    """Something to be done once in a session of one device; `future` has the result or why there is none."""

    __slots__ = ("_function", "future")

    def __init__(self, function: Callable[[Session], T]) -> None:
        self._function = function
        self.future: Future[T] = Future()

    def perform(self, session: Session) -> T:
        """Raises DeviceFault, DeviceMistake."""
        return self._function(session)

    def give_back(self, position: int, fault: DeviceFault | None = None) -> None:
        """It could not be done: an errand is for one device and is not moved."""
        self.future.set_exception(fault or DeviceFault("retired", "the device was taken out"))


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
