"""An authority whose encryption keys another centre makes and keeps, over HTTP; and all that goes wrong there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from core.errors import QianyanError, Refused, Unavailable
from core.model import RevocationReason
from core.store import certificates, escrow, kmc_external, kmc_served, schema_kmc
from core.store.kmc_external import AskedKey
from signer._native import sm2
from signer.issuance.desk import Desk
from signer.issuance.grounds import Ground
from signer.issuance.issued import Issued
from signer.issuance.recovery import RecoveryWish
from signer.kmc.breaker import Breaker
from tests.issuance_support import ORGANISATION, Installation, Request, installation, subject_of
from tests.judges.bouncycastle import BouncyCastle
from tests.kmc_world import CentreWorld, FaultyCentre, asking_desk, centre_in, public_key_of, scalar_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACTOR = "token:ra-1"
DAY_MS = 86_400_000


@dataclass
class Both:
    """A centre, an authority's installation, and its desk."""

    km: CentreWorld
    faulty: FaultyCentre
    world: Installation
    desk: Desk
    sent: dict[bytes, bytes] = field(default_factory=dict)

    async def issue(self, request: Request, key: str | None = None, desk: Desk | None = None) -> Issued:
        idempotency = None if key is None else (ACTOR, key)
        csr = self.sent.setdefault(request.key.public_key.to_bytes(), request.encode())
        return await (desk or self.desk).issuer.issue(csr, "organisation", actor=ACTOR, idempotency=idempotency)

    async def asked(self, request: Request) -> list[AskedKey]:
        """Every key that was asked for, for the signing key of the request."""
        async with self.world.database.read() as connection:
            table = schema_kmc.kmc_asked_keys
            rows = await connection.execute(
                table.select().where(table.c.recipient == request.key.public_key.to_bytes()).order_by("created_at_ms")
            )
            return [kmc_external._asked(row) for row in rows]

    def advance(self, days: int) -> None:
        """So many days pass, for both."""
        self.world.clock.offset_ms = self.km.world.clock.offset_ms = self.world.clock.offset_ms + days * DAY_MS

    async def tell_ends(self) -> int:
        assert self.desk.centres is not None
        return await self.desk.centres.tell_ends()

    async def admit(self, *, withdrawn: bool) -> None:
        async with self.km.world.database.write() as connection:
            await kmc_served.change_authority(connection, "yue", at_ms=self.km.world.clock(), withdrawn=withdrawn)

    async def at_centre(self, number: int) -> kmc_served.ServedKey | None:
        async with self.km.world.database.read() as connection:
            return await kmc_served.find(connection, "yue", number)

    async def held_by_centre(self) -> int:
        async with self.km.world.database.read() as connection:
            return sum(one.in_use + one.history for one in await kmc_served.counts(connection))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    directory = tmp_path_factory.mktemp("both")
    async with AsyncExitStack() as stack:
        km = await stack.enter_async_context(centre_in(tmp_path_factory.mktemp("centre")))
        faulty = await stack.enter_async_context(FaultyCentre(km).listening())
        world = await stack.enter_async_context(installation(directory))
        desk = await stack.enter_async_context(asking_desk(world, faulty, directory))
        yield Both(km, faulty, world, desk)


@pytest.fixture(scope="module")
def judge() -> BouncyCastle:
    return BouncyCastle()


def opened(judge: BouncyCastle, request: Request, enveloped: bytes | None) -> bytes:
    """The public key of the key that BouncyCastle takes out of the envelope with the holder's signing key."""
    assert enveloped is not None
    found = judge.open_enveloped_key(scalar_of(request.key), enveloped)
    return sm2.PrivateKey.from_bytes(found.private).public_key.to_bytes()


async def test_the_centre_makes_and_keeps_the_key(both: Both, judge: BouncyCastle) -> None:
    request = Request()
    issued = await both.issue(request)
    sign, encrypt = issued.certificates
    public = public_key_of(encrypt.der)
    assert opened(judge, request, issued.enveloped_key) == public
    kept = await both.at_centre(encrypt.serial)
    assert kept is not None, "its certificate's number is the serial"
    assert kept.key.public_key == public
    async with both.world.database.read() as connection:
        row = await certificates.find(connection, encrypt.serial)
        with pytest.raises(QianyanError, match="not in the care"):
            await escrow.get(connection, row.id)
    (asked,) = await both.asked(request)
    assert (asked.state, asked.enveloped, asked.number) == ("used", None, encrypt.serial)

    await both.desk.issuer.revoke(sign.serial, RevocationReason.SUPERSEDED, actor=ACTOR)
    assert (await both.asked(request))[0].state == "ending"
    assert await both.tell_ends() == 1
    kept = await both.at_centre(encrypt.serial)
    assert kept is not None
    assert kept.ended_at_ms is not None
    assert (await both.asked(request))[0].state == "ended"
    assert await both.tell_ends() == 0


