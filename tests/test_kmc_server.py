"""A key-management centre as other authorities meet it: messages written by hand, answers taken apart by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from core.errors import Unavailable
from core.store import kmc_served
from signer._native import sm2, sm3
from signer.kmc import messages
from signer.kmc.messages import ErrorNumber
from tests.issuance_support import audit_rows
from tests.judges.bouncycastle import Answer, BouncyCastle
from tests.kmc_world import (
    EC_KEY,
    SM2_ENCRYPT,
    SM3,
    SM4,
    SM4_ECB,
    CentreWorld,
    Party,
    apply_request,
    centre_in,
    integer,
    new_user,
    number,
    octets,
    restore_request,
    revoke_request,
    scalar_of,
    seq,
    spki,
    tlv,
)

_KINDS = ("apply", "restore", "revoke")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def km(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CentreWorld]:
    async with centre_in(tmp_path_factory.mktemp("centre")) as world:
        yield world


async def kept(km: CentreWorld, certificate_number: int) -> kmc_served.ServedKey | None:
    async with km.world.database.read() as connection:
        return await kmc_served.find(connection, "yue", certificate_number)


async def test_a_key_from_application_to_history(km: CentreWorld) -> None:
    user, public = new_user()
    n = number()
    answer = await km.ask(apply_request(n, public), task=1)
    assert (answer.task, answer.items[0][0], answer.explicit) == (1, 0xA0, False)
    assert abs(answer.at - datetime.now(UTC)) < timedelta(seconds=60)
    key = answer.key(0, user, km.centre)
    row = await kept(km, n)
    assert row is not None
    assert row.key.public_key == key.public_key.to_bytes()
    assert row.ended_at_ms is None

    other_user, other = new_user()
    restored = await km.ask(restore_request(n, other), task=2)
    assert restored.items[0][0] == 0xA1
    assert restored.key(0, other_user, km.centre).public_key == key.public_key
    with pytest.raises((sm2.DecryptionError, AssertionError, sm2.InvalidEncoding)):
        restored.key(0, user, km.centre)

    revoked = await km.ask(revoke_request(n), task=3)
    assert (revoked.items[0][0], revoked.items[0][1][0].encoded) == (0xA2, integer(n))
    row = await kept(km, n)
    assert row is not None
    assert row.ended_at_ms is not None
    assert (await km.ask(revoke_request(n), task=4)).items[0][0] == 0xA2, "a second time changes nothing"
    again = await km.ask(restore_request(n, public), task=5)
    assert again.key(0, user, km.centre).public_key == key.public_key, "history can be restored"
    rows = [row for row in await audit_rows(km.world.database) if f'"number":"{n:x}"' in row[3]]
    assert [row[0] for row in rows] == ["kmc.apply", "kmc.restore", "kmc.revoke", "kmc.revoke", "kmc.restore"]


async def test_a_task_that_comes_again_gets_the_same_key(km: CentreWorld) -> None:
    user, public = new_user()
    n = number()
    request = apply_request(n, public)
    later = [datetime.now(UTC) + timedelta(seconds=s) for s in (0, 5, 100)]
    first = await km.ask(request, task=10)
    same = [await km.ask(request, task=10, at=at) for at in later]
    assert len({answer.key(0, user, km.centre).public_key for answer in [first, *same]}) == 1
    changed = await km.ask(apply_request(number(), public), task=10)
    assert changed.error == ErrorNumber.TASK
    assert (await km.ask(request, task=11)).error == ErrorNumber.NUMBER_USED


async def test_many_at_once_with_one_number_get_one_key(km: CentreWorld) -> None:
    user, public = new_user()
    n = number()
    request = apply_request(n, public)
    answers = await asyncio.gather(*(km.ask(request, task=20 + i % 2) for i in range(8)))
    got = [answer for answer in answers if answer.items[0][0] == 0xA0]
    assert 4 <= len(got) < 8, "of two tasks for one certificate one is told"
    assert len({answer.key(0, user, km.centre).public_key for answer in got}) == 1
    assert {answer.error for answer in answers if answer not in got} == {ErrorNumber.NUMBER_USED}


async def test_requests_of_one_message_are_answered_each(km: CentreWorld) -> None:
    users = [new_user() for _ in range(3)]
    numbers = [number() for _ in users]
    applied = [apply_request(n, public) for n, (_, public) in zip(numbers, users, strict=True)]
    answer = await km.ask(*applied, revoke_request(number()), apply_request(numbers[0], users[0][1]), task=30)
    assert [tag for tag, _ in answer.items] == [0xA0, 0xA0, 0xA0, 0xA3, 0xA3]
    keys = {answer.key(i, user, km.centre).public_key.to_bytes() for i, (user, _) in enumerate(users)}
    assert len(keys) == 3
    assert [int.from_bytes(parts[0].content, "big") for _, parts in answer.items[3:]] == [
        ErrorNumber.NUMBER_UNKNOWN,
        ErrorNumber.NUMBER_USED,
    ]


async def test_as_others_write_it(km: CentreWorld) -> None:
    """Explicit tags, SM4's bare OID, users' names, an SPKI's digest in the sender's name."""
    user, public = new_user()
    extra = tlv(0xA0, octets("张三".encode())) + tlv(0xA1, tlv(0x16, b"4401")) + tlv(0xA2, octets(b"x"))
    request = apply_request(number(), public, explicit=True, algorithms_=(SM2_ENCRYPT, SM4, SM3), extra=extra)
    a = km.authority
    entity = seq(
        seq(SM3[2:], b"\x05\x00"),
        tlv(0xA4, a.subject),
        octets(sm3.sm3(spki(a.public_key))),
        integer(a.serial),
    )
    answer = await km.ask(request, task=40, entity=entity, version=2)
    assert answer.explicit
    answer.key(0, user, km.centre)
    rows = await audit_rows(km.world.database)
    assert "张三" not in str(rows)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (lambda n, p: apply_request(n, p, algorithms_=(SM3, SM4_ECB, SM3)), ErrorNumber.ALGORITHM),
        (lambda n, p: apply_request(n, p, algorithms_=(SM2_ENCRYPT, SM3, SM3)), ErrorNumber.ALGORITHM),
        (lambda n, p: apply_request(n, p, bits=384), ErrorNumber.ALGORITHM),
        (lambda n, p: apply_request(n, b"\x04" + bytes(64)), ErrorNumber.RECIPIENT),
        (lambda n, p: apply_request(n, p, days=-1), ErrorNumber.VALIDITY),
        (lambda n, p: restore_request(n, p), ErrorNumber.NUMBER_UNKNOWN),
        (lambda n, p: revoke_request(n), ErrorNumber.NUMBER_UNKNOWN),
    ],
)
async def test_what_is_not_done(km: CentreWorld, request_: Callable[[int, bytes], bytes], error: ErrorNumber) -> None:
    n = number()
    answer = await km.ask(request_(n, new_user()[1]), task=n % (1 << 60))
    assert answer.error == error
    assert await kept(km, n) is None


async def test_who_is_not_believed(km: CentreWorld) -> None:
    _, public = new_user()
    n = number()
    request = apply_request(n, public)
    stranger = Party("别人")
    assert (await km.answer(stranger.question(request, task=50))).error == ErrorNumber.SENDER
    impostor = Party(key=stranger.key)
    assert (await km.answer(impostor.question(request, task=51))).error == ErrorNumber.SENDER, "another key's digest"
    forged = stranger.question(request, task=52, entity=km.authority.entity())
    assert (await km.answer(forged)).error == ErrorNumber.SIGNATURE
    good = km.authority.question(request, task=53)
    flipped = good.replace(integer(n), integer(n ^ 1))
    assert (await km.answer(flipped)).error == ErrorNumber.SIGNATURE
    for minutes in (-6, 6):
        stale = await km.ask(request, task=54, at=datetime.now(UTC) + timedelta(minutes=minutes))
        assert (stale.error, stale.task) == (ErrorNumber.TIME, 54)
    assert await kept(km, n) is None
    refused = [row for row in await audit_rows(km.world.database) if row[0] == "kmc.refuse"]
    assert {row[2] for row in refused} >= {"kmc_error_3", "kmc_error_4"}
    assert all(row[1] == "kmc:yue" for row in refused)


async def test_a_withdrawn_authority_and_an_expired_certificate(km: CentreWorld) -> None:
    other, ended = Party("另一个", serial=7), Party("过期", serial=8, days=-1)
    async with km.world.database.write() as connection:
        for name, party in (("other", other), ("ended", ended)):
            await kmc_served.add_authority(connection, name, party.certificate, at_ms=km.world.clock())
    user, public = new_user()
    n = number()
    request = apply_request(n, public)
    (await km.answer(other.question(request, task=1))).key(0, user, km.centre)
    assert (await km.ask(restore_request(n, public), task=61)).error == ErrorNumber.NUMBER_UNKNOWN, (
        "numbers are each one's"
    )
    assert (await km.answer(ended.question(request, task=1))).error == ErrorNumber.SENDER
    async with km.world.database.write() as connection:
        await kmc_served.change_authority(connection, "other", at_ms=km.world.clock(), withdrawn=True)
    assert (await km.answer(other.question(request, task=1))).error == ErrorNumber.SENDER
    async with km.world.database.write() as connection:
        await kmc_served.change_authority(connection, "other", at_ms=km.world.clock(), withdrawn=False)
    (await km.answer(other.question(request, task=1))).key(0, user, km.centre)


async def test_bounds(km: CentreWorld) -> None:
    ask = km.authority.question
    revocation = revoke_request(5)
    assert (await km.answer(ask(*[revocation] * 65, task=70))).error == ErrorNumber.TOO_LARGE
    assert len((await km.ask(*[revocation] * 64, task=71)).items) == 64
    assert (await km.answer(bytes(messages.MAX_BYTES + 1))).error == ErrorNumber.TOO_LARGE
    for bad in (
        b"",
        b"\x30\x80\x00\x00",
        ask(task=72),
        ask(revocation, task=72)[:-1],
        ask(revocation, task=72) + b"\0",
        ask(revoke_request(1 << 161), task=72),
        ask(tlv(0xA4, integer(1)), task=72),
        ask(seq(integer(1)), task=72),
        ask(tlv(0xA0, EC_KEY, integer(256)), task=72),
        ask(revocation, task=72, version=9),
    ):
        answer = await km.answer(bad)
        assert (answer.error, answer.task) == (ErrorNumber.MALFORMED, 0), bad[:40].hex()


async def test_a_store_that_fails_is_asked_again(km: CentreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says so, nothing stands, and the same task succeeds later."""
    user, public = new_user()
    request = apply_request(n := number(), public)

    async def broken(*_: object, **__: object) -> None:
        raise Unavailable("the disk is full", code="store")

    with monkeypatch.context() as patch:
        patch.setattr(kmc_served, "remember", broken)
        assert (await km.ask(request, task=80)).error == ErrorNumber.TRY_AGAIN
    assert await kept(km, n) is None
    (await km.ask(request, task=80)).key(0, user, km.centre)


