"""Registration authorities and their people: registered, changed, withdrawn; certificates from here and elsewhere."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from core.clock import system_clock
from core.errors import QianyanError
from core.model import CertificateState, RevocationReason
from core.store import audit, certificates
from signer._native import sm2
from signer.issuance.grounds import Ground
from signer.registration.records import PersonWish, RaWish
from signer.registration.roles import Role
from tests.foreign_world import open_foreign
from tests.issuance_support import Request, audit_rows, snapshot
from tests.judges.bouncycastle import BouncyCastle
from tests.registration_world import (
    ACTOR,
    EVERYTHING,
    Signer,
    World,
    b64,
    content_of,
    issue_payload,
    message,
    office_on,
    registration_in,
)

OPERATOR = frozenset({Role.OPERATOR})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with registration_in(tmp_path) as made:
        yield made


async def code_of(call: Awaitable[object]) -> str:
    with pytest.raises(QianyanError) as refused:
        await call
    return refused.value.code


async def states(world: World) -> dict[str, CertificateState]:
    """How each person's certificates stand."""
    found = {}
    async with world.installation.database.read() as connection:
        for view in await world.office.administration.people("gz"):
            for one in view.certificates:
                found[view.record.id] = (await certificates.find(connection, one.serial)).state
    return found


async def test_withdrawing_an_authority_ends_everything_in_one_commit(world: World) -> None:
    office = world.office.administration
    await office.change("gz", RaWish(callers=("token:backend",)), actor=ACTOR)
    assert await world.office.requests.may_read("gz", "token:backend")
    waiting, done = content_of("issue", issue_payload()), content_of("issue", issue_payload())
    await world.submit(waiting, world.operator)
    assert (await world.submit(done))[0] == 201
    other = office_on(world.installation, world.desk)  # a process that knows the authority from before
    assert set((await states(world)).values()) == {CertificateState.GOOD}
    ended = await other.administration.withdraw("gz", actor=ACTOR)
    assert (ended.state, ended.callers) == ("withdrawn", ())
    assert set((await states(world)).values()) == {CertificateState.REVOKED}
    assert not await world.office.requests.may_read("gz", "token:backend")
    for call in (
        world.submit(content_of("issue", issue_payload())),
        world.submit(done),
        world.approve(waiting, world.approver),
        world.reject(waiting, world.approver),
    ):
        assert (await call)[1]["code"] == "ra_withdrawn"
    signer = Signer()
    wish = PersonWish("new", "新人", OPERATOR, csr=signer.csr())
    assert await code_of(office.appoint("gz", wish, actor=ACTOR)) == "ra_withdrawn"
    assert await code_of(office.change("gz", RaWish(name="x"), actor=ACTOR)) == "ra_withdrawn"
    assert (await office.withdraw("gz", actor=ACTOR)).version == ended.version, "once"
    assert {one.record.state for one in await office.people("gz")} == {"withdrawn"}
    rows = await audit_rows(world.installation.database)
    assert ("ra.withdraw", "ra:gz", "ok") in {row[:3] for row in rows}
    assert len([row for row in rows if row[0] == "certificate.revoke"]) == 5
    async with world.installation.database.read() as connection:
        assert (await audit.verify(connection)).broken_at is None


async def test_a_withdrawal_against_requests(world: World) -> None:
    """Whatever comes after the commit is refused; before it, done: nothing between."""
    contents = [content_of("issue", issue_payload()) for _ in range(6)]
    calls = [world.submit(content) for content in contents]
    answers = await asyncio.gather(*calls[:3], world.office.administration.withdraw("gz", actor=ACTOR), *calls[3:])
    given = [answer for answer in answers if isinstance(answer, tuple)]
    assert {answer["code"] for status, answer in given if status == 0} <= {"ra_withdrawn", "certificate_revoked"}
    rows = [row for row in await audit_rows(world.installation.database) if row[0] in ("request.done", "ra.withdraw")]
    assert [row[0] for row in rows].index("ra.withdraw") == len(rows) - 1
    assert len(rows) - 1 == [status for status, _ in given].count(201)


