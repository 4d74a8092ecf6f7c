"""A store of before the statistics: what is there gets its headings, and is counted once before it is told of."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from core.errors import Unavailable
from core.store import statistics, statistics_rebuild
from core.store.counted import day_of
from core.store.database import _alembic, open_database, upgrade_database
from core.store.statistics import Question
from tests.store_world import NOW_MS

DAY_MS = 86_400_000


async def test_what_was_there_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        alembic.command.upgrade(_alembic(connection), "0014")
    engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO authorities (id, subject, public_key, partitions, created_at_ms)"
            " VALUES ('ca', x'30', x'04', 1, 5)"
        )
        for number, profile in enumerate(("person", "person", "device"), 1):
            connection.execute(
                "INSERT INTO certificates (id, authority_id, serial, usage, profile, subject, public_key, not_before_ms"
                ", not_after_ms, partition, status_month, status_index, certificate, issued_at_ms, state, changed_seq)"
                " VALUES (?, 'ca', ?, 'sign', ?, x'30', x'04', 5, ?, 0, 24322, ?, x'30', ?, 'good', 0)",
                (number, bytes([number]), profile, NOW_MS + DAY_MS, number, NOW_MS - number * DAY_MS),
            )
    url = f"sqlite+aiosqlite:///{path}"
    await upgrade_database(url)
    database = await open_database(url)
    question = Question(0, day_of(NOW_MS) + 1, ("profile",))
    try:
        async with database.read() as connection:
            with pytest.raises(Unavailable, match="stats rebuild"):
                await statistics.ask(connection, question, now_ms=NOW_MS)
        async with database.write() as connection:
            await statistics_rebuild.rebuild(connection)
        async with database.read() as connection:
            answer = await statistics.ask(connection, question, now_ms=NOW_MS)
            assert await statistics_rebuild.differences(connection) == []
    finally:
        await database.close()
    assert [(row["profile"], row["issued"]) for row in answer.business] == [("device", 1), ("person", 2)]
    assert [(row["profile"], row["good"]) for row in answer.states] == [("device", 1), ("person", 2)]
