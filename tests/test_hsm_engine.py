"""Device keys behind the engine: registered, used beside software keys, frozen, and with devices that are not there."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.clock import system_clock
from core.errors import Conflict, Refused, SettingsError, Unavailable
from core.model import KeyPurpose, KeyState
from core.store import keys
from core.store.database import open_database
from signer._native import sm2
from signer.engine.sdf.backend import SdfBackend
from signer.engine.settings import EngineSettings
from tests.engine_world import World, open_world, store_url
from tests.hsm_world import INDEX, Hsm, open_hsm, until
from tests.judges import openssl


@pytest.fixture
def hsm(tmp_path: Path) -> Iterator[Hsm]:
    directory = tmp_path / "hsm"
    directory.mkdir()
    with open_hsm(directory, call_timeout_ms=3_000) as made:
        yield made


def backend(hsm: Hsm) -> SdfBackend:
    return SdfBackend(hsm.pool)


async def register(world: World, key_id: str = "device", index: int = INDEX) -> bytes:
    return await world.engine.register_device_key(key_id, KeyPurpose.DATA, "owner", index, "test", callers=["*"])


async def test_a_device_key_is_registered_and_signs(tmp_path: Path, hsm: Hsm) -> None:
    async with open_world(tmp_path, devices=backend(hsm)) as world:
        public_key = await register(world)
        assert public_key == hsm.key.public_key.to_bytes()
        digests = secrets.token_bytes(32 * 200)
        signatures = await world.engine.sign_digests("device", digests, caller="app")
        assert sm2.verify_many(hsm.key.public_key, digests, signatures) == b"\1" * 200
        raw = await world.engine.sign_message("device", b"a message", user_id=sm2.DEFAULT_ID, caller="app")
        openssl.verify(public_key, b"a message", sm2.signature_to_der(raw))
        async with world.database.read() as connection:
            record = await keys.get(connection, "device")
        assert (record.backend, record.device_index, record.state) == ("sdf", INDEX, KeyState.ACTIVE)
        rows = await world.audit_rows("key.register")
        assert [(row.actor, row.subject) for row in rows] == [("test", "device")]
        assert '"device_index":1' in rows[0].detail
    async with open_world(tmp_path, devices=backend(hsm)) as world:  # and after a restart
        digest = secrets.token_bytes(32)
        hsm.key.public_key.verify_digest(digest, await world.engine.sign_digests("device", digest, caller="app"))


async def test_a_device_key_frozen_elsewhere_signs_nothing_more_here(tmp_path: Path, hsm: Hsm) -> None:
    async with open_world(tmp_path, devices=backend(hsm)) as world:
        await register(world)
        await world.engine.sign_digests("device", bytes(32), caller="app")
        elsewhere = await open_database(store_url(tmp_path))
        async with elsewhere.write() as connection:
            await keys.change_state(connection, "device", KeyState.FROZEN, at_ms=system_clock())
        await elsewhere.close()
        with pytest.raises(Refused) as caught:
            await world.engine.sign_digests("device", bytes(32), caller="app")
        assert caught.value.code == "key_frozen"
        until(lambda: not hsm.pool.keys_in_use())  # health checks and returning devices sign nothing with it, either
        await world.engine.set_key_state("device", KeyState.ACTIVE, "test")
        assert len(await world.engine.sign_digests("device", bytes(32), caller="app")) == 64


async def test_software_keys_do_not_wait_for_devices(tmp_path: Path, hsm: Hsm) -> None:
    async with open_world(tmp_path, devices=backend(hsm), keys=("soft",)) as world:
        await register(world)
        for device in hsm.devices:
            device["hang"] = 1
        waiting = asyncio.ensure_future(world.engine.sign_digests("device", bytes(32 * 100), caller="app"))
        while not any(device["hanging"] for device in hsm.devices):
            await world.engine.sign_digests("soft", bytes(32), caller="app")
        for count in (1, 100, 1):
            assert len(await world.engine.sign_digests("soft", bytes(32 * count), caller="app")) == 64 * count
        assert not waiting.done()
        for device in hsm.devices:
            device["hang"] = 0
        assert len(await waiting) == 6_400


async def test_a_batch_that_waits_for_a_stalled_device_holds_up_no_other(tmp_path: Path) -> None:
    (tmp_path / "patient").mkdir()
    # So patient that the stalled call is not given up, whatever else the machine does.
    patient = {"call_timeout_ms": 30_000, "request_timeout_ms": 60_000}
    with open_hsm(tmp_path / "patient", **patient) as hsm:
        async with open_world(tmp_path, devices=backend(hsm)) as world:
            await register(world)
            await asyncio.to_thread(until, lambda: all(INDEX in device.proven for device in hsm.pool.devices))
            for device in hsm.devices:
                device["latency_us"] = 1_000
            while [device["rights_asked"] for device in hsm.devices] != [4, 4]:  # by then every session may sign
                await world.engine.sign_digests("device", bytes(32 * 8), caller="app")
            for device in hsm.devices:
                device["hang"] = 1
            first = asyncio.ensure_future(world.engine.sign_digests("device", bytes(32 * 8), caller="app"))
            await asyncio.to_thread(until, lambda: [device["hanging"] for device in hsm.devices] == [4, 4])
            hsm.devices[0]["hang"] = 0
            assert len(await world.engine.sign_digests("device", bytes(32), caller="app")) == 64
            assert not first.done()
            hsm.devices[1]["hang"] = 0
            assert len(await first) == 8 * 64


async def test_slices_of_a_long_item_keep_their_order(tmp_path: Path, hsm: Hsm) -> None:
    settings = EngineSettings(batch_max=16, inline_max=0)
    async with open_world(tmp_path, devices=backend(hsm), settings=settings) as world:
        await register(world)
        digests = secrets.token_bytes(32 * 500)
        signatures = await world.engine.sign_digests("device", digests, caller="app")
        assert sm2.verify_many(hsm.key.public_key, digests, signatures) == b"\1" * 500


async def test_reservations_cover_what_parallel_batches_use(tmp_path: Path, hsm: Hsm) -> None:
    settings = EngineSettings(reserve_uses=50, batch_max=20, inline_max=0)
    async with open_world(tmp_path, devices=backend(hsm), settings=settings) as world:
        await register(world)
        asked = [world.engine.sign_digests("device", bytes(32 * (1 + n % 19)), caller="app") for n in range(100)]
        await asyncio.gather(*asked)
        used = sum(1 + n % 19 for n in range(100))
    async with open_world(tmp_path, devices=backend(hsm)) as world:
        rows = await world.audit_rows("sign.reserve")
        reserved = sum(int(row.detail.split('"uses":')[1].split(",")[0].rstrip("}")) for row in rows)
        assert reserved >= used
        usage = await world.audit_rows("sign.usage")
        assert sum(int(row.detail.split('"signatures":')[1].split(",")[0].rstrip("}")) for row in usage) == used


async def test_a_device_dying_under_load_fails_no_request(tmp_path: Path, hsm: Hsm) -> None:
    async with open_world(tmp_path, devices=backend(hsm)) as world:
        await register(world)

        async def client(rounds: int) -> None:
            for n in range(rounds):
                digests = secrets.token_bytes(32 * (1 + n % 5))
                signatures = await world.engine.sign_digests("device", digests, caller="app")
                assert sm2.verify_many(hsm.key.public_key, digests, signatures) == b"\1" * (1 + n % 5)

        clients = [asyncio.ensure_future(client(40)) for _ in range(20)]
        await clients[0]
        hsm.devices[1].kill()
        await asyncio.gather(*clients, *(client(20) for _ in range(10)))
        assert hsm.status(1).state == "out"


async def test_what_cannot_be_registered(tmp_path: Path, hsm: Hsm) -> None:
    async with open_world(tmp_path, devices=backend(hsm)) as world:
        with pytest.raises(SettingsError) as caught:
            await register(world, index=9)
        assert caught.value.code == "hsm_key_missing"
        await register(world)
        with pytest.raises(Conflict) as taken:
            await register(world, "again")
        assert taken.value.code == "hsm_index_taken"
        with pytest.raises(Conflict) as exists:
            await register(world)
        assert exists.value.code == "key_exists"
        for device in hsm.devices:
            device.put_key(3, sm2.PrivateKey.generate())
        with pytest.raises(SettingsError) as caught:
            await register(world, "three", 3)
        assert caught.value.code == "hsm_key_mismatch"
        hsm.devices[1].put_key(4, hsm.key)
        assert len(await world.engine.sign_digests("device", bytes(32), caller="app")) == 64


async def test_a_key_whose_signatures_are_wrong_is_not_registered(tmp_path: Path, hsm: Hsm) -> None:
    async with open_world(tmp_path, devices=backend(hsm)) as world:
        for device in hsm.devices:
            device["wrong"] = 1
        with pytest.raises(Unavailable):
            await register(world)
        with pytest.raises(Unavailable):
            await register(world)
        async with world.database.read() as connection:
            assert await keys.list_all(connection) == []


async def test_without_devices(tmp_path: Path, hsm: Hsm) -> None:
    async with open_world(tmp_path, devices=backend(hsm)) as world:
        await register(world)
    with pytest.raises(SettingsError) as caught:
        async with open_world(tmp_path):
            pass
    assert caught.value.code == "hsm_missing"
    other = tmp_path / "other"
    other.mkdir()
    async with open_world(other) as world:
        with pytest.raises(SettingsError) as caught:
            await register(world)
        assert caught.value.code == "hsm_missing"


async def test_the_start_does_not_fail_with_devices_down_but_does_with_a_wrong_password(
    tmp_path: Path, hsm: Hsm
) -> None:
    async with open_world(tmp_path, devices=backend(hsm), keys=("soft",)) as world:
        await register(world)
    password = hsm.directory / "password"
    right = password.read_bytes()
    password.write_bytes(b"wrong\n")
    for name in ("d0", "d1"):
        await asyncio.to_thread(hsm.pool.drain, name)
        await asyncio.to_thread(hsm.pool.resume, name)
    with pytest.raises(SettingsError) as caught:
        async with open_world(tmp_path, devices=backend(hsm)):
            pass
    assert caught.value.code == "hsm_password"
    password.write_bytes(right)
    for device in hsm.devices:
        device.kill()
    for name in ("d0", "d1"):
        with pytest.raises(Unavailable):
            await asyncio.to_thread(hsm.pool.resume, name)
    async with open_world(tmp_path, devices=backend(hsm)) as world:
        assert len(await world.engine.sign_digests("soft", bytes(32), caller="app")) == 64
        waiting = asyncio.ensure_future(world.engine.sign_digests("device", bytes(32), caller="app"))
        hsm.devices[0].repair()
        assert len(await waiting) == 64


async def test_a_device_key_cannot_be_made_here(hsm: Hsm) -> None:
    with pytest.raises(Refused) as caught:
        backend(hsm).create("new")
    assert caught.value.code == "hsm_create"
    assert threading.active_count() > 8
