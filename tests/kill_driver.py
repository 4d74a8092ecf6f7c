"""Kills an operation at each of its steps and looks at what is left: a process of its own, run by test_issuance_kill.

A step is a statement that writes, a commit, a signature (before and after it), and the moment before the answer. On one
installation a forked process does the operation and kills itself with SIGKILL at its first step; another retries it
and dies at the second step; and so on, until one comes through. After each kill the store is read: all of it happened
or none. No code of the product is changed or replaced: SQLAlchemy's own events and the signer that the installation is
handed say where it stands. Forks where there is neither a thread nor an event loop.

Prints one JSON object: how many kills there were, and after how many of them the operation had happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import event
from sqlalchemy.engine import Engine

from core.clock import system_clock
from core.ports import Signer
from core.store import audit, certificates
from core.store.database import Database, open_database
from signer.engine.keystore import KeyStore
from signer.engine.master import SoftwareMaster
from signer.holders.claim import HolderClaim
from signer.holders.settings import HolderSettings
from signer.issuance.desk import Desk, DeskSettings, make_desk
from signer.issuance.grounds import Ground
from signer.issuance.profiles import load_profiles
from signer.issuance.recovery import RecoveryWish
from signer.issuance.settings import KmcSettings
from signer.issuance.signing import LocalSigner
from tests.holder_world import SETTINGS, credit_code, desk_on
from tests.issuance_support import Request, installation, keystore_in

TABLES: Final = ["certificates", "certificate_events", "holders", "escrowed_keys", "idempotency", "outbox", "feed"]
ONCE: Final = ("ra-1", "order-1")
ACTOR: Final = "token:ra-1"


@dataclass(frozen=True)
class Plan:
    """What is killed. `grows`: by how many rows each table grows when it has happened. `replaced`: a row's id."""

    run: Callable[[Desk], Awaitable[bytes]]
    grows: dict[str, int]
    replaced: int | None = None
    recovery: str | None = None


class Steps:
    """Counts steps and ends the process at one of them."""

    def __init__(self, fatal: int) -> None:
        self._fatal = fatal
        self._count = 0

    def step(self) -> None:
        self._count += 1
        if self._count == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        def statement(_c: object, _cursor: object, sql: str, *_: object) -> None:
            if sql.lstrip().split(None, 1)[0].upper() in ("INSERT", "UPDATE", "DELETE", "WITH"):
                self.step()

        event.listen(Engine, "before_cursor_execute", statement)
        event.listen(Engine, "commit", lambda _connection: self.step())


def signers(keystore: KeyStore, steps: Steps | None) -> Callable[[str], Signer]:
    class Stepping(LocalSigner):
        async def sign(self, message: bytes | memoryview) -> bytes:
            if steps is not None:
                steps.step()
            signature = await super().sign(message)
            if steps is not None:
                steps.step()
            return signature

    return lambda key_id: Stepping(key_id, keystore.load(key_id))


async def with_desk(directory: Path, steps: Steps | None, act: Callable[[Database, Desk], Awaitable[None]]) -> None:
    database = await open_database(f"sqlite+aiosqlite:///{directory}/store.sqlite3")
    keystore = keystore_in(directory / "keys")
    settings = DeskSettings(SETTINGS, KmcSettings(spare_keys=0), HolderSettings())
    master = SoftwareMaster(keystore)
    desk = make_desk(database, signers(keystore, steps), master, load_profiles(), settings, system_clock)
    try:
        await act(database, desk)
    finally:
        await database.close()


def counted(directory: Path) -> dict[str, int]:
    """How many rows each table has, read by somebody else's code."""
    with closing(sqlite3.connect(directory / "store.sqlite3")) as connection:
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}


async def killed(directory: Path, plan: Plan, fatal: int) -> None:
    steps = Steps(fatal)

    async def act(_database: Database, desk: Desk) -> None:
        steps.watch()
        await plan.run(desk)
        steps.step()  # everything is durable; the answer has not left

    await with_desk(directory, steps, act)


