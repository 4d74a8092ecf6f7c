"""What was answered stays: a kill at any moment, two processes at once, the real signing engine underneath."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from core.clock import system_clock
from core.model import KeyPurpose, serial_from_hex, serial_to_hex
from core.store import audit, certificates, feed, schema
from core.store.database import open_database
from core.store.follow import FeedFollower
from signer.engine.engine import SigningEngine
from signer.engine.settings import EngineSettings
from signer.issuance.issuer import Issuer
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import IssuanceSettings
from tests.issuance_support import (
    PUBLIC_URL,
    Installation,
    Request,
    installation,
    keystore_in,
    local_signers,
    subject_of,
)

_ROOT = Path(__file__).parents[1]


async def child(directory: Path, name: str) -> None:
    """Issues without end from an existing installation; prints the serials once they are answered."""
    database = await open_database(f"sqlite+aiosqlite:///{directory}/store.sqlite3")
    keystore = keystore_in(directory / "keys")
    settings = IssuanceSettings(public_url=PUBLIC_URL)
    issuer = Issuer(database, local_signers(keystore, []), keystore, load_profiles(), settings, system_clock)
    while True:
        issued = await issuer.issue(Request().encode(), "organisation", actor=f"cli:{name}")
        print(*(serial_to_hex(c.serial) for c in issued.certificates), flush=True)


async def start(directory: Path, name: str) -> asyncio.subprocess.Process:
    code = (
        "import asyncio, sys, pathlib; from tests.test_issuance_durability import child; "
        "asyncio.run(child(pathlib.Path(sys.argv[1]), sys.argv[2]))"
    )
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(directory), name), stdout=asyncio.subprocess.PIPE, cwd=_ROOT
    )


async def answered(process: asyncio.subprocess.Process, at_least: int) -> list[int]:
    """Serials of the answers until the kill, which comes after `at_least` of them."""
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(at_least)]
    process.send_signal(signal.SIGKILL)
    rest = (await process.stdout.read()).splitlines(keepends=True)
    assert await process.wait() == -signal.SIGKILL
    whole = [line for line in lines + rest if line.endswith(b"\n")]
    assert len(whole) >= at_least
    return [serial_from_hex(serial) for line in whole for serial in line.decode().split()]


async def check_store(world: Installation, serials: list[int]) -> None:
    """Every answered pair is there whole; feed, audit and indexes have no gap and no double."""
    async with world.database.read() as connection:
        for serial in serials:
            record = await certificates.find(connection, serial, "issuing")
            assert record.pair_id is not None
        assert (await audit.verify(connection)).broken_at is None
        entries = await feed.read_after(connection, 0)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        rows = (await connection.execute(schema.certificates.select())).all()
        escrowed = (await connection.execute(schema.escrowed_keys.select())).all()
    assert len(rows) % 2 == 1  # root, issuing authority, OCSP signer; then pairs
    assert len(escrowed) == (len(rows) - 3) // 2
    places = [(row.authority_id, row.status_month, row.status_index) for row in rows]
    assert len(set(places)) == len(places)


async def test_a_kill_loses_nothing_answered(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        for turn in (1, 3):
            process = await start(tmp_path, f"turn-{turn}")
            await check_store(world, await answered(process, turn))
        issued = await world.issuer.issue(Request().encode(), "organisation", actor="cli:test")
        await check_store(world, [c.serial for c in issued.certificates])


async def test_two_processes_share_a_store(tmp_path: Path) -> None:
    async with installation(tmp_path) as world:
        processes = [await start(tmp_path, name) for name in ("a", "b")]
        serials = await asyncio.gather(*(answered(process, 5) for process in processes))
        assert not set(serials[0]) & set(serials[1])
        await check_store(world, serials[0] + serials[1])


async def test_with_the_signing_engine(tmp_path: Path) -> None:
    """The engine reserves uses in the store while it signs: issuing must not hold the store meanwhile."""
    async with installation(tmp_path) as world:
        follower = await FeedFollower.start(world.database)
        engine = SigningEngine(world.database, follower, world.keystore, EngineSettings(reserve_uses=2), world.clock)
        await engine.start()
        try:
            issuer = Issuer(
                world.database,
                lambda key_id: engine.signer(key_id, KeyPurpose.CERTIFICATE),
                world.keystore,
                load_profiles(),
                IssuanceSettings(public_url=PUBLIC_URL),
                world.clock,
            )
            subject = subject_of({"C": "CN", "CN": "张三"})
            answers = await asyncio.wait_for(
                asyncio.gather(*(issuer.issue(Request(subject).encode(), "person-sign", actor="t") for _ in range(8))),
                60,
            )
            serials = [c.serial for answer in answers for c in answer.certificates]
            assert len(set(serials)) == 8
        finally:
            await engine.close()
            follower.close()
