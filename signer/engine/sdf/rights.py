"""Access rights on one device: who may ask for one, and which are not asked for any more.

A right belongs to a session and a key index; this is what the sessions of a device have in common. One session asks at
a time, and after a refusal none does, so a wrong password is tried once and not once per session: a few attempts lock
a key in most devices. Knows indexes and refusals; not passwords, calls or threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from signer.engine.sdf.abi import DeviceFault, DeviceMistake


class Rights:
    """See the module. `known`: indexes whose password was right once on this device, kept over its absences."""

    def __init__(self, known: set[int]) -> None:
        self.known = known
        self._changed = threading.Condition()
        self._asking: set[int] = set()
        self._refused: dict[int, DeviceMistake] = {}
        self._closed = False

    def gain(self, index: int, ask: Callable[[], None]) -> None:
        """Calls `ask` when it is its turn. Raises what that raises, or at once the refusal that another one met.

        Raises DeviceFault (kind "retired") where the device is taken out meanwhile: whoever asks may never return.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or index in self._refused or index not in self._asking)
            refused = self._refused.get(index)
            if refused is not None:
                raise DeviceMistake(refused.code, refused.advice)
            if self._closed:
                raise DeviceFault("retired", "the device was taken out")
            self._asking.add(index)
        try:
            ask()
            self.known.add(index)
        except DeviceMistake as mistake:
            self.refuse(index, mistake)
            raise
        finally:
            with self._changed:
                self._asking.discard(index)
                self._changed.notify_all()

    def refuse(self, index: int, mistake: DeviceMistake) -> None:
        """From now on no session asks for this right."""
        with self._changed:
            self._refused[index] = mistake
            self._changed.notify_all()

    def forget(self, index: int) -> None:
        """An operator has the key tried anew."""
        with self._changed:
            self._refused.pop(index, None)

    def close(self) -> None:
        """Lets everybody go who waits for a turn."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
