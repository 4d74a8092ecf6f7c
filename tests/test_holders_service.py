"""Holders with real certificates: registered, found, shown masked, sealed in the store, raced for, looked up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from core.errors import Busy, Conflict, Malformed, NotFound, QianyanError, Refused, Unavailable
from core.store import holders as store
from core.store import schema
from signer.holders.claim import HolderClaim
from signer.holders.register import HttpRegister, LimitedRegister
from signer.holders.service import settle_all
from signer.holders.settings import HolderSettings
from signer.issuance.desk import Desk
from signer.issuance.grounds import Ground
from signer.issuance.issued import Issued
from signer.registration.rekeying import Rekeying
from tests.holder_world import credit_code, desk_in, desk_on, organisation
from tests.issuance_support import Installation, Request, audit_rows, snapshot, subject_of

ACTOR = "token:ra-1"
OTHER_SUBJECT = subject_of({"C": "CN", "O": "另一家公司", "CN": "另一家公司"})


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[tuple[Installation, Desk]]:
    async with desk_in(tmp_path) as made:
        yield made


async def issue(desk: Desk, claim: HolderClaim | None, request: Request | None = None, **more: object) -> Issued:
    csr = (request or Request()).encode()
    return await desk.issuer.issue(csr, "organisation", actor=ACTOR, holder=claim, **more)  # type: ignore[arg-type]


async def test_a_holders_business_is_found_at_once(place: tuple[Installation, Desk]) -> None:
    world, desk = place
    claim = organisation()
    first = await issue(desk, claim)
    assert first.holder_id is not None
    serial = first.certificates[0].serial
    second = await issue(desk, claim)
    assert second.holder_id == first.holder_id
    reissued = await desk.issuer.reissue(serial, Request().encode(), Ground.LOST, actor="token:ra-2")
    assert reissued.holder_id == first.holder_id
    await desk.unlocking.unlock(second.certificates[0].serial, actor=ACTOR)
    await desk.issuer.suspend(second.certificates[1].serial, actor=ACTOR, ground=Ground.HOLDER_REQUEST)

    view = await desk.holders.find("organisation", claim.number.lower())
    assert view.record.id == first.holder_id
    assert len(view.certificates) == 6
    assert view.masked["name"] == "粤" + "*" * 7
    past = await desk.holders.history(first.holder_id)
    assert [event.operation for event in past] == ["suspend", "unlock", "reissue", "issue", "issue"]
    assert [event.ground for event in past][:3] == ["holder_request", None, "lost"]
    assert (past[2].previous_serial, past[2].actor) == (serial, "token:ra-2")
    assert [e.id for e in await desk.holders.history(first.holder_id, before_id=past[1].id, limit=2)] == [
        past[2].id,
        past[3].id,
    ]
    assert (await audit_rows(world.database))[-1][0] == "certificate.hold"
    with pytest.raises(NotFound):
        await desk.holders.find("organisation", credit_code())
    with pytest.raises(NotFound):
        await desk.holders.history("nobody")


def dump_of(directory: Path) -> bytes:
    """Everything in the store's files."""
    return b"".join(path.read_bytes() for path in directory.glob("store.sqlite3*"))


async def test_the_store_holds_nothing_readable(place: tuple[Installation, Desk], tmp_path: Path) -> None:
    world, desk = place
    claim = organisation()
    await issue(desk, claim, Request(OTHER_SUBJECT))
    await issue(desk, claim, Request(OTHER_SUBJECT), idempotency=("ra-1", "order-1"))
    await world.database.close()
    dump = dump_of(tmp_path)
    for secret in (claim.number, claim.name, claim.phone, claim.address):
        assert secret is not None
        assert secret.encode() not in dump


async def test_sealed_rows_cannot_be_exchanged_or_changed(place: tuple[Installation, Desk], tmp_path: Path) -> None:
    _, desk = place
    ids = [(await issue(desk, organisation())).holder_id for _ in range(2)]
    with sqlite3.connect(tmp_path / "store.sqlite3") as connection:
        rows = [connection.execute("SELECT sealed FROM holders WHERE id = ?", (i,)).fetchone()[0] for i in ids]
        connection.execute("UPDATE holders SET sealed = ? WHERE id = ?", (rows[1], ids[0]))
        connection.execute("UPDATE holders SET sealed = ? WHERE id = ?", (rows[1][:-1] + b"\0", ids[1]))
    for holder_id in ids:
        assert holder_id is not None
        with pytest.raises(Malformed, match="changed"):
            await desk.holders.show(holder_id)


async def test_keys_are_changed_under_way(place: tuple[Installation, Desk]) -> None:
    world, desk = place
    claims = [organisation() for _ in range(3)]
    made = [await issue(desk, claim) for claim in claims]
    other = desk_on(world)  # has the old keys in memory from here on
    assert (await other.holders.find("organisation", claims[0].number)).record.key_id == 1
    assert (await Rekeying(world.database, desk.vault, world.clock).run(actor=ACTOR))["holder"] == 3
    async with world.database.read() as connection:
        keys = await store.list_keys(connection)
        assert {row.key_id for row in await connection.execute(schema.holders.select())} == {keys[-1].id}
    for claim, issued in zip(claims, made, strict=True):
        for holders in (desk.holders, other.holders):
            assert (await holders.find("organisation", claim.number)).record.id == issued.holder_id
    assert issued.holder_id is not None
    assert await desk.holders.reveal(issued.holder_id, actor="cli:auditor") == claims[-1]
    assert (await audit_rows(world.database))[-1][:2] == ("holder.reveal", f"holder:{issued.holder_id}")


