"""PostgreSQL servers of the tests' own: as an unprivileged user, on a port and socket of their own, with fsync on.

`Server` is one data directory. `shared()` is started once per test process and removed when that ends; each test gets a
database of its own, copied from a template that holds the schema.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

from core.store.database import create_database
from tests.running import free_port

#: Debian keeps the server's programs out of the path, by version.
BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
PATIENCE_S = 60
#: Who the server runs as where the tests run as root, which PostgreSQL refuses.
USER = "postgres" if os.geteuid() == 0 else None
_numbers = itertools.count(1)


def _run(program: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [BINARIES / program, *arguments], user=USER, cwd="/", capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Server:
    """One PostgreSQL. `start()` returns when it accepts; `kill()` is `kill -9` of all of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls) -> Server:
        """An empty server in a temporary directory, not started."""
        directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path has at most 107 bytes
        if USER is not None:
            shutil.chown(directory, USER)
        return cls(directory)

    def initialise(self, **settings: str) -> Server:
        """A new cluster."""
        _run("initdb", "-D", self.data, "-U", "qianyan", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.configure(
            shared_buffers="32MB", max_connections="100", max_wal_size="256MB", wal_level="replica", **settings
        )
        return self

    def configure(self, **settings: str) -> None:
        """Settings that count from the next start or reload."""
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def replica(self) -> Server:
        """A streaming replica of this server, not started."""
        other = Server.make()
        _run("pg_basebackup", "-D", other.data, "-h", self.directory, "-p", str(self.port), "-U", "qianyan", "-R",
             "-X", "stream", "-c", "fast", "--no-sync")  # fmt: skip
        other.configure(
            primary_conninfo=f"host={self.directory} port={self.port} user=qianyan application_name=replica"
        )
        return other

    def start(self) -> Server:
        """Starts it and waits until it accepts."""
        log = (self.directory / "log").open("ab")
        options = ["-D", str(self.data), "-p", str(self.port), "-k", str(self.directory), "-h", "127.0.0.1"]
        self.process = subprocess.Popen(
            [BINARIES / "postgres", *options], user=USER, cwd="/", stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        ready = [BINARIES / "pg_isready", "-q", "-h", str(self.directory), "-p", str(self.port), "-t", "1"]
        for _ in range(PATIENCE_S * 20):
            if subprocess.run(ready, check=False).returncode == 0:
                return self
            assert self.process.poll() is None, (self.directory / "log").read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        raise AssertionError((self.directory / "log").read_text())

    def kill(self) -> None:
        """The whole process group at once: no shutdown, nothing flushed. Backends have groups of their own."""
        assert self.process is not None
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        self.process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        for child in children:
            while Path(f"/proc/{child}").exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run(["tail", f"--pid={child}", "-f", "/dev/null"], check=False, timeout=5)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """A fast shutdown."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(PATIENCE_S)

    def promote(self) -> None:
        """A replica becomes the primary."""
        _run("pg_ctl", "promote", "-D", self.data, "-w")

    def reload(self) -> None:
        """Settings that were changed take effect."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def remove(self) -> None:
        """Stops it and takes everything away."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """By TCP."""
        return f"postgresql+asyncpg://qianyan@127.0.0.1:{self.port}/{database}"

    async def execute(self, statement: str, database: str = "postgres") -> Any:
        """One statement outside any transaction; the first value of its first row."""
        connection = await asyncpg.connect(host=str(self.directory), port=self.port, user="qianyan", database=database)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def new_database(self, *, empty: bool = False) -> str:
        """A database of the caller's own, and its URL; with the schema unless `empty`."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else 'schema'}")
        return self.url(name)

    async def make_template(self) -> None:
        """The database that others are copied from."""
        await self.execute("CREATE DATABASE schema TEMPLATE template0")
        await (await create_database(self.url("schema"))).close()


@cache
def shared() -> Server:
    """The test process's server."""
    server = Server.make().initialise().start()
    atexit.register(server.remove)
    with ThreadPoolExecutor(1) as aside:  # a test's event loop may be running here
        aside.submit(asyncio.run, server.make_template()).result()
    return server
