"""A device: its connection, its workers and how it stands. Opening it, and proving that its keys sign.

Knows devices one by one, and which of them is least loaded; what work they get is the pool's. All fields are changed
under the pool's lock, save by `connect`, which runs in a thread of its own because any of its calls may never return.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from signer.engine.sdf.abi import DeviceFault, DeviceMistake, Library
from signer.engine.sdf.metrics import DeviceStatus
from signer.engine.sdf.passwords import password_source
from signer.engine.sdf.rights import Rights
from signer.engine.sdf.session import Connection, DeviceKey, PasswordSource, Session
from signer.engine.sdf.settings import SdfDeviceSettings, SdfSettings
from signer.engine.sdf.worker import Worker

_jitter = random.SystemRandom()
_log = structlog.get_logger()
#: Faults of which the lack of a further session is no explanation.
_BROKEN: Final = ("communication", "hardware")


class DeviceState(StrEnum):
    """`out`: it failed and is tried again by itself. `drained`: an operator took it out, and brings it back."""

    IN = "in_service"
    OUT = "out"
    DRAINED = "drained"


@dataclass(slots=True)
class Opened:
    """What an attempt to open a device came to."""

    sessions: list[Session]
    rights: Rights
    description: str
    proven: set[int]
    mistakes: dict[int, DeviceMistake]


@dataclass(slots=True, eq=False)
class Attempt:
    """An attempt under way; `given_up` where it took too long and its result is not wanted any more."""

    until: float
    given_up: bool = False


@dataclass(slots=True, eq=False)
class Device:
    """See the module."""

    settings: SdfDeviceSettings
    library: Library
    passwords: PasswordSource
    state: DeviceState = DeviceState.OUT
    description: str = ""
    sessions_wanted: int = 0
    rights: Rights = field(default_factory=lambda: Rights(set()))
    workers: list[Worker] = field(default_factory=list)
    leaving: set[Worker] = field(default_factory=set)
    proven: set[int] = field(default_factory=set)
    mistakes: dict[int, DeviceMistake] = field(default_factory=dict)
    fault: DeviceFault | DeviceMistake | None = None
    attempt: Attempt | None = None
    stuck_attempts: int = 0
    attempts_failed: int = 0
    since: float = 0.0
    next_attempt: float = 0.0
    next_health: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    signatures_before: int = 0
    call_seconds_before: float = 0.0

    @property
    def name(self) -> str:
        """As the settings name it."""
        return self.settings.name

    @property
    def load(self) -> float:
        """Jobs per session."""
        return sum(worker.load for worker in self.workers) / max(1, len(self.workers))

    @property
    def abandoned(self) -> int:
        """Calls that were given up and have not returned."""
        return self.stuck_attempts + sum(worker.abandoned for worker in self.leaving)

    def pause(self, settings: SdfSettings) -> float:
        """Seconds until the next attempt: doubling, bounded, shortened at random by up to half."""
        grown = settings.backoff_min_ms << min(self.attempts_failed, 20)
        return min(settings.backoff_max_ms, grown) / 1000 * _jitter.uniform(0.5, 1.0)


def connect(device: Device, sessions: int, keys: Iterable[DeviceKey]) -> Opened:
    """Opens the device and its sessions and proves its keys. Raises DeviceFault, DeviceMistake.

    A device that has fewer sessions to give than asked for is used with those, and that is said in the log.
    """
    rights = Rights(device.rights.known)
    opened: list[Session] = []
    try:
        why = _open_sessions(device, sessions, rights, opened)
        if why is not None:
            _log.warning("hsm_fewer_sessions", device=device.name, wanted=sessions, got=len(opened), reason=str(why))
        description = opened[0].describe()
        proven, mistakes = _prove(opened[0], keys)
    except (DeviceFault, DeviceMistake):
        close(opened)
        raise
    return Opened(opened, rights, description, proven, mistakes)


def _open_sessions(
    device: Device, wanted: int, rights: Rights, opened: list[Session]
) -> DeviceFault | DeviceMistake | None:
    """Adds sessions to `opened`, on one handle or a handle each; why there are fewer than wanted, where there are.

    Raises DeviceFault, DeviceMistake where there is none, or the device fails.
    """
    shared: Connection | None = None
    try:
        for _ in range(wanted):
            connection = shared or Connection(device.library)
            if device.settings.handles == "shared":
                shared = connection
            try:
                opened.append(Session(connection, device.passwords, rights))
            finally:
                if shared is None:
                    connection.release()
    except (DeviceFault, DeviceMistake) as error:
        if not opened or (isinstance(error, DeviceFault) and error.kind in _BROKEN):
            raise
        return error
    finally:
        if shared is not None:
            shared.release()
    return None


def close(sessions: Iterable[Session]) -> None:
    """Gives back what `connect` opened."""
    for session in sessions:
        session.close()


def _prove(session: Session, keys: Iterable[DeviceKey]) -> tuple[set[int], dict[int, DeviceMistake]]:
    """Which keys sign here and which never will. A key that fails alone, where others sign, is at fault itself."""
    proven: set[int] = set()
    mistakes: dict[int, DeviceMistake] = {}
    faults: dict[int, DeviceFault] = {}
    for key in keys:
        try:
            session.check(key)
            proven.add(key.index)
        except DeviceMistake as mistake:
            mistakes[key.index] = mistake
        except DeviceFault as failure:
            if failure.kind not in ("operation", "signature", "encoding"):
                raise
            faults[key.index] = failure
    if faults and not proven:
        raise next(iter(faults.values()))
    for index, fault in faults.items():
        advice = f"{fault}; other keys of this device sign, so look at the key at index {index}"
        mistakes[index] = DeviceMistake("hsm_key_fault", advice)
    return proven, mistakes


def load_devices(settings: SdfSettings, resolve: Callable[[str], Path]) -> list[Device]:
    """The devices with their libraries loaded, each library once. Raises SettingsError."""
    where = {one.name: str(resolve(one.library)) if "/" in one.library else one.library for one in settings.devices}
    careful = {where[one.name] for one in settings.devices if not one.thread_safe}
    libraries = {path: Library(path, thread_safe=path not in careful) for path in sorted(set(where.values()))}
    files = {index: resolve(name) for index, name in settings.key_password_files.items()}
    made = []
    for one in settings.devices:
        name = one.password_file or settings.password_file
        passwords = password_source(files, None if name is None else resolve(name))
        device = Device(one, libraries[where[one.name]], passwords, since=time.monotonic())
        device.sessions_wanted = one.sessions or settings.sessions_per_device
        made.append(device)
    return made


def least_loaded(devices: list[Device], wanted: int) -> list[Worker]:
    """So many workers, each next one of the device with the least load per session by then."""
    heap = []
    for device in devices:
        idle_first = sorted(device.workers, key=lambda worker: worker.load)
        heap.append((device.load, _jitter.random(), idle_first))
    heapq.heapify(heap)
    chosen: list[Worker] = []
    while len(chosen) < wanted and heap:
        load, tie, workers = heapq.heappop(heap)
        size = len(workers)
        chosen.append(workers.pop(0))
        if workers:
            heapq.heappush(heap, (load + 1 / size, tie, workers))
    return chosen


def status_of(device: Device) -> DeviceStatus:
    workers = [*device.workers, *device.leaving]
    return DeviceStatus(
        name=device.name,
        state=device.state.value,
        description=device.description,
        reason=None if device.fault is None else str(device.fault),
        sessions=len(device.workers),
        sessions_wanted=device.sessions_wanted,
        in_use=sum(worker.session.since is not None for worker in device.workers),
        waiting=sum(worker.waiting for worker in device.workers),
        abandoned=device.abandoned,
        signatures=device.signatures_before + sum(worker.signatures for worker in workers),
        call_seconds=device.call_seconds_before + sum(worker.call_seconds for worker in workers),
        failures=dict(device.failures),
        mistakes={index: mistake.advice for index, mistake in device.mistakes.items()},
    )