async def test_people(world: World) -> None:
    office = world.office.administration
    key = Signer()
    for roles in ({Role.OPERATOR, Role.AUDITOR}, {Role.SUPER_ADMINISTRATOR, Role.AUDIT_ADMINISTRATOR}, set()):
        wish = PersonWish("x", "某人", frozenset(roles), csr=key.csr())
        assert await code_of(office.appoint("gz", wish, actor=ACTOR)) == "roles_apart"
    for person_id in ("", "a b", "x" * 33):
        wish = PersonWish(person_id, "某人", OPERATOR, csr=key.csr())
        assert await code_of(office.appoint("gz", wish, actor=ACTOR)) == "person_id"
    wish = PersonWish("x", "某人", OPERATOR)
    assert await code_of(office.appoint("gz", wish, actor=ACTOR)) == "body"
    taken = PersonWish("x", "某人", OPERATOR, csr=world.operator.csr())
    assert await code_of(office.appoint("gz", taken, actor=ACTOR)) in ("key_of_another", "key_of_another_holder")
    again = PersonWish("li", "李", OPERATOR, certificate=world.operator.certificate)
    assert await code_of(office.appoint("gz", again, actor=ACTOR)) == "certificate_registered"
    another = PersonWish("x", "某人", OPERATOR, certificate=world.operator.certificate)
    assert await code_of(office.appoint("gz", another, actor=ACTOR)) == "key_of_another"
    organisation = await world.desk.issuer.issue(Request().encode(), "organisation", actor=ACTOR)
    sealing = PersonWish("x", "某人", OPERATOR, certificate=organisation.certificates[1].der)
    assert await code_of(office.appoint("gz", sealing, actor=ACTOR)) == "certificate_usage"
    used = PersonWish("x", "某人", OPERATOR, certificate=organisation.certificates[0].der)
    assert (await office.appoint("gz", used, actor=ACTOR)).view.masked == "某*"
    assert await code_of(office.people("nowhere")) == "ra_unknown"
    async with world.installation.database.read() as connection:
        dump = str((await connection.exec_driver_sql("SELECT * FROM ra_people")).all())
    assert "李小龙" not in dump, "names are sealed"


async def test_dismissing_a_person(world: World) -> None:
    office = world.office.administration
    assert await code_of(office.dismiss("gz", "nobody", actor=ACTOR)) == "person_unknown"
    ended = await office.dismiss("gz", "li", actor=ACTOR, ground=Ground.POST_LEFT)
    assert ended.record.state == "withdrawn"
    stand = await states(world)
    assert stand.pop("li") is CertificateState.REVOKED
    assert set(stand.values()) == {CertificateState.GOOD}
    wish = PersonWish("li", "李四", OPERATOR, csr=Signer().csr())
    assert await code_of(office.appoint("gz", wish, actor=ACTOR)) == "person_withdrawn", (
        "an id is one person's for good"
    )


async def test_registering(world: World) -> None:
    office = world.office.administration
    assert await code_of(office.register("gz", EVERYTHING, actor=ACTOR)) == "ra_exists"
    assert await code_of(office.register("a/b", EVERYTHING, actor=ACTOR)) == "ra_id"
    assert await code_of(office.register("x", RaWish(), actor=ACTOR)) == "ra_name"
    for wish in (
        RaWish(name="x", regions=("44x",)),
        RaWish(name="x", profiles=("A b",)),
        RaWish(name="x", customers=("",)),
    ):
        assert await code_of(office.register("x", wish, actor=ACTOR)) == "ra_scope"
    assert await code_of(office.register("x", RaWish(name="x", callers=("me",)), actor=ACTOR)) == "ra_callers"
    made = await office.register("nothing", RaWish(name="空"), actor=ACTOR)
    assert (made.profiles, made.unassigned) == ((), False)
    await world.appoint("xu", Role.OPERATOR, ra="nothing")
    await world.appoint("he", Role.APPROVER, ra="nothing")
    content = content_of("issue", issue_payload(), ra="nothing")
    assert (await world.submit(content, world.people["xu"], world.people["he"]))[1]["code"] == "scope_profile"
    assert [one.id for one in await office.list_all()] == ["gz", "nothing"]


