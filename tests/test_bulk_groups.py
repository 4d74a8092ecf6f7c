"""Requests that come together share their transactions: how few there are, and that each request stands for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import event, func, select
from sqlalchemy.engine import Engine

from core.errors import Busy, QianyanError, Unavailable
from core.store import audit, schema
from core.store.database import Database, open_database
from core.store.gate import Gate
from core.store.settings import StoreSettings, StoreTarget
from signer._native import sm2
from signer.issuance.desk import Desk
from signer.issuance.gathering import Gatherer
from signer.issuance.issued import Issued
from tests.bulk_world import run_bulk, write_requests
from tests.holder_world import desk_on, organisation
from tests.issuance_support import Installation, Request, installation
from tests.store_world import BACKENDS, new_store

Place = tuple[Installation, Desk]
ACTOR = "token:ra-1"
TOGETHER = 24


@pytest_asyncio.fixture(params=BACKENDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    (tmp_path / "var").mkdir()
    database = None if request.param == "sqlite" else await new_store(tmp_path, "postgres")
    async with installation(tmp_path / "var", database=database) as world:
        yield world, desk_on(world)


@dataclass
class Counted:
    """What was sent to the database."""

    statements: int = 0
    commits: int = 0


@contextmanager
def counted() -> Iterator[Counted]:
    found = Counted()

    def statement(*_: object) -> None:
        found.statements += 1

    def commit(_: object) -> None:
        found.commits += 1

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", commit)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", statement)
        event.remove(Engine, "commit", commit)


async def together(desk: Desk, csrs: Sequence[bytes], **more: object) -> list[Issued | BaseException]:
    return await asyncio.gather(
        *(
            desk.issuer.issue(csr, "organisation", actor=ACTOR, holder=organisation(), **more)  # type: ignore[arg-type]
            for csr in csrs
        ),
        return_exceptions=True,
    )


async def test_few_transactions_and_statements(place: Place) -> None:
    _, desk = place
    await together(desk, [Request().encode()])  # keys of holders, statistics' headings
    csrs = [Request().encode() for _ in range(TOGETHER)]
    with counted() as found:
        issued = await together(desk, csrs)
    assert all(isinstance(one, Issued) for one in issued)
    # at most two groups at a time: the first ones may be short, because nothing had gathered yet
    assert found.commits <= 4 * 3
    assert found.statements <= 8 * TOGETHER
    with counted() as found:
        await together(desk, [Request().encode()])
    assert found.commits <= 3
    assert found.statements <= 40


async def test_bulk_statements(place: Place, tmp_path: Path) -> None:
    world, desk = place
    await run_bulk(desk, world.keystore, write_requests(tmp_path / "a.jsonl", 2), tmp_path / "a.out")
    requests = write_requests(tmp_path / "b.jsonl", 200, first=100)
    with counted() as found:
        await run_bulk(desk, world.keystore, requests, tmp_path / "b.out", chunk_holders=100)
    # two chunks, each with one transaction that reserves and one that records; the run's begin and end
    assert found.commits <= 2 + 2 * 2 + 8
    assert found.statements <= 160


async def test_each_for_itself(place: Place) -> None:
    """One group with every kind of trouble in it: the others get their certificates, and there is no trace of these."""
    world, desk = place
    issuer = desk.issuer
    known, shared = Request(), Request()
    await issuer.issue(known.encode(), "organisation", actor=ACTOR, holder=organisation())
    good = [Request().encode() for _ in range(6)]
    async with world.database.read() as connection:
        authority_key = (await connection.execute(select(schema.authorities.c.public_key).limit(1))).scalar_one()
    owner = organisation()

    async def issue(csr: bytes, **more: object) -> Issued:
        asked = {"actor": ACTOR, "holder": organisation(), **more}
        return await issuer.issue(csr, "organisation", **asked)  # type: ignore[arg-type]

    calls = [
        *(issue(csr) for csr in good),
        issue(known.encode()),  # somebody else's key
        issue(shared.encode()),  # one new key, two holders
        issue(shared.encode()),
        issue(Request().encode(), holder=owner),  # one new holder, two requests
        issue(Request().encode(), holder=owner),
        issue(good[0], idempotency=("ra", "x")),  # a key that came a moment before, for another holder
        issue(Request().encode(), authority_id="nobody"),
    ]
    found = await asyncio.gather(*calls, return_exceptions=True)
    told = [one.code if isinstance(one, QianyanError) else "" for one in found]
    assert all(isinstance(one, (Issued, QianyanError)) for one in found)
    assert told[:6] == [""] * 6
    assert told[6] == "key_of_another"
    assert sorted(told[7:9]) == ["", "key_of_another"]
    assert set(told[9:11]) <= {"", "holder_busy"}
    assert "" in told[9:11]
    assert told[11:] == ["key_of_another", "authority_unknown"]
    issued = [one for one in found if isinstance(one, Issued)]
    async with world.database.read() as connection:
        c = schema.certificates.c
        count = select(func.count()).select_from(schema.certificates).where(c.holder_id.is_not(None))
        assert (await connection.execute(count)).scalar_one() == 2 * (len(issued) + 1)
        holders = (await connection.execute(select(func.count()).select_from(schema.holders))).scalar_one()
        assert holders == len({one.holder_id for one in issued}) + 1
        assert (await audit.verify(connection)).broken_at is None
    assert sm2.PublicKey.from_bytes(authority_key)


async def test_one_request_in_one_group_twice(place: Place) -> None:
    """The same idempotency key and request: one answer; another request under the key is told."""
    _, desk = place
    csr, holder = Request().encode(), organisation()

    async def issue(csr: bytes) -> Issued:
        once = ("ra-1", "order-1")
        return await desk.issuer.issue(csr, "organisation", actor=ACTOR, holder=holder, idempotency=once)

    found = await asyncio.gather(issue(csr), issue(csr), issue(csr), issue(Request().encode()), return_exceptions=True)
    answers = {one.to_body() for one in found[:3] if isinstance(one, Issued)}
    told = [one.code for one in found if isinstance(one, QianyanError)]
    assert len(answers) == 1, "one request, one answer"
    # a retry that saw the holder before the first one registered it is told so, and asks again
    assert set(told) <= {"idempotency_key", "holder_busy"}
    assert "idempotency_key" in told or "holder_busy" in told
    assert (await issue(csr)).to_body() in answers


async def test_no_answer_before_its_commit(place: Place) -> None:
    """At each moment that an answer leaves, somebody else's connection sees its certificates."""
    world, desk = place
    other = await open_database(world.database.target)

    async def issue_and_look() -> None:
        issued = await desk.issuer.issue(Request().encode(), "organisation", actor=ACTOR, holder=organisation())
        serials = [one.serial.to_bytes(16, "big") for one in issued.certificates]
        async with other.read() as connection:
            c = schema.certificates.c
            count = select(func.count()).select_from(schema.certificates).where(c.serial.in_(serials))
            assert (await connection.execute(count)).scalar_one() == 2

    try:
        await asyncio.gather(*(issue_and_look() for _ in range(12)))
    finally:
        await other.close()


