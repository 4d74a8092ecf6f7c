"""What a statement that fails says: its text, never the values in it, which logs would keep."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError

from core.store.schema import tokens
from tests.store_world import new_store


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_values_are_in_no_traceback(tmp_path: Path, kind: str) -> None:
    database = await new_store(tmp_path, kind)
    row = {"id": "twice", "digest": bytes(32), "scopes": "kept-to-itself", "created_at_ms": 1, "withdrawn": False}

    async def add() -> None:
        async with database.write() as connection:
            await connection.execute(insert(tokens).values(**row))

    try:
        await add()
        with pytest.raises(DBAPIError) as failed:
            await add()
    finally:
        await database.close()
    said = "".join(traceback.format_exception(failed.value))
    assert "INSERT INTO tokens" in said
    assert "kept-to-itself" not in said
