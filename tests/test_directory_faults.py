"""A directory that is down, slow, restarted or emptied; publishers that die or race: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from core.errors import Conflict, Unavailable
from core.model import RevocationReason
from core.store import publication
from core.store.database import Database
from status.directory.settings import DirectorySettings
from tests.directory_publisher import STEPS
from tests.directory_world import (
    ROOT,
    SUFFIX,
    Holders,
    Slapd,
    caught_up,
    directory_settings,
    new_service,
    publishing,
    until,
)
from tests.store_world import BACKENDS, new_store

T = TypeVar("T")


@pytest.fixture(scope="module")
def shared() -> Iterator[Slapd]:
    server = Slapd().start()
    yield server
    server.remove()


@pytest.fixture
def slapd() -> Iterator[Slapd]:
    """A server of the test's own."""
    server = Slapd()
    yield server
    server.remove()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await new_store(tmp_path)
    yield opened
    await opened.close()


class Process:
    """A publisher in a process of its own."""

    def __init__(self, database: Database, settings: DirectorySettings, directory: Path, *step: str) -> None:
        directory.mkdir(exist_ok=True)
        file = directory / "directory.json"
        file.write_text(settings.model_dump_json())
        url = database.url if not database.on_postgres else str(database.target.url)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.directory_publisher", url, file, *step], cwd=ROOT, stdout=subprocess.DEVNULL
        )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 90)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


async def stop_and(process: Process, work: Callable[[], Awaitable[T]]) -> T:
    """Stops the process and does `work`; where it was stopped with the store's lock in its hands, does both again."""
    while True:
        process.send(signal.SIGSTOP)
        try:
            return await work()
        except Unavailable:
            process.send(signal.SIGCONT)


async def test_a_directory_that_is_down_slow_or_restarted_delays_and_loses_nothing(
    slapd: Slapd, database: Database
) -> None:
    base = f"ou=faults,{SUFFIX}"
    slapd.start()
    holders = await Holders(database).begin()
    service = new_service(database, directory_settings(slapd.target(base, batch=16, operation_timeout_s=0.5)))

    async def in_trouble() -> bool:
        (standing,) = await service.status()
        return standing.target is not None and standing.target.trouble is not None

    async with publishing(service):
        made = await holders.issue(10)
        await caught_up(service)
        slapd.kill()
        made += await holders.issue(30)
        await until(in_trouble, "nobody says that the directory is down")
        await holders.change(made[0][0], RevocationReason.SUPERSEDED)
        (standing,) = await service.status()
        assert standing.pending >= 31
        slapd.start()
        await caught_up(service)
        assert slapd.certificates(base) == {der for _, der in made[1:]}

        slapd.signal(signal.SIGSTOP)
        made += await holders.issue(30)
        await until(in_trouble, "nobody says that the directory does not answer")
        await holders.change(made[-1][0], RevocationReason.SUPERSEDED)
        slapd.signal(signal.SIGCONT)
        await caught_up(service)
        assert slapd.certificates(base) == {der for _, der in made[1:-1]}

        slapd.kill()
        slapd.empty()
        slapd.start()

        async def filled() -> bool:
            return len(slapd.certificates(base)) == len(made) - 2 and bool(slapd.search(base, "(objectClass=pkiCA)"))

        await until(filled, "an emptied directory is not filled again")
    (standing,) = await service.status()
    assert standing.refused == 0


async def test_a_directory_from_a_backup_gets_what_came_after_it(shared: Slapd, database: Database) -> None:
    base = f"ou=backup,{SUFFIX}"
    holders = await Holders(database).begin()
    service = new_service(database, directory_settings(shared.target(base)))
    old = await holders.issue(3)
    async with publishing(service):
        await caught_up(service)
    (before,) = await service.status()
    assert before.target is not None
    new = await holders.issue(2)
    async with publishing(service):
        await caught_up(service)
    # As after a restore: what came later is not there, and the mark says so.
    for dn in shared.search(base, "(objectClass=qianyanCertified)"):
        if shared.search(dn)[dn]["userCertificate;binary"][0] in {der for _, der in new}:
            shared.modify(f"dn: {dn}\nchangetype: delete\n")
    mark = f"dn: cn=qianyan publication,{base}\nchangetype: modify\nreplace: qianyanPosition\n"
    shared.modify(f"{mark}qianyanPosition: {before.target.position}\n")
    async with publishing(service):

        async def complete() -> bool:
            return shared.certificates(base) == {der for _, der in old + new}

        await until(complete, "what the backup lacked is not delivered")
    shared.modify(
        f"dn: cn=qianyan publication,{base}\nchangetype: modify\nreplace: qianyanTarget\nqianyanTarget: another\n"
    )
    await holders.issue()
    async with publishing(service):

        async def says_so() -> bool:
            (standing,) = await service.status()
            return standing.target is not None and "--take-over" in (standing.target.trouble or "")

        await until(says_so, "another store's directory is written to")
    assert len(shared.certificates(base)) == 5


