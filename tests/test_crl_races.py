"""CRLs where a change, or the end of a store, falls between two steps: nothing is forgotten, nothing old stays."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from core.errors import Refused, Unavailable
from core.model import CertificateState, RevocationReason
from core.store import imports
from core.store.certificates import NewCertificate
from core.store.imports import Ended
from crl._entries import Entries
from crl.files import CrlFiles
from crl.http import CrlRoutes
from crl.metrics import CrlMetrics
from tests.crl_world import DAY_MS, NOON_MS, SetClock, World, listed, make_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as world:
        await world.add_authority(partitions=2)
        await world.issue(1, 2)
        yield world


@pytest.fixture
def clock(world: World) -> SetClock:
    assert isinstance(world.clock, SetClock)
    return world.clock


async def test_a_revocation_while_the_first_crl_is_built_is_in_the_next_one_soon(world: World, clock: SetClock) -> None:
    """Somebody looks at the schedule meanwhile, as every question for readiness does."""
    service, sign = world.service(), world.signer.sign

    async def meanwhile(message: bytes | memoryview) -> bytes:
        if world.signer.signed == 0:
            await world.revoke(1)
            await service.status()
        return await sign(message)

    world.signer.sign = meanwhile  # type: ignore[method-assign]
    assert await service.build_due() == 2
    assert not listed((await world.newest()).crl)
    clock.advance(2)
    assert await service.build_due() == 1
    assert list(listed((await world.newest()).crl)) == [1]


async def test_a_file_that_ends_while_the_store_is_away_is_taken_away(
    world: World, clock: SetClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CrlFiles(world.database, world.follower, tmp_path / "www", clock, CrlMetrics.make())
    await world.service().build_due()
    await files.sync()
    path = tmp_path / "www" / "crl" / "issuing" / "0.crl"

    async def away() -> None:
        raise Unavailable("the store's change feed cannot be read", code="feed_unavailable")

    monkeypatch.setattr(world.follower, "ensure_current", away)
    for seconds, there in ((86_398, True), (1, False)):
        clock.advance(seconds)
        with pytest.raises(Unavailable):
            await files.sync()
        assert path.exists() == there


async def test_two_crls_of_one_second_are_told_apart(world: World, clock: SetClock) -> None:
    service = world.service()
    application = web.Application()
    application.add_routes(CrlRoutes(service).public())
    async with TestServer(application) as server, ClientSession() as session:
        url = server.make_url("/crl/issuing/0.crl")
        await service.build("issuing", 0)
        async with session.get(url) as first:
            dated = first.headers["Last-Modified"]
            assert not listed(await first.read())
        await world.revoke(1)
        await service.build("issuing", 0)
        for _ in range(2):
            async with session.get(url, headers={"If-Modified-Since": dated}) as second:
                assert second.status == 200, "who has the CRL before it was told that nothing has changed"
                assert list(listed(await second.read())) == [1]
        clock.advance(1)
        await service.build("issuing", 0)
        async with session.get(url) as third:
            dated = third.headers["Last-Modified"]
        async with session.get(url, headers={"If-Modified-Since": dated}) as again:
            assert again.status == 304


async def test_a_serial_from_a_crl_whose_certificate_names_another_one_moves_there(
    world: World, clock: SetClock
) -> None:
    """Its first CRL could not be signed; the one that its certificate names was built before it was known to belong
    there. Both builders go on with what they have in memory."""
    service = world.service()
    seen = NewCertificate(
        authority_id="issuing",
        serial=0x77,
        usage="sign",
        profile="imported",
        subject=b"",
        public_key=b"",
        not_before_ms=NOON_MS - DAY_MS,
        not_after_ms=NOON_MS + 3650 * DAY_MS,
        partition=0,
        status_month=1,
        status_index=0,
        certificate=b"",
        issued_at_ms=NOON_MS - DAY_MS,
    )
    async with world.database.write() as connection:
        await imports.add(connection, [seen], at_ms=clock())
        (known,) = (await imports.rows(connection, "issuing", [0x77])).values()
        ended = Ended(0x77, RevocationReason.SUPERSEDED, NOON_MS - DAY_MS, None)
        await imports.end(connection, "issuing", [(known, ended)], at_ms=clock())
    await service.build("issuing", 1)
    world.signer.refusal = Refused("frozen", code="key_frozen")
    with pytest.raises(Refused):
        await service.build("issuing", 0)
    world.signer.refusal = None
    async with world.database.write() as connection:
        (known,) = (await imports.rows(connection, "issuing", [0x77])).values()
        assert known.state is CertificateState.REVOKED
        whole = replace(seen, certificate=world.certificate, partition=1, not_after_ms=NOON_MS + 30 * DAY_MS)
        await imports.fill_in(connection, known, whole, at_ms=clock())
    clock.advance(5)
    await service.build("issuing", 1)
    assert list(listed((await world.newest(partition=1)).crl)) == [0x77]
    await service.build("issuing", 0)
    assert not listed((await world.newest()).crl)


async def test_entries_in_memory_that_the_check_refuses_are_read_anew(world: World, clock: SetClock) -> None:
    service = world.service()
    await world.revoke(1)
    await service.build("issuing", 0)
    clock.advance(5)
    service._stocks["issuing", 0].entries = Entries()
    with pytest.raises(Refused, match="drops unexpired entries"):
        await service.build("issuing", 0)
    await service.build("issuing", 0)
    assert list(listed((await world.newest()).crl)) == [1]


async def test_a_clock_that_is_set_right_during_a_build_puts_the_next_one_off_by_nothing(
    world: World, clock: SetClock
) -> None:
    service, sign = world.service(), world.signer.sign
    await service.build_due()
    clock.advance(3_600)

    async def forward(message: bytes | memoryview) -> bytes:
        clock.advance(600)
        return await sign(message)

    world.signer.sign = forward  # type: ignore[method-assign]
    assert await service.build_due() == 2
    world.signer.sign = sign  # type: ignore[method-assign]
    await world.revoke(1)
    clock.advance(60)
    assert await service.build_due() == 1
    assert list(listed((await world.newest()).crl)) == [1]