async def test_old_tasks_and_expired_keys_are_put_away(km: CentreWorld) -> None:
    user, public = new_user()
    n = number()
    request = apply_request(n, public, days=1)
    (await km.ask(request, task=90)).key(0, user, km.centre)
    km.world.clock.offset_ms = 40 * 86_400_000
    try:
        await km.desk.keeper.sweep()
    finally:
        km.world.clock.offset_ms = 0
    row = await kept(km, n)
    assert row is not None
    assert row.ended_at_ms is not None
    assert (await km.ask(request, task=90)).error == ErrorNumber.NUMBER_USED, "the task is forgotten, the number is not"


async def test_bouncycastle_asks_and_opens(km: CentreWorld) -> None:
    """Messages that BouncyCastle makes, and answers that it takes apart, checks and opens."""
    user, public = new_user()
    n = number()
    secret = km.authority.scalar()
    with BouncyCastle() as judge:

        async def exchange(task: int, kind: str) -> Answer:
            question = judge.ask_centre(
                secret, km.authority.certificate, task=task, number=n, recipient=public, kind=kind
            )
            answer = await km.server.answer(question, "token:test")
            return judge.open_centre_answer(answer, km.centre.certificate, scalar_of(user))

        applied, restored, revoked = [await exchange(95 + at, kind) for at, kind in enumerate(_KINDS)]
        assert [one.text("kind") for one in (applied, restored, revoked)] == ["0", "1", "2"]
        assert {one.text("number") for one in (applied, restored, revoked)} == {f"{n:x}"}
        assert applied.octets("private") == restored.octets("private")
        again = judge.ask_centre(secret, km.authority.certificate, task=99, number=n, recipient=public)
        assert (await km.answer(again)).error == ErrorNumber.NUMBER_USED
