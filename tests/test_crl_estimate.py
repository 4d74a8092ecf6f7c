"""The size that was foretold is the size that comes."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import NotFound, Refused
from core.model import RevocationReason
from crl.estimate import entry_size, estimate
from tests.crl_world import World, make_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as world:
        await world.add_authority(partitions=2)
        yield world


def test_an_entry_has_49_octets() -> None:
    assert entry_size(RevocationReason.KEY_COMPROMISE) == 49
    assert entry_size(RevocationReason.UNSPECIFIED) == 35
    assert entry_size(RevocationReason.KEY_COMPROMISE, invalidity=True) == 49 + 26


async def test_it_comes_as_foretold(world: World) -> None:
    service = world.service()
    await service.build_due()
    serials = [random.Random(i).getrandbits(126) | 1 << 126 for i in range(400)]
    await world.issue(*serials)
    (foretold,) = await estimate(world.database, "issuing", 400, partition=0)
    await world.revoke(*serials, reason=RevocationReason.SUPERSEDED)
    record = await service.build("issuing", 0)
    assert foretold.entries_then == record.entries == 400
    assert foretold.size_then == pytest.approx(
        len(record.crl), abs=100
    )  # longer length octets, and the first CRL has no delta
    assert (foretold.entries_now, foretold.size_now < 400) == (0, True)


async def test_revocations_spread_over_the_partitions(world: World) -> None:
    spread = await estimate(world.database, "issuing", 101)
    assert [(e.partition, e.entries_then, e.size_then) for e in spread] == [(0, 51, 51 * 49), (1, 51, 51 * 49)]


async def test_what_is_not_there_is_named(world: World) -> None:
    with pytest.raises(NotFound):
        await estimate(world.database, "nobody", 1)
    with pytest.raises(NotFound):
        await estimate(world.database, "issuing", 1, partition=2)
    with pytest.raises(Refused):
        await estimate(world.database, "issuing", -1)
