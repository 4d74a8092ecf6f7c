"""Kills signed requests at their steps and looks at what is left; run by test_registration_kill.

As tests.kill_driver does it, whose steps and forks these are. Two ways: at each step (a statement that writes, a
commit, a signature, the moment before the answer), or at the points that differ in what must be left: before anything
is written, within the transaction of the effect, as its last statement is due, as it commits, and before the answer.
All of it happened or none: the request's record, its evidence, the effect; and a retry ends in one answer. One
installation for every operation. Prints one JSON object: by operation how many kills there were, and after how many it
had happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import Engine

from core.clock import system_clock
from core.store import audit, postgres, sqlite
from core.store.database import Database
from core.store.settings import StoreTarget, is_postgres
from signer.engine.master import SoftwareMaster
from signer.holders.settings import HolderSettings
from signer.issuance.desk import DeskSettings, make_desk
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import KmcSettings
from signer.registration.office import Office, make_office
from signer.registration.settings import RegistrationSettings
from tests.holder_world import SETTINGS
from tests.issuance_support import Request, keystore_in
from tests.kill_driver import Steps, forked, signers
from tests.registration_world import Signer, World, b64, content_of, issue_payload, message, registration_in

TABLES: Final = (
    "certificates", "certificate_events", "holders", "escrowed_keys", "outbox", "feed", "unlocks", "recoveries",
    "ra_requests", "ra_evidence", "ra_issued",
)  # fmt: skip
MADE: Final = {"certificates": 2, "certificate_events": 1, "escrowed_keys": 1, "ra_issued": 2}
ISSUED: Final = {**MADE, "holders": 1, "outbox": 2, "feed": 2}
REISSUED: Final = {**MADE, "outbox": 4, "feed": 4}
RECOVERED: Final = {"certificate_events": 1, "recoveries": 1}
FILED: Final = {"ra_requests": 1, "ra_evidence": 1}
STEP: Final = {"ra_evidence": 1}

POINTS: Final = ("before", "inside", "last", "commit", "answer")


class EveryStep(Steps):
    """Ends the process at the step of a number."""

    def answered(self) -> None:
        self.step()


class AtPoint(Steps):
    """Ends the process at a point by its name."""

    def __init__(self, point: str) -> None:
        super().__init__(0)
        self._point = point
        self._written = False

    def _at(self, point: str) -> None:
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)

    def answered(self) -> None:
        self._at("answer")

    def watch(self) -> None:
        def statement(_c: object, _cursor: object, sql: str, *_: object) -> None:
            if sql.lstrip().split(None, 1)[0].upper() in ("INSERT", "UPDATE", "DELETE", "WITH"):
                self._at("before")
            if self._written and "INSERT INTO audit" in sql:
                self._at("last")
            if "INSERT INTO ra_evidence" in sql:
                self._written = True
                self._at("inside")

        def commit(_connection: object) -> None:
            if self._written:
                self._at("commit")

        event.listen(Engine, "before_cursor_execute", statement)
        event.listen(Engine, "commit", commit)


@dataclass(frozen=True)
class Plan:
    """What is killed, and what it looks like when it has happened: rows by table, states by query."""

    name: str
    run: Callable[[Office], Awaitable[dict[str, Any]]]
    grows: dict[str, int]
    query: str
    before: str
    after: str


@dataclass(frozen=True)
class Place:
    """Where the installation is."""

    directory: Path
    url: str

    def opened(self) -> Database:
        """The store, without a look at its revision: that would take longer than what is killed."""
        if is_postgres(self.url):
            target = StoreTarget(self.url)
            return Database(postgres.make_engine(target), target)
        return Database(sqlite.make_engine(self.url), self.url)

    def ask(self, queries: Sequence[str]) -> list[Any]:
        """The rows that each query gives; read by somebody else's code."""
        if is_postgres(self.url):
            return asyncio.run(self._ask(queries))
        with closing(sqlite3.connect(self.directory / "store.sqlite3")) as connection:
            return [connection.execute(one).fetchall() for one in queries]

    async def _ask(self, queries: Sequence[str]) -> list[Any]:
        connection = await asyncpg.connect(self.url.replace("+asyncpg", ""))
        try:
            return [await connection.fetch(one) for one in queries]
        finally:
            await connection.close()

    def look(self, query: str) -> tuple[dict[str, int], str]:
        """Rows by table, and what the query says."""
        *counts, said = self.ask([*(f"SELECT count(*) FROM {name}" for name in TABLES), query])
        numbers = {name: int(rows[0][0]) for name, rows in zip(TABLES, counts, strict=True)}
        return numbers, ",".join(sorted(str(row[0]) for row in said))

    async def on(self, steps: Steps | None, act: Callable[[Office], Awaitable[None]]) -> None:
        """An office over the store in a process of its own."""
        database = self.opened()
        keystore = keystore_in(self.directory / "keys")
        settings = DeskSettings(SETTINGS, KmcSettings(spare_keys=0), HolderSettings())
        desk = make_desk(
            *(database, signers(keystore, steps), SoftwareMaster(keystore), load_profiles(), settings, system_clock)
        )
        try:
            await act(make_office(database, desk, load_profiles(), RegistrationSettings(), SETTINGS, system_clock))
        finally:
            await desk.close()
            await database.close()


