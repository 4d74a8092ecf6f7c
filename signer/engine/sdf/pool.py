"""Several devices as one: gives work to the least loaded, moves it when a device fails, takes devices in and out.

Owns which device may do what, under one lock; sessions sign outside it. Knows devices, keys by index and digests; not
the store, key ids or the event loop. Theory of operation:

A batch becomes one run per key. A run is handed to as many sessions as it has digests, least loaded devices first, and
each takes one digest at a time, so a slow device takes fewer. A fault (a failed or stalled call, a signature that does
not verify) takes the whole device out: what its sessions had in flight or waiting goes to the others at once, and what
a late call still returns is thrown away. The keeper tries the device again until its keys are proven by signatures. A
mistake (no such key, wrong password) concerns one key on one device: the key is not used there any more, the device
stays, and nothing is tried again until an operator resumes the device or opens the key anew. A run that no device can
do now waits for one to come back, within its deadline.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from core.errors import QianyanError, SettingsError, Unavailable
from signer.engine.sdf import jobs
from signer.engine.sdf._lane import Run
from signer.engine.sdf.abi import DeviceFault, DeviceMistake
from signer.engine.sdf.device import Device, DeviceState, Opened, load_devices, status_of
from signer.engine.sdf.dispatch import Dispatcher, settings_error
from signer.engine.sdf.jobs import SIGNATURE_BYTES, Errand, runs_of
from signer.engine.sdf.keeper import Keeper
from signer.engine.sdf.metrics import DeviceStatus, HsmMetrics
from signer.engine.sdf.session import DeviceKey, Session
from signer.engine.sdf.settings import SdfSettings
from signer.engine.sdf.worker import Worker

_log = structlog.get_logger()

T = TypeVar("T")


class SdfPool:
    """See the module. Methods may block for as long as their deadlines say; all are safe from any thread.

    `resolve` makes a path of one in the settings. The constructor raises SettingsError where a library is no such.
    """

    def __init__(
        self, settings: SdfSettings, resolve: Callable[[str], Path] = Path, registry: CollectorRegistry | None = None
    ) -> None:
        self._settings = settings
        self._lock = threading.Condition(threading.RLock())
        self._keys: weakref.WeakValueDictionary[int, DeviceKey] = weakref.WeakValueDictionary()
        self._devices = {device.name: device for device in load_devices(settings, resolve)}
        self._dispatcher = Dispatcher(lambda: self.devices, settings.request_timeout_ms / 1000)
        self._keeper = Keeper(self, self._lock, settings)
        self._metrics = HsmMetrics.create(registry, self.status)

    # ---- for operators and the service

    def start(self, drained: Collection[str] = ()) -> None:
        """Opens the devices save those that are to be drained; returns when each has been opened or has failed once.

        Those that failed go on being tried.
        """
        for device in self.devices:
            if device.name in drained:
                device.state = DeviceState.DRAINED
                _log.info("hsm_drained", device=device.name)
        self._keeper.start()
        with self._lock:
            self._lock.wait_for(
                lambda: all(one.state is not DeviceState.OUT or one.fault is not None for one in self.devices),
                self._settings.open_timeout_ms / 1000,
            )

    @property
    def parallel_batches(self) -> int:
        """How many batches may be handed to `sign` at once."""
        return self._settings.parallel_batches

    def close(self) -> None:
        """Ends the sessions that can be ended; what still waits is refused."""
        self._keeper.stop()
        with self._lock:
            self._dispatcher.close(Unavailable("the service is stopping", code="stopping"))
            for device in self.devices:
                device.state = DeviceState.DRAINED
                self._dismiss(device)
            patience_s = self._settings.call_timeout_ms / 1000
            self._lock.wait_for(lambda: all(self._left(device) for device in self.devices), patience_s)

    def drain(self, name: str) -> None:
        """Takes a device out for maintenance: its calls end, its work goes elsewhere; returns with its sessions closed.

        Raises Unavailable where a call does not end, SettingsError where there is no such device.
        """
        device = self._device(name)
        with self._lock:
            device.state = DeviceState.DRAINED
            device.since = time.monotonic()
            _log.info("hsm_drained", device=name)
            self._dismiss(device)
            self._lock.wait_for(lambda: self._left(device), 2 * self._settings.call_timeout_ms / 1000)
            if device.leaving:
                raise Unavailable(
                    f"device {name} takes no work, but {len(device.leaving)} of its calls have not returned",
                    code="hsm_drain",
                )

    def resume(self, name: str) -> None:
        """Takes a device back at once, all keys tried anew. Raises Unavailable or SettingsError saying why not."""
        device = self._device(name)
        if device.state is DeviceState.IN:
            self.drain(name)
        with self._lock:
            device.state = DeviceState.OUT
            device.fault = None
            device.next_attempt = time.monotonic()
            self._lock.wait_for(
                lambda: device.state is DeviceState.IN or device.fault is not None,
                self._settings.open_timeout_ms / 1000,
            )
            if device.state is not DeviceState.IN:
                raise Unavailable(f"device {name} is still out: {device.fault}", code="hsm_out")
            refused = dict(device.mistakes)
        if refused:
            raise settings_error(refused.popitem()[1], name)

    def status(self) -> list[DeviceStatus]:
        """How each device stands."""
        with self._lock:
            return [status_of(device) for device in self.devices]

    # ---- for the backend

    def open(self, index: int, public_key: bytes, *, everywhere: bool = False) -> DeviceKey:
        """The key, proven on a device, or (`everywhere`) tried on each. Raises SettingsError where all refuse it.

        With no device in service the key is taken on trust of the record: what it signs is refused until one is back.
        """
        with self._lock:
            key = self._keys.get(index) or DeviceKey(index, public_key)
            if key.public_key != public_key:
                raise SettingsError(f"two keys are registered for key index {index}", code="hsm_key_mismatch")
            for device in self.devices:
                device.proven.discard(index)
                device.mistakes.pop(index, None)
                device.rights.forget(index)
            self._keys[index] = key
            asked = [self._check(device, key) for device in self._in_service()]
            self._lock.wait_for(
                lambda: all(one.done() for one in asked) or (not everywhere and self._is_proven(index)),
                self._settings.request_timeout_ms / 1000,
            )
            proven = self._is_proven(index)
            refused = [(device.name, device.mistakes[index]) for device in self.devices if index in device.mistakes]
        if not proven and refused:
            raise settings_error(refused[0][1], refused[0][0])
        if not proven:
            _log.warning("hsm_key_unproven", index=index, reason="no device is in service")
        return key

    def prove(self, index: int, public_key: bytes) -> None:
        """Returns where every device in service that has the key signs with it. Raises SettingsError, Unavailable."""
        key = self.open(index, public_key, everywhere=True)
        with self._lock:
            proven = self._is_proven(key.index)
            for device in self.devices:
                mistake = device.mistakes.get(index)
                if mistake is not None and mistake.code != "hsm_key_missing":
                    raise settings_error(mistake, device.name)
        if not proven:
            raise Unavailable("no device is in service to prove the key", code="hsm_unavailable")

    def export(self, index: int) -> bytes:
        """The public key at an index, the same on all devices that have one. Raises SettingsError, Unavailable."""
        with self._lock:
            asked = []
            for device in self._in_service():
                errand: Errand[bytes] = Errand(lambda session: session.export(index))
                if self.send(device, errand):
                    asked.append((device.name, errand.future))
        found: dict[bytes, str] = {}
        refused: list[SettingsError] = []
        futures.wait([future for _, future in asked], self._settings.request_timeout_ms / 1000)
        for name, future in asked:
            outcome = future.exception() if future.done() else None
            if isinstance(outcome, DeviceMistake):
                refused.append(settings_error(outcome, name))
                _log.warning("hsm_key_refused", device=name, index=index, code=outcome.code, reason=outcome.advice)
            elif future.done() and outcome is None:
                found[future.result()] = name
        if len(found) > 1:
            raise SettingsError(
                f"devices {' and '.join(found.values())} hold different keys at index {index}; copy the right one",
                code="hsm_key_mismatch",
            )
        if not found:
            raise refused[0] if refused else Unavailable("no device is in service", code="hsm_unavailable")
        return next(iter(found))

    def perform(self, work: Callable[[Session], T]) -> T:
        """Does something on a device, the least loaded, or on others where that one fails or refuses it.

        Raises SettingsError where every device in service refuses it, Unavailable where none did it in time.
        """
        deadline = time.monotonic() + self._settings.request_timeout_ms / 1000
        refused: dict[str, DeviceMistake] = {}
        while (left := deadline - time.monotonic()) > 0:
            errand: Errand[T] = Errand(work)
            with self._lock:
                here = sorted(self._in_service(), key=lambda one: one.load)
                willing = [device for device in here if device.name not in refused]
                if here and not willing:
                    raise settings_error(refused[here[0].name], here[0].name)
                if not willing or not self.send(willing[0], errand):
                    self._lock.wait(left)
                    continue
            try:
                return errand.future.result(left)
            except DeviceMistake as mistake:
                refused[willing[0].name] = mistake
            except (DeviceFault, TimeoutError):
                continue  # the device is out by now, or the time is up
        raise jobs.out_of_time(self._settings.request_timeout_ms)

    def perform_everywhere(self, work: Callable[[Session], T]) -> dict[str, T | DeviceFault | DeviceMistake]:
        """Does something on each device in service; what came of it, by the device's name."""
        asked: list[tuple[str, Errand[T]]] = []
        with self._lock:
            for device in self._in_service():
                errand: Errand[T] = Errand(work)
                if self.send(device, errand):
                    asked.append((device.name, errand))
        futures.wait([errand.future for _, errand in asked], self._settings.request_timeout_ms / 1000)
        found: dict[str, T | DeviceFault | DeviceMistake] = {}
        for name, errand in asked:
            failure = errand.future.exception() if errand.future.done() else DeviceFault("stalled", "no answer in time")
            if isinstance(failure, (DeviceFault, DeviceMistake)):
                found[name] = failure
            else:
                found[name] = errand.future.result()
        return found

    def sign(self, uses: Sequence[tuple[DeviceKey, int]], digests: bytes) -> bytes:
        """Signs digests in order, so many with each key. Raises Unavailable, SettingsError."""
        began = time.monotonic()
        out = bytearray(len(digests) // 32 * SIGNATURE_BYTES)
        runs = runs_of(uses, digests, out)
        with self._lock:
            for run in runs:
                self._dispatcher.dispatch(run)
        deadline = began + self._settings.request_timeout_ms / 1000
        for run in runs:
            if not run.wait(deadline - time.monotonic()):
                run.fail(jobs.out_of_time(self._settings.request_timeout_ms))
        self._metrics.batch_seconds.observe(time.monotonic() - began)
        errors = [run.error for run in runs if run.error is not None]
        if errors:
            with self._lock:
                self._dispatcher.drop_ended()
            raise _of_batch(errors, every_one=len(errors) == len(runs))
        return bytes(out)

    # ---- Overseer: what workers tell

    def failed(self, worker: Worker, fault: DeviceFault, job: Run | Errand[Any] | None) -> None:
        """See Overseer."""
        with self._lock:
            device = self._devices[worker.device]
            if worker in device.workers:
                self.take_out(device, fault)
            if isinstance(job, Run):
                self._dispatcher.dispatch(job)

    def mistaken(self, worker: Worker, mistake: DeviceMistake, run: Run) -> None:
        """See Overseer."""
        with self._lock:
            device = self._devices[worker.device]
            self._refuse(device, run.key.index, mistake)
            self._dispatcher.dispatch(run)

    def let_go(self, worker: Worker, run: Run) -> None:
        """See Overseer."""
        with self._lock:
            self._dispatcher.dispatch(run)

    def gone(self, worker: Worker) -> None:
        """See Overseer."""
        with self._lock:
            device = self._devices[worker.device]
            device.leaving.discard(worker)
            device.signatures_before += worker.signatures
            device.call_seconds_before += worker.call_seconds
            self._lock.notify_all()

    # ---- Ward: what the keeper asks; the lock is held

    @property
    def devices(self) -> list[Device]:
        """See Ward."""
        return list(self._devices.values())

    def keys_in_use(self) -> list[DeviceKey]:
        """See Ward."""
        return list(self._keys.values())

    def take_out(self, device: Device, fault: DeviceFault) -> None:
        """See Ward. Flights are claimed at once, so that no work waits for a device that is known to be bad."""
        device.failures[fault.kind] += 1
        if device.state is not DeviceState.IN:
            return
        device.state = DeviceState.OUT
        device.fault = fault
        self._keeper.fell_out(device)
        device.since = time.monotonic()
        _log.error("hsm_out", device=device.name, kind=fault.kind, reason=str(fault))
        workers = list(device.workers)
        self._dismiss(device)
        for worker in workers:
            self.reclaim(worker, fault)

    def reclaim(self, worker: Worker, fault: DeviceFault) -> None:
        """See Ward."""
        flight = worker.claim()
        if flight is not None:
            job, position = flight
            job.give_back(position, fault)
            if isinstance(job, Run):
                self._dispatcher.dispatch(job)

    def take_in(self, device: Device, opened: Opened) -> None:
        """See Ward."""
        verify = self._settings.verify_one_in
        device.workers = [Worker(one, self, device.name, verify) for one in opened.sessions]
        device.rights = opened.rights
        device.state, device.fault, device.description = DeviceState.IN, None, opened.description
        device.since = time.monotonic()
        current = {key.index for key in self.keys_in_use()}
        device.proven, device.mistakes = opened.proven & current, {}
        for index, mistake in opened.mistakes.items():
            self._refuse(device, index, mistake)
        for worker in device.workers:
            worker.start()
        _log.info("hsm_in_service", device=device.name, description=device.description, sessions=len(device.workers))
        for key in self.keys_in_use():
            if key.index not in device.proven and key.index not in device.mistakes:
                self._check(device, key)
        self._dispatcher.unpark()

    def send(self, device: Device, errand: Errand[Any]) -> bool:
        """See Ward."""
        if device.state is not DeviceState.IN:
            return False
        min(device.workers, key=lambda worker: worker.load).hand(errand)
        return True

    # ---- inside; the lock is held

    def _in_service(self) -> list[Device]:
        return [device for device in self.devices if device.state is DeviceState.IN]

    def _is_proven(self, index: int) -> bool:
        return any(index in device.proven for device in self.devices)

    def _device(self, name: str) -> Device:
        if name not in self._devices:
            raise SettingsError(f"there is no device {name!r} in the settings", code="hsm_device")
        return self._devices[name]

    @staticmethod
    def _left(device: Device) -> bool:
        return all(worker.abandoned for worker in device.leaving)

    def _dismiss(self, device: Device) -> None:
        """Retires the device's workers and hands what they had waiting to others."""
        moved: set[Run] = set()
        workers, device.workers = device.workers, []
        device.leaving.update(workers)
        device.proven.clear()
        device.rights.close()
        for worker in workers:
            for job in worker.retire():
                if isinstance(job, Run):
                    moved.add(job)
                else:
                    job.give_back(0)
        for run in moved:
            self._dispatcher.dispatch(run)

    def _check(self, device: Device, key: DeviceKey) -> Future[None]:
        """Has the device prove the key, which by the end is in `proven` or in `mistakes`; or the device is out."""
        errand: Errand[None] = Errand(lambda session: session.check(key))
        settled: Future[None] = Future()

        def ended(future: Future[None]) -> None:
            failure = future.exception()
            with self._lock:
                if isinstance(failure, DeviceMistake):
                    self._refuse(device, key.index, failure)
                elif failure is None and device.state is DeviceState.IN and self._keys.get(key.index) is key:
                    device.proven.add(key.index)
                self._dispatcher.unpark()
                settled.set_result(None)
                self._lock.notify_all()

        errand.future.add_done_callback(ended)
        if not self.send(device, errand):
            errand.give_back(0)
        return settled

    def _refuse(self, device: Device, index: int, mistake: DeviceMistake) -> None:
        if index not in device.mistakes:
            _log.error("hsm_key_refused", device=device.name, index=index, code=mistake.code, reason=mistake.advice)
        device.mistakes[index] = mistake
        device.proven.discard(index)


def _of_batch(errors: list[QianyanError], *, every_one: bool) -> QianyanError:
    """The batch's error. Only where every run failed is the caller told to come back, rather than to sort them out."""
    error = errors[0]
    if isinstance(error, Unavailable) and not every_one:
        return Unavailable(error.detail, code=error.code)
    return error
