"""A locust master and its workers as generators of a run: one command starts them all. Knows processes, not locust."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loadtest.plan import Plan
from loadtest.run import Generator, Options
from loadtest.target import TargetError

_FILE = Path(__file__).with_name("locustfile.py")


class LocustWorker(Generator):
    """One process of users; what it counted goes to the master."""

    def __init__(self, name: str, plan: Plan, directory: Path, arguments: list[str]) -> None:
        super().__init__(name, "locust", plan, directory)
        self._arguments = arguments

    def command(self) -> list[str]:
        """See Generator."""
        files = ["--plan", str(self._plan_file), "--part", str(self._out)]
        return [sys.executable, "-m", "locust", "-f", str(_FILE), *files, *self._arguments]

    def end(self) -> None:
        """The master tells it."""

    def documents(self) -> list[dict[str, Any]]:
        """None of its own."""
        if self.error:
            raise TargetError(self.error)
        return []


class LocustMaster(LocustWorker):
    """Tells the workers how many users to be, and hands over what they counted."""

    def end(self) -> None:
        """See Generator."""
        Generator.end(self)

    def documents(self) -> list[dict[str, Any]]:
        """One for each worker."""
        super().documents()
        if not self._out.exists():
            raise TargetError("no locust worker handed over what it counted; see what they said above")
        found: list[dict[str, Any]] = json.loads(self._out.read_text())
        return found


@dataclass(frozen=True)
class Fleet:
    """users: at a multiple of 1, all workers together. elsewhere: workers that other machines bring along."""

    users: int
    workers: int = 1
    listen: str = "127.0.0.1"
    port: int = 0
    elsewhere: int = 0

    def _common(self) -> list[str]:
        if find_spec("locust") is None:
            raise TargetError("locust is not installed: pip install 'qianyan[load]'")
        return ["--headless", "--only-summary", "--loglevel", "WARNING", "--stop-timeout", "10", "--most-users",
                str(self.users)]  # fmt: skip

    def make(self, options: Options, directory: Path) -> list[Generator]:
        """The master and this machine's workers, not started. Raises TargetError where locust is not installed."""
        port = self.port or _free_port()
        count = str(self.workers + self.elsewhere)
        master = ["--master", "--master-bind-host", self.listen, "--master-bind-port", str(port), "--expect-workers"]
        plan = replace(options.plan, closed=True)
        first: Generator = LocustMaster("locust-master", plan, directory, [*self._common(), *master, count])
        return [first, *self._workers(plan, directory, "127.0.0.1", port)]

    def _workers(self, plan: Plan, directory: Path, host: str, port: int) -> list[Generator]:
        """Workers of a master."""
        where = ["--worker", "--master-host", host, "--master-port", str(port)]
        return [
            LocustWorker(f"locust-{number}", plan, directory, [*self._common(), *where])
            for number in range(self.workers)
        ]

    async def join(self, plan: Plan, host: str, port: int) -> None:
        """Runs workers for a master on another machine until it ends. Raises TargetError."""
        with tempfile.TemporaryDirectory(prefix="qianyan-load-") as name:
            workers = self._workers(replace(plan, closed=True), Path(name), host, port)
            await asyncio.gather(*(one.start() for one in workers))
            await asyncio.gather(*(one.listen() for one in workers))
            for one in workers:
                one.documents()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
