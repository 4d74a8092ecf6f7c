"""Kills signed requests at each of their steps and looks at what is left; run by test_registration_kill.

As tests.kill_driver does it, whose steps and forks these are: a statement that writes, a commit, a signature, and the
moment before the answer. All of it happened or none: the request's record, its evidence, the effect. Prints one JSON
object: how many kills there were, and after how many of them the request was done.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.clock import system_clock
from core.store import audit, sqlite
from core.store.database import Database
from signer.engine.master import SoftwareMaster
from signer.holders.settings import HolderSettings
from signer.issuance.desk import DeskSettings, make_desk
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import KmcSettings
from signer.registration.office import Office, make_office
from signer.registration.settings import RegistrationSettings
from tests.holder_world import SETTINGS
from tests.issuance_support import keystore_in
from tests.kill_driver import Steps, forked, signers
from tests.registration_world import World, content_of, issue_payload, message, registration_in

TABLES: Final = (
    "certificates", "certificate_events", "holders", "escrowed_keys", "outbox", "feed", "unlocks", "recoveries",
    "ra_requests", "ra_evidence", "ra_issued",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is killed, and what it looks like when it has happened: rows by table, states by query."""

    run: Callable[[Office], Awaitable[dict[str, Any]]]
    grows: dict[str, int]
    query: str
    after: str
    before: str


def opened(directory: Path) -> Database:
    """The store, without a look at its revision: that would take longer than what is killed."""
    url = f"sqlite+aiosqlite:///{directory}/store.sqlite3"
    return Database(sqlite.make_engine(url), url)


async def on(directory: Path, steps: Steps | None, act: Callable[[Office], Awaitable[None]]) -> None:
    """An office over the store in a process of its own."""
    database = opened(directory)
    keystore = keystore_in(directory / "keys")
    desk = make_desk(
        database,
        signers(keystore, steps),
        SoftwareMaster(keystore),
        load_profiles(),
        DeskSettings(SETTINGS, KmcSettings(spare_keys=0), HolderSettings()),
        system_clock,
    )
    try:
        await act(make_office(database, desk, load_profiles(), RegistrationSettings(), SETTINGS, system_clock))
    finally:
        await desk.close()
        await database.close()


def look(directory: Path, query: str) -> tuple[dict[str, int], str]:
    """Rows by table, and what the query says; read by somebody else's code."""
    with closing(sqlite3.connect(directory / "store.sqlite3")) as connection:
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}
        return counts, ",".join(str(row[0]) for row in connection.execute(query))


async def killed(directory: Path, plan: Plan, fatal: int) -> None:
    steps = Steps(fatal)

    async def act(office: Office) -> None:
        steps.watch()
        await plan.run(office)
        steps.step()  # everything is durable; the answer has not left

    await on(directory, steps, act)


def happened(directory: Path, plan: Plan, before: dict[str, int]) -> bool:
    """Whether it has happened. AssertionError where it has by half."""
    counts, said = look(directory, plan.query)
    grown = {name: counts[name] - before[name] for name in TABLES if counts[name] != before[name]}
    assert grown in ({}, plan.grows), f"half done: {grown}"
    assert said == (plan.after if grown else plan.before), said
    return bool(grown)


async def settled(directory: Path, plan: Plan) -> None:
    """In the end a retry gives one answer, and the audit record is whole."""

    async def act(office: Office) -> None:
        first = await plan.run(office)
        assert first == await plan.run(office), "two answers to one request"

    await on(directory, None, act)
    database = opened(directory)
    async with database.read() as connection:
        assert (await audit.verify(connection)).broken_at is None
    await database.close()


REQUESTS: Final = "SELECT state FROM ra_requests WHERE request_id = 'killed'"


async def prepared(directory: Path, operation: str) -> tuple[Plan, dict[str, int]]:
    """The installation that every step begins with, and what is done to it."""
    async with registration_in(directory) as world:
        if operation == "issue":
            content = content_of("issue", issue_payload(), request_id="killed")
            made = {
                "certificates": 2,
                "certificate_events": 1,
                "holders": 1,
                "escrowed_keys": 1,
                "outbox": 2,
                "feed": 2,
            }
            requests = {"ra_requests": 1, "ra_evidence": 1, "ra_issued": 2}
            plan = Plan(submitting(world, content), {**made, **requests}, REQUESTS, "done", "")
        else:
            assert operation == "recovery"
            serial = await a_certificate(world)
            content = content_of("recover", {"serial": serial, "reference": "case-1"}, request_id="killed")
            assert (await world.submit(content))[0] == 202
            grows = {"certificate_events": 1, "recoveries": 1, "ra_evidence": 1}
            plan = Plan(approving(world, content), grows, REQUESTS, "done", "entered")
        return plan, look(directory, plan.query)[0]


async def a_certificate(world: World) -> str:
    status, answer = await world.submit(content_of("issue", issue_payload()))
    assert status == 201, answer
    serial: str = answer["result"]["certificates"][0]["serial"]
    return serial


def submitting(world: World, content: bytes) -> Callable[[Office], Awaitable[dict[str, Any]]]:
    encoded = message(content, [world.operator, world.approver])

    async def run(office: Office) -> dict[str, Any]:
        return (await office.requests.submit(encoded, source="")).members

    return run


def approving(world: World, content: bytes) -> Callable[[Office], Awaitable[dict[str, Any]]]:
    encoded = message(content, [world.people["chen"]])

    async def run(office: Office) -> dict[str, Any]:
        return (await office.requests.approve("gz", "killed", encoded, source="")).members

    return run


def main(directory: Path, operation: str) -> None:
    plan, before = asyncio.run(prepared(directory, operation))
    outcomes: list[bool] = []
    while (status := forked(killed(directory, plan, len(outcomes) + 1))) == -signal.SIGKILL:
        outcomes.append(happened(directory, plan, before))
        if outcomes[-1]:
            break  # only the answer was lost; a retry has nothing left to do
    assert status in (0, -signal.SIGKILL), f"the request failed after {len(outcomes)} kills"
    asyncio.run(settled(directory, plan))
    assert happened(directory, plan, before)
    print(json.dumps({"kills": len(outcomes), "happened": outcomes.count(True)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
