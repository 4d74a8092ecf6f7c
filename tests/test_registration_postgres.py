"""Signed requests on PostgreSQL, where writers run side by side: one wins, the other is told, none slips through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import event

from core.errors import Conflict, QianyanError
from core.model import RevocationReason
from core.store import audit
from core.store.database import open_database
from core.store.settings import StoreSettings, StoreTarget
from signer.registration.service import Answered
from tests.holder_world import desk_on
from tests.issuance_support import Request, audit_rows, snapshot
from tests.registration_world import (
    ACTOR,
    World,
    b64,
    content_of,
    holder,
    issue_payload,
    message,
    office_on,
    registration_in,
)
from tests.store_world import new_store


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made_first = await new_store(tmp_path, "postgres")
    await made_first.close()
    # A busy machine makes them wait longer for each other than a store in service would let them.
    patient = StoreSettings(lock_timeout_s=60, statement_timeout_s=60)
    database = await open_database(StoreTarget(made_first.target.url, patient))
    async with registration_in(tmp_path, database=database) as made:
        yield made


async def test_races(world: World) -> None:
    """Two processes and the same request, two approvers and one request, two requests and one holder."""
    other = office_on(world.installation, desk_on(world.installation))
    encoded = message(content_of("issue", issue_payload()), [world.operator, world.approver])
    answers = await asyncio.gather(
        *(office.requests.submit(encoded, source="") for office in (world.office, other, world.office, other))
    )
    assert {json.dumps(one.members["result"]) for one in answers} == {json.dumps(answers[0].members["result"])}
    for kind in ("issue", "suspend"):
        serial = answers[0].members["result"]["certificates"][0]["serial"]
        content = content_of(kind, issue_payload() if kind == "issue" else {"serial": serial})
        await world.submit(content, world.operator)
        named = ("gz", json.loads(content)["request_id"])
        results = await asyncio.gather(
            world.office.requests.approve(*named, message(content, [world.approver]), source=""),
            other.requests.approve(*named, message(content, [world.people["chen"]]), source=""),
            return_exceptions=True,
        )
        assert [isinstance(one, Answered) for one in results].count(True) == 1, results
        (told,) = [one for one in results if isinstance(one, QianyanError)]
        assert told.code == "request_decided"
    who = holder()
    twins = [content_of("issue", {**issue_payload(), "holder": who}) for _ in range(2)]
    sent = [message(content, [world.operator, world.approver]) for content in twins]
    results = await asyncio.gather(
        world.office.requests.submit(sent[0], source=""),
        other.requests.submit(sent[1], source=""),
        return_exceptions=True,
    )
    assert {one.code for one in results if isinstance(one, QianyanError)} <= {"holder_busy"}
    async with world.installation.database.read() as connection:
        assert (await audit.verify(connection)).broken_at is None


async def test_a_withdrawal_against_requests(world: World) -> None:
    """What commits after the withdrawal was refused, in every process and on the record."""
    other = office_on(world.installation, desk_on(world.installation))
    offices = [world.office, other]
    sent = [message(content_of("issue", issue_payload()), [world.operator, world.approver]) for _ in range(24)]
    for office in offices:  # both know the authority as it was
        await office.requests.submit(sent.pop(), source="")
    calls = [offices[at % 2].requests.submit(one, source="") for at, one in enumerate(sent)]
    first = [asyncio.ensure_future(call) for call in calls[:12]]
    await asyncio.sleep(0)
    withdrawing = asyncio.ensure_future(other.administration.withdraw("gz", actor=ACTOR))
    later = [asyncio.ensure_future(call) for call in calls[12:]]
    results = await asyncio.gather(*first, *later, return_exceptions=True)
    await withdrawing
    refused = {one.code for one in results if isinstance(one, QianyanError)}
    assert refused <= {"ra_withdrawn", "certificate_revoked", "person_withdrawn"}, refused
    done = [one for one in results if isinstance(one, Answered)]
    assert len(done) + len([one for one in results if isinstance(one, QianyanError)]) == len(sent)
    rows = [row[0] for row in await audit_rows(world.installation.database)]
    assert "request.done" not in rows[rows.index("ra.withdraw") :]
    assert rows.count("request.done") == len(done) + 2


async def test_how_much_a_signed_request_asks_of_the_store(world: World) -> None:
    """Requests that wait together share their transaction, the look at the authority and at its people."""
    count = 0

    def counting(*_: object) -> None:
        nonlocal count
        count += 1

    engine = world.installation.database._engine.sync_engine
    sent = [message(content_of("issue", issue_payload()), [world.operator, world.approver]) for _ in range(17)]
    await world.office.requests.submit(sent.pop(), source="")
    event.listen(engine, "before_cursor_execute", counting)
    try:
        await asyncio.gather(*(world.office.requests.submit(one, source="") for one in sent))
    finally:
        event.remove(engine, "before_cursor_execute", counting)
    assert count / len(sent) < 6


async def test_a_revocation_against_requests(world: World) -> None:
    """A revocation of the operator's certificate by other means waits for what was judged before, and ends it then."""
    (serial,) = [
        one.serial
        for view in await world.office.administration.people("gz")
        for one in view.certificates
        if view.record.id == "li"
    ]
    sent = [message(content_of("issue", issue_payload()), [world.operator, world.approver]) for _ in range(12)]
    other = office_on(world.installation, desk_on(world.installation))
    calls = [
        office.requests.submit(one, source="") for office, one in zip([world.office, other] * 6, sent, strict=True)
    ]
    results = await asyncio.gather(
        *calls[:6],
        world.desk.issuer.revoke(serial, RevocationReason.KEY_COMPROMISE, actor=ACTOR),
        *calls[6:],
        return_exceptions=True,
    )
    assert {one.code for one in results if isinstance(one, QianyanError)} <= {"certificate_revoked"}
    rows = await audit_rows(world.installation.database)
    ended = next(at for at, row in enumerate(rows) if row[0] == "certificate.revoke")
    assert "request.done" not in [row[0] for row in rows[ended:]]


