"""A store of an earlier version is brought to this one's schema, whole or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from core.errors import SettingsError
from core.model import KeyState
from core.store import authorities, keys
from core.store.database import _alembic, head_revision, open_database, upgrade_database


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store at the first revision, with a key and an authority that refers to it."""
    path = tmp_path / "store.sqlite3"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        alembic.command.upgrade(_alembic(connection), "0001")
    engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO keys VALUES ('ca', 'certificate', 'active', x'04', 'authority', 5, 5)")
        connection.execute(
            "INSERT INTO authorities (id, key_id, subject, public_key, partitions, created_at_ms)"
            " VALUES ('root', 'ca', x'30', x'04', 1, 5)"
        )
    return path


async def test_rows_survive(old: Path) -> None:
    url = f"sqlite+aiosqlite:///{old}"
    with pytest.raises(SettingsError, match="qianyan store upgrade"):
        await open_database(url)
    assert await upgrade_database(url) == ("0001", head_revision())
    database = await open_database(url)
    async with database.read() as connection:
        key = await keys.get(connection, "ca")
        authority = await authorities.get(connection, "root")
    await database.close()
    assert (key.state, key.backend, key.device_index) == (KeyState.ACTIVE, "software", None)
    assert authority.key_id == "ca"
    assert key.callers == ("*",), "keys of before the lists of callers are used as before"
    assert key.limits == keys.KeyLimits()
    assert await upgrade_database(url) == (head_revision(), head_revision())


async def test_a_broken_reference_stops_it(old: Path) -> None:
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE authorities SET key_id = 'nobody'")
    url = f"sqlite+aiosqlite:///{old}"
    with pytest.raises(SettingsError, match="nothing was changed"):
        await upgrade_database(url)
    with sqlite3.connect(old) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        assert len(connection.execute("PRAGMA table_info(keys)").fetchall()) == 7


async def test_a_store_of_a_later_version_is_left_alone(old: Path) -> None:
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match="9999"):
        await upgrade_database(f"sqlite+aiosqlite:///{old}")


async def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="qianyan init"):
        await upgrade_database(f"sqlite+aiosqlite:///{tmp_path}/none")
    assert not (tmp_path / "none").exists()