async def test_people_with_certificates_from_elsewhere(world: World, bouncycastle: BouncyCastle) -> None:
    office = world.office.administration
    stranger = Signer(sm2.PrivateKey.generate())
    async with open_foreign(world.installation, bouncycastle, system_clock()) as foreign:  # type: ignore[arg-type]
        leaf = foreign.leaf()
        foreign.site.put("/leaf.crl", foreign.crl())
        wish = PersonWish("sun", "孙", OPERATOR, certificate=leaf.certificate)
        assert await code_of(office.appoint("gz", wish, actor=ACTOR)) == "certificate_chain", "none are taken here"
        trusting = office_on(world.installation, world.desk, foreign=foreign.service)
        await trusting.administration.appoint("gz", wish, actor=ACTOR)
        stranger = Signer(leaf.key, leaf.certificate)
        world.office = trusting
        assert (await world.submit(content_of("issue", issue_payload()), stranger, world.approver))[0] == 201
        foreign.site.put("/leaf.crl", foreign.crl([(leaf.serial, RevocationReason.KEY_COMPROMISE, -600)], number=8))
        foreign.clock[0] += 3_700_000
        foreign.site.put("/root.crl", foreign.crl(issuer=foreign.root, number=2, until_s=86_400))
        foreign.site.put(
            "/leaf.crl", foreign.crl([(leaf.serial, RevocationReason.KEY_COMPROMISE, -600)], number=8, until_s=7_200)
        )
        status, answer = await world.submit(content_of("issue", issue_payload()), stranger, world.approver)
        assert (status, answer["code"]) == (0, "certificate_revoked")
        del foreign.site.at["/leaf.crl"]
        foreign.clock[0] += 10 * 3_600_000
        status, answer = await world.submit(content_of("issue", issue_payload()), stranger, world.approver)
        assert status == 0
        assert answer["code"] in ("certificate_status_unknown", "certificate_revoked")


async def test_administrators_of_the_authority_itself(world: World) -> None:
    """By signed messages, each in the rights of the role, as evidence and once."""
    office, database = world.office, world.installation.database
    chief = await world.appoint("su", Role.SUPER_ADMINISTRATOR)
    audits = await world.appoint("au", Role.AUDIT_ADMINISTRATOR)

    async def act(by: Signer, act: str, person: object, number: str, **more: object) -> tuple[int, dict[str, object]]:
        value = {"version": 1, "request_id": number, "ra": "gz", "act": act, "person": person, **more}
        named = str(person) if act == "dismiss" else None
        try:
            signed = message(json.dumps(value).encode(), [by])
            answered = await office.appointments.carry_out("gz", signed, source="", person_id=named)
        except QianyanError as error:
            return 0, {"code": error.code}
        return answered.status, answered.members

    def person(name: str, *roles: str, signer: Signer | None = None) -> dict[str, object]:
        csr = b64((signer or Signer()).csr(name))
        return {"id": name, "name": "某人", "roles": list(roles), "csr": csr}

    business = Signer()
    wanted = person("bu", "business_administrator", signer=business)
    status, answer = await act(chief, "appoint", wanted, "a-1")
    assert (status, answer["state"], answer["decided_by"]) == (201, "done", "su"), answer
    assert (await act(chief, "appoint", wanted, "a-1"))[1] == answer, "once"
    business.certificate = base64.b64decode(answer["result"]["certificate"])  # type: ignore[index]
    clerk = Signer()
    status, answer = await act(business, "appoint", person("cl", "operator", signer=clerk), "a-2")
    assert status == 201, answer
    clerk.certificate = base64.b64decode(answer["result"]["certificate"])  # type: ignore[index]
    assert (await world.submit(content_of("issue", issue_payload()), clerk, world.approver))[0] == 201
    assert (await act(audits, "appoint", person("ad", "auditor"), "a-3"))[0] == 201
    before = await snapshot(database)
    for by, act_name, whom, code in (
        (chief, "appoint", person("x", "operator"), "role"),
        (chief, "appoint", person("x", "audit_administrator"), "role"),
        (audits, "appoint", person("x", "super_administrator"), "role"),
        (business, "appoint", person("x", "auditor"), "role"),
        (business, "appoint", person("au", "operator"), "role"),
        (clerk, "appoint", person("x", "operator"), "role"),
        (world.approver, "dismiss", "cl", "role"),
        (audits, "dismiss", "cl", "role"),
        (business, "dismiss", "nobody", "person_unknown"),
    ):
        assert (await act(by, act_name, whom, "a-9"))[1]["code"] == code, (act_name, whom)
        assert (await audit_rows(database))[-1][::2] == ("request.refuse", code)
        after = await snapshot(database)
        assert {name: value for name, value in after.items() if name != "indexes" and "counter" not in name} == {
            name: value for name, value in before.items() if name != "indexes" and "counter" not in name
        }
    assert (await act(business, "dismiss", "cl", "a-1", ground="lost"))[1]["code"] == "request_id_reused"
    assert (await act(business, "dismiss", "cl", "a-4", ground="lost"))[0] == 200
    refused = await world.submit(content_of("issue", issue_payload()), clerk, world.approver)
    assert refused[1]["code"] == "person_withdrawn"
    steps = [(one[0], one[1]) for one in await office.requests.evidence("gz", "a-4")]
    assert steps == [("both", "bu")]
    shown = await office.requests.show("gz", "a-4")
    assert (shown["kind"], shown["result"]) == ("dismiss", {"person": "cl", "revoked": 1})