async def test_a_publisher_that_is_killed_at_any_step_leaves_nothing_undone(
    shared: Slapd, database: Database, tmp_path: Path
) -> None:
    holders = await Holders(database).begin()
    bases = {step: f"ou=killed-{step},{SUFFIX}" for step in STEPS}
    targets = [shared.target(base, batch=4, name=step) for step, base in bases.items()]
    service = new_service(database, directory_settings(*targets, lease_s=1.0))
    async with publishing(service):
        await caught_up(service)
    made = await holders.issue(10)
    full, _ = await holders.publish_crl(2)
    await holders.change(made[2][0], RevocationReason.KEY_COMPROMISE)
    processes = []
    for target in targets:
        # Steps of a batch the second time that they come: some is done then, and some is not.
        time = "1" if target.name in ("connected", "before_mark", "marked") else "2"
        settings = directory_settings(target, lease_s=1.0)
        processes.append(Process(database, settings, tmp_path / target.name, target.name, time))
    try:
        assert [await process.ended() for process in processes] == [-signal.SIGKILL] * len(STEPS)
    finally:
        for process in processes:
            process.end()
    async with publishing(service):
        await caught_up(service)
    for base in bases.values():
        assert shared.certificates(base) == {der for serial, der in made if serial != made[2][0]}, base
        dn = f"cn=issuing-0,ou=crls,{base}"
        assert shared.search(dn)[dn]["certificateRevocationList;binary"] == [full], base
    assert {(one.refused, one.pending) for one in await service.status()} == {(0, 0)}


@pytest.mark.parametrize("backend", BACKENDS)
async def test_of_two_publishers_one_publishes_and_the_other_takes_over(
    shared: Slapd, tmp_path: Path, backend: str
) -> None:
    database = await new_store(tmp_path, backend)
    base = f"ou=racing-{backend},{SUFFIX}"
    settings = directory_settings(shared.target(base, batch=8), lease_s=1.5)
    service = new_service(database, settings)
    holders = await Holders(database).begin()
    racing = [Process(database, settings, tmp_path) for _ in range(2)]
    try:
        made = await holders.issue(40)

        async def one_leads() -> bool:
            (standing,) = await service.status()
            return standing.target is not None and standing.target.holder is not None

        await until(one_leads, "nobody publishes")
        (first,) = await service.status()
        assert first.target is not None
        leader, other = racing
        if not str(first.target.holder).endswith(f":{leader.process.pid}"):
            leader, other = other, leader
        await caught_up(service)
        made += await stop_and(leader, lambda: holders.issue(20))
        await holders.change(made[1][0], RevocationReason.KEY_COMPROMISE)
        await caught_up(service)
        (second,) = await service.status()
        assert second.target is not None
        assert str(second.target.holder).endswith(f":{other.process.pid}"), "the other one has taken over"
        assert second.target.epoch > first.target.epoch
        with pytest.raises(Conflict, match="taken over"):
            async with database.write() as connection:
                await publication.change(connection, "main", first.target.epoch, position=1)
        leader.send(signal.SIGCONT)
        await holders.change(made[2][0], RevocationReason.KEY_COMPROMISE)
        await caught_up(service)
        gone = {made[1][1], made[2][1]}
        assert shared.certificates(base) == {der for _, der in made} - gone
        (third,) = await service.status()
        assert third.target is not None
        assert third.target.holder == second.target.holder, "the one that was stopped has found out and stands by"
    finally:
        for process in racing:
            process.end()
        await database.close()


async def test_a_server_that_takes_nothing_is_in_trouble_and_refuses_no_entry(slapd: Slapd, database: Database) -> None:
    slapd.start()
    holders = await Holders(database).begin()
    nobody = slapd.target(f"ou=nobody,{SUFFIX}", name="nobody", bind_dn="", password_file=None)
    service = new_service(database, directory_settings(slapd.target(f"ou=a,{SUFFIX}"), nobody))

    async def trouble_of(name: str) -> str | None:
        (standing,) = [one for one in await service.status() if one.name == name]
        assert standing.refused == 0
        return None if standing.target is None else standing.target.trouble

    async def nobody_may_write() -> bool:
        return "authentication" in (await trouble_of("nobody") or "")

    async def in_trouble() -> bool:
        return "read-only" in (await trouble_of("main") or "") or "restricted" in (await trouble_of("main") or "")

    async def recovered() -> bool:
        return slapd.certificates(f"ou=a,{SUFFIX}") == {der for _, der in made} and not await trouble_of("main")

    settings = slapd.directory / "slapd.conf"
    as_it_was = settings.read_text()
    made = await holders.issue(2)
    async with publishing(service):
        await until(nobody_may_write, "nobody says that nothing can be written")
        await until(recovered, "the directory is not filled")
        slapd.kill()
        settings.write_text(f"{as_it_was}\nreadonly on\n")
        slapd.start()
        made += await holders.issue(3)
        await until(in_trouble, "nobody says that the server takes nothing")
        slapd.kill()
        settings.write_text(as_it_was)
        slapd.start()
        await until(recovered, "it does not go on")


async def test_a_stop_does_not_wait_for_a_server_that_hangs(slapd: Slapd, database: Database) -> None:
    slapd.start()
    holders = await Holders(database).begin()
    service = new_service(database, directory_settings(slapd.target(f"ou=a,{SUFFIX}", operation_timeout_s=300)))
    async with publishing(service):
        await caught_up(service)
        slapd.signal(signal.SIGSTOP)
        await holders.publish_crl(1)
    slapd.signal(signal.SIGCONT)
    async with publishing(service):
        await caught_up(service)
    assert slapd.search(SUFFIX, "(objectClass=cRLDistributionPoint)")
