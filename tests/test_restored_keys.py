"""What a store from a backup must not give a second time: keys that others have by now, permissions that were spent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.errors import Conflict
from core.store import audit, restored
from core.store.database import Database, open_database
from signer.engine.master import SoftwareMaster
from signer.issuance.kmc import KeyManagement
from signer.issuance.unlocking import Unlocking
from tests.holder_world import SETTINGS, desk_on, organisation
from tests.issuance_support import Installation, Request, installation

ACTOR = "cli:test"


def back_up(inside: Installation) -> Path:
    """A copy of the store as it is."""
    backup = inside.directory / "backup.sqlite3"
    with sqlite3.connect(inside.directory / "store.sqlite3") as origin, sqlite3.connect(backup) as copy:
        origin.backup(copy)
    return backup


@asynccontextmanager
async def restored_from(inside: Installation, backup: Path) -> AsyncIterator[Database]:
    """The backup as the store, made safe to go on with."""
    database = await open_database(f"sqlite+aiosqlite:///{backup}")
    try:
        async with database.write() as connection:
            await restored.go_ahead(connection, now_ms=inside.clock(), most_issued=100, actor=ACTOR, backup="b")
        yield database
    finally:
        await database.close()


async def test_no_two_holders_get_one_encryption_key(tmp_path: Path) -> None:
    async with installation(tmp_path) as inside:
        master = SoftwareMaster(inside.keystore)
        recipient = Request().key.public_key.to_bytes()
        before = KeyManagement(master, inside.database, inside.clock)
        await before.refill(20)
        backup = back_up(inside)
        given = {(await before.make(recipient)).public_key for _ in range(5)}
        async with restored_from(inside, backup) as database:
            after = KeyManagement(master, database, inside.clock)
            later = {(await after.make(recipient)).public_key for _ in range(20)}
            async with database.read() as connection:
                (row,) = await audit.find(connection, action="store.restored")
        assert len(later) == 20
        assert not given & later
        assert json.loads(row["detail"])["spare_keys"] == 20


async def test_no_permission_is_spent_twice(tmp_path: Path) -> None:
    async with installation(tmp_path) as inside:
        desk = desk_on(inside)
        try:
            issued = await desk.issuer.issue(Request().encode(), "organisation", actor=ACTOR, holder=organisation())
            given = await desk.unlocking.unlock(issued.certificates[0].serial, actor=ACTOR)
            backup = back_up(inside)
            await desk.unlocking.redeem(given.token, actor=ACTOR)
            async with restored_from(inside, backup) as database:
                with pytest.raises(Conflict):
                    await Unlocking(database, desk.vault, SETTINGS, inside.clock).redeem(given.token, actor=ACTOR)
        finally:
            await desk.close()
