"""A new key for everything that is sealed of persons: nothing is left under the old one, which may go then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import Refused
from core.store import counters, holders, sealed
from core.store.database import open_database
from signer.holders import vault as vaults
from tests.issuance_support import audit_rows
from tests.registration_world import ACTOR, World, content_of, issue_payload, office_on, registration_in
from tests.store_world import BACKENDS, new_store

HOUR_MS = 3_600_000
DONE, REJECTED = "rekeyed", "rekeyed-not"


@pytest.fixture(params=BACKENDS)
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    database = None
    if request.param == "postgres":
        empty = await new_store(tmp_path, "postgres")
        await empty.close()
        database = await open_database(empty.target)
    async with registration_in(tmp_path, database=database) as made:
        yield made


async def some_requests(world: World) -> dict[str, list[tuple[str, str, bytes]]]:
    """One done by two steps and one rejected; their messages."""
    for request_id in (DONE, REJECTED):
        content = content_of("issue", issue_payload(), request_id=request_id)
        assert (await world.submit(content, world.operator))[0] == 202
        decide = world.approve if request_id == DONE else world.reject
        assert (await decide(content, world.approver))[0] in (200, 201)
    return {name: await world.office.requests.evidence("gz", name) for name in (DONE, REJECTED)}


async def used(world: World) -> set[int]:
    async with world.installation.database.read() as connection:
        return await sealed.keys_in_use(connection)


async def test_everything_comes_under_the_new_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await some_requests(world)
    database, rekeying = world.installation.database, world.office.rekeying
    (old,) = await used(world)
    behind = office_on(world.installation, world.desk)  # a process that has the old key in memory
    assert await behind.requests.evidence("gz", DONE) == before[DONE]

    class Broken(Exception):
        pass

    def breaks(kind: str, done: int) -> None:
        if kind == "reason":
            raise Broken

    monkeypatch.setattr("signer.registration.rekeying._AT_ONCE", 2)
    with pytest.raises(Broken):
        await rekeying.run(actor=ACTOR, tell=breaks)
    assert old in await used(world)
    assert await world.office.requests.evidence("gz", DONE) == before[DONE], "both keys are there meanwhile"
    seen: list[tuple[str, int]] = []
    done = await rekeying.run(actor=ACTOR, new=False, tell=lambda kind, count: seen.append((kind, count)))
    assert (done["request"], done["person"]) == (4, 0), "people were brought over before it broke off"
    assert [count for kind, count in seen if kind == "request"] == [2, 4, 4]
    (new,) = await used(world)
    assert new > old
    for name, messages in before.items():
        assert await world.office.requests.evidence("gz", name) == messages
    assert (await world.office.requests.show("gz", REJECTED))["reason"] == "缺少材料"
    assert all(row[2] == "ok" for row in await audit_rows(database) if row[0] == "holder.rekey")

    with pytest.raises(Refused) as told:
        await rekeying.drop(actor=ACTOR)
    assert told.value.code == "holder_key_new"
    world.installation.clock.offset_ms = HOUR_MS + 1
    async with database.write() as connection:
        await counters.take(connection, sealed.archived_counter(old), 3)
    with pytest.raises(Refused) as told:
        await rekeying.drop(actor=ACTOR)
    assert told.value.code == "holder_key_archived"
    assert await rekeying.drop(actor=ACTOR, with_archives=True) == [old]
    assert await rekeying.drop(actor=ACTOR) == []
    async with database.read() as connection:
        assert [key.id for key in await holders.list_keys(connection) if key.purpose == "seal"] == [new]
    fresh = office_on(world.installation, world.desk)
    assert await fresh.requests.evidence("gz", DONE) == before[DONE]


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_no_key_goes_that_something_is_under(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not looked for a minute seals under the key before: that is found, and brought over."""
    vault = world.desk.vault
    other = vaults.Vault(world.installation.database, vault._master, world.installation.clock)
    sealed_before = await other.seal_octets("person gz li", "李".encode())
    await world.office.rekeying.run(actor=ACTOR)
    assert (await other.seal_octets("x", b""))[:4] == sealed_before[:4]
    async with world.installation.database.write() as connection:
        await connection.exec_driver_sql("UPDATE ra_people SET sealed = ? WHERE id = 'li'", (sealed_before,))
    world.installation.clock.offset_ms = HOUR_MS + 1
    with pytest.raises(Refused) as told:
        await world.office.rekeying.drop(actor=ACTOR)
    assert told.value.code == "holder_key_used"
    assert (await world.office.rekeying.run(actor=ACTOR, new=False))["person"] == 1
    monkeypatch.setattr("signer.holders.vault.KEYS_FOR_S", 0.0)
    assert other._keys is not None
    other._keys.until = 0.0
    assert (await other.seal_octets("x", b""))[:4] != sealed_before[:4], "it looks for newer keys every minute"
    assert len(await world.office.rekeying.drop(actor=ACTOR)) == 1
