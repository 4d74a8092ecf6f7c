"""Soft devices with a pool over them, for tests: real libraries, loaded as a vendor's would be."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from signer._native import sm2
from signer.engine.sdf.metrics import DeviceStatus
from signer.engine.sdf.pool import SdfPool
from signer.engine.sdf.session import DeviceKey
from signer.engine.sdf.settings import SdfDeviceSettings, SdfSettings
from tests.softsdf import PASSWORD, SoftDevice, build

INDEX = 1
#: Short enough for tests, long enough for two busy cores.
QUICK: dict[str, Any] = {
    "call_timeout_ms": 5_000,
    "request_timeout_ms": 20_000,
    "backoff_min_ms": 20,
    "backoff_max_ms": 200,
    "health_interval_s": 3_600.0,
}


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Returns when the condition holds; an AssertionError where it does not come to that."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        pause.wait(0.002)


@dataclass
class Hsm:
    """Devices `d0`, `d1`, ... with one key at INDEX, and a pool over them."""

    directory: Path
    devices: list[SoftDevice]
    key: sm2.PrivateKey
    settings: SdfSettings
    pool: SdfPool

    def open(self) -> DeviceKey:
        """The key, tried on every device by then."""
        return self.pool.open(INDEX, self.key.public_key.to_bytes(), everywhere=True)

    def status(self, number: int) -> DeviceStatus:
        return self.pool.status()[number]

    def until_state(self, number: int, state: str) -> None:
        until(lambda: self.status(number).state == state)

    def sign(self, handle: DeviceKey, count: int = 1) -> None:
        """Has `count` digests signed and verifies each."""
        digests = secrets.token_bytes(32 * count)
        signatures = self.pool.sign([(handle, count)], digests)
        assert sm2.verify_many(self.key.public_key, digests, signatures) == b"\1" * count


def make_devices(directory: Path, count: int, key: sm2.PrivateKey, *options: str) -> list[SoftDevice]:
    """So many devices with `key` at INDEX, and the password in `directory`/password; `options` as of `build`."""
    library = build(*options)
    devices = [SoftDevice(library, directory / f"d{n}") for n in range(count)]
    for device in devices:
        device.put_key(INDEX, key)
    password = directory / "password"
    password.write_bytes(PASSWORD + b"\n")
    password.chmod(0o600)
    return devices


def settings_for(directory: Path, made: list[SoftDevice], sessions: int = 4, /, **changes: Any) -> SdfSettings:
    """Settings of a pool over the devices; `changes` go over QUICK."""
    entries = tuple(SdfDeviceSettings(name=f"d{n}", library=str(device.library)) for n, device in enumerate(made))
    values: dict[str, Any] = {
        "devices": entries,
        "sessions_per_device": sessions,
        "password_file": str(directory / "password"),
        **QUICK,
        **changes,
    }
    return SdfSettings(**values)


@contextmanager
def open_hsm(
    directory: Path, count: int = 2, sessions: int = 4, *, registry: CollectorRegistry | None = None, **changes: Any
) -> Iterator[Hsm]:
    """The world, started; closed in the end with every hang released."""
    key = sm2.PrivateKey.generate()
    devices = make_devices(directory, count, key)
    settings = settings_for(directory, devices, sessions, **changes)
    pool = SdfPool(settings, registry=registry)
    pool.start()
    try:
        yield Hsm(directory, devices, key, settings, pool)
    finally:
        for device in devices:
            device["hang"] = 0
        pool.close()


class Load:
    """Threads that sign without pause until the block ends; what they meet is raised then."""

    def __init__(self, hsm: Hsm, handle: DeviceKey, threads: int = 4, count: int = 16) -> None:
        self._hsm = hsm
        self._handle = handle
        self._count = count
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self.batches = 0
        self.slowest_s = 0.0
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self._hsm.sign(self._handle, self._count)
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.batches += 1
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def more(self, batches: int = 20) -> None:
        """Returns after so many more batches, or with an error met."""
        wanted = self.batches + batches
        until(lambda: self.batches >= wanted or self._errors)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
