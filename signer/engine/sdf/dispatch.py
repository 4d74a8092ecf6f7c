"""Who gets a run: the least loaded sessions that can do it, or nobody yet.

Owns the runs that wait for a device to come back. Knows devices and runs; not how a device comes or goes. All is called
with the pool's lock held.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from core.errors import QianyanError, SettingsError, Unavailable
from signer.engine.sdf._lane import Run
from signer.engine.sdf.abi import DeviceMistake
from signer.engine.sdf.device import Device, DeviceState, least_loaded


class Dispatcher:
    """See the module. `devices` tells them all; `patience_s`: how long a request waits with every device out."""

    def __init__(self, devices: Callable[[], list[Device]], patience_s: float) -> None:
        self._devices = devices
        self._patience_s = patience_s
        self._parked: list[Run] = []
        self._closing: QianyanError | None = None

    def dispatch(self, run: Run) -> None:
        """Hands the run to as many sessions as it has work for, least loaded devices first."""
        wanted = run.waiting
        if not wanted:
            return
        able = [one for one in self._devices() if one.state is DeviceState.IN and run.key.index in one.proven]
        if not able:
            self._park(run)
            return
        if wanted >= sum(len(device.workers) for device in able):
            for device in able:
                for worker in device.workers:
                    worker.hand(run)
            return
        chosen = least_loaded(able, wanted)
        if chosen[-1].load:
            # Nobody is idle: a call that stalls is not to hold what another device could do.
            taken = {worker.device for worker in chosen}
            chosen += [worker for one in able if one.name not in taken for worker in least_loaded([one], 1)]
        for worker in chosen:
            worker.hand(run)

    def unpark(self) -> None:
        """Something has changed: every run that waits is looked at anew."""
        parked, self._parked = self._parked, []
        for run in parked:
            self.dispatch(run)

    def drop_ended(self) -> None:
        """Lets go of runs that were given up."""
        self._parked = [run for run in self._parked if not run.over]

    def close(self, error: QianyanError) -> None:
        """What waits, and what would, fails with `error`."""
        self._closing = error
        self.unpark()

    def _park(self, run: Run) -> None:
        """Keeps the run for a device that comes back; fails it where none will, or has not for long."""
        index = run.key.index
        if self._closing is not None:
            run.fail(self._closing)
            return
        devices = self._devices()
        coming = [one for one in devices if one.state is not DeviceState.DRAINED and index not in one.mistakes]
        refused = [(one.name, one.mistakes[index]) for one in devices if index in one.mistakes]
        if not coming and refused:
            run.fail(settings_error(refused[0][1], refused[0][0]))
        elif not coming or self._long_out(coming):
            run.fail(Unavailable("no device for this key is in service", code="hsm_unavailable", retry_after_s=1))
        elif run not in self._parked:
            self._parked.append(run)

    def _long_out(self, devices: list[Device]) -> bool:
        """Whether the devices have all been out for so long that a request need not wait for them."""
        latest = max(device.since for device in devices)
        everyone_out = all(device.state is DeviceState.OUT for device in devices)
        return everyone_out and time.monotonic() - latest > self._patience_s


def settings_error(mistake: DeviceMistake, device: str) -> SettingsError:
    """What an operator is told of a mistake."""
    return SettingsError(f"device {device}: {mistake.advice}", code=mistake.code)
