"""A signed message that comes again: who is told the answer, and who is told what opens a medium."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import QianyanError
from core.model import RevocationReason
from core.store import authorities
from service.recovery import read_certificate
from signer.registration.attempts import Attempts
from signer.registration.records import issuer_of
from signer.registration.roles import Role
from signer.registration.settings import RegistrationSettings
from signer.signing.parsed import parse
from tests.holder_world import SETTINGS
from tests.issuance_support import audit_rows
from tests.registration_world import (
    ACTOR,
    Signer,
    World,
    b64,
    content_of,
    issue_payload,
    message,
    registration_in,
)
from tests.signing_world import authority

#: Past the signing window and skew, before the unlock token ends.
LATER_MS = 400_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with registration_in(tmp_path) as made:
        yield made


async def an_unlock(world: World) -> bytes:
    """The content of a request to unlock a medium that was just issued for."""
    _, answer = await world.submit(content_of("issue", issue_payload()))
    return content_of("unlock", {"serial": answer["result"]["certificates"][0]["serial"]}, request_id="unlock")


async def token_of(call: Any) -> str | None:
    status, answer = await call
    assert status == 201, answer
    token: str | None = answer["result"]["token"]
    return token


async def code_of(call: Any) -> str:
    status, answer = await call
    assert status == 0, answer
    code: str = answer["code"]
    return code


async def test_whoever_reads_evidence_learns_no_token_by_it(world: World) -> None:
    content = await an_unlock(world)
    sent = message(content, [world.operator, world.approver])
    token = await token_of(world.send(sent))
    assert token is not None
    assert await token_of(world.send(sent)) == token, "a retry is told again"
    with pytest.raises(QianyanError) as held:
        await world.office.requests.evidence("gz", "unlock")
    assert held.value.code == "evidence_held"
    world.installation.clock.offset_ms = LATER_MS
    ((_, _, kept),) = await world.office.requests.evidence("gz", "unlock")
    assert kept == sent
    assert await token_of(world.send(kept)) is None
    at_ms = world.installation.clock()
    assert await token_of(world.submit(content, world.operator, at_ms=at_ms)) == token, "who asked signs anew"
    assert await token_of(world.submit(content, world.people["chen"], at_ms=at_ms)) is None, "chen took no part"


async def test_evidence_of_other_requests_is_there_at_once(world: World) -> None:
    content = content_of("issue", issue_payload(), request_id="issue")
    await world.submit(content)
    assert len(await world.office.requests.evidence("gz", "issue")) == 1


async def test_who_was_withdrawn_asks_no_more(world: World) -> None:
    content = await an_unlock(world)
    await world.submit(content, world.operator)
    assert await token_of(world.approve(content, world.approver))
    await world.office.administration.dismiss("gz", "wang", actor=ACTOR)
    assert await code_of(world.approve(content, world.approver)) == "person_withdrawn"
    assert await token_of(world.submit(content, world.operator)), "the other one does"
    await world.office.administration.withdraw("gz", actor=ACTOR)
    assert await code_of(world.submit(content, world.operator)) == "ra_withdrawn"
    assert await code_of(world.approve(content, world.approver)) == "ra_withdrawn"


@pytest.mark.parametrize("step", ["both", "enter", "approve"])
async def test_whose_certificate_is_revoked_asks_no_more(world: World, step: str) -> None:
    content = await an_unlock(world)
    both = message(content, [world.operator, world.approver])
    if step == "both":
        await world.send(both)
    else:
        await world.submit(content, world.operator)
        await world.approve(content, world.approver)
    who = "wang" if step == "approve" else "li"
    (person,) = [one for one in await world.office.administration.people("gz") if one.record.id == who]
    await world.installation.issuer.revoke(person.certificates[-1].serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR)

    async def again() -> tuple[int, dict[str, Any]]:
        if step == "both":
            return await world.send(both)
        return await (world.submit if step == "enter" else world.approve)(content, world.people[who])

    assert await code_of(again()) == "certificate_revoked"
    world.installation.clock.offset_ms = LATER_MS
    if step == "both":
        assert await code_of(again()) == "certificate_revoked", "also once the message is old"


async def test_a_withdrawn_administrator_asks_no_more(world: World) -> None:
    boss = await world.appoint("boss", Role.BUSINESS_ADMINISTRATOR)
    body = {
        "version": 1,
        "request_id": "a-1",
        "ra": "gz",
        "act": "appoint",
        "person": {"id": "sun", "name": "孙某", "roles": ["operator"], "csr": b64(Signer().csr("sun"))},
    }
    sent = message(json.dumps(body).encode(), [boss])
    carry_out = world.office.appointments.carry_out
    first = await carry_out("gz", sent, source="")
    assert (await carry_out("gz", sent, source="")).members == first.members
    await world.office.administration.dismiss("gz", "boss", actor=ACTOR)
    with pytest.raises(QianyanError) as refused:
        await carry_out("gz", sent, source="")
    assert refused.value.code == "person_withdrawn"


async def test_who_was_withdrawn_does_not_fill_the_record(tmp_path: Path) -> None:
    async with registration_in(tmp_path, settings=RegistrationSettings(refusals_per_minute=3)) as world:
        await world.office.administration.dismiss("gz", "li", actor=ACTOR)
        codes = [await code_of(world.submit(content_of("issue", issue_payload()))) for _ in range(6)]
        assert codes == ["person_withdrawn"] * 3 + ["refused_too_often"] * 3
        rows = [row for row in await audit_rows(world.installation.database) if row[0] == "request.refuse"]
        assert len(rows) == 3
        other = world.people["chen"]
        assert (await world.submit(content_of("issue", issue_payload()), other))[0] == 202, "others are not held up"


async def test_of_two_authorities_of_one_name_the_one_that_issued_it_is_found(world: World) -> None:
    inside = world.installation
    async with inside.database.write() as connection:
        ours = next(one for one in await authorities.list_all(connection) if one.id == "issuing")
        older = authority("older", None, 1_700_000_000_000)
        namesake = replace(
            ours, id="older", created_at_ms=1, key_id=None, certificate=older.certificate,
            public_key=older.key.public_key.to_bytes(), ocsp_key_id=None, ocsp_certificate=None,
        )  # fmt: skip
        await authorities.add(connection, namesake)
        assert [one.id for one in await authorities.list_all(connection)].index("older") == 0
    person = await world.appoint("sun", Role.OPERATOR)
    assert (await world.submit(content_of("issue", issue_payload()), person))[0] == 202
    async with inside.database.read() as connection:
        known = await authorities.list_all(connection)
    found = read_certificate(person.certificate, known, SETTINGS.status_index_oid, "it")
    assert found.authority_id == "issuing"
    async with inside.database.read() as connection:
        assert await issuer_of(connection, parse(person.certificate)) == "issuing"
        with pytest.raises(QianyanError) as refused:
            await issuer_of(connection, replace(parse(person.certificate), serial=7))
    assert refused.value.code == "certificate_unknown"


def test_one_network_has_one_bucket() -> None:
    attempts = Attempts(2, lambda: 1_000_000)
    attempts.failed("2001:db8::1")
    attempts.failed("2001:db8::2")
    with pytest.raises(QianyanError) as refused:
        attempts.failed("2001:db8::ffff:3")
    assert refused.value.code == "refused_too_often"
    attempts.failed("2001:db8:0:1::1")
    attempts.failed("::ffff:192.0.2.1")
    attempts.failed("192.0.2.1")
    with pytest.raises(QianyanError):
        attempts.failed("192.0.2.1")


@pytest.mark.parametrize("text", ["9" * 30 + ":r", "-5:r", "1:\0", "1:" + "r" * 65, "1", ":r"])
async def test_a_cursor_that_no_page_gave(world: World, text: str) -> None:
    with pytest.raises(QianyanError) as refused:
        await world.office.requests.page("gz", None, base64.urlsafe_b64encode(text.encode()).decode(), 5)
    assert refused.value.code == "after"
