"""Crashes at every step, races, a full disk, clocks that step, keys that roll: numbers increase and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import select, update

import crl.service
from core.clock import system_clock
from core.errors import Conflict, Refused, Unavailable
from core.model import KeyPurpose, KeyState, RevocationReason
from core.store import audit, crl_points, crls, keys, leases
from core.store.keys import KeyRecord
from core.store.schema import authorities as authorities_table
from core.store.schema import crls as crls_table
from crl.check import check_published
from crl.files import _put
from crl.service import CrlService
from signer._native import sm2
from signer.engine.verify import verify_signature
from tests.crl_world import (
    DAY_MS,
    NOON_MS,
    PUBLIC_URL,
    KeySigner,
    SetClock,
    World,
    listed,
    make_certificate,
    make_world,
    number_of,
)

URL = f"{PUBLIC_URL}/crl/issuing/0.crl"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as world:
        await world.add_authority()
        await world.issue(*range(1, 50))
        await world.revoke(1, 2)
        yield world


@pytest.fixture
def clock(world: World) -> SetClock:
    assert isinstance(world.clock, SetClock)
    return world.clock


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


async def full_crls(world: World) -> list[tuple[int, bytes]]:
    async with world.database.read() as connection:
        rows = await connection.execute(
            select(crls_table.c.number, crls_table.c.crl)
            .where(crls_table.c.kind == "full", crls_table.c.partition == 0, crls_table.c.authority_id == "issuing")
            .order_by(crls_table.c.number)
        )
        return [(row.number, row.crl) for row in rows]


async def whole(world: World, expected: set[int]) -> None:
    """Numbers go up by one, each CRL holds what the ones before it held, and the newest is good and complete."""
    rows = await full_crls(world)
    assert [number for number, _ in rows] == list(range(1, len(rows) + 1))
    assert [number_of(body) for _, body in rows] == [number for number, _ in rows]
    before: set[int] = set()
    for _, body in rows:
        now = set(listed(body))
        assert before <= now
        before = now
    assert before == expected
    (report,) = check_published({URL: rows[-1][1]}, world.certificate, verify_signature, now_ms=world.clock())
    assert report.problems == []
    async with world.database.read() as connection:
        assert (await audit.verify(connection)).broken_at is None


STEPS = ("take_snapshot", "read_history", "publish")
METHODS = ("_check_unsigned", "_sign", "_build")


def failing(real: Callable[..., object], *, after: bool, with_: BaseException) -> Callable[..., object]:
    """Raises in place of what is called, or when that is done."""

    async def call(*arguments: object, **named: object) -> object:
        if after:
            await real(*arguments, **named)  # type: ignore[misc]
        raise with_

    return call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", [*STEPS, *METHODS])
async def test_a_crash_at_any_step(world: World, clock: SetClock, step: str, after: bool) -> None:
    """The process ends before a step or right after it; another one goes on."""
    await world.service().build("issuing", 0)
    clock.advance(5)
    await world.revoke(3, 4)
    with pytest.MonkeyPatch.context() as patch:
        owner = crl.service.steps if step in STEPS else CrlService
        patch.setattr(owner, step, failing(getattr(owner, step), after=after, with_=Killed()))
        with pytest.raises(Killed):
            await world.service().build("issuing", 0)
    clock.advance(5)
    await world.revoke(5)
    await world.service().build("issuing", 0)
    await whole(world, {1, 2, 3, 4, 5})


@pytest.mark.parametrize("after", [False, True], ids=["unwritten", "written but reported failed"])
async def test_a_publication_that_fails(world: World, clock: SetClock, after: bool) -> None:
    service = world.service()
    await service.build("issuing", 0)
    for serial in (3, 4, 5):
        clock.advance(5)
        await world.revoke(serial)
        with pytest.MonkeyPatch.context() as patch:
            error = Unavailable("the store cannot be written", code="store_unavailable")
            patch.setattr(crl.service.steps, "publish", failing(crl.service.steps.publish, after=after, with_=error))
            with pytest.raises(Unavailable):
                await service.build("issuing", 0)
    clock.advance(5)
    await service.build("issuing", 0)
    assert (await world.newest()).number == (5 if after else 2)
    await whole(world, {1, 2, 3, 4, 5})


async def test_a_build_that_takes_too_long_is_given_up_and_the_next_one_is_whole(
    world: World, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = world.service(timeout_s=1)
    await service.build("issuing", 0)
    await world.revoke(3)
    with monkeypatch.context() as patch:

        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        patch.setattr(crl.service.steps, "read_history", never)
        with pytest.raises(Unavailable, match="more than 1 s"):
            await service.build("issuing", 0)
    clock.advance(10)
    await world.service(timeout_s=60).build("issuing", 0)
    await whole(world, {1, 2, 3})


async def test_a_builder_that_was_passed_over_publishes_nothing(world: World, clock: SetClock) -> None:
    """It stands still between the check and the publication; another takes its lease and publishes."""
    service = world.service()
    await service.build("issuing", 0)
    await world.revoke(3)
    real = crl.service.steps.publish
    calls = 0

    async def stalled(*arguments: object, **named: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            async with world.database.write() as connection:
                lease = await leases.get(connection, "issuing", 0)
                assert lease is not None
                taken = await leases.acquire(connection, "issuing", 0, "elsewhere", over=lease)
                assert taken is not None
                await leases.release(connection, taken)
        await real(*arguments, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crl.service.steps, "publish", stalled)
        await service.build("issuing", 0)
    assert calls == 2, "the first attempt was fenced off, the second one had a lease again"
    await whole(world, {1, 2, 3})
    async with world.database.read() as connection:
        lease = await leases.get(connection, "issuing", 0)
    assert lease is not None
    assert (lease.epoch, lease.held) == (4, False)


async def test_a_scope_that_another_builds_is_left_to_it(world: World) -> None:
    async with world.database.write() as connection:
        lease = await leases.acquire(connection, "issuing", 0, "elsewhere/0/1/0")
    assert lease is not None
    service = world.service()
    assert await service.build_due() == 0
    (status,) = await service.status()
    assert (status.building, status.builder, status.failures) == (True, "elsewhere/0/1/0", 0)
    async with world.database.write() as connection:
        await leases.release(connection, lease)
    assert await service.build_due() == 1
    assert (await service.status())[0].builder != "elsewhere/0/1/0"


async def test_two_processes_race_and_are_killed(tmp_path: Path) -> None:
    """SIGKILL at random moments, while revocations come in."""
    async with make_world(tmp_path, system_clock) as world:
        key = os.urandom(31).rjust(32, b"\1")
        world.signer = KeySigner(key=sm2.PrivateKey.from_bytes(key))
        await world.add_authority()
        await world.issue(*range(1, 200))
        chance = random.Random(7)
        command = [sys.executable, "-m", "tests.crl_builder_process", str(tmp_path / "store.sqlite3"), key.hex()]
        running: list[subprocess.Popen[str]] = []

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

        async def published(process: subprocess.Popen[str]) -> None:
            assert process.stdout is not None
            async with asyncio.timeout(120):
                assert await asyncio.to_thread(process.stdout.readline), "the builder ended by itself"

        try:
            running = [start(), start()]
            for process in running:
                await published(process)
            for serial in range(1, 31):
                await world.revoke(serial)
                if serial % 10 == 0:
                    await published(running[serial // 10 % 2])
                    victim = running[serial // 10 % 2]
                    await asyncio.sleep(chance.random() * 0.05)  # where it is hit is left to chance
                    victim.send_signal(signal.SIGKILL)
                    await asyncio.to_thread(victim.wait)
                    running[serial // 10 % 2] = start()
                    await published(running[(serial // 10 + 1) % 2])
        finally:
            for process in running:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
        await world.service(keep=10_000).build("issuing", 0)
        await whole(world, set(range(1, 31)))


async def test_a_full_disk_keeps_the_old_crl_and_files_whole(tmp_path: Path) -> None:
    """A file may not grow past a limit: what is written to it then fails as on a full disk."""
    script = """
