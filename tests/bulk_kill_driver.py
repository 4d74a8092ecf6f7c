"""Kills a bulk run at each of its steps and looks at what is left: a process of its own, run by test_bulk_kill.

A step is a statement that writes, a COPY (before and after it), a commit, a batch of signatures (before and after it),
and a write to the file of results (before it, in the middle of it, after it). A forked process runs the file and kills
itself with SIGKILL at its first step; another goes on and dies at its second; and so on, until one comes to the end. No
code of the product is changed: SQLAlchemy's own events, the driver, the signer that it is handed and the file system's
calls say where it stands.

Prints one JSON object: how many kills there were.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg

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
from tests.registration_kill_driver import Place

#: On SQLite; on PostgreSQL, whose steps take longer, two chunks are enough.
LINES = 5 if sys.argv[-1].startswith("sqlite") else 3
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


def watch_copies(steps: Steps) -> None:
    """PostgreSQL takes rows by COPY, which SQLAlchemy does not see."""
    plain = asyncpg.Connection.copy_records_to_table

    async def watched(self: asyncpg.Connection, *arguments: Any, **named: Any) -> Any:
        steps.step()
        done = await plain(self, *arguments, **named)
        steps.step()
        return done

    asyncpg.Connection.copy_records_to_table = watched


Act = Callable[[Database, Desk, Callable[[str], Stepping]], Any]


async def with_desk(directory: Path, url: str, act: Act) -> None:
    database = Place(directory, url).opened()
    keystore = keystore_in(directory / "keys")
    settings = DeskSettings(SETTINGS, KmcSettings(spare_keys=0), HolderSettings())
    master = SoftwareMaster(keystore)
    desk = make_desk(database, signers(keystore, None), master, load_profiles(), settings, system_clock)
    try:
        await act(database, desk, lambda key_id: Stepping(keystore.load(key_id)))
    finally:
        await database.close()


async def run(directory: Path, url: str, steps: Steps | None) -> None:
    """One run of the file, to its end or that of the process."""

    async def act(_database: Database, desk: Desk, signer_for: Callable[[str], Stepping]) -> None:
        if steps is not None:
            steps.watch()
            watch_files(steps)
            watch_copies(steps)
            Stepping.steps = steps
        wish = Wish(directory / "r.jsonl", directory / "out.jsonl", "cli:test", chunk_holders=2)
        await BulkIssuer(desk.bulk(signer_for), wish, lambda _: None).run()

    await with_desk(directory, url, act)


QUERIES = {
    "runs": "SELECT lines, holders, refused FROM bulk_runs",
    "holders": "SELECT count(*) FROM holders",
    "escrowed": "SELECT count(*) FROM escrowed_keys",
    "events": "SELECT count(*) FROM certificate_events WHERE operation = 'issue'",
    "certificates": "SELECT count(*) FROM certificates WHERE profile IN ('person', 'organisation')",
    "whole": "SELECT count(*) FROM certificates WHERE holder_id IS NOT NULL AND pair_id IS NOT NULL",
}


def check(directory: Path, url: str, *, ended: bool) -> None:
    """All of a chunk or none; results only of what is committed; in the end everything once."""
    rows = zip(QUERIES, Place(directory, url).ask(list(QUERIES.values())), strict=True)
    found = {name: tuple(those[0]) if those else (0, 0, 0) for name, those in rows}
    done, holders = found["runs"], found["holders"][0]
    assert done[0] == done[1] + done[2]
    assert holders == done[1] == found["escrowed"][0] == found["events"][0]
    assert found["certificates"][0] == found["whole"][0] == 2 * holders
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


def main(directory: Path, url: str) -> None:
    async def prepare() -> None:
        given = None if url.startswith("sqlite") else await open_database(url)
        async with installation(directory, database=given) as world:
            await desk_on(world).holders.sealer()  # makes the holders' keys

    asyncio.run(prepare())
    write_requests(directory / "r.jsonl", LINES, then=[BAD])
    kills = 0
    while (status := forked(run(directory, url, Steps(kills + 1)))) == -signal.SIGKILL:
        kills += 1
        check(directory, url, ended=False)
    assert status == 0, f"it failed after {kills} kills"
    check(directory, url, ended=True)
    before = (directory / "out.jsonl").read_bytes()
    assert forked(run(directory, url, None)) == 0
    assert (directory / "out.jsonl").read_bytes() == before

    async def whole(database: Database, *_: object) -> None:
        async with database.read() as connection:
            assert (await audit.verify(connection)).broken_at is None

    asyncio.run(with_desk(directory, url, whole))
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