@pytest.mark.parametrize("fault", ["before", "after", "status", "garbage", "other", "old"])
async def test_a_lost_answer_never_means_a_second_key(both: Both, judge: BouncyCastle, fault: str) -> None:
    request = Request()
    before = await both.held_by_centre()
    both.faulty.faults = [fault]
    with pytest.raises(Unavailable) as met:
        await both.issue(request, f"lost-{fault}")
    assert met.value.code == "kmc_no_answer"
    both.faulty.faults = ["before"]
    with pytest.raises(Unavailable):
        await both.issue(request, f"lost-{fault}")
    issued = await both.issue(request, f"lost-{fault}")
    assert opened(judge, request, issued.enveloped_key) == public_key_of(issued.certificates[1].der)
    assert await both.held_by_centre() == before + 1
    (asked,) = await both.asked(request)
    assert (asked.state, asked.sent) == ("used", 2)
    assert await both.issue(request, f"lost-{fault}") == issued
    assert await both.held_by_centre() == before + 1


async def test_it_is_asked_again_within_one_request(both: Both, judge: BouncyCastle, tmp_path: Path) -> None:
    request = Request()
    async with asking_desk(both.world, both.faulty, tmp_path, attempts=3) as desk:
        both.faulty.faults = ["after", "before"]
        issued = await both.issue(request, desk=desk)
    assert opened(judge, request, issued.enveloped_key) == public_key_of(issued.certificates[1].der)


async def test_two_requests_for_one_key_at_once(both: Both) -> None:
    request = Request()
    before = await both.held_by_centre()
    answers = await asyncio.gather(*(both.issue(request, "twice") for _ in range(4)), return_exceptions=True)
    issued = [answer for answer in answers if isinstance(answer, Issued)]
    assert issued
    assert all(answer == issued[0] for answer in issued)
    assert {error.code for error in answers if isinstance(error, QianyanError)} <= {"kmc_key_taken"}
    assert await both.issue(request, "twice") == issued[0]
    assert await both.held_by_centre() - before == len(await both.asked(request))
    assert [asked.state for asked in await both.asked(request)].count("used") == 1


async def test_a_centre_that_does_not_repeat_its_answers_is_asked_to_restore(both: Both, judge: BouncyCastle) -> None:
    """Its answer was lost, it calls the number used: the key is fetched by RestoreKeyReq."""
    request = Request()
    both.faulty.faults = ["after"]
    with pytest.raises(Unavailable):
        await both.issue(request)
    async with both.km.world.database.write() as connection:
        await connection.execute(schema_kmc.kmc_tasks.delete())
    issued = await both.issue(request)
    assert opened(judge, request, issued.enveloped_key) == public_key_of(issued.certificates[1].der)


async def test_what_is_refused_anyway_gets_no_key(both: Both) -> None:
    request = Request()
    await both.issue(request)
    asked = both.faulty.asked
    other = Request(subject_of(ORGANISATION | {"CN": "另一家公司"}), key=request.key)
    with pytest.raises(Refused) as met:
        await both.desk.issuer.issue(other.encode(), "organisation", actor=ACTOR)
    assert met.value.code == "key_of_another"
    assert both.faulty.asked == asked


async def test_a_refusal_is_on_record_and_final(both: Both) -> None:
    request = Request()
    await both.admit(withdrawn=True)
    try:
        with pytest.raises(Refused) as met:
            await both.issue(request)
        assert met.value.code == "kmc_refused"
    finally:
        await both.admit(withdrawn=False)
    assert [asked.state for asked in await both.asked(request)] == ["refused"]
    await both.issue(request)
    assert [asked.state for asked in await both.asked(request)] == ["refused", "used"]


async def test_recovery_by_the_centre(both: Both, judge: BouncyCastle) -> None:
    request, new = Request(), Request()
    issued = await both.issue(request)
    encrypt = issued.certificates[1]
    reissued = await both.desk.issuer.reissue(issued.certificates[0].serial, new.encode(), Ground.LOST, actor=ACTOR)
    assert opened(judge, new, reissued.enveloped_key) == public_key_of(reissued.certificates[1].der)
    recoveries = both.desk.recoveries
    asked = await recoveries.ask(RecoveryWish(encrypt.serial, "case-1"), actor="token:a")
    await recoveries.approve(asked.id, actor="token:b")
    both.faulty.faults = ["before"]
    with pytest.raises(Unavailable):
        await recoveries.approve(asked.id, actor="token:c")
    done = await recoveries.approve(asked.id, actor="token:c")
    assert opened(judge, new, done.enveloped_key) == public_key_of(encrypt.der)


