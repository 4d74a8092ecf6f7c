"""The outbox: numbered without gaps and in commit order, on both databases; kept as long as anybody lacks it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.store import authorities, outbox, publication
from core.store.database import Database
from tests.directory_world import Holders, directory_settings, new_service
from tests.store_world import BACKENDS, NOW_MS, abandoned, authority, new_store


async def rows(database: Database, after: int = 0) -> list[tuple[int, str]]:
    async with database.read() as connection:
        return [(row.id, row.reference) for row in await outbox.read_after(connection, after, limit=1_000)]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_numbers_have_no_gaps_and_are_in_commit_order(tmp_path: Path, backend: str) -> None:
    database = await new_store(tmp_path, backend)
    try:
        async with abandoned(database) as connection:
            await outbox.put(connection, "certificate", "never", at_ms=NOW_MS)
        if backend == "postgres":  # on SQLite the second writer waits for the first
            async with database.write() as late:
                await outbox.put(late, "certificate", "late", at_ms=NOW_MS)
                async with database.write() as early:
                    await outbox.put(early, "certificate", "early", at_ms=NOW_MS)
                assert await rows(database) == [(1, "early")], "who has read this far misses nothing"
            assert await rows(database, 1) == [(2, "late")]
        before = len(await rows(database))

        async def write(number: int) -> None:
            async with database.write() as connection:
                await outbox.put(connection, "certificate", f"a{number}", at_ms=NOW_MS)
                await outbox.put(connection, "certificate", f"b{number}", at_ms=NOW_MS)

        await asyncio.gather(*(write(number) for number in range(20)))
        numbers = [number for number, _ in await rows(database)]
        assert numbers == list(range(1, before + 41))
    finally:
        await database.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_rows_are_kept_until_every_target_has_them(tmp_path: Path, backend: str) -> None:
    database = await new_store(tmp_path, backend)
    try:
        service = new_service(database, directory_settings(keep_days=1))
        async with database.write() as connection:
            await authorities.add(connection, authority())
            for number in range(10):
                await outbox.put(connection, "certificate", str(number), at_ms=1)
            for name in ("a", "b"):
                await publication.ensure(connection, name, at_ms=1)
            await publication.set_position(connection, "a", 10)
            await publication.set_position(connection, "b", 4)
        assert await service.prune() == 4
        async with database.write() as connection:
            assert await publication.forget(connection, "b")
            await outbox.put(connection, "certificate", "new", at_ms=service.clock())
        assert await service.prune() == 6
        assert [reference for _, reference in await rows(database)] == ["new"]
    finally:
        await database.close()


async def test_an_authority_that_gets_its_certificate_is_published(tmp_path: Path) -> None:
    database = await new_store(tmp_path)
    try:
        holders = Holders(database)
        async with database.write() as connection:
            await authorities.add(connection, authority())
        assert await rows(database) == [], "it has nothing to show yet"
        async with database.write() as connection:
            await authorities.install_certificate(connection, "issuing", holders.certificate, at_ms=NOW_MS)
        assert await rows(database) == [(1, "issuing")]
    finally:
        await database.close()
