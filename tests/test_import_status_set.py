"""Status sets of imported certificates: exact through every change, by deltas that keep their keys; on both stores."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update

from core.model import RevocationReason
from core.store import imports
from core.store.certificates import NewCertificate
from core.store.imports import Adopted
from core.store.schema_certificates import certificates as table
from qianyan_status import Status
from status.set.build import month_of
from status.set.hashing import distinct_bits, full_key
from status.set.settings import StatusSetSettings
from tests import postgres
from tests.set_world import SUBJECT, YEAR_MS, SetWorld, leaf, open_set_world
from tests.store_world import BACKENDS

HOLD = RevocationReason.CERTIFICATE_HOLD
COUNT = 300


@pytest.fixture(params=BACKENDS)
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SetWorld]:
    url = None if request.param == "sqlite" else await postgres.shared().new_database()
    async with open_set_world(tmp_path, StatusSetSettings(delta_least_bytes=1 << 20), url=url) as world:
        async with world.database.write() as connection:
            await imports.adopt(connection, Adopted("issuing", world.issuer, None), at_ms=world.clock())
        yield world


async def take_over(world: SetWorld, serials: range, *, ends_ms: int | None = None) -> dict[int, bytes]:
    """Certificates without a status index, as an import puts them into the store."""
    begins = world.clock() - YEAR_MS // 2
    ends = ends_ms or world.clock() + YEAR_MS // 2
    found = {s: leaf(world.signer, serial=s, not_before_ms=begins, not_after_ms=ends, place=None) for s in serials}
    rows = [
        NewCertificate(
            authority_id="issuing",
            serial=serial,
            usage="sign",
            profile="imported",
            subject=SUBJECT,
            public_key=world.signer.public_key,
            not_before_ms=begins,
            not_after_ms=ends,
            partition=serial % 2,
            status_month=month_of(ends),
            status_index=0,
            certificate=encoded,
            issued_at_ms=begins,
        )
        for serial, encoded in found.items()
    ]
    async with world.database.write() as connection:
        await imports.add(connection, rows, at_ms=world.clock())
    return found


async def close(world: SetWorld) -> None:
    async with world.database.write() as connection:
        last_ms = await imports.latest_not_before_ms(connection, "issuing")
        assert last_ms is not None
        await imports.close(connection, "issuing", last_ms // 1000 + 1, at_ms=world.clock())


async def answers(world: SetWorld, leaves: dict[int, bytes]) -> dict[Status, int]:
    """How many of them get which answer, of the set with its delta."""
    loaded = world.load(await world.published())
    found: dict[Status, int] = {}
    for encoded in leaves.values():
        status = loaded.query(encoded).status
        found[status] = found.get(status, 0) + 1
    return found


async def test_every_imported_certificate_has_its_own_answer(world: SetWorld) -> None:
    leaves = await take_over(world, range(1_000, 1_000 + COUNT))
    for serial in range(1_000, 1_010):
        await world.revoke(serial)
    await world.revoke(1_010, HOLD)
    await world.service.build("issuing")
    assert await answers(world, leaves) == {Status.NOT_COVERED: COUNT}, "more may be to come"
    await close(world)
    assert len(await world.service.build("issuing")) == 2, "a whole set"
    assert await answers(world, leaves) == {Status.GOOD: COUNT - 11, Status.REVOKED: 11}
    serial, own = await world.issue()
    await world.revoke(serial)
    await world.service.build("issuing")
    assert await answers(world, {serial: own}) == {Status.REVOKED: 1}, "its own certificates go on beside them"


async def test_changes_go_into_deltas_with_the_same_keys(world: SetWorld) -> None:
    leaves = await take_over(world, range(1, 1 + COUNT))
    await close(world)
    await world.service.build("issuing")
    salt = world.load(await world.published()).contents.imports
    assert salt is not None
    for step in range(4):
        world.clock.advance(60)
        await world.revoke(10 + step)
        await world.revoke(20 + step, HOLD)
        if step:
            await world.release(20 + step - 1)
        if step == 2:  # another process, which knows nothing yet
            world.service = world.new_service(StatusSetSettings(delta_least_bytes=1 << 20))
        assert len(await world.service.build("issuing")) == 1, "a delta"
        found = world.load(await world.published())
        assert found.contents.imports is not None
        assert found.contents.imports.salt == salt.salt
        assert await answers(world, leaves) == {Status.GOOD: COUNT - step - 2, Status.REVOKED: step + 2}
        assert found.query(leaves[20 + step]).on_hold


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_later_imports_and_endings_make_a_new_set(world: SetWorld) -> None:
    leaves = await take_over(world, range(1, 51))
    ending = await take_over(world, range(51, 61), ends_ms=world.clock() + YEAR_MS // 8)
    await close(world)
    await world.service.build("issuing")
    assert await answers(world, leaves | ending) == {Status.GOOD: 60}
    later = await take_over(world, range(61, 71))
    assert len(await world.service.build("issuing")) == 2
    assert await answers(world, later) == {Status.GOOD: 10}
    world.clock.advance(YEAR_MS // 4 // 1000)
    assert len(await world.service.build("issuing", whole=True)) == 2
    told = world.load(await world.published()).contents.imports
    assert told is not None
    assert told.count == 60, "those that ended are told of no longer"


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_the_judge_stops_a_set_that_differs_from_the_store(world: SetWorld) -> None:
    await take_over(world, range(1, 51))
    await close(world)
    await world.service.build("issuing")
    before = await world.published()
    async with world.database.write() as connection:  # behind the feed's back
        gone = {"state": "revoked", "revoked_at_ms": 1, "reason": 1}
        await connection.execute(update(table).where(table.c.status_index == -7).values(gone))
    world.clock.advance(60)
    await world.revoke(3)
    records = await world.service.build("issuing")
    after = world.load(await world.published())
    assert records[-1].number > before.delta.number
    assert after.contents.imports is not None
    assert len(after.contents.imports.revoked) == 2, "refused at first, and made once more from the store alone"
    assert world.metric("qianyan_status_set_builds_total", outcome="judged_wrong") == 1


def test_keys_are_as_long_as_they_have_to_be() -> None:
    salt = b"\x01" * 8
    keys = array("Q", (full_key(salt, serial) for serial in range(1, 2_000)))
    bits = distinct_bits(keys)
    assert bits is not None
    assert len({key >> (64 - bits) for key in keys}) == len(keys)
    assert len({key >> (64 - bits + 1) for key in keys}) < len(keys)
    assert distinct_bits(array("Q", [5, 5 ^ 1])) is None, "apart only past the most bits that are allowed"
