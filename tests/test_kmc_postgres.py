"""On PostgreSQL, where writers run side by side: one key a certificate, whoever asks at once; masters brought over."""

from __future__ import annotations

import asyncio
from pathlib import Path

from core.errors import QianyanError
from core.store import kmc_external, kmc_served, schema_kmc
from signer._native import sm2
from signer.engine.master import SoftwareMaster
from signer.issuance.issued import Issued
from signer.kmc import masters
from signer.kmc.hsm_master import HsmMaster
from signer.kmc.messages import ErrorNumber
from tests.hsm_world import open_hsm
from tests.issuance_support import Request, installation
from tests.kmc_world import (
    CentreWorld,
    FaultyCentre,
    apply_request,
    asking_desk,
    centre_in,
    new_user,
    number,
    restore_request,
    revoke_request,
)
from tests.store_world import new_store

ACTOR = "token:ra-1"


async def test_races(tmp_path: Path) -> None:
    (tmp_path / "km").mkdir()
    (tmp_path / "ca").mkdir()
    async with centre_in(tmp_path / "km", await new_store(tmp_path / "km", "postgres")) as km:
        await km.desk.keeper.refill()
        await asked_by_hand(km)
        store = await new_store(tmp_path / "ca", "postgres")
        async with (
            FaultyCentre(km).listening() as faulty,
            installation(tmp_path / "ca", database=store) as world,
            asking_desk(world, faulty, tmp_path) as desk,
        ):
            request = Request()
            csr = request.encode()
            once = (ACTOR, "one")
            results = await asyncio.gather(
                *(desk.issuer.issue(csr, "organisation", actor=ACTOR, idempotency=once) for _ in range(6)),
                *(desk.issuer.issue(Request().encode(), "organisation", actor=ACTOR) for _ in range(6)),
                return_exceptions=True,
            )
            codes = {one.code for one in results if isinstance(one, QianyanError)}
            issued = [one for one in results if isinstance(one, Issued)]
            assert len(issued) + sum(isinstance(one, QianyanError) for one in results) == 12, results
            assert codes <= {"kmc_key_taken"}
            assert len({one.to_body() for one in issued}) == 7
            await desk.issuer.suspend(issued[0].certificates[0].serial, actor=ACTOR)
            await desk.keeper.sweep()
            async with world.database.read() as connection:
                assert (await kmc_external.counts(connection))["province"]["used"] == 7
            await km.desk.keeper.refill()
            await bring_over(km, tmp_path)


async def asked_by_hand(km: CentreWorld) -> None:
    user, public = new_user()
    n = number()
    request = apply_request(n, public)
    answers = await asyncio.gather(*(km.ask(request, task=1 + i % 2) for i in range(8)))
    got = [answer for answer in answers if answer.items[0][0] == 0xA0]
    assert len({answer.key(0, user, km.centre).public_key for answer in got}) == 1
    assert {answer.error for answer in answers if answer not in got} == {ErrorNumber.NUMBER_USED}
    assert (await km.ask(restore_request(n, public), task=3)).key(0, user, km.centre)
    assert (await km.ask(revoke_request(n), task=4)).items[0][0] == 0xA2
    async with km.world.database.read() as connection:
        assert [(one.in_use, one.history) for one in await kmc_served.counts(connection)] == [(0, 1)]


async def bring_over(km: CentreWorld, directory: Path) -> None:
    """Everything of the centre under a module's key, and used from there."""
    world = km.world
    place = directory / "hsm"
    await asyncio.to_thread(place.mkdir)
    with open_hsm(place, 1, 2) as hsm:
        hsm.devices[0].put_kek(1, bytes(16))
        await masters.create(world.database, hsm.pool, 1, world.clock, "cli:test")
        master = await masters.open_master(world.database, "hsm", hsm.pool, SoftwareMaster(world.keystore))
        assert isinstance(master, HsmMaster)
        steps = [one async for one in masters.Rewrapping(world.database, master, world.clock, "cli:test").run()]
        assert {one.place for one in steps} >= {"spare", "served"}
        assert all(one.left == 0 for one in steps if one.place == "served")
        async with world.database.read() as connection:
            rows = (await connection.execute(schema_kmc.kmc_served_keys.select())).all()
        assert len(rows) == 8
        for row in rows:
            assert master.unwrap(row.wrapped_key).public_key == sm2.PublicKey.from_bytes(row.public_key)
