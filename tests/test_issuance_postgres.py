"""On PostgreSQL, where writers run side by side: of racing requests one wins, and nothing valid is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest_asyncio

from core.errors import QianyanError
from core.model import CertificateState, RevocationReason
from core.store import certificates, schema
from signer.issuance.desk import Desk
from signer.issuance.grounds import Ground
from signer.issuance.issued import Issued
from signer.issuance.recovery import RecoveryWish
from tests.holder_world import desk_on, organisation
from tests.issuance_support import Installation, Request, installation
from tests.store_world import new_store

ACTOR = "token:ra-1"
DAY_MS = 86_400_000


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[tuple[Installation, Desk]]:
    database = await new_store(tmp_path, "postgres")
    async with installation(tmp_path, database=database) as world:
        yield world, desk_on(world, spare_keys=32)


async def together(*calls: Awaitable[object]) -> tuple[list[Issued], list[str]]:
    """What was issued, and the codes of those that were told no."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    unknown = [one for one in results if isinstance(one, BaseException) and not isinstance(one, QianyanError)]
    assert not unknown
    issued = [one for one in results if isinstance(one, Issued)]
    return issued, [one.code for one in results if isinstance(one, QianyanError)]


async def states(world: Installation, issued: Issued) -> set[CertificateState]:
    async with world.database.read() as connection:
        return {(await certificates.find(connection, c.serial)).state for c in issued.certificates}


async def test_races(place: tuple[Installation, Desk]) -> None:
    world, desk = place
    issuer = desk.issuer
    await desk.keeper.refill()
    claim = organisation()
    issued, told = await together(
        *(issuer.issue(Request().encode(), "organisation", actor=ACTOR, holder=claim) for _ in range(4))
    )
    assert issued
    assert set(told) <= {"holder_busy"}
    assert len({one.holder_id for one in issued}) == 1

    csr, once = Request().encode(), ("ra-1", "order-1")
    same, told = await together(*(issuer.issue(csr, "organisation", actor=ACTOR, idempotency=once) for _ in range(4)))
    assert not told
    assert len({one.to_body() for one in same}) == 1, "one request, one answer"

    key = Request()
    owners = [organisation() for _ in range(4)]
    won, told = await together(
        *(issuer.issue(key.encode(), "organisation", actor=ACTOR, holder=owner) for owner in owners)
    )
    assert (len(won), set(told)) == (1, {"key_of_another"})

    world.clock.offset_ms = 350 * DAY_MS
    serial = same[0].certificates[0].serial
    renewed, told = await together(*(issuer.renew(serial, actor=ACTOR) for _ in range(4)))
    assert (len(renewed), set(told)) == (1, {"already_replaced"})
    async with world.database.read() as connection:
        keys = [row.public_key for row in await connection.execute(schema.escrowed_keys.select())]
    assert len(keys) - len(set(keys)) == 1, "the renewal's key is the old one; no spare key went twice"


async def test_a_revocation_leaves_nothing_valid(place: tuple[Installation, Desk]) -> None:
    world, desk = place
    issuer = desk.issuer
    made = [
        await issuer.issue(Request().encode(), "organisation", actor=ACTOR, holder=organisation()) for _ in range(6)
    ]
    world.clock.offset_ms = 350 * DAY_MS
    for turn, one in enumerate(made):
        serial = one.certificates[0].serial
        replacing = (
            issuer.renew(serial, actor=ACTOR)
            if turn % 2
            else issuer.reissue(serial, Request().encode(), Ground.DAMAGED, actor=ACTOR)
        )
        revoking = issuer.revoke(serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR)
        replaced, told = await together(replacing, revoking)
        assert set(told) <= {"already_revoked", "request_contended", "state_changed", "holder_busy"}
        if "request_contended" in told or "state_changed" in told:
            await together(issuer.revoke(serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR))
        assert await states(world, one) == {CertificateState.REVOKED}
        if turn % 2 and replaced:
            assert await states(world, replaced[0]) == {CertificateState.REVOKED}, "the same key, so revoked as well"


async def test_approvals_at_once(place: tuple[Installation, Desk]) -> None:
    _, desk = place
    issued = await desk.issuer.issue(Request().encode(), "organisation", actor=ACTOR)
    wish = RecoveryWish(issued.certificates[0].serial, "case-1")
    asked = await desk.recoveries.ask(wish, actor="token:clerk")
    _, told = await together(*(desk.recoveries.approve(asked.id, actor=f"token:{i}") for i in range(4)))
    assert set(told) <= {"recovery_changed", "recovery_done"}
    now = await desk.recoveries.get(asked.id)
    assert now.state in ("approved", "done")
    assert now.first_approver != now.second_approver
    assert (now.state == "done") == (now.enveloped_key is not None)
