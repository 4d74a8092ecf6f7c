"""Keeps a number of workers serving: `qianyan serve --workers N`.

Owns the listening sockets, one pair a worker, and keeps them open whatever becomes of the workers: a connection that
arrives while a worker is being replaced waits in the kernel and is answered by the next one. Knows processes and
signals; not requests, keys or the store. A worker is told to stop by the end of its standard input, so that workers
never outlive a supervisor that was killed.

SIGTERM and SIGINT stop everything, requests under way answered first. SIGHUP replaces the workers one after another,
each old one only when its successor serves: new settings and certificates without a dropped request.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from core.errors import QianyanError
from service.listeners import Listening, Sockets, bind, describe
from service.settings import Loaded
from service.workers_metrics import socket_path

_log = structlog.get_logger("qianyan.supervisor")

_READY: Final = b"ready\n"
_START_TIMEOUT_S: Final = 120.0
_BACK_OFF_FIRST_S: Final = 0.5
_BACK_OFF_MAX_S: Final = 30.0
#: What a worker gets past its own stop timeout before it is killed.
_STOP_MARGIN_S: Final = 15.0


class WorkerFailed(QianyanError):
    """A worker ended before it served; it said why on standard error."""

    kind = "internal"

    def __init__(self, status: int) -> None:
        super().__init__(f"a worker ended with status {status} before it served", code="worker_failed")
        self.status = status


@dataclass(slots=True)
class _Slot:
    """One worker's place: its sockets, who has it now, how often it was lost."""

    number: int
    sockets: Sockets
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0


class Supervisor:
    """See the module."""

    def __init__(self, loaded: Loaded, passphrase: bytearray, workers: int, run_directory: Path) -> None:
        self._loaded = loaded
        self._passphrase = passphrase
        self._run_directory = run_directory
        self._slots = [_Slot(number, sockets) for number, sockets in enumerate(bind(loaded, workers))]
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self, announce: Callable[[Listening], None]) -> None:
        """Starts the workers, the leader first, and keeps them until stopped. Raises WorkerFailed at the start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        keepers: list[asyncio.Task[None]] = []
        try:
            for slot in self._slots:
                slot.process = await self._spawn(slot)
            announce(describe(self._loaded, [slot.sockets for slot in self._slots]))
            keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
            keepers.append(asyncio.create_task(self._roll_when_asked()))
            await self._stop.wait()
        finally:
            self._stop.set()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await asyncio.gather(*(self._end(slot.process) for slot in self._slots if slot.process is not None))
            for slot in self._slots:
                slot.sockets.close()

    async def _spawn(self, slot: _Slot) -> asyncio.subprocess.Process:
        """A worker that serves. Raises WorkerFailed."""
        public, private = slot.sockets.descriptors
        arguments = ["--config", str(self._loaded.file), "--slot", str(slot.number), "--restarts", str(slot.restarts)]
        arguments += ["--sockets", str(public), str(private), "--run-directory", str(self._run_directory)]
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service", "worker", *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=[descriptor for descriptor in (public, private) if descriptor >= 0],
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor alone
            )
        except OSError as error:  # no memory, process numbers or descriptors now: whoever keeps the slot tries again
            _log.error("worker_not_started", slot=slot.number, cause=error.strerror)
            raise WorkerFailed(1) from error
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            process.stdin.write(self._passphrase + b"\n")
            await process.stdin.drain()
            async with asyncio.timeout(_START_TIMEOUT_S):
                line = await process.stdout.readline()
        if line != _READY:
            await self._end(process)
            raise WorkerFailed(process.returncode or 1)
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Asks a worker to stop, and kills it where it does not."""
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(self._loaded.settings.server.stop_timeout_s + _STOP_MARGIN_S):
                await process.wait()
        except TimeoutError:
            _log.error("worker_killed", pid=process.pid)
            process.kill()
            await process.wait()

    async def _keep(self, slot: _Slot) -> None:
        """Replaces the slot's worker whenever it ends by itself, at growing intervals where that goes on."""
        wait_s = _BACK_OFF_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            process = slot.process
            assert process is not None
            since = loop.time()
            status = await process.wait()
            if slot.process is not process:
                continue  # it was replaced, and this is its end
            slot.restarts += 1
            socket_path(self._run_directory, slot.number, process.pid).unlink(missing_ok=True)
            _log.error("worker_lost", slot=slot.number, pid=process.pid, status=status, restarts=slot.restarts)
            if loop.time() - since > _BACK_OFF_MAX_S:
                wait_s = _BACK_OFF_FIRST_S
            while slot.process is process:
                try:
                    await self._hand_over(slot)
                    break
                except WorkerFailed as error:
                    _log.error("worker_not_replaced", slot=slot.number, status=error.status, retry_in_s=wait_s)
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, _BACK_OFF_MAX_S)
            assert slot.process is not None
            _log.info("worker_replaced", slot=slot.number, pid=slot.process.pid)

    async def _hand_over(self, slot: _Slot) -> None:
        """Gives the slot to a new worker once that serves, and ends who has it by then. Raises WorkerFailed."""
        successor = await self._spawn(slot)
        before, slot.process = slot.process, successor
        assert before is not None
        await self._end(before)

    async def _roll_when_asked(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            for slot in self._slots:
                try:
                    await self._hand_over(slot)
                except WorkerFailed as error:
                    _log.error("reload_failed", slot=slot.number, status=error.status)
                    break  # what the old workers have is known to serve
            else:
                _log.info("reloaded", workers=len(self._slots))


def supervise(loaded: Loaded, passphrase: bytearray, workers: int, announce: Callable[[Listening], None]) -> None:
    """Serves with so many workers until SIGTERM or SIGINT."""

    async def run(directory: Path) -> None:
        await Supervisor(loaded, passphrase, workers, directory).run(announce)

    with tempfile.TemporaryDirectory(prefix="qianyan-") as directory:
        asyncio.run(run(Path(directory)))
