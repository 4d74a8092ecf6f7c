"""The pool's watchman, one thread: gives up calls that do not return, takes devices back, checks their health.

Owns when things are tried; what a device's coming and going means for the work is the pool's (`Ward`). Opening a device
happens in a thread for each attempt, because that, too, may never return.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from typing import Any, Final, Protocol

import structlog

from signer.engine.sdf import device as devices
from signer.engine.sdf.abi import DeviceFault, DeviceMistake
from signer.engine.sdf.device import Attempt, Device, DeviceState, Opened
from signer.engine.sdf.jobs import Errand
from signer.engine.sdf.session import DeviceKey, Session
from signer.engine.sdf.settings import SdfSettings
from signer.engine.sdf.worker import Worker

_TICK_MIN_S: Final = 0.005
_TICK_MAX_S: Final = 0.1

_log = structlog.get_logger()
_jitter = random.SystemRandom()


class Ward(Protocol):
    """What the watchman looks after. Its methods are called with the pool's lock held."""

    @property
    def devices(self) -> Iterable[Device]:
        """All of them."""
        ...

    def keys_in_use(self) -> list[DeviceKey]:
        """The keys in use."""
        ...

    def take_out(self, device: Device, fault: DeviceFault) -> None:
        """The device failed: its work goes elsewhere."""
        ...

    def reclaim(self, worker: Worker, fault: DeviceFault) -> None:
        """What the worker's call was to do is given to others; the call may return or not."""
        ...

    def take_in(self, device: Device, opened: Opened) -> None:
        """The device is open and proven."""
        ...

    def send(self, device: Device, errand: Errand[Any]) -> bool:
        """Gives the errand to a session of the device; False where it is not in service."""
        ...


class Keeper:
    """See the module. `changed` is notified whenever an attempt has ended."""

    def __init__(self, ward: Ward, lock: threading.Condition, settings: SdfSettings) -> None:
        self._ward = ward
        self._changed = lock
        self._settings = settings
        self._stopping = threading.Event()
        timeouts = (settings.call_timeout_ms, settings.backoff_min_ms)
        self._tick_s = min(_TICK_MAX_S, max(_TICK_MIN_S, min(timeouts) / 1000 / 8))
        self._thread = threading.Thread(target=self._run, name="qianyan-hsm-keeper", daemon=True)

    def start(self) -> None:
        """Begins to watch, with an attempt to open each device."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when the watchman has gone; attempts under way give back what they opened."""
        self._stopping.set()
        self._thread.join()
        with self._changed:
            for device in self._ward.devices:
                if device.attempt is not None:
                    device.attempt.given_up = True

    def fell_out(self, device: Device) -> None:
        """Plans the next attempt for a device that went out. The lock is held."""
        now = time.monotonic()
        if device.attempt is None and device.fault is not None and now - device.since > self._steady_s:
            device.attempts_failed = 0  # it had been in service for long
        device.next_attempt = now + device.pause(self._settings)
        device.attempts_failed += 1

    @property
    def _steady_s(self) -> float:
        return 2 * self._settings.backoff_max_ms / 1000

    def _run(self) -> None:
        while not self._stopping.wait(self._tick_s):
            try:
                with self._changed:
                    now = time.monotonic()
                    for device in self._ward.devices:
                        self._watch_calls(device, now)
                        self._watch_attempt(device, now)
                        self._watch_health(device, now)
            except Exception as error:
                _log.error("hsm_keeper", exc_info=error)  # the next round looks again

    def _watch_calls(self, device: Device, now: float) -> None:
        limit = now - self._settings.call_timeout_ms / 1000
        for worker in list(device.workers):
            since = worker.session.since
            if since is not None and since < limit:
                what = f"a call did not return within {self._settings.call_timeout_ms} ms"
                self._ward.take_out(device, DeviceFault("stalled", what))
                break
        for worker in list(device.leaving):
            since = worker.session.since
            if since is not None and since < limit and not worker.abandoned:
                worker.abandoned = True
                self._ward.reclaim(worker, DeviceFault("stalled", "a call did not return"))
                self._changed.notify_all()

    def _watch_attempt(self, device: Device, now: float) -> None:
        attempt = device.attempt
        if attempt is not None and now > attempt.until:
            attempt.given_up = True
            device.attempt = None
            device.stuck_attempts += 1
            what = f"opening it did not end within {self._settings.open_timeout_ms} ms"
            self._failed(device, DeviceFault("stalled", what))
        elif attempt is None and device.state is DeviceState.OUT and now >= device.next_attempt:
            if device.abandoned >= self._settings.abandoned_max:
                what = f"{device.abandoned} of its calls never returned; repair the device, then restart the service"
                self._failed(device, DeviceFault("stalled", what))
            else:
                self._begin(device, now)

    def _begin(self, device: Device, now: float) -> None:
        attempt = device.attempt = Attempt(now + self._settings.open_timeout_ms / 1000)
        keys = self._ward.keys_in_use()
        thread = threading.Thread(
            target=self._attempt, args=(device, attempt, keys), name=f"qianyan-hsm-open-{device.name}", daemon=True
        )
        thread.start()

    def _attempt(self, device: Device, attempt: Attempt, keys: list[DeviceKey]) -> None:
        """In a thread of its own: opens, proves, and hands over; or gives back what nobody waits for any more."""
        opened: Opened | None = None
        fault: DeviceFault | DeviceMistake = DeviceFault("internal", "the attempt was not made")
        try:
            opened = devices.connect(device, device.sessions_wanted, keys)
        except (DeviceFault, DeviceMistake) as error:
            fault = error
        except Exception as error:
            _log.error("hsm_internal", device=device.name, exc_info=error)
        del keys  # a key that is frozen meanwhile must not live on here
        with self._changed:
            wanted = not attempt.given_up
            if wanted:
                device.attempt = None
            elif not self._stopping.is_set():
                device.stuck_attempts -= 1
            if wanted and opened is None:
                self._failed(device, fault)
            elif wanted and opened is not None and device.state is DeviceState.OUT:
                self._ward.take_in(device, opened)
                device.next_health = time.monotonic() + self._health_pause()
                opened = None
            self._changed.notify_all()
        if opened is not None:
            devices.close(opened.sessions)

    def _failed(self, device: Device, fault: DeviceFault | DeviceMistake) -> None:
        """An attempt failed: the next one later."""
        kind = fault.kind if isinstance(fault, DeviceFault) else "refused"
        device.failures[kind] += 1
        device.fault = fault
        device.next_attempt = time.monotonic() + device.pause(self._settings)
        device.attempts_failed += 1
        retry_ms = int((device.next_attempt - time.monotonic()) * 1000)
        _log.warning("hsm_still_out", device=device.name, kind=kind, reason=str(fault), retry_ms=retry_ms)
        self._changed.notify_all()

    def _health_pause(self) -> float:
        return self._settings.health_interval_s * _jitter.uniform(0.75, 1.25)

    def _watch_health(self, device: Device, now: float) -> None:
        if device.state is not DeviceState.IN or now < device.next_health:
            return
        device.next_health = now + self._health_pause()
        usable = [key for key in self._ward.keys_in_use() if key.index in device.proven]
        if usable:
            key = _jitter.choice(usable)
            self._ward.send(device, Errand(lambda session: session.prove(key)))
        else:
            self._ward.send(device, Errand(Session.describe))