async def killed(place: Place, plan: Plan, steps: EveryStep | AtPoint) -> None:
    async def act(office: Office) -> None:
        steps.watch()
        await plan.run(office)
        steps.answered()  # everything is durable; the answer has not left

    await place.on(steps, act)


def happened(place: Place, plan: Plan, before: dict[str, int]) -> bool:
    """Whether it has happened. AssertionError where it has by half."""
    counts, said = place.look(plan.query)
    grown = {name: counts[name] - before[name] for name in TABLES if counts[name] != before[name]}
    assert grown in ({}, plan.grows), f"half done: {grown}"
    assert said == (plan.after if grown else plan.before), said
    return bool(grown)


async def settled(place: Place, plan: Plan) -> None:
    """In the end a retry gives one answer, and the audit record is whole."""

    async def act(office: Office) -> None:
        first = await plan.run(office)
        assert first == await plan.run(office), "two answers to one request"

    await place.on(None, act)
    database = place.opened()
    async with database.read() as connection:
        assert (await audit.verify(connection)).broken_at is None
    await database.close()


class Plans:
    """The operations, each by signed requests: by both at once, entered by one, approved by another."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def all(self) -> list[Plan]:
        """Each with what comes before it done."""
        return [
            self._both("issue", "issue", issue_payload(), ISSUED),
            self._enter("issue-enter", "issue", issue_payload()),
            await self._approve("issue-approve", "issue", issue_payload(), ISSUED),
            await self._reissue("reissue", self._both),
            await self._reissue("reissue-approve", self._approve),
            await self._first_approval("recovery-first"),
            await self._last_approval("recovery"),
        ]

    def _both(self, name: str, kind: str, payload: dict[str, Any], grows: dict[str, int], *old: int) -> Plan:
        people = [self._world.operator, self._world.approver]
        content = content_of(kind, payload, request_id=name)
        return _plan(name, _submitting(content, people), {**grows, **FILED}, "", "done", old)

    def _enter(self, name: str, kind: str, payload: dict[str, Any]) -> Plan:
        content = content_of(kind, payload, request_id=name)
        return _plan(name, _submitting(content, [self._world.operator]), FILED, "", "entered", ())

    async def _approve(self, name: str, kind: str, payload: dict[str, Any], grows: dict[str, int], *old: int) -> Plan:
        content = content_of(kind, payload, request_id=name)
        assert (await self._world.submit(content, self._world.operator))[0] == 202
        run = _approving(content, self._world.approver)
        return _plan(name, run, {**grows, **STEP}, "entered", "done", old)

    async def _reissue(self, name: str, how: Callable[..., Any]) -> Plan:
        serial = await self._certificate()
        found = await self._world.desk.issuer.find(int(serial, 16))
        assert found.pair is not None
        payload = {"serial": serial, "csr": b64(Request().encode()), "ground": "lost"}
        plan = how(name, "reissue", payload, REISSUED, found.certificate.id, found.pair.id)
        made: Plan = plan if isinstance(plan, Plan) else await plan
        return made

    async def _first_approval(self, name: str) -> Plan:
        content = content_of("recover", {"serial": await self._certificate(), "reference": "c"}, request_id=name)
        assert (await self._world.submit(content, self._world.operator))[0] == 202
        return _plan(name, _approving(content, self._world.approver), STEP, "entered", "entered", ())

    async def _last_approval(self, name: str) -> Plan:
        content = content_of("recover", {"serial": await self._certificate(), "reference": "c"}, request_id=name)
        assert (await self._world.submit(content))[0] == 202
        run = _approving(content, self._world.people["chen"])
        return _plan(name, run, {**RECOVERED, **STEP}, "entered", "done", ())

    async def _certificate(self) -> str:
        status, answer = await self._world.submit(content_of("issue", issue_payload()))
        assert status == 201, answer
        serial: str = answer["result"]["certificates"][0]["serial"]
        return serial


def _plan(
    name: str,
    run: Callable[[Office], Awaitable[dict[str, Any]]],
    grows: dict[str, int],
    before: str,
    after: str,
    old: Sequence[int],
) -> Plan:
    """old: rows of the pair that is replaced, which stands as it does before or after, not between."""
    query = f"SELECT state FROM ra_requests WHERE request_id = '{name}'"
    if old:
        query += f" UNION ALL SELECT state FROM certificates WHERE id IN ({', '.join(map(str, old))})"
    stood = ",".join(sorted([*([before] if before else []), *["good"] * len(old)]))
    return Plan(name, run, grows, query, stood, ",".join(sorted([after, *["revoked"] * len(old)])))


def _submitting(content: bytes, people: Sequence[Signer]) -> Callable[[Office], Awaitable[dict[str, Any]]]:
    encoded = message(content, people)

    async def run(office: Office) -> dict[str, Any]:
        return (await office.requests.submit(encoded, source="")).members

    return run


def _approving(content: bytes, person: Signer) -> Callable[[Office], Awaitable[dict[str, Any]]]:
    encoded, request_id = message(content, [person]), json.loads(content)["request_id"]

    async def run(office: Office) -> dict[str, Any]:
        return (await office.requests.approve("gz", request_id, encoded, source="")).members

    return run


async def prepared(place: Place) -> list[Plan]:
    """The installation that every step begins with, and what is done to it."""
    database = place.opened() if is_postgres(place.url) else None
    async with registration_in(place.directory, database=database) as world:
        return await Plans(world).all()


def driven(place: Place, plan: Plan, points: bool) -> tuple[int, int]:
    """Kills it until nothing is left to kill; how many kills there were, and after how many it had happened."""
    before = place.look(plan.query)[0]
    outcomes: list[bool] = []

    def steps() -> EveryStep | AtPoint:
        return AtPoint(POINTS[len(outcomes)]) if points else EveryStep(len(outcomes) + 1)

    status = -signal.SIGKILL
    while (
        not any(outcomes) and status == -signal.SIGKILL
    ):  # then only the answer is lost, and a retry has nothing to do
        status = forked(killed(place, plan, steps()))
        if status == -signal.SIGKILL:
            outcomes.append(happened(place, plan, before))
    assert status in (0, -signal.SIGKILL), f"{plan.name} failed after {len(outcomes)} kills"
    asyncio.run(settled(place, plan))
    assert happened(place, plan, before)
    return len(outcomes), outcomes.count(True)


def main(directory: Path, url: str, how: str, names: Sequence[str]) -> None:
    place = Place(directory, url)
    plans = asyncio.run(prepared(place))
    found = {plan.name: driven(place, plan, how == "points") for plan in plans if not names or plan.name in names}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