async def test_who_waits_too_long_for_another_is_told_of_a_conflict(world: World) -> None:
    """The database is there, so it is no outage: 409, on record, nothing done; and right when the other is gone."""
    target = world.installation.database.target
    hasty = await open_database(StoreTarget(target.url, StoreSettings(lock_timeout_s=0.2)))
    inside = replace(world.installation, database=hasty)
    office = office_on(inside, desk_on(inside))
    who = holder()
    known = {**issue_payload(), "holder": who}
    serial = (await world.submit(content_of("issue", known)))[1]["result"]["certificates"][0]["serial"]
    people = [world.operator, world.approver]
    sent = [
        message(content_of("issue", {**issue_payload(), "holder": who}), people),
        message(content_of("suspend", {"serial": serial}), people),
        message(content_of("reissue", {"serial": serial, "csr": b64(Request().encode()), "ground": "lost"}), people),
    ]
    before = await snapshot(hasty)
    for encoded in sent:
        async with world.installation.database.write() as connection:
            await connection.exec_driver_sql("SELECT id FROM holders FOR UPDATE")
            await connection.exec_driver_sql("SELECT id FROM certificates FOR UPDATE")
            with pytest.raises(Conflict) as told:
                await office.requests.submit(encoded, source="")
        assert told.value.code == "request_contended"
    after = await snapshot(hasty)
    assert {name for name in before if before[name] != after[name]} <= {"indexes", "status_indexes", "counter values"}
    assert [row[2] for row in await audit_rows(hasty) if row[0] == "request.refuse"] == ["request_contended"] * 3
    for encoded in sent[:2]:
        assert (await office.requests.submit(encoded, source="")).members["state"] == "done"
    await hasty.close()