async def test_data_is_brought_up_to_date(place: tuple[Installation, Desk]) -> None:
    _, desk = place
    claim = organisation()
    issued = await issue(desk, claim)
    await issue(desk, HolderClaim.of("organisation", claim.number, phone="13800138000"))
    assert issued.holder_id is not None
    kept = await desk.holders.reveal(issued.holder_id, actor=ACTOR)
    assert (kept.name, kept.phone) == (claim.name, "13800138000")


async def test_two_at_once_on_one_holder(place: tuple[Installation, Desk]) -> None:
    world, desk = place
    claim = organisation()
    for known in (False, True):
        results = await asyncio.gather(*(issue(desk, claim) for _ in range(3)), return_exceptions=True)
        won = [result for result in results if isinstance(result, Issued)]
        told = [result for result in results if isinstance(result, Conflict)]
        assert len(won) >= 1, known
        assert {one.code for one in told} <= {"holder_busy"}
        assert len(won) + len(told) == 3
    # admitted side by side for sure: both saw the holder before either was recorded
    admissions = [await desk.holders.admit(claim) for _ in range(2)]
    assert admissions[0] is not None
    assert admissions[1] is not None
    async with world.database.write() as connection:
        assert await settle_all(connection, [admissions[0]], at_ms=world.clock()) == [None]
    async with world.database.write() as connection:
        (late,) = await settle_all(connection, [admissions[1]], at_ms=world.clock())
    assert late is not None
    assert late.code == "holder_busy"


async def test_a_key_is_one_holders(place: tuple[Installation, Desk]) -> None:
    world, desk = place
    request = Request()
    claim = organisation()
    await issue(desk, claim, request)
    await issue(desk, claim, Request(OTHER_SUBJECT, key=request.key))  # the same holder, under another name
    before = await snapshot(world.database)
    with pytest.raises(Refused) as refusal:
        await issue(desk, organisation(), request)
    assert refusal.value.code == "key_of_another"
    assert await snapshot(world.database) == before
    assert (await audit_rows(world.database))[-1][2] == "key_of_another"


async def test_a_retry_and_another_holder_under_its_key(place: tuple[Installation, Desk]) -> None:
    _, desk = place
    csr = Request().encode()
    once = ("ra-1", "order-1")
    claim = organisation()
    first = await desk.issuer.issue(csr, "organisation", actor=ACTOR, holder=claim, idempotency=once)
    assert await desk.issuer.issue(csr, "organisation", actor=ACTOR, holder=claim, idempotency=once) == first
    with pytest.raises(Conflict) as refusal:
        await desk.issuer.issue(csr, "organisation", actor=ACTOR, holder=organisation(), idempotency=once)
    assert refusal.value.code == "idempotency_key"


async def test_holders_may_be_required(tmp_path: Path) -> None:
    async with desk_in(tmp_path, holders=HolderSettings(required=True)) as (_, desk):
        with pytest.raises(Refused) as refusal:
            await issue(desk, None)
        assert refusal.value.code == "holder_required"
        await issue(desk, organisation())


class Register:
    """A register over HTTP, of the tests' own: answers as it is told."""

    def __init__(self) -> None:
        self.answer: object = {"result": "match"}
        self.asked: list[dict[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        await self.gate.wait()
        if isinstance(self.answer, int):
            return web.Response(status=self.answer)
        return web.json_response(self.answer)


async def test_the_register_is_asked_first(tmp_path: Path) -> None:
    register = Register()
    app = web.Application()
    app.add_routes([web.post("/check", register.handle)])
    async with TestServer(app) as server:
        settings = HolderSettings(register_url=str(server.make_url("/check")), register_timeout_s=0.5)
        async with desk_in(tmp_path, holders=settings) as (world, desk):
            claim = organisation()
            await issue(desk, claim)
            assert register.asked == [{"kind": "organisation", "number": claim.number, "name": claim.name}]
            before = await snapshot(world.database)
            wrong: list[tuple[object, type[QianyanError], str]] = [
                ({"result": "mismatch"}, Refused, "register_mismatch"),
                ({"result": "unknown"}, Refused, "register_unknown"),
                ({"result": "inactive"}, Refused, "register_inactive"),
                ({"result": "yes"}, Unavailable, "register_unavailable"),
                (["match"], Unavailable, "register_unavailable"),
                ({"more": "x" * 100_000}, Unavailable, "register_unavailable"),
                (500, Unavailable, "register_unavailable"),
            ]
            for register.answer, kind, code in wrong:
                with pytest.raises(kind) as refusal:
                    await issue(desk, organisation())
                assert refusal.value.code == code
            register.answer = {"result": "match"}
            register.gate.clear()
            with pytest.raises(Unavailable) as late:
                await issue(desk, organisation())
            assert late.value.code == "register_unavailable"
            register.gate.set()
            assert await snapshot(world.database) == before
            asked = len(register.asked)
            await issue(desk, HolderClaim.of("device", "dev-1"))
            assert len(register.asked) == asked, "devices are in no register by default"


async def test_questions_to_the_register_are_bounded() -> None:
    asked, may_end = asyncio.Event(), asyncio.Event()

    class Slow:
        async def check(self, claim: HolderClaim) -> None:
            asked.set()
            await may_end.wait()

    limited = LimitedRegister(Slow(), 30, 1)
    first = asyncio.create_task(limited.check(organisation()))
    await asked.wait()
    with pytest.raises(Busy):
        await limited.check(organisation())
    may_end.set()
    await first
    await limited.check(organisation())


async def test_a_register_that_is_not_there() -> None:
    register = HttpRegister("http://127.0.0.1:9/check")
    with pytest.raises(Unavailable):
        await register.check(organisation())
    await register.close()
