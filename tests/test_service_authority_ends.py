"""An authority that ends, or whose key does not sign, beside others that go on: it takes none of them with it."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from core.asn1.x509 import load_certificate
from core.clock import from_datetime
from core.errors import Refused
from core.store import authorities
from crl.service import CrlService
from crl.settings import CrlSettings
from service.health import Health
from service.maintenance import renew_ocsp_signers
from service.node import Node
from service.watch import Watch
from signer.engine.verify import verify_signature
from signer.issuance.settings import IssuanceSettings
from tests.status_world import World, open_world, read, request, word

DAY_S = 86_400


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """`old` comes before `issuing` wherever authorities are gone through."""
    async with open_world(tmp_path) as world:
        world.clock.advance(-1)
        yield world


def node(world: World) -> Node:
    """The parts that are asked here, all of them real."""
    crl = CrlService(
        world.database,
        world.follower,
        world.signer_for,
        verify_signature,
        world.clock,
        CrlSettings(),
        public_url="http://status.example.cn",
    )
    return cast(
        Node,
        SimpleNamespace(
            database=world.database,
            follower=world.follower,
            clock=world.clock,
            responder=world.responder,
            crl=crl,
            hsm=None,
            engine=SimpleNamespace(signer=lambda key_id, _purpose: world.signer_for(key_id)),
            loaded=SimpleNamespace(
                store_url=world.database.url,
                directory=None,
                settings=SimpleNamespace(
                    issuance=IssuanceSettings(public_url="http://status.example.cn"),
                    status_set=SimpleNamespace(enabled=False),
                ),
            ),
        ),
    )


async def signer_ends_ms(world: World, authority_id: str) -> int:
    async with world.database.read() as connection:
        certificate = (await authorities.get(connection, authority_id)).ocsp_certificate
    assert certificate is not None
    return from_datetime(load_certificate(certificate).not_valid_after_utc)


async def troubles(there: Node) -> dict[str, str]:
    return {check.name: check.detail for check in (await Health(there).report()).checks if not check.ok}


async def test_a_signer_that_cannot_be_renewed_keeps_no_other_from_it(world: World) -> None:
    await world.add_branch("another")
    world.clock.advance(350 * DAY_S)
    world.issuing.key.refusal = Refused("frozen", code="key_frozen")
    assert await renew_ocsp_signers(node(world)) == ["another"]
    world.issuing.key.refusal = None
    assert await renew_ocsp_signers(node(world)) == ["issuing"]
    assert await renew_ocsp_signers(node(world)) == []


async def test_a_signer_that_ends_with_its_authority_is_not_renewed_every_hour(world: World) -> None:
    world.clock.advance(10 * 365 * DAY_S - 20 * DAY_S)
    there = node(world)
    assert await renew_ocsp_signers(there) == ["issuing"]
    end_ms = from_datetime(load_certificate(world.issuing.certificate).not_valid_after_utc)
    assert await signer_ends_ms(world, "issuing") == end_ms
    assert await renew_ocsp_signers(there) == []


async def test_an_authority_that_has_ended_does_not_make_the_node_unready(world: World) -> None:
    world.clock.advance(9 * 365 * DAY_S)
    await world.add_branch("next")
    there = node(world)
    world.clock.advance(365 * DAY_S - 20 * DAY_S)
    assert await renew_ocsp_signers(there) == ["issuing", "next"]
    world.clock.advance(20 * DAY_S - 5 * 3600)  # its last CRL lives five hours
    assert await there.crl.build_due() == 2
    assert await troubles(there) == {}
    assert not any(scope.late for scope in await there.crl.status())
    world.clock.advance(5 * 3600 + 1)
    assert await there.crl.build_due() == 1, "of the one that goes on"
    assert await troubles(there) == {}
    assert [scope.authority_id for scope in await there.crl.status() if scope.ended] == ["issuing"]
    assert await renew_ocsp_signers(there) == []
    registry = CollectorRegistry()
    look = await Watch(there, Health(there), registry).look()
    assert look.ocsp_s is not None, "the probe asks for answers that nobody can give any more"
    assert (registry.get_sample_value("qianyan_ocsp_signer_seconds_left") or 0) > 300 * DAY_S
    serial = await world.issue("next")
    answer = await world.responder.respond(request(world.branches["next"].cert_id(serial)))
    assert word(read(answer.der)) == "good"


async def test_a_clock_that_went_back_shows_in_readiness(world: World) -> None:
    """Nothing was issued while it was ahead, so the store does not know; the responder does, and answers nothing."""
    there = node(world)
    await there.crl.build_due()
    serial = await world.issue()
    assert await troubles(there) == {}
    world.clock.advance(600)
    assert word(await world.ask(serial)) == "good"
    world.clock.advance(-600)
    assert set(await troubles(there)) == {"clock"}
    world.clock.advance(600)
    assert await troubles(there) == {}
