"""Creating and opening a store, its schema, and its durability settings."""

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from core.errors import SettingsError, Unavailable
from core.store import counters
from core.store.database import create_database, head_revision, open_database
from core.store.schema import metadata
from tests.store_world import BACKENDS, fresh_store, store_url


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_migrations_make_the_schema(tmp_path: Path, backend: str) -> None:
    async with fresh_store(tmp_path, backend) as database, database.read() as connection:

        def differences(sync: object) -> list[object]:
            context = MigrationContext.configure(sync, opts={"compare_type": True})  # type: ignore[arg-type]
            return list(compare_metadata(context, metadata))

        assert await connection.run_sync(differences) == []
        said = (
            "SELECT sql FROM sqlite_master"
            if backend == "sqlite"
            else "SELECT 'CONSTRAINT ' || conname || ' ' FROM pg_constraint WHERE contype = 'c'"
        )
        made = (await connection.execute(text(said))).scalars().all()
    checks = " ".join(sql for sql in made if sql)
    for table in metadata.tables.values():
        for constraint in table.constraints:
            if constraint.name and "CHECK" in type(constraint).__name__.upper():
                assert f"CONSTRAINT {constraint.name} " in checks  # autogenerate does not compare these


async def test_an_existing_store_is_not_made_again(tmp_path: Path) -> None:
    async with fresh_store(tmp_path):
        pass
    before = (tmp_path / "store.sqlite3").read_bytes()
    with pytest.raises(SettingsError) as refused:
        await create_database(store_url(tmp_path))
    assert refused.value.code == "store_exists"
    assert (tmp_path / "store.sqlite3").read_bytes() == before


async def test_a_store_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    async with fresh_store(tmp_path):
        modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
    assert "store.sqlite3" in modes
    assert set(modes.values()) == {0o600}, modes


async def test_what_cannot_be_opened_says_why_in_one_line(tmp_path: Path) -> None:
    async def refusal(url: str) -> SettingsError:
        with pytest.raises(SettingsError) as refused:
            await open_database(url)
        assert "\n" not in refused.value.detail
        return refused.value

    assert (await refusal(store_url(tmp_path))).code == "store_missing"
    assert not (tmp_path / "store.sqlite3").exists(), "opening made a store"
    (tmp_path / "store.sqlite3").write_bytes(b"not a database, and rather more than a page of it" * 100)
    assert (await refusal(store_url(tmp_path))).code == "store_unreadable"
    (tmp_path / "store.sqlite3").write_bytes(b"")
    assert (await refusal(store_url(tmp_path))).code == "store_revision"
    assert (await refusal("nonsense")).code == "store_url"
    assert (await refusal("sqlite+aiosqlite://")).code == "store_url"


async def test_another_revision_is_not_opened(tmp_path: Path) -> None:
    async with fresh_store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "store.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SettingsError, match=f"9999.*needs {head_revision()}") as refused:
        await open_database(store_url(tmp_path))
    assert refused.value.code == "store_revision"


async def test_every_connection_is_durable_and_checks_references(tmp_path: Path) -> None:
    async with fresh_store(tmp_path) as database:

        async def pragmas() -> list[object]:
            async with database.read() as connection:
                names = ("journal_mode", "synchronous", "foreign_keys")
                return [(await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in names]

        assert await asyncio.gather(pragmas(), pragmas(), pragmas()) == [["wal", 2, 1]] * 3


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_read_sees_one_snapshot(tmp_path: Path, backend: str) -> None:
    async with fresh_store(tmp_path, backend) as database, database.read() as reader:
        assert await counters.current(reader, "x") == 0
        async with database.write() as writer:
            await counters.take(writer, "x", 5)
        assert await counters.current(reader, "x") == 0
        async with database.read() as later:
            assert await counters.current(later, "x") == 5


@pytest.mark.parametrize("backend", BACKENDS)
async def test_writers_of_one_process_wait_for_each_other(tmp_path: Path, backend: str) -> None:
    async with fresh_store(tmp_path, backend) as database:

        async def take() -> int:
            async with database.write() as connection:
                return await counters.take(connection, "x")

        assert sorted(await asyncio.gather(*(take() for _ in range(30)))) == list(range(1, 31))


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_constraint_that_fails_takes_its_whole_transaction_with_it(tmp_path: Path, backend: str) -> None:
    async with fresh_store(tmp_path, backend) as database:

        async def take_and_collide() -> None:
            async with database.write() as connection:
                await counters.take(connection, "x", 3)
                await connection.execute(text("INSERT INTO counters VALUES ('x', 1)"))

        with pytest.raises(IntegrityError):
            await take_and_collide()
        async with database.read() as connection:
            assert await counters.current(connection, "x") == 0


async def test_a_store_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    async with fresh_store(tmp_path) as database:
        with sqlite3.connect(tmp_path / "store.sqlite3") as other:
            other.execute("DROP TABLE counters")
        other.close()
        with pytest.raises(Unavailable) as refused:
            async with database.write() as connection:
                await counters.take(connection, "x")
        assert refused.value.code == "store_unavailable"
        with pytest.raises(Unavailable):
            async with database.read() as connection:
                await counters.current(connection, "x")