import resource, signal, sys
from pathlib import Path
from crl.files import _put
path = Path(sys.argv[1])
_put(path, b"old" * 1000, 0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    _put(path, b"new" * 10000, 0)
except OSError as error:
    print(error.errno)
"""
    path = tmp_path / "crl" / "0.crl"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "27"
    assert path.read_bytes() == b"old" * 1000
    assert [p.name for p in path.parent.iterdir()] == ["0.crl"]
    assert _put(path, b"new", 0)
    assert not _put(path, b"new", 0)


async def test_a_store_that_cannot_grow_keeps_what_it_has(world: World, clock: SetClock) -> None:
    """SQLite says the disk is full: the old CRL stays, and with room again the next one has everything."""
    service = world.service(back_off_first_s=1, back_off_max_s=1)
    await service.build_due()
    await world.issue(*range(1000, 3000))
    await world.revoke(*range(1000, 3000))
    clock.advance(10)
    async with world.database.write() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()

    async def limit(count: int) -> None:
        for connection in [await world.database._engine.connect() for _ in range(8)]:  # the whole pool
            await connection.exec_driver_sql(f"PRAGMA max_page_count = {count}")
            await connection.rollback()
            await connection.close()

    await limit(pages + 2)
    assert await service.build_due() == 0
    (status,) = await service.status()
    assert status.last_error == "store_unavailable"
    assert (await world.newest()).number == 1
    await limit(1 << 30)
    clock.advance(10)
    assert await service.build_due() == 1
    assert len(listed((await world.newest()).crl)) == 2002


async def test_a_clock_that_steps_forward_and_back(world: World, clock: SetClock) -> None:
    service = world.service()
    await service.build("issuing", 0)
    clock.advance(86_400 * 2)
    published = service.published
    with pytest.raises(Unavailable) as refused:
        await published.current(("issuing", 0))
    assert refused.value.code == "crl_expired"
    assert await service.build_due() == 1
    assert (await published.current(("issuing", 0))).next_update_ms > clock()
    clock.advance(-86_400)
    with pytest.raises(Unavailable) as behind:
        await service.build("issuing", 0)
    assert behind.value.code == "clock_behind"
    clock.advance(86_400)
    await world.revoke(3)
    await service.build("issuing", 0)
    await whole(world, {1, 2, 3})


async def test_a_partition_that_is_added_leaves_the_others_as_they_are(world: World, clock: SetClock) -> None:
    service = world.service()
    await service.build_due()
    async with world.database.write() as connection:
        await crl_points.open_first(connection, "issuing", 3, PUBLIC_URL, at_ms=clock())
    assert await service.build_due() == 2
    await world.issue(100, 101, partition=2)
    clock.advance(5)
    await world.revoke(100, 3)
    clock.advance(5)
    assert await service.build_due() == 2
    assert list(listed((await world.newest("issuing", 2)).crl)) == [100]
    assert list(listed((await world.newest("issuing", 0)).crl)) == [1, 2, 3]
    newest = {f"{PUBLIC_URL}/crl/issuing/{n}.crl": (await world.newest("issuing", n)).crl for n in range(3)}
    reports = check_published(newest, world.certificate, verify_signature, now_ms=clock())
    assert [report.problems for report in reports] == [[], [], []]


async def test_an_authoritys_key_is_rolled(world: World, clock: SetClock) -> None:
    """The same authority under a new key and certificate: numbers go on, entries stay, the new key signs."""
    service = world.service()
    await service.build("issuing", 0)
    old = world.signer
    new = KeySigner("issuing-2")
    certificate = make_certificate(new, not_after_ms=NOON_MS + 3650 * DAY_MS)
    times = (clock(), clock())
    async with world.database.write() as connection:
        record = KeyRecord(new.key_id, KeyPurpose.CERTIFICATE, KeyState.ACTIVE, new.public_key, "authority", *times)
        await keys.add(connection, record)
        values = {"key_id": new.key_id, "public_key": new.public_key, "certificate": certificate}
        await connection.execute(update(authorities_table).values(values))
    world.certificate, world.signer = certificate, new
    service._signer_for = lambda key_id: {"issuing": old, "issuing-2": new}[key_id]
    await world.revoke(3)
    clock.advance(5)
    await service.build("issuing", 0)
    await whole(world, {1, 2, 3})
    first, second = (x509.load_der_x509_crl(body) for _, body in await full_crls(world))
    identifiers = [
        c.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier for c in (first, second)
    ]
    assert identifiers[0] != identifiers[1]


async def test_a_number_is_published_once(world: World) -> None:
    """Two publications of one number never both commit, whatever the builders believe."""
    record = await world.service().build("issuing", 0)
    with pytest.raises(Conflict):
        async with world.database.write() as connection:
            await crls.publish(connection, record, at_ms=NOON_MS)


async def test_thousands_of_changes_are_checked_one_by_one(world: World, clock: SetClock) -> None:
    """Built step by step and from nothing, the CRLs are the same but for number and signature."""
    service = world.service(period_s=60, timeout_s=50, back_off_max_s=30)
    chance = random.Random(3)
    await world.issue(*range(1000, 1400), not_after_ms=NOON_MS + 40_000)
    await world.issue(*range(2000, 2600))
    pool = [*range(1000, 1400), *range(2000, 2600)]
    held: set[int] = set()
    for _ in range(12):
        for _ in range(30):
            serial = chance.choice(pool)
            action = chance.choice((RevocationReason.CERTIFICATE_HOLD, RevocationReason.SUPERSEDED))
            try:
                if serial in held and chance.random() < 0.5:
                    await world.release(serial)
                    held.discard(serial)
                else:
                    await world.revoke(serial, reason=action)
                    held.add(serial)
            except Refused:
                held.discard(serial)
        clock.advance(chance.randint(1, 40))
        stepwise = await service.build("issuing", 0)
        anew = await world.service(period_s=60, timeout_s=50, back_off_max_s=30).build("issuing", 0)
        ours, theirs = listed(stepwise.crl), listed(anew.crl)
        assert {s: e.revocation_date_utc for s, e in theirs.items()}.items() <= {
            s: e.revocation_date_utc for s, e in ours.items()
        }.items()
        lapsed = set(ours) - set(theirs)
        assert all(1000 <= serial < 1400 for serial in lapsed), "only what lapsed may go"
