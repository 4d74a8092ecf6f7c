"""Status sets as they are built from a store, published and served: every change, every refusal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, Unavailable
from core.model import RevocationReason, serial_to_bytes
from core.store import leases, status_sets
from core.store.database import Database
from core.store.restored import go_ahead
from core.store.schema import authorities as authorities_table
from core.store.schema import certificates as certificates_table
from core.store.schema import feed as feed_table
from qianyan_status import DeltaMismatch, Status, StatusSetError
from service.health import Health
from service.node import Node
from status.set import build as steps
from status.set.build import month_of
from status.set.format import SetState
from status.set.judge import JudgedWrong
from status.set.settings import StatusSetSettings
from tests import postgres
from tests.crl_world import DAY_MS
from tests.set_world import YEAR_MS, SetWorld, leaf, open_set_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[SetWorld]:
    """A store with its service."""
    async with open_set_world(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def any_world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SetWorld]:
    """The same on either database."""
    url = await postgres.shared().new_database() if request.param == "postgres" else None
    async with open_set_world(tmp_path, url=url) as opened:
        yield opened


async def test_every_change_arrives(any_world: SetWorld) -> None:
    world = any_world
    serials = [await world.issue() for _ in range(4)]
    (good, good_der), (gone, gone_der), (held, held_der), (back, back_der) = serials
    await world.revoke(gone)
    await world.revoke(held, RevocationReason.CERTIFICATE_HOLD)
    await world.revoke(back, RevocationReason.CERTIFICATE_HOLD)
    assert await world.service.build_due() == 1
    first = await world.published()
    loaded = world.load(first)
    assert loaded.query(good_der).status is Status.GOOD
    assert loaded.query(gone_der).status is Status.REVOKED
    assert not loaded.query(gone_der).on_hold
    assert loaded.query(held_der).status is Status.REVOKED
    assert loaded.query(held_der).on_hold

    world.clock.advance(60)
    await world.release(back)
    await world.revoke(held)
    await world.revoke(good, RevocationReason.CERTIFICATE_HOLD)
    _, new_der = await world.issue()
    assert loaded.query(new_der).status is Status.NOT_COVERED
    world.clock.advance(10)
    assert await world.service.build_due() == 1
    second = await world.published()
    assert second.base == first.base
    assert second.delta.number == first.delta.number + 1
    loaded = world.load(second, last_position=loaded.position)
    assert loaded.query(back_der).status is Status.GOOD
    assert loaded.query(held_der).status is Status.REVOKED
    assert not loaded.query(held_der).on_hold
    assert loaded.query(good_der).on_hold
    assert loaded.query(new_der).status is Status.GOOD
    # The set alone is older than what was taken, and says less.
    with pytest.raises(StatusSetError, match="older"):
        world.load(second, delta=False, last_position=loaded.position)
    alone = world.load(second, delta=False)
    assert alone.query(new_der).status is Status.NOT_COVERED


async def test_a_delta_waits_for_more_and_no_longer(world: SetWorld) -> None:
    serial, _ = await world.issue()
    assert await world.service.build_due() == 1
    assert await world.service.build_due() == 0
    world.clock.advance(100)
    await world.revoke(serial)
    assert await world.service.build_due() == 0
    world.clock.advance(world.service.settings.debounce_s)
    assert await world.service.build_due() == 1
    await world.issue()
    world.clock.advance(world.service.settings.issued_s - 1)
    assert await world.service.build_due() == 0
    world.clock.advance(1)
    assert await world.service.build_due() == 1
    world.clock.advance(world.service.settings.period_s)
    assert await world.service.build_due() == 1, "freshness without any change"
    assert world.metric("qianyan_status_set_builds_total", outcome="set") == 1
    assert world.metric("qianyan_status_set_builds_total", outcome="delta") == 3


async def test_a_restarted_builder_tells_what_it_missed_at_once(world: SetWorld) -> None:
    serial, der = await world.issue()
    await world.service.build_due()
    await world.revoke(serial)
    again = world.new_service(world.service.settings)
    assert await again.build_due() == 1
    assert world.load(await world.published()).query(der).status is Status.REVOKED


async def test_a_large_delta_and_an_old_set_make_a_new_one(tmp_path: Path) -> None:
    settings = StatusSetSettings(delta_least_bytes=180, set_period_s=86_400)
    async with open_set_world(tmp_path, settings) as world:
        made = await world.issue_many(300)
        await world.service.build_due()
        first = await world.published()
        for serial, _ in random.Random(1).sample(made, 100):
            await world.revoke(serial)
        world.clock.advance(60)
        await world.service.build_due()
        second = await world.published()
        assert second.base.number > first.delta.number
        with pytest.raises(DeltaMismatch):
            world.load(status_sets.Published(first.base, second.delta))
        world.clock.advance(86_400)
        await world.service.build_due()
        assert (await world.published()).base.number > second.delta.number


async def test_months_that_are_over_go_with_the_next_set(world: SetWorld) -> None:
    soon = world.clock() + 40 * DAY_MS
    serial, der = await world.issue(ends_ms=soon)
    await world.revoke(serial)
    late, late_der = await world.issue()
    await world.revoke(late)
    await world.service.build_due()
    world.clock.advance(80 * 86_400)
    await world.service.build("issuing")  # the set is old: a new one
    published = await world.published()
    loaded = world.load(published)
    assert loaded.query(late_der).status is Status.REVOKED
    assert loaded.query(der).status is Status.NOT_COVERED
    assert len(loaded.contents.spaces) == 1


async def test_a_month_that_ends_stays_in_the_deltas_of_its_set(world: SetWorld) -> None:
    serial, der = await world.issue(ends_ms=world.clock() + 3 * DAY_MS)
    await world.revoke(serial)
    world.service = world.new_service(StatusSetSettings(set_period_s=400 * 86_400))
    await world.service.build("issuing")
    world.clock.advance(60 * 86_400)
    again = world.new_service(StatusSetSettings(set_period_s=400 * 86_400))
    await again.build("issuing")
    published = await world.published()
    assert published.delta.base_number == 1
    assert world.load(published).query(der).status is Status.REVOKED


async def _forge(world: SetWorld, serial: int, **values: object) -> None:
    """Changes a row behind everybody's back: what no code of ours may do."""
    async with world.database.write() as connection:
        mine = certificates_table.c.serial == serial.to_bytes((serial.bit_length() + 7) // 8, "big")
        await connection.execute(update(certificates_table).where(mine).values(**values))


async def test_a_revocation_that_vanished_is_not_followed(any_world: SetWorld) -> None:
    world = any_world
    serial, der = await world.issue()
    await world.revoke(serial)
    await world.service.build("issuing")
    before = await world.published()
    await _forge(world, serial, state="good", revoked_at_ms=None, reason=None)
    world.clock.advance(1_000)
    for whole in (False, True):
        with pytest.raises(JudgedWrong, match="was revoked and no longer would be"):
            await world.service.build("issuing", whole=whole)
    assert await world.service.build_due() == 0
    assert world.metric("qianyan_status_set_judged_wrong") == 1
    assert await world.published() == before
    assert world.load(before).query(der).status is Status.REVOKED


async def test_a_hold_that_vanished_without_a_release_is_not_followed(world: SetWorld) -> None:
    serial, _ = await world.issue()
    await world.revoke(serial, RevocationReason.CERTIFICATE_HOLD)
    await world.service.build("issuing")
    await _forge(world, serial, state="good", revoked_at_ms=None, reason=None)
    with pytest.raises(JudgedWrong, match="was not released"):
        await world.service.build("issuing", whole=True)


@pytest.mark.parametrize("whole", [False, True])
async def test_an_encoder_that_loses_a_revocation_is_found_out(
    world: SetWorld, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """The judge reads rows, not the state that the encoder was given."""
    serial, der = await world.issue()
    await world.service.build("issuing")
    await world.revoke(serial)
    name = "unsigned_set" if whole else "unsigned_delta"
    honest = getattr(steps, name)

    async def losing(*arguments: object) -> object:
        forgetful = [
            SetState(tuple(replace(month, revoked=()) for month in one.months)) if isinstance(one, SetState) else one
            for one in arguments
        ]
        return await honest(*forgetful)

    monkeypatch.setattr(steps, name, losing)
    signed = world.signer.signed
    with pytest.raises(JudgedWrong, match="is revoked and would be told good"):
        await world.service.build("issuing", whole=whole)
    assert world.signer.signed == signed, "nothing wrong was signed"
    monkeypatch.undo()
    await world.service.build("issuing", whole=whole)
    assert world.load(await world.published()).query(der).status is Status.REVOKED


async def test_an_encoder_that_covers_too_little_is_found_out(world: SetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.issue_many(3)
    honest = status_sets.spaces

    async def short(connection: AsyncConnection, authority_id: str) -> dict[int, tuple[int, int]]:
        spaces = await honest(connection, authority_id)
        return {month: (first, following - 1) for month, (first, following) in spaces.items()}

    monkeypatch.setattr(status_sets, "spaces", short)
    with pytest.raises(JudgedWrong):
        await world.service.build("issuing")


async def test_a_state_that_missed_an_entry_is_read_anew(world: SetWorld) -> None:
    """What is in memory is wrong: the first try is refused, the second is built from the store alone."""
    serial, der = await world.issue()
    await world.service.build("issuing")
    await world.revoke(serial)
    async with world.database.read() as connection:
        await world.service._states["issuing"].follow(connection, from_month=0)
    state = world.service._states["issuing"]
    next(iter(state._marked.values()))[0].pop()
    await world.service.build("issuing")
    assert world.metric("qianyan_status_set_builds_total", outcome="judged_wrong") == 1
    assert world.load(await world.published()).query(der).status is Status.REVOKED


async def test_two_builders_number_in_one_row(any_world: SetWorld) -> None:
    world = any_world
    made = await world.issue_many(20)
    other = world.new_service(world.service.settings)
    await world.service.build("issuing")
    for (serial, _), _ in zip(made, range(4), strict=False):
        await world.revoke(serial)
        await asyncio.gather(world.service.build("issuing"), other.build("issuing"))
    async with world.database.read() as connection:
        published = await status_sets.latest(connection, "issuing")
    assert published is not None
    assert published.delta.number == 2 + 8
    assert len(world.load(published).contents.revoked) == 4


async def test_one_of_two_builders_does_the_work(any_world: SetWorld) -> None:
    world = any_world
    made = await world.issue_many(20)
    registry = CollectorRegistry()
    other = world.new_service(world.service.settings, registry)
    await world.service.build("issuing")
    for count, (serial, _) in enumerate(made[:4], start=1):
        await world.revoke(serial)
        world.clock.advance(5)
        assert sum(await asyncio.gather(world.service.build_due(), other.build_due())) == 1
        assert (await world.published()).delta.number == 2 + count
    mine = world.metric("qianyan_status_set_builds_total", outcome="delta") or 0
    others = registry.get_sample_value("qianyan_status_set_builds_total", {"outcome": "delta"}) or 0
    assert mine + others == 4


async def test_a_builder_waits_for_the_lease_and_cannot_publish_without_it(
    any_world: SetWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = any_world
    ((serial, _),) = await world.issue_many(1)
    await world.service.build("issuing")
    await world.revoke(serial)
    world.clock.advance(5)
    scope = ("issuing", leases.STATUS_SET)
    async with world.database.write() as connection:
        lease = await leases.acquire(connection, *scope, "elsewhere/0/1/0")
    assert lease is not None
    assert await world.service.build_due() == 0
    async with world.database.write() as connection:
        await leases.release(connection, lease)
    publish = steps.publish

    async def passed_over(database: Database, records: Any, lease: leases.Lease, *rest: Any, **more: Any) -> None:
        monkeypatch.setattr(steps, "publish", publish)
        async with database.write() as connection:
            taken = await leases.acquire(connection, *scope, "elsewhere/0/2/0", over=lease)
            assert taken is not None
            await leases.release(connection, taken)
        await publish(database, records, lease, *rest, **more)

    monkeypatch.setattr(steps, "publish", passed_over)
    number = (await world.published()).delta.number
    assert await world.service.build_due() == 0, "another builder took the lease over meanwhile"
    assert (await world.published()).delta.number == number
    assert await world.service.build_due() == 1


async def test_publication_refuses_what_is_not_next(any_world: SetWorld) -> None:
    world = any_world
    await world.issue()
    await world.service.build("issuing")
    published = await world.published()
    for changed, code in (
        ({"number": published.delta.number}, "set_number"),
        ({"feed_seq": 0}, "set_feed"),
        ({"base_number": 99}, "set_base"),
    ):
        record = replace(published.delta, **{"number": published.delta.number + 1, **changed})
        with pytest.raises(Conflict) as refused:
            async with world.database.write() as connection:
                await status_sets.publish(connection, [record], at_ms=world.clock())
        assert refused.value.code == code


async def test_old_files_go_and_the_set_in_use_stays(tmp_path: Path) -> None:
    async with open_set_world(tmp_path, StatusSetSettings(keep=2)) as world:
        await world.issue()
        for _ in range(3):
            await world.service.build("issuing", whole=True)
            for _ in range(3):
                await world.service.build("issuing")
        async with world.database.read() as connection:
            rows = (await connection.execute(status_sets.status_sets.select())).all()
        assert [(row.number, row.base_number) for row in rows] == [(11, 11), (14, 11), (15, 11)]
        assert world.load(await world.published()).number == 15


async def test_nothing_is_served_past_its_end(world: SetWorld) -> None:
    await world.issue()
    with pytest.raises(Unavailable) as missing:
        await world.service.published.current("issuing", delta=False)
    assert missing.value.code == "set_missing"
    await world.service.build("issuing")
    world.clock.advance(20_000)
    await world.service.build("issuing")
    world.clock.advance(20_000)  # the set itself is past its nextUpdate, the delta on it is not
    base = await world.service.published.current("issuing", delta=False)
    assert base.next_update_ms < world.clock()
    loaded = world.load(await world.published())
    assert not loaded.stale
    world.clock.advance(3_000)
    for delta in (False, True):
        with pytest.raises(Unavailable) as expired:
            await world.service.published.current("issuing", delta=delta)
        assert expired.value.code == "set_expired"


async def test_readiness_asks_for_a_current_set(world: SetWorld) -> None:
    health = Health(cast(Node, SimpleNamespace(status_set=world.service, clock=world.clock)))
    await world.issue()
    assert "0 current" in await health.status_set(), "the first one is on its way"
    await world.service.build_due()
    assert "1 current" in await health.status_set()
    world.clock.advance(world.service.settings.life_s + 1)
    with pytest.raises(Unavailable) as refused:
        await health.status_set()
    assert refused.value.code == "status_set_stale"


async def test_next_update_never_passes_the_authoritys_end(world: SetWorld) -> None:
    await world.issue()
    end_ms = world.clock() + 10 * 365 * DAY_MS
    world.clock.now_ms = end_ms - 3_600_000
    await world.service.build("issuing")
    assert (await world.published()).delta.next_update_ms <= end_ms
    world.clock.advance(3_601)
    assert await world.service.build_due() == 0


async def test_a_gap_in_the_feed_means_reading_anew(world: SetWorld) -> None:
    serial, der = await world.issue()
    await world.service.build("issuing")
    await world.revoke(serial)
    async with world.database.write() as connection:
        await connection.execute(feed_table.delete().where(feed_table.c.kind == "revoked"))
    await world.service.build("issuing")
    assert world.load(await world.published()).query(der).status is Status.REVOKED


async def test_a_partition_opened_since_is_read_with_the_others(world: SetWorld) -> None:
    await world.issue()
    await world.service.build("issuing")
    serial, der = await world.issue()
    await world.revoke(serial)
    async with world.database.write() as connection:
        await connection.execute(update(authorities_table).values(partitions=3))
        await connection.execute(
            update(certificates_table).where(certificates_table.c.serial == serial_to_bytes(serial)).values(partition=2)
        )
        await connection.execute(feed_table.delete().where(feed_table.c.kind == "revoked"))  # so all is read anew
    await world.service.build("issuing")
    assert world.load(await world.published()).query(der).status is Status.REVOKED
    assert world.metric("qianyan_status_set_builds_total", outcome="judged_wrong") == 0


async def test_nothing_is_said_of_indexes_that_a_lost_store_gave(any_world: SetWorld) -> None:
    """A store restored from a backup does not know all that went out: what it does not know is never called good."""
    world = any_world
    known, revoked = await world.issue_many(2, encoded=True)
    await world.revoke(revoked[0])
    await world.service.build("issuing")
    async with world.database.write() as connection:
        await go_ahead(connection, now_ms=world.clock(), most_issued=500, actor="test", backup="b")
    ends_ms = world.clock() + YEAR_MS
    month = month_of(ends_ms)
    lost = [
        leaf(world.signer, serial=7, not_before_ms=world.clock(), not_after_ms=ends_ms, place=(month, index))
        for index in (2, 3, 501)
    ]
    await world.new_service(StatusSetSettings()).build("issuing")
    _, new = await world.issue()
    await world.new_service(StatusSetSettings()).build("issuing")
    loaded = world.load(await world.published())
    assert {loaded.query(one).status for one in (known[1], revoked[1], *lost)} == {Status.NOT_COVERED}
    assert loaded.query(new).status is Status.GOOD
    assert {space[0]: space[1:] for space in loaded.contents.spaces}[month] == (502, 504)
    assert all(first >= 500 for _, first, _ in loaded.contents.spaces)


async def test_a_clock_that_is_set_right_during_a_build_puts_the_next_one_off_by_nothing(world: SetWorld) -> None:
    serial, _ = await world.issue()
    sign = world.signer.sign

    async def forward(message: bytes | memoryview) -> bytes:
        world.clock.advance(3_600)
        return await sign(message)

    world.signer.sign = forward  # type: ignore[method-assign]
    assert await world.service.build_due() == 1
    world.signer.sign = sign  # type: ignore[method-assign]
    await world.revoke(serial)
    world.clock.advance(120)
    assert await world.service.build_due() == 1
