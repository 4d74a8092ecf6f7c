"""Signed requests: entered, approved, done, rejected, replayed; and that whatever is refused changes nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from core.clock import system_clock
from core.errors import QianyanError
from core.model import RevocationReason
from core.store import audit
from signer._native import sm2, sm3
from signer.registration.envelope import open_signed
from signer.registration.payloads import read_payload, read_request
from signer.registration.records import PersonWish, RaWish
from signer.registration.roles import Role
from signer.registration.settings import RegistrationSettings
from signer.signing.cms import SignedData
from tests.cms_site import scalar
from tests.issuance_support import Request, audit_rows, snapshot
from tests.judges.bouncycastle import BouncyCastle
from tests.registration_world import (
    ACTOR,
    EVERYTHING,
    Signer,
    World,
    attribute,
    b64,
    content_of,
    holder,
    issue_payload,
    message,
    office_on,
    registration_in,
    rejection,
    signer_info,
)

DAY_MS = 86_400_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with registration_in(tmp_path) as made:
        yield made


async def issued(world: World, **more: Any) -> str:
    """The serial of a signing certificate that was just issued."""
    status, answer = await world.submit(content_of("issue", issue_payload(**more)))
    assert status == 201, answer
    serial: str = answer["result"]["certificates"][0]["serial"]
    return serial


async def refused(world: World, call: Awaitable[tuple[int, dict[str, Any]]], before: dict[str, object]) -> str:
    """The code of a refusal that is on record and changed nothing else."""
    status, answer = await call
    assert status == 0, answer
    assert await snapshot(world.installation.database) == before, answer
    action, _, outcome, _ = (await audit_rows(world.installation.database))[-1]
    assert (action, outcome) == ("request.refuse", answer["code"])
    code: str = answer["code"]
    return code


async def test_two_signatures_do_it_at_once(world: World) -> None:
    content = content_of("issue", issue_payload(), request_id="r-1")
    status, answer = await world.submit(content)
    assert status == 201
    assert (answer["state"], answer["entered_by"], answer["approved_by"]) == ("done", "li", ["wang"])
    assert len(answer["result"]["certificates"]) == 2
    assert await world.submit(content) == (201, answer), "a replay answers as the first time"
    # Long after, when the signatures are old, and in another process.
    other = office_on(world.installation, world.desk)
    again = message(content, [world.operator, world.approver])
    world.installation.clock.offset_ms = DAY_MS
    assert (await other.requests.submit(again, source="")).members == answer
    rows = await audit_rows(world.installation.database)
    (done,) = [row for row in rows if row[0] == "request.done"]
    detail = json.loads(done[3])
    assert (detail["entered_by"], detail["approved_by"], detail["content"]) == ("li", "wang", sm3.sm3(content).hex())
    ((step, people, kept),) = await world.office.requests.evidence("gz", "r-1")
    assert (step, people, detail["evidence"]) == ("both", "li+wang", sm3.sm3(kept).hex())
    async with world.installation.database.read() as connection:
        assert (await audit.verify(connection)).broken_at is None


async def test_entered_by_one_and_approved_by_another(world: World) -> None:
    content = content_of("issue", issue_payload(), request_id="two-step")
    status, entered = await world.submit(content, world.operator)
    assert (status, entered["state"], entered["result"]) == (202, "entered", None)
    assert await world.submit(content, world.operator) == (202, entered)
    assert await world.office.requests.content("gz", "two-step") == content
    assert await world.office.requests.show("gz", "two-step") == entered
    status, done = await world.approve(content, world.approver)
    assert (status, done["state"], done["decided_by"]) == (201, "done", "wang")
    assert await world.approve(content, world.approver) == (201, done)
    assert await world.submit(content, world.operator) == (201, done), "who entered it learns how it went"
    status, answer = await world.approve(content, world.people["chen"])
    assert (status, answer["code"]) == (0, "request_decided")
    steps = [(step, people) for step, people, _ in await world.office.requests.evidence("gz", "two-step")]
    assert steps == [("enter", "li"), ("approve", "wang")]


async def test_rejected_with_a_reason(world: World) -> None:
    content = content_of("issue", issue_payload(), request_id="no")
    await world.submit(content, world.operator)
    before = await snapshot(world.installation.database)
    assert await refused(world, world.reject(content, world.people["wu"]), before) == "role"
    status, answer = await world.reject(content, world.approver, "营业执照已注销")
    assert (status, answer["state"], answer["reason"], answer["decided_by"]) == (
        200,
        "rejected",
        "营业执照已注销",
        "wang",
    )
    assert await world.reject(content, world.approver, "营业执照已注销") == (200, answer)
    assert await world.submit(content, world.operator) == (200, answer)
    before = await snapshot(world.installation.database)
    assert await refused(world, world.approve(content, world.approver), before) == "request_decided"
    async with world.installation.database.read() as connection:
        dump = str((await connection.exec_driver_sql("SELECT * FROM ra_requests")).all())
    assert "营业执照" not in dump, "a reason is sealed"


async def test_each_kind(world: World) -> None:
    first = await issued(world)
    for kind, state in (("suspend", "held"), ("resume", "good")):
        status, answer = await world.submit(content_of(kind, {"serial": first}))
        assert status == 200, answer
        assert {one["status"] for one in answer["result"]["certificates"]} == {state}
    content = content_of("unlock", {"serial": first}, request_id="unlock")
    status, answer = await world.submit(content)
    assert (status, answer["result"]["serial"]) == (201, first)
    assert (await world.submit(content))[1]["result"] == answer["result"], "the same token"
    assert (await world.office.requests.show("gz", "unlock"))["result"]["token"] is None
    record = await world.desk.unlocking.redeem(answer["result"]["token"], actor=ACTOR)
    assert f"{record.serial:x}".zfill(32) == first.zfill(32)
    status, answer = await world.submit(content_of("revoke", {"serial": first, "reason": "court_demand"}))
    assert (status, {one["status"] for one in answer["result"]["certificates"]}) == (200, {"revoked"})


async def test_replacements_stay_the_authoritys(world: World) -> None:
    request = Request()
    first = await issued(world, csr=b64(request.encode()), region="440106", customer="tax")
    changed = Request(key=request.key)
    status, answer = await world.submit(content_of("change", {"serial": first, "csr": b64(changed.encode())}))
    assert status == 201, answer
    second = answer["result"]["certificates"][1]["serial"]
    payload = {"serial": second, "csr": b64(Request().encode()), "ground": "lost"}
    status, answer = await world.submit(content_of("reissue", payload))
    assert status == 201, answer
    third = answer["result"]["certificates"][0]["serial"]
    world.installation.clock.offset_ms = 340 * DAY_MS
    status, answer = await world.submit(content_of("renew", {"serial": third}), at_ms=world.installation.clock())
    assert status == 201, answer
    async with world.installation.database.read() as connection:
        rows = await connection.exec_driver_sql("SELECT ra_id, region, customer FROM ra_issued")
        assert {tuple(row) for row in rows} == {("gz", "440106", "tax")}
        counted = await connection.exec_driver_sql(
            "SELECT DISTINCT ra, customer FROM statistics_segments WHERE ra != ''"
        )
        assert {tuple(row) for row in counted} == {("gz", "tax")}


async def test_recovery_takes_two_approvers(world: World) -> None:
    key = sm2.PrivateKey.generate()
    first = await issued(world, csr=b64(Request(key=key).encode()))
    content = content_of("recover", {"serial": first, "reference": "case-1"}, request_id="rec")
    status, answer = await world.submit(content)
    assert (status, answer["state"], answer["approved_by"]) == (202, "entered", ["wang"])
    assert await world.approve(content, world.approver) == (202, answer), "the same approval again"
    before = await snapshot(world.installation.database)
    assert await refused(world, world.approve(content, world.operator), before) == "same_person"
    status, answer = await world.approve(content, world.people["chen"])
    assert (status, answer["state"], answer["approved_by"]) == (201, "done", ["wang", "chen"])
    assert answer["result"]["enveloped_key"]
    assert answer["result"]["requested_by"] == "ra:gz/li"
    court = sm2.PrivateKey.generate().public_key.to_bytes()
    content = content_of("recover_judicial", {"serial": first, "reference": "order-7", "recipient_key": b64(court)})
    before = await snapshot(world.installation.database)
    assert await refused(world, world.submit(content), before) == "role", "an operator is not for courts"
    assert (await world.submit(content, world.people["zhou"], world.approver))[0] == 202
    status, answer = await world.approve(content, world.people["chen"])
    assert (status, answer["result"]["judicial"]) == (201, True)


async def test_who_may_not(world: World) -> None:
    people, clock = world.people, world.installation.clock
    second = Signer()
    made = await world.office.administration.appoint(
        "gz", PersonWish("chen", "陈", frozenset({Role.APPROVER, Role.OPERATOR}), csr=second.csr()), actor=ACTOR
    )
    assert made.issued is not None
    second.certificate = made.issued.certificates[0].der
    stranger = Signer(certificate=world.operator.certificate)
    content = content_of("issue", issue_payload())
    mine = content_of("issue", issue_payload())
    await world.submit(mine, people["chen"])
    before = await snapshot(world.installation.database)
    assert await refused(world, world.approve(mine, second), before) == "same_person"
    assert await refused(world, world.submit(content, people["chen"], second), before) == "same_person"
    assert await refused(world, world.submit(content, people["wu"], people["wang"]), before) == "role"
    assert await refused(world, world.submit(content, people["li"], people["wu"]), before) == "role"
    assert await refused(world, world.submit(content, people["wang"]), before) == "role"
    assert await refused(world, world.submit(content, stranger, people["wang"]), before) == "request_signature"
    unknown = content_of("issue", issue_payload(), ra="nowhere")
    assert await refused(world, world.submit(unknown), before) == "ra_unknown"
    clock.offset_ms = 366 * DAY_MS
    late = world.submit(content, at_ms=clock())
    assert await refused(world, late, before) == "certificate_expired"
    clock.offset_ms = -DAY_MS
    early = world.submit(content, at_ms=clock())
    assert await refused(world, early, before) == "certificate_not_yet_valid"


async def test_a_right_ends_with_the_certificate(world: World) -> None:
    """In the commit that revokes it, for what was entered before as well."""
    waiting = content_of("issue", issue_payload())
    await world.submit(waiting, world.operator)
    assert (await world.submit(content_of("issue", issue_payload())))[0] == 201
    record = await _record(world, world.operator)
    await world.desk.issuer.suspend(record, actor=ACTOR)
    before = await snapshot(world.installation.database)
    assert await refused(world, world.submit(content_of("issue", issue_payload())), before) == "certificate_suspended"
    await world.desk.issuer.revoke(record, RevocationReason.KEY_COMPROMISE, actor=ACTOR)
    before = await snapshot(world.installation.database)
    assert await refused(world, world.submit(content_of("issue", issue_payload())), before) == "certificate_revoked"
    assert await refused(world, world.approve(waiting, world.approver), before) == "certificate_revoked"
    await world.office.administration.dismiss("gz", "wang", actor=ACTOR)
    before = await snapshot(world.installation.database)
    content = content_of("issue", issue_payload())
    assert (
        await refused(world, world.submit(content, world.people["chen"], world.approver), before) == "person_withdrawn"
    )


async def _record(world: World, signer: Signer) -> int:
    for view in await world.office.administration.people("gz"):
        for one in view.certificates:
            if one.certificate == signer.certificate:
                return one.serial
    raise AssertionError("no such certificate")


async def test_scope(world: World) -> None:
    office = world.office.administration
    inside = await issued(world, region="440106", customer="tax")
    outside = await issued(world, region="510100", customer="tax")
    alien = await world.desk.issuer.issue(Request().encode(), "organisation", actor=ACTOR)
    await office.change(
        "gz", RaWish(profiles=("organisation",), regions=("4401", "45"), customers=("tax",)), actor=ACTOR
    )
    before = await snapshot(world.installation.database)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"profile": "device", "region": "440106", "customer": "tax"}, "scope_profile"),
        ({"region": "4403", "customer": "tax"}, "scope_region"),
        ({"customer": "tax"}, "scope_region"),
        ({"region": "440106", "customer": "other"}, "scope_customer"),
        ({"region": "440106"}, "scope_customer"),
    ]
    for more, code in wrong:
        assert await refused(world, world.submit(content_of("issue", issue_payload(**more))), before) == code
    assert (await world.submit(content_of("issue", issue_payload(region="450000", customer="tax"))))[0] == 201
    before = await snapshot(world.installation.database)
    named = f"{alien.certificates[0].serial:x}"
    for serial, code in ((outside, "scope_region"), (named, "scope_certificate"), ("abcd", "certificate_unknown")):
        assert await refused(world, world.submit(content_of("suspend", {"serial": serial})), before) == code
    assert (await world.submit(content_of("suspend", {"serial": inside})))[0] == 200
    await office.change("gz", RaWish(unassigned=True), actor=ACTOR)
    assert (await world.submit(content_of("suspend", {"serial": named})))[0] == 200
    before = await snapshot(world.installation.database)
    own = f"{await _record(world, world.operator):x}"
    revoke = content_of("revoke", {"serial": own, "reason": "unspecified"})
    assert await refused(world, world.submit(revoke), before) == "scope_certificate"
    await office.register("sz", EVERYTHING, actor=ACTOR)
    await world.appoint("xu", Role.OPERATOR, ra="sz")
    await world.appoint("he", Role.APPROVER, ra="sz")
    before = await snapshot(world.installation.database)
    theirs = content_of("suspend", {"serial": outside}, ra="sz")
    call = world.submit(theirs, world.people["xu"], world.people["he"])
    assert await refused(world, call, before) == "scope_certificate", "another authority's"
    call = world.submit(content_of("issue", issue_payload()), world.people["xu"], world.people["he"])
    assert await refused(world, call, before) == "signer_unknown"


async def test_what_is_not_a_request(world: World) -> None:
    li, wang = world.operator, world.approver
    content = content_of("issue", issue_payload())
    now = system_clock()
    infos = tuple(signer_info(one, content, now) for one in (li, wang))
    certificates = (li.certificate, wang.certificate)
    other = content_of("issue", issue_payload())
    wrong = tuple(signer_info(one, other, now) for one in (li, wang))
    three = (*infos, signer_info(world.people["chen"], content, now))
    every = (*certificates, world.people["chen"].certificate)
    bare = SignedData(content, infos, (li.certificate,))
    before = await snapshot(world.installation.database)

    async def sent(signed: SignedData | bytes) -> str:
        encoded = signed if isinstance(signed, bytes) else signed.encode()
        return await refused(world, world.send(encoded), before)

    assert await sent(SignedData(content, wrong, certificates)) == "cms_digest"
    assert await sent(SignedData(None, infos, certificates)) == "request_content"
    assert await sent(SignedData(content, three, every)) == "request_signers"
    assert await sent(SignedData(content, (), certificates)) == "request_signers"
    assert await sent(bare) == "signer_certificate"
    untimed = (signer_info(li, content, now, timed=False), infos[1])
    assert await sent(SignedData(content, untimed, certificates)) == "request_attributes"
    strange = (
        signer_info(li, content, now, timed=False, more=[attribute("1.2.840.113549.1.9.5", b"\x05\x00")]),
        infos[1],
    )
    assert await sent(SignedData(content, strange, certificates)) == "request_attributes"
    assert await sent(b"\x30\x03\x02\x01\x01") == "der"
    assert await sent(message(content, [li, wang]) + b"\x00") == "der"
    assert await sent(message(content + b" " * (1 << 17), [li, wang])) == "request_size"
    for text in (b"{}", b"[]", b"nonsense", b'{"version":1,"version":1}', b"\xff", b"[" * 100_000, b'{"version":NaN}'):
        assert await sent(message(text, [li, wang])) in ("request_json", "body")
    for old in (now - 310_000, now + 90_000):
        assert await sent(message(content, [li, wang], at_ms=old)) == "signing_time"


async def test_what_cannot_be_asked(world: World) -> None:
    first = await issued(world)
    before = await snapshot(world.installation.database)
    csr = b64(Request().encode())
    for kind, payload, code in (
        ("issue", {"csr": csr, "profile": "organisation", "holder": holder("91440101MA000000X0")}, "holder_number"),
        ("issue", {"csr": csr, "profile": "nothing"}, "profile_unknown"),
        ("issue", {"csr": csr}, "body"),
        ("issue", {"csr": csr, "profile": "organisation", "more": 1}, "body"),
        ("issue", {"csr": "?", "profile": "organisation"}, "base64"),
        ("renew", {"serial": first}, "renewal_early"),
        ("renew", {"serial": "xyz"}, "serial"),
        ("resume", {"serial": first}, "not_held"),
        ("reissue", {"serial": first, "csr": csr, "ground": "court_demand"}, "reissue_ground"),
        ("revoke", {"serial": first, "reason": "boredom"}, "body"),
        ("change", {"serial": first, "csr": csr}, "key_changed"),
        ("fly", {}, "body"),
    ):
        assert await refused(world, world.submit(content_of(kind, payload)), before) == code, kind
        if code != "renewal_early" and kind not in ("change", "reissue"):  # these are for the approver to see
            call = world.submit(content_of(kind, payload), world.operator)
            assert await refused(world, call, before) == code, kind
    assert await refused(world, world.submit(content_of("issue", {}, more=1)), before) == "body"


async def test_an_id_means_one_content(world: World) -> None:
    content = content_of("issue", issue_payload(), request_id="same")
    assert (await world.submit(content))[0] == 201
    before = await snapshot(world.installation.database)
    other = content_of("issue", issue_payload(), request_id="same")
    assert await refused(world, world.submit(other), before) == "request_id_reused"
    assert await refused(world, world.submit(other, world.operator), before) == "request_id_reused"
    old = world.submit(other, at_ms=system_clock() - DAY_MS)
    assert await refused(world, old, before) == "request_id_reused"
    entered = content_of("issue", issue_payload(), request_id="waits")
    await world.submit(entered, world.operator)
    before = await snapshot(world.installation.database)
    changed = content_of("issue", issue_payload(), request_id="waits")
    assert await refused(world, world.approve(changed, world.approver), before) == "request_content"
    unknown = content_of("issue", issue_payload(), request_id="never")
    assert await refused(world, world.approve(unknown, world.approver), before) == "request_unknown"
    await world.office.administration.register("sz", EVERYTHING, actor=ACTOR)
    await world.appoint("xu", Role.OPERATOR, ra="sz")
    await world.appoint("he", Role.APPROVER, ra="sz")
    theirs = content_of("issue", issue_payload(), request_id="same", ra="sz")
    assert (await world.submit(theirs, world.people["xu"], world.people["he"]))[0] == 201, "ids are an authority's own"


async def test_not_approved_in_time(tmp_path: Path) -> None:
    async with registration_in(tmp_path, settings=RegistrationSettings(approval_hours=1)) as world:
        content = content_of("issue", issue_payload(), request_id="late")
        await world.submit(content, world.operator)
        world.installation.clock.offset_ms = 3_700_000
        before = await snapshot(world.installation.database)
        call = world.approve(content, world.approver, at_ms=world.installation.clock())
        assert await refused(world, call, before) == "request_expired"
        shown = await world.office.requests.show("gz", "late")
        assert (shown["state"], shown["reason"]) == ("failed", "request_expired")


async def test_races(world: World) -> None:
    """Of two requests for one holder one wins and the other is told; one request sent twice is done once."""
    who = holder()
    twins = [content_of("issue", {**issue_payload(), "holder": who}) for _ in range(2)]
    answers = await asyncio.gather(*(world.submit(content) for content in twins))
    assert sorted(status for status, _ in answers) in ([0, 201], [201, 201])
    assert all(answer["code"] == "holder_busy" for status, answer in answers if status == 0)
    content = content_of("issue", issue_payload())
    other = office_on(world.installation, world.desk)
    encoded = message(content, [world.operator, world.approver])
    pair = await asyncio.gather(world.send(encoded), other.requests.submit(encoded, source=""))
    assert pair[0][1]["result"] == pair[1].members["result"]
    waiting = content_of("issue", issue_payload())
    await world.submit(waiting, world.operator)
    both = await asyncio.gather(world.approve(waiting, world.approver), world.approve(waiting, world.people["chen"]))
    assert sorted(status for status, _ in both) == [0, 201]
    assert [answer["code"] for status, answer in both if status == 0] == ["request_decided"]


async def test_guessing_is_bounded(tmp_path: Path) -> None:
    async with registration_in(tmp_path, settings=RegistrationSettings(refusals_per_minute=3)) as world:
        for _ in range(3):
            assert (await world.send(b"nonsense"))[1]["code"] == "der"
        rows = len(await audit_rows(world.installation.database))
        status, answer = await world.send(b"nonsense")
        assert (status, answer["code"], answer["kind"]) == (0, "refused_too_often", "busy")
        assert len(await audit_rows(world.installation.database)) == rows
        assert (await world.submit(content_of("issue", issue_payload())))[0] == 201, "nobody else is held up"
        world.installation.clock.offset_ms = 60_000
        assert (await world.send(b"nonsense"))[1]["code"] == "der"


async def test_a_message_made_by_bouncycastle(world: World, bouncycastle: BouncyCastle) -> None:
    content = content_of("issue", issue_payload())
    signers = [(scalar(one.key), one.certificate) for one in (world.operator, world.approver)]
    for null_parameters in (False, True):
        encoded = bouncycastle.make_cms(content, signers, attributes=True, null_parameters=null_parameters)
        status, answer = await world.send(encoded)
        assert status == 201, answer
    bouncycastle.verify_cms(message(content, [world.operator, world.approver]))


async def test_whatever_the_bytes_are(world: World) -> None:
    """A message that was damaged anywhere is read or refused, and never anything else."""
    intact = message(content_of("issue", issue_payload()), [world.operator, world.approver])
    chance = random.Random(7)
    codes = set()
    for _ in range(1_500):
        damaged = bytearray(intact)
        at, kind = chance.randrange(len(damaged)), chance.random()
        if kind < 0.6:
            damaged[at] = chance.randrange(256)
        elif kind < 0.8:
            del damaged[at : at + chance.randrange(1, 9)]
        else:
            damaged[at:at] = chance.randbytes(3)
        try:
            read_payload(read_request(open_signed(bytes(damaged), max_bytes=1 << 17).content))
        except QianyanError as error:
            codes.add(error.code)
    assert {"der", "cms_digest", "signer_certificate"} <= codes
    surrogate = rejection(content_of("issue", {}), "x").replace(b'"x"', b'"\\ud800"')
    before = await snapshot(world.installation.database)
    for text in (surrogate, content_of("issue", issue_payload()).replace(b'"organisation"', b'"\\ud800"')):
        assert await refused(world, world.send(message(text, [world.operator, world.approver])), before) == "body"
    named = json.loads(surrogate)["request_id"]
    with pytest.raises(QianyanError) as told:
        await world.office.requests.reject("gz", named, message(surrogate, [world.approver]), source="")
    assert told.value.code == "body"