def happened(directory: Path, plan: Plan, before: dict[str, int]) -> bool:
    """Whether the operation has happened. AssertionError where it has by half."""
    after = counted(directory)
    grown = {name: after[name] - before[name] for name in TABLES if after[name] != before[name]}
    assert grown in ({}, plan.grows), f"half done: {grown}"
    # What the operation replaces or recovers stands as it does before or after, not between.
    with closing(sqlite3.connect(directory / "store.sqlite3")) as connection:
        if plan.replaced is not None:
            old = "SELECT DISTINCT state FROM certificates WHERE ? IN (id, pair_id)"
            states = connection.execute(old, (plan.replaced,)).fetchall()
            assert states == [("revoked" if grown else "good",)]
        if plan.recovery is not None:
            made = "SELECT state, enveloped_key IS NOT NULL FROM recoveries WHERE id = ?"
            stands = connection.execute(made, (plan.recovery,)).fetchone()
            assert stands == (("done", 1) if grown else ("approved", 0))
    return bool(grown)


async def settled(directory: Path, plan: Plan) -> None:
    """In the end a retry gives one answer, and the audit record is whole."""

    async def act(database: Database, desk: Desk) -> None:
        first = await plan.run(desk)
        assert first
        assert await plan.run(desk) == first, "two answers to one request"
        async with database.read() as connection:
            assert (await audit.verify(connection)).broken_at is None

    await with_desk(directory, None, act)


async def prepared(directory: Path, operation: str) -> tuple[Plan, dict[str, int]]:
    """The installation that every step begins with, and what is done to it."""
    async with installation(directory) as world:
        desk = desk_on(world)
        csr, number = Request().encode(), credit_code()
        if operation == "issue":
            await desk.holders.claim_hash(HolderClaim.of("device", "first"))  # makes the holders' keys
            claim = HolderClaim.of("organisation", number, name="粤港测试有限公司")

            async def issue(of: Desk) -> bytes:
                issued = await of.issuer.issue(csr, "organisation", actor=ACTOR, holder=claim, idempotency=ONCE)
                return issued.to_body()

            made = {"certificates": 2, "certificate_events": 1, "holders": 1, "escrowed_keys": 1, "idempotency": 1}
            return Plan(issue, {**made, "outbox": 2, "feed": 2}), counted(directory)
        claim = HolderClaim.of("organisation", number)
        old = await desk.issuer.issue(Request().encode(), "organisation", actor=ACTOR, holder=claim)
        serial = old.certificates[0].serial
        if operation == "reissue":

            async def reissue(of: Desk) -> bytes:
                issued = await of.issuer.reissue(serial, csr, Ground.LOST, actor=ACTOR, idempotency=ONCE)
                return issued.to_body()

            made = {"certificates": 2, "certificate_events": 1, "escrowed_keys": 1, "idempotency": 1}
            async with world.database.read() as connection:
                row = await certificates.find(connection, serial)
            return Plan(reissue, {**made, "outbox": 4, "feed": 4}, replaced=row.id), counted(directory)
        assert operation == "recovery"
        asked = await desk.recoveries.ask(RecoveryWish(serial, "case-1"), actor="token:clerk")
        await desk.recoveries.approve(asked.id, actor="token:first")

        async def recover(of: Desk) -> bytes:
            return (await of.recoveries.approve(asked.id, actor="token:second")).enveloped_key or b""

        return Plan(recover, {"certificate_events": 1}, recovery=asked.id), counted(directory)


def forked(work: Coroutine[None, None, None]) -> int:
    """How a process that does `work` ended, as `os.waitstatus_to_exitcode` says it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(work)
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    work.close()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(directory: Path, operation: str) -> None:
    plan, before = asyncio.run(prepared(directory, operation))
    outcomes: list[bool] = []
    while (status := forked(killed(directory, plan, len(outcomes) + 1))) == -signal.SIGKILL:
        outcomes.append(happened(directory, plan, before))
        if outcomes[-1]:
            break  # only the answer was lost; a retry has nothing left to do
    assert status in (0, -signal.SIGKILL), f"the operation failed after {len(outcomes)} kills"
    asyncio.run(settled(directory, plan))
    assert happened(directory, plan, before)
    print(json.dumps({"kills": len(outcomes), "happened": outcomes.count(True)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
