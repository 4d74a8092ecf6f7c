"""The engine over a real store: states of keys across processes, purposes, accounts, a failing store."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from core.clock import system_clock
from core.errors import Conflict, NotFound, Refused, SettingsError, Unavailable
from core.model import KeyPurpose, KeyState
from core.ports import SignatureVerifier, Signer
from core.store import audit as audit_store
from core.store.database import open_database
from core.store.follow import FeedFollower
from signer._native import sm2
from signer.engine.engine import SigningEngine
from signer.engine.settings import EngineSettings
from signer.engine.verify import verify_signature
from tests.engine_world import in_another_process, key_store, open_world, store_url


async def test_digests_and_messages_are_signed(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",)) as world:
        public = sm2.PublicKey.from_bytes(world.engine.public_key("k"))
        digests = secrets.token_bytes(32 * 100)
        signatures = await world.engine.sign_digests("k", digests, caller="app")
        assert sm2.verify_many(public, digests, signatures) == b"\1" * 100
        for message in (b"", b"short", bytes(100_000)):
            raw = await world.engine.sign_message("k", message, user_id=b"someone", caller="app")
            public.verify(message, raw, user_id=b"someone")


async def test_a_signer_is_the_port_and_its_verifier_agrees(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.engine.create_key("ca", KeyPurpose.CERTIFICATE, "owner", "test")
        signer = world.engine.signer("ca", KeyPurpose.CERTIFICATE)
        assert isinstance(signer, Signer)
        assert signer.key_id == "ca"
        signature = await signer.sign(b"to be signed")
        verifier: SignatureVerifier = verify_signature
        verifier(signer.public_key, b"to be signed", signature)
        changed = bytes([*signature[:-1], signature[-1] ^ 1])
        for public, message, bad in (
            (signer.public_key, b"to be signee", signature),
            (signer.public_key, b"to be signed", changed),
            (signer.public_key, b"to be signed", b"\x30\x00"),
            (bytes(65), b"to be signed", signature),
        ):
            with pytest.raises(Refused) as caught:
                verifier(public, message, bad)
            assert caught.value.code == "signature"


async def test_a_key_signs_only_what_it_is_for(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.engine.create_key("ca", KeyPurpose.CERTIFICATE, "owner", "test")
        with pytest.raises(Refused) as caught:
            await world.engine.sign_digests("ca", bytes(32), caller="app")
        assert caught.value.code == "key_purpose"
        with pytest.raises(Refused):
            world.engine.signer("ca", KeyPurpose.OCSP)
    async with open_world(tmp_path) as world:
        rows = await world.audit_rows("sign.refuse")
        assert [(row.actor, row.subject, row.outcome) for row in rows] == [("app", "ca", "key_purpose")]


async def test_an_unknown_key(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        for asking in (
            world.engine.sign_digests("none", bytes(32), caller="app"),
            world.engine.sign_message("none", b"", user_id=sm2.DEFAULT_ID, caller="app"),
            world.engine.set_key_state("none", KeyState.FROZEN, "test"),
        ):
            with pytest.raises(NotFound) as caught:
                await asking
            assert caught.value.code == "key_unknown"


@pytest.mark.parametrize("state", ["FROZEN", "COMPROMISED", "RETIRED"])
async def test_from_another_process_commit_on_a_key_signs_nothing_more(tmp_path: Path, state: str) -> None:
    async with open_world(tmp_path, keys=("k", "other")) as world:
        for key_id in ("k", "other"):  # so that both have uses reserved, and the next batch needs nothing else
            await world.engine.sign_digests(key_id, bytes(32), caller="app")
        await in_another_process(tmp_path, f"await world.engine.set_key_state('k', KeyState.{state}, 'cli:operator')")
        asked = [world.engine.sign_digests(key, bytes(32), caller="app") for key in ("k", "other", "k")]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [getattr(answer, "code", "signed") for answer in answers] == [
            f"key_{state.lower()}",
            "signed",
            f"key_{state.lower()}",
        ]
        rows = await world.audit_rows(
            {"FROZEN": "key.freeze", "COMPROMISED": "key.compromise", "RETIRED": "key.retire"}[state]
        )
        assert [(row.actor, row.subject) for row in rows] == [("cli:operator", "k")]


async def test_a_freeze_in_this_process_stops_what_waits(tmp_path: Path) -> None:
    settings = EngineSettings(inline_max=0, batch_max=64)
    async with open_world(tmp_path, keys=("k",), settings=settings) as world:
        waiting = asyncio.ensure_future(world.engine.sign_digests("k", bytes(32 * 20_000), caller="app"))
        await asyncio.sleep(0)
        await world.engine.set_key_state("k", KeyState.FROZEN, "test")
        with pytest.raises(Refused) as caught:
            await world.engine.sign_digests("k", bytes(32), caller="app")
        assert caught.value.code == "key_frozen"
        with pytest.raises(Refused):
            await waiting
        await world.engine.set_key_state("k", KeyState.ACTIVE, "test")
        assert len(await world.engine.sign_digests("k", bytes(32), caller="app")) == 64
        await world.engine.set_key_state("k", KeyState.COMPROMISED, "test")
        with pytest.raises(Refused) as caught:
            await world.engine.set_key_state("k", KeyState.ACTIVE, "test")
        assert caught.value.code == "key_state"


async def test_a_key_made_or_resumed_elsewhere_is_used_here(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("frozen",)) as world:
        await world.engine.set_key_state("frozen", KeyState.FROZEN, "test")
    async with open_world(tmp_path) as world:
        await in_another_process(
            tmp_path,
            "await world.engine.create_key('new', KeyPurpose.DATA, 'o', 't', callers=['app']); "
            "await world.engine.set_key_state('frozen', KeyState.ACTIVE, 't')",
        )
        for key_id in ("new", "frozen"):
            digest = secrets.token_bytes(32)
            raw = await world.engine.sign_digests(key_id, digest, caller="app")
            sm2.PublicKey.from_bytes(world.engine.public_key(key_id)).verify_digest(digest, raw)


async def test_a_key_file_that_is_gone_affects_that_key_alone(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("good",)) as world:
        await in_another_process(
            tmp_path, "await world.engine.create_key('lost', KeyPurpose.DATA, 'o', 't', callers=['app'])"
        )
        (tmp_path / "keys" / "lost.pem").unlink()
        with pytest.raises(Unavailable) as caught:
            await world.engine.sign_digests("lost", bytes(32), caller="app")
        assert caught.value.code == "key_unreadable"
        assert len(await world.engine.sign_digests("good", bytes(32), caller="app")) == 64


async def test_the_start_fails_on_a_key_that_cannot_be_used(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("a", "b")):
        pass
    keys = tmp_path / "keys"
    (keys / "a.pem").rename(keys / "kept.pem")
    for content, code in (
        (None, "key_missing"),
        ((keys / "b.pem").read_bytes(), "key_mismatch"),
        (b"", "key_unreadable"),
    ):
        if content is not None:
            (keys / "a.pem").write_bytes(content)
            (keys / "a.pem").chmod(0o600)
        with pytest.raises(SettingsError) as caught:
            async with open_world(tmp_path):
                pass
        assert caught.value.code == code


async def test_a_key_id_is_given_once(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",)) as world:
        with pytest.raises(Conflict) as caught:
            await world.engine.create_key("k", KeyPurpose.DATA, "owner", "test", callers=["*"])
        assert caught.value.code == "key_exists"
        rows = await world.audit_rows("key.create")
        assert [(row.actor, row.subject) for row in rows] == [("test", "k")]


async def test_the_reservation_is_on_disk_before_the_first_signature_leaves(tmp_path: Path) -> None:
    settings = EngineSettings(reserve_uses=100, reserve_uses_max=100)
    async with open_world(tmp_path, keys=("k",), settings=settings) as world:
        assert await world.audit_rows("sign.reserve") == []
        for _ in range(30):
            await world.engine.sign_digests("k", bytes(32), caller="app")
            assert len(await world.audit_rows("sign.reserve")) == 1
        for n in range(470):
            await world.engine.sign_digests("k", bytes(32), caller="app" if n % 2 else "other")
        reserved = len(await world.audit_rows("sign.reserve"))
        assert 5 <= reserved <= 6
        await world.engine.sign_digests("k", bytes(32 * 1_000), caller="app")  # more than a block at once
    async with open_world(tmp_path) as world:
        counted = {(row.actor, row.subject): row.detail for row in await world.audit_rows("sign.usage")}
        assert '"signatures":1265' in counted["app", "k"]
        assert '"signatures":235' in counted["other", "k"]
        async with world.database.read() as connection:
            assert (await audit_store.verify(connection)).broken_at is None


async def test_blocks_are_reserved_ahead_so_that_signing_does_not_wait(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",), settings=EngineSettings(reserve_uses=100)) as world:
        await world.engine.sign_digests("k", bytes(32 * 51), caller="app")
        while not world.engine._ledger.covers({"k": 149}):
            await world.audit_rows("sign.reserve")
        assert len(await world.audit_rows("sign.reserve")) == 2


async def test_blocks_grow_where_they_are_used_up_at_once(tmp_path: Path) -> None:
    settings = EngineSettings(reserve_uses=100, reserve_uses_max=3_000)
    async with open_world(tmp_path, keys=("k",), settings=settings) as world:
        for _ in range(300):
            await world.engine.sign_digests("k", bytes(32 * 50), caller="app")
        blocks = [int(row.detail.split('"uses":')[1].split(",")[0]) for row in await world.audit_rows("sign.reserve")]
        assert blocks[0] == 100
        assert max(blocks) <= 3_000
        assert all(after <= max(100, 4 * before) for before, after in itertools.pairwise(blocks))
        assert sum(blocks) >= 15_000
        assert len(blocks) < 75, "half as many as there would be"


async def test_counts_are_written_at_the_interval(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",), settings=EngineSettings(usage_interval_s=0.05)) as world:
        await world.engine.sign_digests("k", bytes(32 * 7), caller="app")
        while not (rows := await world.audit_rows("sign.usage")):
            pass
        assert '"signatures":7' in rows[0].detail


async def test_after_kill_9_the_reservation_is_in_the_record(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",)):
        pass
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom tests.engine_world import open_world\n"
        "async def main():\n"
        "    async with open_world(Path(sys.argv[1])) as world:\n"
        "        while True:\n"
        "            raw = await world.engine.sign_digests('k', bytes(32), caller='app')\n"
        "            sys.stdout.write(raw.hex() + '\\n'); sys.stdout.flush()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    left = [await process.stdout.readline() for _ in range(5)]
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    async with open_world(tmp_path) as world:
        public = sm2.PublicKey.from_bytes(world.engine.public_key("k"))
        for line in left:
            public.verify_digest(bytes(32), bytes.fromhex(line.decode()))
        rows = await world.audit_rows("sign.reserve")
        assert [(row.subject, '"uses":10000' in row.detail) for row in rows] == [("k", True)]
        async with world.database.read() as connection:
            assert (await audit_store.verify(connection)).broken_at is None


async def test_where_the_reservation_cannot_be_committed_nothing_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.store.sqlite._BUSY_TIMEOUT_MS", 50)
    async with open_world(tmp_path, keys=("k", "covered")) as world:
        await world.engine.sign_digests("covered", bytes(32), caller="app")
        lock = sqlite3.connect(tmp_path / "store.sqlite3", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(Unavailable) as caught:
                await world.engine.sign_digests("k", bytes(32), caller="app")
            assert caught.value.code == "store_unavailable"
            # What is reserved already may be used: that is durable.
            assert len(await world.engine.sign_digests("covered", bytes(32), caller="app")) == 64
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        assert len(await world.engine.sign_digests("k", bytes(32), caller="app")) == 64


async def test_a_clock_that_went_back_stops_signing_but_not_freezing(tmp_path: Path) -> None:
    now = [system_clock()]
    async with open_world(tmp_path, keys=("k",), clock=lambda: now[0]) as world:
        now[0] -= 60_000
        with pytest.raises(Unavailable) as caught:
            await world.engine.sign_digests("k", bytes(32), caller="app")
        assert caught.value.code == "clock_behind"
        await world.engine.set_key_state("k", KeyState.FROZEN, "test")
        with pytest.raises(Refused):
            await world.engine.sign_digests("k", bytes(32), caller="app")
        now[0] += 60_000


async def test_refusals_are_audited_singly_up_to_a_bound_and_summed_past_it(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",), settings=EngineSettings(refusals_per_interval=3)) as world:
        await world.engine.set_key_state("k", KeyState.FROZEN, "test")
        for _ in range(50):
            with pytest.raises(Refused):
                await world.engine.sign_digests("k", bytes(32), caller="app")
    async with open_world(tmp_path) as world:
        rows = await world.audit_rows("sign.refuse")
        assert len(rows) == 4
        assert {(row.actor, row.subject, row.outcome) for row in rows} == {("app", "k", "key_frozen")}
        assert rows[-1].detail == '{"count":47}'


async def test_one_batch_for_several_keys_is_one_native_call(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with open_world(tmp_path, keys=("a", "b", "c")) as world:
        follower = await FeedFollower.start(world.database)
        engine = SigningEngine(
            world.database, follower, world.keystore, EngineSettings(), system_clock, registry=registry
        )
        await engine.start()
        await asyncio.gather(*(engine.sign_digests(key, bytes(32), caller="app") for key in "abc"))
        digest = secrets.token_bytes(32)
        answers = await asyncio.gather(*(engine.sign_digests("abc"[n % 3], digest, caller="app") for n in range(30)))
        for n, raw in enumerate(answers):
            sm2.PublicKey.from_bytes(engine.public_key("abc"[n % 3])).verify_digest(digest, raw)
        text = generate_latest(registry).decode()
        assert "qianyan_sign_batch_size_count 2.0" in text
        assert "qianyan_sign_batch_size_sum 33.0" in text
        assert "qianyan_sign_pending 0.0" in text
        await engine.close()
        follower.close()


async def test_closing_the_engine_answers_what_was_accepted(tmp_path: Path) -> None:
    async with open_world(tmp_path, keys=("k",)):
        pass
    database = await open_database(store_url(tmp_path))
    follower = await FeedFollower.start(database)
    keystore = key_store(tmp_path)
    engine = SigningEngine(database, follower, keystore, EngineSettings(batch_max=500, inline_max=0), system_clock)
    await engine.start()
    asked = [asyncio.ensure_future(engine.sign_digests("k", bytes(32 * 900), caller="app")) for _ in range(3)]
    await asyncio.sleep(0)
    await engine.close()
    assert [len(await waiting) for waiting in asked] == [900 * 64] * 3
    with pytest.raises(Unavailable) as caught:
        await engine.sign_digests("k", bytes(32), caller="app")
    assert caught.value.code == "stopping"
    follower.close()
    await database.close()
    keystore.close()
