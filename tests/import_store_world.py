"""A store, on either database, with an authority that is taken over, and the imports into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from core.store import audit, certificates, counters, statistics_rebuild
from core.store.database import Database
from signer.importing import adopt as adopting
from signer.importing import crl as crl_import
from signer.importing import sources
from signer.importing.certificates import CertificateTaker, Placing
from signer.importing.checks import Issuer
from signer.importing.crl import CrlTaker
from signer.importing.job import Importer, new_job
from tests.import_world import OldAuthority
from tests.store_world import NOW_MS, new_store


class World:
    """A store with an authority that is taken over."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database = database
        self.directory = directory
        self.old = OldAuthority(NOW_MS)
        self.issuer = Issuer.of("old", self.old.certificate)
        self.now_ms = NOW_MS

    async def start(self) -> None:
        await adopting.adopt(self.database, "old", self.old.certificate, [], None, lambda: NOW_MS, "test")

    async def certificates(self, *paths: Path, pairs: bool = False) -> list[dict[str, object]]:
        """Imports files; the report."""
        files = sources.files_of(list(paths))
        job = new_job("old", "certificates", sources.digest_of(files), "test", self.now_ms)
        taker = CertificateTaker(self.issuer, Placing(pairs=pairs, ra="ra-9"), self.now_ms)
        report = self.directory / f"{job.id}.jsonl"
        await Importer(self.database, lambda: self.now_ms, job, taker, report).run(lambda: sources.items(files))
        return [orjson.loads(line) for line in report.read_bytes().splitlines()]

    async def crl(self, content: bytes, *, allow_older: bool = False, **options: bool) -> list[dict[str, object]]:
        """Imports a CRL; the report."""
        path = self.directory / f"{len(list(self.directory.iterdir()))}.crl"
        path.write_bytes(content)
        listed = crl_import.read(content, self.issuer, self.now_ms, **options)
        taker = CrlTaker(self.issuer, listed, Placing(), self.now_ms)
        job = new_job("old", "crl", sources.digest_of([path]), "test", self.now_ms)
        async with self.database.write() as connection:
            await counters.advance_time(connection, self.now_ms)
            await taker.settle(connection, allow_older=allow_older)
        report = path.with_suffix(".jsonl")
        await Importer(self.database, lambda: self.now_ms, job, taker, report).run(listed.entries)
        return [orjson.loads(line) for line in report.read_bytes().splitlines()]

    async def states(self, *serials: int) -> list[str | None]:
        async with self.database.read() as connection:
            found = await certificates.statuses(connection, "old", serials)
        return [None if one.state is None else one.state.value for one in found]

    async def release(self, serial: int) -> None:
        async with self.database.write() as connection:
            held = await certificates.find(connection, serial, "old")
            await certificates.release(connection, held, at_ms=NOW_MS)

    async def find(self, serial: int) -> certificates.CertificateRecord:
        async with self.database.read() as connection:
            return await certificates.find(connection, serial, "old")


@asynccontextmanager
async def open_import_world(directory: Path, backend: str) -> AsyncIterator[World]:
    """The world; at the end its counters and its audit record must be what the rows say."""
    database = await new_store(directory, backend)
    world = World(database, directory)
    await world.start()
    yield world
    async with database.read() as connection:
        assert await statistics_rebuild.differences(connection) == []
        assert (await audit.verify(connection)).broken_at is None
    await database.close()
