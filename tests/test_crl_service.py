"""What the CRL service publishes, when, and what it refuses to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from core.asn1.distribution import crl_distribution_points
from core.asn1.names import build_name
from core.asn1.x509 import key_identifier
from core.clock import system_clock, to_datetime
from core.errors import NotFound, Refused, Unavailable
from core.model import RevocationReason
from core.store import audit, authorities, crls
from core.store.schema import audit as audit_table
from core.store.schema import authorities as authorities_table
from core.store.schema import outbox
from tests.crl_world import DAY_MS, HOUR_MS, NOON_MS, PUBLIC_URL, SetClock, World, listed, make_world, number_of

HOLD = RevocationReason.CERTIFICATE_HOLD


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as world:
        await world.add_authority()
        yield world


@pytest.fixture
def clock(world: World) -> SetClock:
    assert isinstance(world.clock, SetClock)
    return world.clock


async def test_the_first_crl_of_an_authority_without_revocations(world: World) -> None:
    record = await world.service().build("issuing", 0)
    crl = x509.load_der_x509_crl(record.crl)
    assert list(crl) == []
    assert crl.issuer == x509.load_der_x509_certificate(world.certificate).subject
    assert crl.last_update_utc == to_datetime(NOON_MS)
    assert crl.next_update_utc == to_datetime(NOON_MS) + timedelta(seconds=86_399)
    assert number_of(record.crl) == record.number == 1
    identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == key_identifier(world.signer.public_key)


async def test_the_idp_is_critical_and_has_the_bytes_of_the_certificates_crldp(world: World) -> None:
    crl = x509.load_der_x509_crl((await world.service().build("issuing", 0)).crl)
    idp = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    point = crl_distribution_points(f"{PUBLIC_URL}/crl/issuing/0.crl").value[2:]
    assert idp.critical
    assert idp.value.public_bytes() == point
    assert idp.value.full_name == [x509.UniformResourceIdentifier(f"{PUBLIC_URL}/crl/issuing/0.crl")]


async def test_a_revocation_is_listed_with_its_time_reason_and_invalidity_date(world: World, clock: SetClock) -> None:
    service = world.service()
    await world.issue(0x0A, 0x8F00, 0x1234567890ABCDEF1234567890ABCDEF)
    await service.build_due()
    clock.advance(10)
    await world.revoke(0x8F00, invalidity_at_ms=NOON_MS - DAY_MS)
    await world.revoke(0x0A, reason=RevocationReason.UNSPECIFIED)
    clock.advance(2)
    assert await service.build_due() == 1
    entries = listed((await world.newest()).crl)
    assert list(entries) == [0x0A, 0x8F00]
    assert entries[0x8F00].revocation_date_utc == to_datetime(NOON_MS + 10_000)
    extensions = entries[0x8F00].extensions
    assert extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    invalidity = extensions.get_extension_for_class(x509.InvalidityDate).value.invalidity_date_utc
    assert invalidity == to_datetime(NOON_MS - DAY_MS)
    assert list(entries[0x0A].extensions) == []  # unspecified is left out


async def test_hold_and_release(world: World, clock: SetClock) -> None:
    service = world.service()
    await world.issue(1, 2)
    await world.revoke(1, 2, reason=HOLD)
    first = listed((await service.build("issuing", 0)).crl)
    reason = first[1].extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.certificate_hold
    clock.advance(60)
    await world.release(1)
    await world.revoke(2)
    second = listed((await service.build("issuing", 0)).crl)
    assert list(second) == [2]
    assert second[2].extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    await world.revoke(1, reason=HOLD)
    assert list(listed((await service.build("issuing", 0)).crl)) == [1, 2]


async def test_numbers_go_on_after_a_restart(world: World, clock: SetClock) -> None:
    first = world.service()
    assert [(await first.build("issuing", 0)).number for _ in range(3)] == [1, 2, 3]
    clock.advance(5)
    record = await world.service().build("issuing", 0)
    assert number_of(record.crl) == 4


async def test_builders_that_race_never_share_a_number(world: World) -> None:
    await world.issue(*range(1, 30))
    await world.revoke(*range(1, 30))
    records = await asyncio.gather(*(world.service().build("issuing", 0) for _ in range(6)))
    async with world.database.read() as connection:
        full = crls.crls.c.kind == "full"
        rows = (await connection.execute(select(crls.crls.c.number, crls.crls.c.crl).where(full))).all()
    numbers = sorted(row.number for row in rows)
    assert numbers == list(range(1, len(rows) + 1))
    assert all(number_of(row.crl) == row.number for row in rows)
    assert {record.number for record in records} <= set(numbers)


async def test_an_expired_entry_stays_for_one_more_crl(world: World, clock: SetClock) -> None:
    service = world.service(period_s=600)
    await world.issue(1, not_after_ms=NOON_MS + 100_000)
    await world.issue(2)
    await world.revoke(1, 2)
    await service.build("issuing", 0)
    clock.advance(101)
    assert list(listed((await service.build("issuing", 0)).crl)) == [1, 2]
    clock.advance(5)  # an early build must not take it away before the next regular one
    assert list(listed((await service.build("issuing", 0)).crl)) == [1, 2]
    clock.advance(600)
    assert list(listed((await service.build("issuing", 0)).crl)) == [2]


async def test_it_is_due_at_start_on_time_and_after_a_revocation(world: World, clock: SetClock) -> None:
    service = world.service(period_s=3600, debounce_s=2)
    await world.issue(1, 2)
    assert await service.build_due() == 1
    assert await service.build_due() == 0
    clock.advance(100)
    await world.revoke(1)
    assert await service.build_due() == 0  # waits for more of them
    assert (await service.status())[0].waiting
    clock.advance(1)
    await world.revoke(2)
    clock.advance(1)
    assert await service.build_due() == 1
    assert list(listed((await world.newest()).crl)) == [1, 2]
    assert not (await service.status())[0].waiting
    clock.advance(3599)
    assert await service.build_due() == 0
    clock.advance(1)
    assert await service.build_due() == 1


async def test_a_change_made_while_no_builder_ran_is_due_at_once(world: World, clock: SetClock) -> None:
    await world.issue(1)
    await world.service().build_due()
    clock.advance(10)
    await world.revoke(1)
    clock.advance(10)
    assert await world.service().build_due() == 1
    assert list(listed((await world.newest()).crl)) == [1]


async def test_only_the_partition_that_changed_is_built(world: World, clock: SetClock) -> None:
    await world.add_authority("second", partitions=3)
    service = world.service()
    assert await service.build_due() == 4
    await world.issue(7, authority_id="second", partition=2)
    clock.advance(10)
    await world.revoke(7)
    clock.advance(10)
    assert await service.build_due() == 1
    assert list(listed((await world.newest("second", 2)).crl)) == [7]
    numbers = [(s.authority_id, s.partition, s.number, s.entries) for s in await service.status()]
    assert numbers == [("issuing", 0, 1, 0), ("second", 0, 1, 0), ("second", 1, 1, 0), ("second", 2, 2, 1)]


async def test_an_authority_that_comes_later_is_noticed(world: World) -> None:
    service = world.service()
    await service.build_due()
    await world.add_authority("second")
    assert await service.build_due() == 1
    assert (await world.newest("second")).number == 1


async def test_an_authority_whose_key_is_elsewhere_has_no_crl_here(world: World) -> None:
    await world.add_authority("root", key_here=False)
    service = world.service()
    assert await service.build_due() == 1
    with pytest.raises(Refused) as refused:
        await service.build("root", 0)
    assert refused.value.code == "crl_elsewhere"
    with pytest.raises(Refused):
        await service.build("issuing", 1)
    with pytest.raises(NotFound):
        await service.build("nobody", 0)


async def test_next_update_is_never_past_the_issuers_end(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        end_ms = (NOON_MS + HOUR_MS * 5) // 1000 * 1000
        await world.add_authority(not_after_ms=end_ms)
        assert (await world.service().build("issuing", 0)).next_update_ms == end_ms
        assert isinstance(world.clock, SetClock)
        world.clock.now_ms = end_ms
        with pytest.raises(Refused) as refused:
            await world.service().build("issuing", 0)
        assert refused.value.code == "issuer_expired"


async def test_a_clock_that_went_back_stops_building(world: World, clock: SetClock) -> None:
    service = world.service()
    await service.build("issuing", 0)
    clock.advance(-30)
    with pytest.raises(Unavailable) as refused:
        await service.build("issuing", 0)
    assert refused.value.code == "clock_behind"
    assert world.signer.signed == 1
    assert (await world.newest()).number == 1


async def test_a_key_that_refuses_leaves_the_old_crl_and_is_tried_again_later(world: World, clock: SetClock) -> None:
    service = world.service(back_off_first_s=1, back_off_max_s=60)
    await service.build_due()
    clock.advance(3600)
    world.signer.refusal = Refused("the key is frozen", code="key_frozen")
    waits = []
    for _ in range(9):
        assert await service.build_due() == 0
        state = (await service.status())[0]
        waits.append(state.next_build_ms - clock())
        assert state.last_error == "key_frozen"
        assert await service.build_due() == 0
        assert (await service.status())[0].failures == len(waits)  # not tried again before its time
        clock.now_ms = state.next_build_ms
    assert waits == [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]
    assert (await world.newest()).number == 1
    world.signer.refusal = None
    assert await service.build_due() == 1
    state = (await service.status())[0]
    assert (state.failures, state.last_error, state.number) == (0, None, 2)


async def test_one_failing_scope_does_not_hold_up_the_others(world: World) -> None:
    await world.add_authority("another")
    async with world.database.write() as connection:  # its row and its certificate do not fit
        named = build_name({"C": "CN", "CN": "somebody else"}).public_bytes()
        await connection.execute(
            update(authorities_table).where(authorities_table.c.id == "another").values(subject=named)
        )
    service = world.service()
    assert await service.build_due() == 1
    by_id = {status.authority_id: status for status in await service.status()}
    assert by_id["issuing"].fresh
    assert not by_id["another"].fresh
    assert by_id["another"].late
    assert by_id["another"].last_error == "crl_issuer"


async def test_an_authority_that_has_ended_has_no_crl(world: World) -> None:
    await world.add_authority("ended", not_after_ms=NOON_MS - HOUR_MS)
    service = world.service()
    assert await service.build_due() == 1
    (ended,) = [status for status in await service.status() if status.ended]
    assert (ended.authority_id, ended.number, ended.late, ended.failures) == ("ended", None, False, 0)
    assert await service.next_due_ms() == (await world.newest()).this_update_ms + HOUR_MS
    with pytest.raises(Refused) as refused:
        await service.build("ended", 0)
    assert refused.value.code == "issuer_expired"


async def test_a_changed_public_url_is_for_new_partitions_only(world: World, clock: SetClock) -> None:
    await world.service().build("issuing", 0)
    clock.advance(10)
    service = world.service()
    service._public_url = "http://elsewhere.example.cn"
    await service.build("issuing", 0)
    await world.add_authority("second")
    await service.build("second", 0)

    def url(crl: bytes) -> str:
        idp = x509.load_der_x509_crl(crl).extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
        assert idp.full_name is not None
        return str(idp.full_name[0].value)

    assert url((await world.newest()).crl) == f"{PUBLIC_URL}/crl/issuing/0.crl"
    assert url((await world.newest("second")).crl) == "http://elsewhere.example.cn/crl/second/0.crl"


async def test_a_signature_by_another_key_is_not_published(world: World) -> None:
    other = type(world.signer)("issuing")
    service = world.service()
    service._signer_for = lambda _: other
    with pytest.raises(Refused) as refused:
        await service.build("issuing", 0)
    assert refused.value.code == "crl_signature"
    async with world.database.read() as connection:
        assert await crls.latest(connection, "issuing", 0) is None


async def test_publication_is_one_transaction_with_feed_outbox_and_audit(world: World) -> None:
    record = await world.service().build("issuing", 0, actor="cli:root")
    async with world.database.read() as connection:
        references = (await connection.execute(select(outbox.c.topic, outbox.c.reference))).all()
        rows = (
            await connection.execute(select(audit_table.c.actor, audit_table.c.action, audit_table.c.subject))
        ).all()
        assert (await audit.verify(connection)).broken_at is None
    assert [tuple(row) for row in references if row.topic == "crl"] == [("crl", "issuing/0/1")]
    assert [tuple(row) for row in rows] == [("cli:root", "crl.publish", "issuing/0")]
    seen = []
    world.follower.subscribe(seen.append)
    await world.follower.ensure_current()
    assert [(e.kind, e.authority_id, e.subject_id) for e in seen][-1] == ("crl", "issuing", "0")
    assert record.feed_seq == seen[-1].seq - 1


async def test_old_crls_are_removed_and_numbers_go_on(world: World, clock: SetClock) -> None:
    service = world.service(keep=3)
    for _ in range(6):
        await service.build("issuing", 0)
        clock.advance(1)
    async with world.database.read() as connection:
        rows = await connection.execute(select(crls.crls.c.kind, crls.crls.c.number).order_by(crls.crls.c.number))
        kept = [tuple(row) for row in rows]
    assert [number for kind, number in kept if kind == "full"] == [1, 4, 5, 6], "1 is the base of the newest delta"
    assert [number for kind, number in kept if kind == "delta"] == [4, 5, 6]


async def test_a_certificate_without_ski_gets_our_key_identifier(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        await world.add_authority(ski=False)
        crl = x509.load_der_x509_crl((await world.service().build("issuing", 0)).crl)
        identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        assert identifier == key_identifier(world.signer.public_key)


async def test_metrics_tell_outcomes_and_the_freshness_of_the_worst(world: World, clock: SetClock) -> None:
    await world.add_authority("second")
    registry = CollectorRegistry()
    service = world.service(registry)
    await world.issue(1)
    await world.revoke(1)
    await service.build_due()
    clock.advance(100)
    await service.build("second", 0)
    world.signer.refusal = Refused("the key is frozen", code="key_frozen")
    with pytest.raises(Refused):
        await service.build("issuing", 0)
    await service.status()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("qianyan_crl_builds_total", outcome="published") == 3
    assert value("qianyan_crl_builds_total", outcome="refused") == 1
    assert value("qianyan_crl_build_seconds_count") == 3
    assert value("qianyan_crl_age_seconds") == pytest.approx(100.25)
    assert value("qianyan_crl_seconds_left") == pytest.approx(86_399 - 100.25)
    assert value("qianyan_crl_entries") == 1
    assert value("qianyan_crl_size_bytes") == sum(status.size or 0 for status in await service.status())
    assert value("qianyan_crl_missing") == 0


@asynccontextmanager
async def running(world: World, **settings: float) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(world.service(**settings).run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def wait_for_crls(world: World, count: int) -> None:
    """Returns when the feed has told of `count` CRLs."""
    seen = []
    world.follower.subscribe(lambda entry: seen.append(entry) if entry.kind == "crl" else None)
    async with asyncio.timeout(20):
        while len(seen) < count:
            await world.follower.ensure_current()
            await asyncio.sleep(0.01)


async def test_the_loop_lists_a_revocation_by_itself(tmp_path: Path) -> None:
    async with make_world(tmp_path, system_clock) as world:
        await world.add_authority()
        await world.issue(5)
        async with running(world, poll_s=0.02, debounce_s=0.05):
            await wait_for_crls(world, 1)
            await world.revoke(5)
            await wait_for_crls(world, 1)
            assert list(listed((await world.newest()).crl)) == [5]


async def test_the_loop_outlives_a_store_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_world(tmp_path, system_clock) as world:
        await world.add_authority()
        real, failures = authorities.list_all, []

        async def failing(connection: object) -> list[authorities.Authority]:
            if len(failures) < 2:
                failures.append(1)
                raise Unavailable("the store cannot be read", code="store_unavailable")
            return await real(connection)  # type: ignore[arg-type]

        monkeypatch.setattr(authorities, "list_all", failing)
        async with running(world, poll_s=0.02, back_off_first_s=0.05):
            await wait_for_crls(world, 1)
        assert len(failures) == 2


async def test_the_loop_stops_when_asked_to_while_it_waits(world: World) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(world.service(poll_s=60).run(stop))
    await wait_for_crls(world, 1)
    stop.set()
    await asyncio.wait_for(task, 5)
