"""The `qianyan` command as a process of its own that need not import everything first.

A server process per test process imports the command line and every command once; each command is then a fork of it: a
pid, a memory, signals and an exit status of its own, only warm. What the start itself is about (the installed script,
an environment that is read at import, another interpreter) is started by `subprocess` (`tests.running`).

`python -m tests.warm FD` is the server. A request is one datagram: the command and where it runs, with its standard
output, standard error and a socket that is told the pid, later the wait status.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: Whether commands are run so: by pytest (conftest.py), not by benchmarks and loads, which measure the product itself.
enabled = False
_REQUEST_BYTES = 1 << 18
_INT = array.array("i").itemsize


def environment() -> dict[str, str]:
    """The environment that decides how a process starts: without what pytest writes there for each test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


#: What forks have; a test that changes it needs a process that begins with it.
ENVIRONMENT = environment()


class Forked(subprocess.Popen[str]):
    """A command that runs in a fork of the server; otherwise what `subprocess.Popen` is."""

    def __init__(self, command: Sequence[str], cwd: Path | None, stdout: int, stderr: int) -> None:
        """`stdout` and `stderr`: descriptors, or subprocess.PIPE. Standard input is empty."""
        self.args = list(command)
        self.stdin = None
        self.text_mode = True
        self.returncode: int | None = None  # type: ignore[assignment]
        self._child_created = False
        self._communication_started = False
        self._input: Any = None
        self._told = threading.Lock()
        (self.stdout, out), (self.stderr, err) = self._stream(stdout), self._stream(stderr)
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps({"command": list(command), "cwd": str(cwd or Path.cwd())}).encode()
        with theirs:
            socket.send_fds(_server(), [request], [out, err, theirs.fileno()])
        for ours, given in ((stdout, out), (stderr, err)):
            if ours == subprocess.PIPE:
                os.close(given)
        told = self._status.recv(32)
        assert told, "the server of warm commands has ended"
        self.pid = int(told)
        self._child_created = True

    @staticmethod
    def _stream(wanted: int) -> tuple[Any, int]:
        if wanted != subprocess.PIPE:
            return None, wanted
        reads, writes = os.pipe()
        return os.fdopen(reads, encoding="utf-8"), writes

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        return self._ended(0)

    def poll(self) -> int | None:
        """The exit status, once there is one."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end."""
        status = self._ended(timeout)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status

    def _ended(self, timeout: float | None) -> int | None:
        ready = select.poll()  # a descriptor may have any number here
        ready.register(self._status, select.POLLIN)
        if self.returncode is None and ready.poll(None if timeout is None else timeout * 1000):
            with self._told:  # several threads may wait
                if self.returncode is None:
                    told = self._status.recv(32)
                    assert told, "the process that waits for the command is gone"
                    self.returncode = os.waitstatus_to_exitcode(int(told))
        return self.returncode


@cache
def _server() -> socket.socket:
    """This test process's server; it ends when this socket is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


def _serve(control: socket.socket) -> list[str] | None:
    """Forks for each request. Returns the command in each fork, and None at the end of the server."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _REQUEST_BYTES, 3)
        if not data:
            return None
        if os.fork() == 0:
            control.close()
            return _run(json.loads(data), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _run(request: dict[str, Any], out: int, err: int, status: int) -> list[str]:
    """Returns the command in the process that is to run it; the one between waits for it and tells how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(status)
        for descriptor, place in ((out, 1), (err, 2)):
            os.dup2(descriptor, place)
            os.close(descriptor)
        os.chdir(request["cwd"])
        return list(request["command"])
    try:
        for descriptor in (out, err, 1, 2):
            os.close(descriptor)
        with contextlib.suppress(OSError):  # whoever asked has gone
            os.write(status, str(pid).encode())
            os.write(status, str(os.waitpid(pid, 0)[1]).encode())
    finally:
        os._exit(0)


def _import_everything() -> None:
    from service.cli import SECTIONS

    commands = [f"service.commands.{module}" for section in SECTIONS.values() for module, _, _ in section.values()]
    for module in (*commands, "service.node", "service.server", "rich.console", "rich.table"):
        with contextlib.suppress(ImportError):  # it is the command itself that fails by it, and says so
            importlib.import_module(module)


def main(control_fd: int) -> None:
    """Serves until the test process has ended; in a fork, runs the command."""
    _import_everything()
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread: a fork would not have it"
    gc.collect()
    gc.freeze()  # or a collection here would copy pages that forks share
    command = _serve(socket.socket(fileno=control_fd))
    if command is not None:
        from service.cli import main as run

        gc.unfreeze()
        sys.argv = command
        run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