async def test_a_key_that_was_given_before_is_not_taken(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Request(), Request()
    issued = await both.issue(first)
    async with both.km.world.database.read() as connection:
        kept = await kmc_served.find(connection, "yue", issued.certificates[1].serial)
    assert kept is not None

    async def again() -> escrow.WrappedKey:
        return kept.key

    with monkeypatch.context() as patch:
        patch.setattr(both.km.desk.keys, "take", again)
        with pytest.raises(Refused) as met:
            await both.issue(second)
    assert met.value.code == "kmc_refused"
    assert [asked.state for asked in await both.asked(second)] == ["ending"], "there is a key under that number there"
    await both.tell_ends()
    assert [asked.state for asked in await both.asked(second)] == ["ended"]


async def test_a_refusal_of_what_may_have_been_done_before_ends_it(both: Both) -> None:
    """The first answer was lost; by now the authority is withdrawn there, so even the key cannot be fetched."""
    request = Request()
    both.faulty.faults = ["after"]
    with pytest.raises(Unavailable):
        await both.issue(request)
    (asked,) = await both.asked(request)
    await both.admit(withdrawn=True)
    try:
        with pytest.raises(Refused):
            await both.issue(request)
        await both.tell_ends()
        assert (await both.asked(request))[0].state == "ending"
    finally:
        await both.admit(withdrawn=False)
    assert await both.tell_ends() == 0, "it is left in peace for a while"
    async with both.world.database.write() as connection:  # ten minutes pass
        await connection.execute(schema_kmc.kmc_asked_keys.update().values(trouble=None))
    await both.tell_ends()
    kept = await both.at_centre(asked.number)
    assert kept is not None
    assert kept.ended_at_ms is not None
    await both.issue(request)


async def test_a_centre_that_cannot_now_is_asked_again(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request()

    async def broken(*_: object, **__: object) -> None:
        raise Unavailable("the disk is full", code="store")

    with monkeypatch.context() as patch:
        patch.setattr(kmc_served, "remember", broken)
        with pytest.raises(Unavailable):
            await both.issue(request)
    await both.issue(request)
    assert [asked.state for asked in await both.asked(request)] == ["used"]


async def test_a_failing_centre_is_left_alone(both: Both, tmp_path: Path) -> None:
    async with asking_desk(both.world, both.faulty, tmp_path, open_after=3, open_s=600) as desk:
        both.faulty.faults = ["status"] * 3
        for _ in range(3):
            with pytest.raises(Unavailable):
                await both.issue(Request(), desk=desk)
        asked = both.faulty.asked
        with pytest.raises(Unavailable) as met:
            await both.issue(Request(), desk=desk)
        assert met.value.code == "kmc_left"
        assert (met.value.retry_after_s or 0) > 60
        assert both.faulty.asked == asked


async def test_a_slow_centre_is_not_waited_for(both: Both, tmp_path: Path) -> None:
    """A listener that accepts and says nothing."""
    silent = await asyncio.start_server(lambda _r, _w: asyncio.sleep(3600), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        async with asking_desk(
            both.world, both.faulty, tmp_path, url=f"http://127.0.0.1:{port}/v1/kmc", timeout_s=0.2
        ) as desk:
            with pytest.raises(Unavailable) as met:
                await asyncio.wait_for(both.issue(Request(), desk=desk), 60)
    finally:
        silent.close()
    assert met.value.code == "kmc_no_answer"


async def test_the_token_goes_with_the_message(both: Both, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-of-yue\n")
    token.chmod(0o600)
    async with asking_desk(both.world, both.faulty, tmp_path, token_file=str(token)) as desk:
        await both.issue(Request(), desk=desk)
    assert both.faulty.tokens[-1] == "Bearer secret-of-yue"


async def test_the_breaker_lets_one_try() -> None:
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0])
    for _ in range(2):
        assert breaker.admit()
        breaker.failed()
    assert (breaker.open, breaker.admit(), breaker.wait_s) == (True, False, 10.0)
    now[0] = 10.5
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.left()
    assert breaker.admit()
    breaker.failed()
    assert not breaker.admit()
    now[0] = 21.0
    assert breaker.admit()
    breaker.succeeded()
    assert [breaker.admit(), breaker.admit(), breaker.open] == [True, True, False]


# Time goes forward only: these come last.


async def test_keys_that_nobody_took_are_ended(both: Both) -> None:
    request = Request()
    both.faulty.faults = ["after"]
    with pytest.raises(Unavailable):
        await both.issue(request)
    (asked,) = await both.asked(request)
    both.advance(2)
    both.faulty.faults = ["after"]
    await both.desk.keeper.sweep()
    assert (await both.asked(request))[0].state == "ending", "the centre's answer was lost"
    await both.desk.keeper.sweep()
    assert (await both.asked(request))[0].state == "ended"
    kept = await both.at_centre(asked.number)
    assert kept is not None
    assert kept.ended_at_ms is not None
    issued = await both.issue(request)
    assert issued.certificates[1].serial != asked.number


async def test_renewal_keeps_the_key_and_its_end_waits_for_the_last(both: Both) -> None:
    request = Request()
    issued = await both.issue(request)
    old_sign, old_encrypt = issued.certificates
    both.advance(360)
    asked = both.faulty.asked
    renewed = await both.desk.issuer.renew(old_sign.serial, actor=ACTOR)
    assert both.faulty.asked == asked
    assert public_key_of(renewed.certificates[1].der) == public_key_of(old_encrypt.der)
    both.advance(10)  # the old pair has run out
    await both.desk.keeper.sweep()
    assert [one.state for one in await both.asked(request)] == ["used"]
    async with both.world.database.write() as connection:
        row = await certificates.find(connection, renewed.certificates[1].serial)
        await kmc_external.end(connection, [row.id], at_ms=both.world.clock())
    assert [one.state for one in await both.asked(request)] == ["ending"]
