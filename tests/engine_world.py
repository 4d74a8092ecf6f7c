"""A real store, follower, key directory and engine in a temporary directory, for tests of the engine and of signing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from core.clock import Clock, system_clock
from core.model import KeyPurpose
from core.store.database import Database, open_database
from core.store.follow import FeedFollower
from core.store.schema import audit
from signer.engine.backend import DeviceBackend
from signer.engine.engine import SigningEngine
from signer.engine.keystore import KeyStore
from signer.engine.settings import EngineSettings, KeyStoreSettings
from tests.store_world import create_store

PASSPHRASE = b"correct horse"
#: The least that the settings allow: what is tested here is not how slow a derivation is.
FAST = KeyStoreSettings(scrypt_log2_n=10, scrypt_p=1)


def store_url(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory / 'store.sqlite3'}"


def key_store(directory: Path, passphrase: bytes = PASSPHRASE, settings: KeyStoreSettings = FAST) -> KeyStore:
    (directory / "keys").mkdir(mode=0o700, exist_ok=True)
    return KeyStore(directory / "keys", bytearray(passphrase), settings)


@dataclass
class World:
    directory: Path
    database: Database
    follower: FeedFollower
    keystore: KeyStore
    engine: SigningEngine

    async def audit_rows(self, action: str) -> list[Any]:
        async with self.database.read() as connection:
            rows = await connection.execute(select(audit).where(audit.c.action == action).order_by(audit.c.seq))
            return list(rows)


@asynccontextmanager
async def open_world(
    directory: Path,
    *,
    settings: EngineSettings | None = None,
    clock: Clock = system_clock,
    keys: tuple[str, ...] = (),
    devices: DeviceBackend | None = None,
    url: str | None = None,
) -> AsyncIterator[World]:
    """Opens the world in `directory`, makes it first where it is new, and closes it again.

    `url`: of a store elsewhere that is there already.
    """
    new = url is None and not (directory / "store.sqlite3").exists()
    database = await (create_store if new else open_database)(url or store_url(directory))
    follower = await FeedFollower.start(database)
    keystore = key_store(directory)
    engine = SigningEngine(database, follower, keystore, settings or EngineSettings(), clock, devices=devices)
    try:
        await engine.start()
        for key_id in keys:
            await engine.create_key(key_id, KeyPurpose.DATA, "owner", "test", callers=["*"])
        yield World(directory, database, follower, keystore, engine)
    finally:
        await engine.close()
        follower.close()
        await database.close()
        keystore.close()


async def in_another_process(directory: Path, statement: str) -> None:
    """Runs `statement` (it may await) in a new process that has its own world over `directory`, named `world`."""
    import sys

    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from core.model import KeyPurpose, KeyState\nfrom tests.engine_world import open_world\n"
        "async def main():\n"
        "    async with open_world(Path(sys.argv[1])) as world:\n"
        f"        {statement}\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(directory), stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
