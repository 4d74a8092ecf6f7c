"""Key recovery by three people, unlocking, key management's three stores; BouncyCastle opens what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry, generate_latest

from core.errors import Conflict, NotFound, QianyanError
from core.model import RevocationReason
from core.store import certificates, escrow, schema
from core.store.recoveries import Recovery
from signer._native import sm2
from signer.engine.master import SoftwareMaster
from signer.issuance.desk import Desk
from signer.issuance.grounds import Ground
from signer.issuance.issued import Issued
from signer.issuance.recovery import RecoveryWish
from tests.holder_world import desk_in, desk_on, organisation
from tests.issuance_support import Installation, Request, audit_rows, installation, keystore_in, snapshot
from tests.judges import Refused as JudgeRefused
from tests.judges.bouncycastle import BouncyCastle

ACTOR = "token:ra-1"
DAY_MS = 86_400_000


@dataclass
class Case:
    """A holder with a pair, and people to recover its key."""

    world: Installation
    desk: Desk
    request: Request
    issued: Issued

    @property
    def serial(self) -> int:
        return self.issued.certificates[0].serial

    async def ask(self, serial: int | None = None, **more: object) -> Recovery:
        wish = RecoveryWish(serial or self.serial, "case-7/2026", **more)  # type: ignore[arg-type]
        return await self.desk.recoveries.ask(wish, actor="token:clerk")

    async def approve(self, recovery: Recovery, *people: str) -> Recovery:
        for person in people or ("token:first", "token:second"):
            recovery = await self.desk.recoveries.approve(recovery.id, actor=person)
        return recovery

    async def refused(self, call: Awaitable[object], code: str) -> None:
        before = await snapshot(self.world.database)
        with pytest.raises(QianyanError) as refusal:
            await call
        assert refusal.value.code == code
        assert await snapshot(self.world.database) == before
        assert (await audit_rows(self.world.database))[-1][2] == code

    async def encryption_key(self) -> bytes:
        async with self.world.database.read() as connection:
            record = await certificates.find(connection, self.issued.certificates[1].serial)
            return await scalar_of(self.world, (await escrow.get(connection, record.id)).wrapped)


async def scalar_of(world: Installation, wrapped: bytes) -> bytes:
    return scalar(world.keystore.unwrap(wrapped))


def scalar(key: sm2.PrivateKey) -> bytes:
    out = bytearray(32)
    key.export_into(out)
    return bytes(out)


@pytest_asyncio.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    async with desk_in(tmp_path) as (world, desk):
        request = Request()
        issued = await desk.issuer.issue(request.encode(), "organisation", actor=ACTOR, holder=organisation())
        yield Case(world, desk, request, issued)


async def test_after_a_loss_the_old_key_comes_back_under_the_new_one(case: Case, bouncycastle: BouncyCastle) -> None:
    medium = Request()
    await case.desk.issuer.reissue(case.serial, medium.encode(), Ground.LOST, actor=ACTOR)
    asked = await case.ask()
    assert (asked.state, asked.enveloped_key) == ("asked", None)
    first = await case.approve(asked, "token:first")
    assert (first.state, first.enveloped_key) == ("approved", None)
    done = await case.approve(first, "token:second")
    assert done.state == "done"
    assert done.enveloped_key is not None
    opened = bouncycastle.open_enveloped_key(scalar(medium.key), done.enveloped_key)
    assert opened.private == await case.encryption_key()
    with pytest.raises(JudgeRefused):
        bouncycastle.open_enveloped_key(scalar(case.request.key), done.enveloped_key)
    actions = [row[0] for row in await audit_rows(case.world.database)][-4:]
    assert actions == ["recovery.ask", "recovery.approve", "recovery.approve", "recovery.done"]
    detail = (await audit_rows(case.world.database))[-1][3]
    for person in ("token:clerk", "token:first", "token:second", "case-7/2026"):
        assert person in detail
    assert case.issued.holder_id is not None
    past = await case.desk.holders.history(case.issued.holder_id)
    assert (past[0].operation, past[0].ground) == ("recover", "holder")


async def test_three_different_people(case: Case) -> None:
    asked = await case.ask()
    await case.refused(case.approve(asked, "token:clerk"), "same_person")
    approved = await case.approve(asked, "token:first")
    assert await case.approve(asked, "token:first") == approved, "a retry changes nothing"
    await case.refused(case.approve(asked, "token:clerk"), "same_person")
    done = await case.approve(asked, "token:second")
    for person in ("token:first", "token:second"):
        assert await case.approve(asked, person) == done
    await case.refused(case.approve(asked, "token:third"), "recovery_done")


async def test_two_approvals_at_once_are_two_steps(case: Case) -> None:
    asked = await case.ask()
    results = await asyncio.gather(
        *(case.approve(asked, person) for person in ("token:a", "token:b")), return_exceptions=True
    )
    told = [one.code for one in results if isinstance(one, Conflict)]
    assert told in ([], ["recovery_changed"])
    now = await case.desk.recoveries.get(asked.id)
    assert (now.state == "done") == (told == [])


async def test_rejected_or_too_late(case: Case) -> None:
    rejected = await case.desk.recoveries.reject((await case.ask()).id, actor="token:first")
    assert rejected.state == "rejected"
    await case.refused(case.approve(rejected, "token:first"), "recovery_rejected")
    late = await case.approve(await case.ask(), "token:first")
    case.world.clock.offset_ms = 4 * DAY_MS
    await case.refused(case.approve(late, "token:second"), "recovery_expired")
    with pytest.raises(NotFound):
        await case.desk.recoveries.approve("none", actor="token:first")


async def test_the_recipient_is_the_holders_and_valid(case: Case) -> None:
    issuer = case.desk.issuer
    stranger = await issuer.issue(Request().encode(), "organisation", actor=ACTOR, holder=organisation())
    await case.refused(case.ask(recipient_serial=stranger.certificates[0].serial), "recovery_recipient")
    await case.refused(case.ask(recipient_key=case.request.key.public_key.to_bytes()), "recovery_recipient")
    await case.refused(case.ask(judicial=True), "recovery_recipient")
    await case.refused(case.ask(judicial=True, recipient_key=b"\4" + bytes(64)), "recovery_recipient")
    asked = await case.ask()
    await case.approve(asked, "token:first")
    await issuer.suspend(case.serial, actor=ACTOR)
    await case.refused(case.approve(asked, "token:second"), "recovery_recipient")
    await case.refused(case.ask(), "recovery_recipient")
    await issuer.revoke(case.serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR)
    await case.refused(case.approve(asked, "token:second"), "recovery_recipient")


async def test_what_cannot_be_recovered(case: Case) -> None:
    request = Request()
    alone = await case.desk.issuer.issue(request.encode(), "person-sign", actor=ACTOR)
    await case.refused(case.ask(alone.certificates[0].serial), "no_encryption_key")
    wish = RecoveryWish(case.serial, "张三 case")
    await case.refused(case.desk.recoveries.ask(wish, actor=ACTOR), "recovery_reference")


async def test_a_judicial_recovery_goes_where_the_order_says(case: Case, bouncycastle: BouncyCastle) -> None:
    court = sm2.PrivateKey.generate()
    await case.desk.issuer.revoke(case.serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR)
    done = await case.approve(await case.ask(judicial=True, recipient_key=court.public_key.to_bytes()))
    assert done.enveloped_key is not None
    assert bouncycastle.open_enveloped_key(scalar(court), done.enveloped_key).private == await case.encryption_key()
    assert '"judicial":1' in (await audit_rows(case.world.database))[-1][3]


async def test_a_retry_of_the_question(case: Case) -> None:
    wish = RecoveryWish(case.serial, "case-1")
    first = await case.desk.recoveries.ask(wish, actor=ACTOR, idempotency=("ra-1", "r-1"))
    assert await case.desk.recoveries.ask(wish, actor=ACTOR, idempotency=("ra-1", "r-1")) == first
    assert len(await case.desk.recoveries.list_all("asked")) == 1
    await case.refused(
        case.desk.recoveries.ask(RecoveryWish(case.serial, "case-2"), actor=ACTOR, idempotency=("ra-1", "r-1")),
        "idempotency_key",
    )


async def test_an_unlock_token_is_good_once(case: Case) -> None:
    unlocking = case.desk.unlocking
    given = await unlocking.unlock(case.serial, actor=ACTOR, idempotency=("ra-1", "u-1"))
    again = await unlocking.unlock(case.serial, actor=ACTOR, idempotency=("ra-1", "u-1"))
    assert again == given
    assert given.token not in repr(given)
    head, tail = given.token.split(".")
    for wrong in ("", "x", f"{head}.{'0' * 32}", f"{'0' * 32}.{tail}", given.token + "0"):
        await case.refused(unlocking.redeem(wrong, actor=ACTOR), "unlock_token")
    other = desk_on(case.world)  # another process, or the same after a restart
    assert (await other.unlocking.redeem(given.token, actor="token:tool")).serial == case.serial
    await case.refused(unlocking.redeem(given.token, actor=ACTOR), "unlock_used")
    async with case.world.database.read() as connection:
        rows = (await connection.execute(schema.idempotency.select())).all()
    assert all(tail.encode() not in row.body for row in rows)


async def test_an_unlock_token_follows_the_certificate(case: Case) -> None:
    unlocking = case.desk.unlocking
    given = await unlocking.unlock(case.issued.certificates[1].serial, actor=ACTOR)
    await case.desk.issuer.suspend(case.serial, actor=ACTOR)
    await case.refused(unlocking.redeem(given.token, actor=ACTOR), "suspended")
    await case.desk.issuer.release(case.serial, actor=ACTOR)
    case.world.clock.offset_ms = 3_600_000
    await case.refused(unlocking.redeem(given.token, actor=ACTOR), "unlock_expired")
    async with case.world.database.read() as connection:
        ocsp = schema.certificates.select().where(schema.certificates.c.usage == "ocsp")
        serial = int.from_bytes((await connection.execute(ocsp)).one().serial, "big")
    await case.refused(unlocking.unlock(serial, actor=ACTOR), "authority_certificate")


async def test_spare_keys_are_made_taken_and_become_history(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    registry = CollectorRegistry()
    async with desk_in(tmp_path, spare_keys=20, registry=registry) as (world, desk):
        assert await desk.keeper.refill() == 20
        assert await desk.keeper.refill() == 0
        async with world.database.read() as connection:
            spare = {row.public_key for row in await connection.execute(schema.spare_keys.select())}
        requests = [Request() for _ in range(3)]
        issued = [await desk.issuer.issue(r.encode(), "organisation", actor=ACTOR) for r in requests]
        for request, one in zip(requests, issued, strict=True):
            assert one.enveloped_key is not None
            opened = bouncycastle.open_enveloped_key(scalar(request.key), one.enveloped_key)
            public = sm2.PrivateKey.from_bytes(opened.private).public_key.to_bytes()
            assert public in spare
        async with world.database.read() as connection:
            assert await escrow.counts(connection) == escrow.StoreCounts(4, 3, 0), "sixteen are taken at a time"
        await desk.issuer.revoke(issued[0].certificates[0].serial, RevocationReason.SUPERSEDED, actor=ACTOR)
        world.clock.offset_ms = 366 * DAY_MS
        assert await desk.keeper.sweep() == 2
        async with world.database.read() as connection:
            assert await escrow.counts(connection) == escrow.StoreCounts(4, 0, 3)
        shown = generate_latest(registry).decode()
        assert 'qianyan_kmc_keys{store="history"} 3.0' in shown
        assert 'qianyan_kmc_keys_handed_out_total{origin="spare"} 3.0' in shown
        assert await desk.keeper.refill() == 16


async def test_without_a_spare_key_one_is_made(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with desk_in(tmp_path, spare_keys=5, registry=registry) as (_, desk):
        for _ in range(2):
            issued = await desk.issuer.issue(Request().encode(), "organisation", actor=ACTOR)
            assert issued.enveloped_key is not None
        assert 'origin="made"} 2.0' in generate_latest(registry).decode()


async def test_no_spare_key_goes_twice(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        desks = [desk_on(world, spare_keys=40) for _ in range(2)]
        await desks[0].keeper.refill()
        csrs = [(desks[i % 2], Request().encode()) for i in range(20)]
        await asyncio.gather(*(desk.issuer.issue(csr, "organisation", actor=ACTOR) for desk, csr in csrs))
        async with world.database.read() as connection:
            keys = [row.public_key for row in await connection.execute(schema.escrowed_keys.select())]
        assert len(set(keys)) == len(keys) == 20


def test_secrets_are_bound_to_their_purpose(tmp_path: Path) -> None:
    keystore = keystore_in(tmp_path / "keys")
    keystore.create_master()
    master = SoftwareMaster(keystore)
    wrapped = master.wrap_secret("holder seal 1", b"0123456789abcdef")
    assert master.unwrap_secret("holder seal 1", wrapped) == b"0123456789abcdef"
    for purpose, changed in [
        ("holder seal 2", wrapped),
        ("holder seal 1", wrapped[:-1] + bytes([wrapped[-1] ^ 1])),
        ("holder seal 1", wrapped[:20]),
        ("holder seal 1", b"\2" + wrapped[1:]),
    ]:
        with pytest.raises(QianyanError) as refusal:
            master.unwrap_secret(purpose, changed)
        assert refusal.value.code == "wrapped_key"
    keystore.close()
