"""A store with one authority, rows to put into it, and a writer in a process of its own (`tests.store_writer`)."""

import asyncio
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from core.store import authorities
from core.store.authorities import Authority
from core.store.certificates import NewCertificate
from core.store.database import Database, create_database, open_database, sqlite_path
from tests import postgres

#: What a store contract test is run on.
BACKENDS = ("sqlite", "postgres")
NOW_MS = 1_795_000_000_000
ROOT = Path(__file__).parent.parent


def store_url(directory: Path) -> str:
    """The URL of the store in `directory`."""
    return f"sqlite+aiosqlite:///{directory / 'store.sqlite3'}"


def authority(authority_id: str = "issuing", *, partitions: int = 1) -> Authority:
    """An authority without keys or certificates."""
    return Authority(authority_id, None, None, b"name", b"point", None, None, None, partitions, NOW_MS)


def certificate(serial: int, index: int, *, authority_id: str = "issuing", **changes: object) -> NewCertificate:
    """A certificate to record; the store looks at none of its bytes."""
    values: dict[str, object] = {
        "authority_id": authority_id,
        "serial": serial,
        "usage": "sign",
        "profile": "person",
        "subject": b"name",
        "public_key": b"point",
        "not_before_ms": NOW_MS,
        "not_after_ms": NOW_MS + 86_400_000,
        "partition": 0,
        "status_month": 24_322,
        "status_index": index,
        "certificate": b"certificate",
        **changes,
    }
    return NewCertificate(**values)  # type: ignore[arg-type]


@cache
def _made() -> Path:
    """A store that `create_database` made, once in a test process: other new ones are copies of it."""
    directory = Path(tempfile.mkdtemp(prefix="store-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)

    async def make() -> None:
        await (await create_database(store_url(directory))).close()

    with ThreadPoolExecutor(1) as aside:  # a test's event loop may be running here
        aside.submit(asyncio.run, make()).result()
    (file,) = directory.iterdir()  # closed: nothing is left in a log
    return file


async def create_store(url: str) -> Database:
    """The new, empty store that `create_database` makes at a URL; without walking through every migration again."""
    path = sqlite_path(url)
    if path is None:
        return await create_database(url)
    assert not path.exists(), f"there is a store at {path} already"
    shutil.copy(_made(), path)
    return await open_database(url)


async def new_store(directory: Path, backend: str = "sqlite") -> Database:
    """A new, empty store: a file in `directory`, or a database of its own on the tests' PostgreSQL."""
    if backend == "sqlite":
        return await create_store(store_url(directory))
    return await open_database(await postgres.shared().new_database())


@asynccontextmanager
async def fresh_store(directory: Path, backend: str = "sqlite") -> AsyncIterator[Database]:
    """A new store with one authority, closed in the end."""
    database = await new_store(directory, backend)
    try:
        async with database.write() as connection:
            await authorities.add(connection, authority())
        yield database
    finally:
        await database.close()


class Abandoned(Exception):
    """What ends an `abandoned` transaction."""


@asynccontextmanager
async def abandoned(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction that fails at its very end, after everything in the block was done."""
    with suppress(Abandoned):
        async with database.write() as connection:
            yield connection
            raise Abandoned


def start_writer(url: str, first_serial: int, count: int) -> "subprocess.Popen[str]":
    """A process that records `count` certificates, one transaction each, and prints each serial after its commit."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store_writer", url, str(first_serial), str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
