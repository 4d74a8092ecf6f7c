"""A certificate for nobody, before the first real one: nothing of it stays, and everything is ready then."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event

from core.store.database import Database, open_database
from tests.holder_world import desk_on, organisation
from tests.issuance_support import Request, audit_rows, installation, snapshot
from tests.store_world import BACKENDS, new_store


async def store(directory: Path, backend: str) -> Database | None:
    if backend == "sqlite":
        return None
    empty = await new_store(directory, "postgres")
    await empty.close()
    return await open_database(empty.target)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_nothing_stays_and_nothing_is_left_to_compile(tmp_path: Path, backend: str) -> None:
    async with installation(tmp_path, database=await store(tmp_path, backend)) as world:
        desk = desk_on(world)
        await desk.holders.sealer()
        before, record = await snapshot(world.database), await audit_rows(world.database)
        committed: list[object] = []
        engine = world.database._engine.sync_engine
        note = committed.append
        event.listen(engine, "commit", note)
        await desk.issuer.rehearse()
        changed = len(committed)
        event.remove(engine, "commit", note)
        assert await snapshot(world.database) == before
        assert await audit_rows(world.database) == record
        assert world.signed == [], "no key of an authority signs"
        assert changed == 0
        compiled = len(engine._compiled_cache)
        made = await desk.issuer.issue(Request().encode(), "organisation", actor="token:ra-1", holder=organisation())
        assert len(made.certificates) == 2
        assert compiled > 15
        assert len(engine._compiled_cache) - compiled <= 8, "but for what is about the holder"