async def test_many_at_once_wait_and_are_served(tmp_path: Path) -> None:
    """150 at once on a pool of two: all are served, none is told that the store is away."""
    (tmp_path / "var").mkdir()
    made = await new_store(tmp_path, "postgres")
    url = made.url
    await made.close()
    database = await open_database(StoreTarget(url, StoreSettings(pool_size=2, wait_timeout_s=120)))
    async with installation(tmp_path / "var", database=database) as world:
        desk = desk_on(world)
        found = await together(desk, [Request().encode() for _ in range(150)])
        assert [one for one in found if not isinstance(one, Issued)] == []
        reads = await asyncio.gather(*(_count(database) for _ in range(150)))
        assert len(set(reads)) == 1


async def _count(database: Database) -> int:
    async with database.read() as connection:
        statement = select(func.count()).select_from(schema.certificates)
        return int((await connection.execute(statement)).scalar_one())


async def test_the_gate_is_bounded() -> None:
    gate = Gate(1, waiting_max=1, patience_s=60)
    release, inside = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with gate.pass_through():
            inside.set()
            await release.wait()

    first = asyncio.create_task(hold())
    await inside.wait()
    second = asyncio.create_task(hold())
    while not gate.waiting:  # noqa: ASYNC110 - the gate has no event for it
        await asyncio.sleep(0)
    with pytest.raises(Unavailable) as told:
        await hold()
    assert (told.value.code, told.value.retry_after_s) == ("store_busy", 1)
    release.set()
    await asyncio.gather(first, second)
    impatient = Gate(1, waiting_max=1, patience_s=0.01)
    async with impatient.pass_through():
        with pytest.raises(Unavailable):
            async with impatient.pass_through():
                pass
    async with impatient.pass_through():
        assert impatient.waiting == 0


async def test_a_gatherer_keeps_its_bounds() -> None:
    go = asyncio.Event()
    groups: list[list[int]] = []

    async def work(items: Sequence[int]) -> list[int | BaseException]:
        groups.append(list(items))
        await go.wait()
        if 13 in items:
            raise QianyanError("all of them", code="all")
        return [ValueError(item) if item % 2 else item * 10 for item in items]

    gatherer: Gatherer[int, int] = Gatherer(work, parallel=1, group_max=3, pending_max=5)
    first = [asyncio.create_task(gatherer.submit(item)) for item in (0, 1)]
    while not groups:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    later = [asyncio.create_task(gatherer.submit(item)) for item in (2, 4, 6, 13, 8)]
    await asyncio.sleep(0)
    with pytest.raises(Busy) as told:
        await gatherer.submit(14)
    assert told.value.code == "issuance_queue"
    later[1].cancel()  # its caller leaves; the others stay
    await asyncio.sleep(0)
    go.set()
    found = await asyncio.gather(*first, *later, return_exceptions=True)
    assert groups == [[0, 1], [2, 6, 13], [8]]
    assert found[0] == 0
    assert isinstance(found[1], ValueError)
    assert [getattr(one, "code", None) for one in (found[2], found[4], found[5])] == ["all"] * 3
    assert isinstance(found[3], asyncio.CancelledError)
    assert found[6] == 80
    hurried: Gatherer[int, int] = Gatherer(work, parallel=1, patience_s=-1.0)
    with pytest.raises(Busy):
        await hurried.submit(2)
