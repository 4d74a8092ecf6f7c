"""A quota is never overspent, whoever asks at the same time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.errors import Busy
from core.store import callers
from service.quotas import Quotas
from tests.store_world import new_store

QUOTA = 1_000
CALLER = "token:many"


async def test_what_one_counts_on_is_not_given_to_another(tmp_path: Path) -> None:
    database = await new_store(tmp_path)
    try:
        quotas = Quotas(database, lambda: 1, 0)
        await quotas.take(CALLER, 1, QUOTA)  # and some are held ahead
        async with database.write() as connection:
            taken = (await callers.taken_of_day(connection, 0))[CALLER]
            held = taken - 1
            await callers.take_from_day(connection, CALLER, 0, QUOTA - taken - 6, 0, QUOTA)
        assert held > 6
        asked = [quotas.take(CALLER, held + 6, QUOTA), quotas.take(CALLER, held, QUOTA), quotas.take(CALLER, 1, QUOTA)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        given = sum(count for count, answer in zip((held + 6, held, 1), answers, strict=True) if answer == 0)
        assert given <= held + 6, "more than the day has left"
        assert sum(isinstance(answer, Busy) for answer in answers) == 2
    finally:
        await database.close()


async def test_who_is_refused_leaves_to_others_what_is_held(tmp_path: Path) -> None:
    database = await new_store(tmp_path)
    try:
        quotas = Quotas(database, lambda: 1, 0)
        await quotas.take(CALLER, 1, QUOTA)
        with pytest.raises(Busy):
            await quotas.take(CALLER, QUOTA + 1, QUOTA)
        assert quotas.holds(CALLER, 1)
    finally:
        await database.close()
