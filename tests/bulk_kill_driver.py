"""Kills a bulk run at each of its steps and looks at what is left: a process of its own, run by test_bulk_kill.

A step is a statement that writes, a commit, a batch of signatures (before and after it), and a write to the file of
results (before it, in the middle of it, after it). A forked process runs the file and kills itself with SIGKILL at its
first step; another goes on and dies at its second; and so on, until one comes to the end. No code of the product is
changed: SQLAlchemy's own events, the signer that it is handed and the file system's calls say where it stands.

Prints one JSON object: how many kills there were.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from core.clock import system_clock
from core.store import audit
from core.store.database import Database, open_database
from signer.engine.master import SoftwareMaster
from signer.holders.settings import HolderSettings
from signer.issuance.bulk import BulkIssuer, Wish
from signer.issuance.desk import Desk, DeskSettings, make_desk
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import KmcSettings
from tests.bulk_world import LocalBatchSigner, write_requests
from tests.holder_world import SETTINGS, desk_on
from tests.issuance_support import installation, keystore_in
from tests.kill_driver import Steps, forked, signers

LINES = 5
TORN_BYTES = 900
BAD = b'{"profile": "nobody", "csr": "AAAA"}'


class Stepping(LocalBatchSigner):
    """A signer whose batches are steps."""

    steps: Steps | None = None

    async def sign_many(self, messages: list[bytes]) -> bytes:
        """Steps around it."""
        if self.steps is not None:
            self.steps.step()
        signed = await super().sign_many(messages)
        if self.steps is not None:
            self.steps.step()
        return signed


def watch_files(steps: Steps) -> None:
    """Each wait for the disk has steps: before it, as the power ends with less on the disk than was written, after."""
    plain = os.fdatasync

    def watched(descriptor: int) -> None:
        steps.step()
        size = os.fstat(descriptor).st_size
        if size > TORN_BYTES:
            end = os.pread(descriptor, TORN_BYTES, size - TORN_BYTES)
            os.ftruncate(descriptor, size - TORN_BYTES)
            steps.step()
            os.pwrite(descriptor, end, size - TORN_BYTES)
        plain(descriptor)
        steps.step()

    os.fdatasync = watched


async def with_desk(directory: Path, act: Callable[[Database, Desk, Callable[[str], Stepping]], object]) -> None:
    database = await open_database(f"sqlite+aiosqlite:///{directory}/store.sqlite3")
    keystore = keystore_in(directory / "keys")
    settings = DeskSettings(SETTINGS, KmcSettings(spare_keys=0), HolderSettings())
    master = SoftwareMaster(keystore)
    desk = make_desk(database, signers(keystore, None), master, load_profiles(), settings, system_clock)
    try:
        await act(database, desk, lambda key_id: Stepping(keystore.load(key_id)))  # type: ignore[misc]
    finally:
        await database.close()


async def run(directory: Path, steps: Steps | None) -> None:
    """One run of the file, to its end or that of the process."""

    async def act(_database: Database, desk: Desk, signer_for: Callable[[str], Stepping]) -> None:
        if steps is not None:
            steps.watch()
            watch_files(steps)
            Stepping.steps = steps
        wish = Wish(directory / "r.jsonl", directory / "out.jsonl", "cli:test", chunk_holders=2)
        await BulkIssuer(desk.bulk(signer_for), wish, lambda _: None).run()

    await with_desk(directory, act)


def check(directory: Path, *, ended: bool) -> None:
    """All of a chunk or none; results only of what is committed; in the end everything once."""
    with closing(sqlite3.connect(directory / "store.sqlite3")) as connection:

        def count(table: str, where: str = "1") -> int:
            return int(connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0])

        done = connection.execute("SELECT lines, holders, refused FROM bulk_runs").fetchone() or (0, 0, 0)
        holders = count("holders")
        assert done[0] == done[1] + done[2]
        assert holders == done[1] == count("escrowed_keys") == count("certificate_events", "operation = 'issue'")
        assert count("certificates", "profile IN ('person', 'organisation')") == 2 * holders
        assert count("certificates", "holder_id IS NOT NULL AND pair_id IS NOT NULL") == 2 * holders
    assert not ended or done == (LINES + 1, LINES, 1)
    written = read(directory)
    assert written == list(range(1, len(written) + 1))
    assert len(written) <= done[0], "results of what is not committed"
    assert not ended or len(written) == LINES + 1


def read(directory: Path) -> list[int]:
    """The whole lines of results by number."""
    path = directory / "out.jsonl"
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line)["line"] for line in text.split(b"\n")[1:-1]]


def main(directory: Path) -> None:
    async def prepare() -> None:
        async with installation(directory) as world:
            await desk_on(world).holders.sealer()  # makes the holders' keys

    asyncio.run(prepare())
    write_requests(directory / "r.jsonl", LINES, then=[BAD])
    kills = 0
    while (status := forked(run(directory, Steps(kills + 1)))) == -signal.SIGKILL:
        kills += 1
        check(directory, ended=False)
    assert status == 0, f"it failed after {kills} kills"
    check(directory, ended=True)
    before = (directory / "out.jsonl").read_bytes()
    assert forked(run(directory, None)) == 0
    assert (directory / "out.jsonl").read_bytes() == before

    async def whole(database: Database, *_: object) -> None:
        async with database.read() as connection:
            assert (await audit.verify(connection)).broken_at is None

    asyncio.run(with_desk(directory, whole))
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
