"""The pool over soft devices in order: signatures, sharing of work, rights, maintenance, health, accounts."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from core.errors import SettingsError, Unavailable
from signer._native import sm2
from signer.engine.sdf import abi
from signer.engine.sdf.abi import DeviceFault
from signer.engine.sdf.rights import Rights
from signer.engine.sdf.session import Connection, Session
from signer.engine.sdf.settings import SdfDeviceSettings
from tests.hsm_world import INDEX, Load, make_devices, open_hsm, until
from tests.judges import openssl
from tests.softsdf import PASSWORD


def test_signatures_are_right_by_our_core_and_by_openssl(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        digests = secrets.token_bytes(32 * 300)
        signatures = hsm.pool.sign([(handle, 300)], digests)
        assert sm2.verify_many(hsm.key.public_key, digests, signatures) == b"\1" * 300
        for n in (0, 150, 299):
            raw = signatures[64 * n : 64 * n + 64]
            openssl.verify_digest(handle.public_key, digests[32 * n : 32 * n + 32], sm2.signature_to_der(raw))
        assert all(device["signatures"] for device in hsm.devices)


def test_a_batch_of_several_keys_keeps_its_order(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        other = sm2.PrivateKey.generate()
        for device in hsm.devices:
            device.put_key(7, other)
        one, two = hsm.open(), hsm.pool.open(7, other.public_key.to_bytes())
        digests = secrets.token_bytes(32 * 60)
        signatures = hsm.pool.sign([(one, 10), (two, 20), (one, 25), (two, 5)], digests)
        owners = (
            [hsm.key.public_key] * 10 + [other.public_key] * 20 + [hsm.key.public_key] * 25 + [other.public_key] * 5
        )
        assert sm2.verify_many(owners, digests, signatures) == b"\1" * 60


def test_a_slow_device_gets_less_of_the_work(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        hsm.devices[0]["latency_us"] = 40_000
        hsm.devices[1]["latency_us"] = 1_000
        before = [device["signatures"] for device in hsm.devices]
        with Load(hsm, handle, threads=2, count=64) as load:
            load.more(10)
        slow, fast = (device["signatures"] - was for device, was in zip(hsm.devices, before, strict=True))
        assert fast > 4 * slow


def test_a_lone_request_goes_to_the_device_that_is_less_busy(tmp_path: Path) -> None:
    with open_hsm(tmp_path, sessions=2) as hsm:
        handle = hsm.open()
        hsm.devices[0]["latency_us"] = hsm.devices[1]["latency_us"] = 700_000
        background = threading.Thread(target=hsm.sign, args=(handle, 1))
        background.start()
        until(lambda: sum(one.in_use for one in hsm.pool.status()) == 1)
        busy = 0 if hsm.status(0).in_use else 1
        before = hsm.devices[busy]["signatures"]
        hsm.sign(handle)
        background.join()
        assert hsm.devices[busy]["signatures"] == before + 1


def test_no_session_is_used_by_two_threads(tmp_path: Path) -> None:
    with open_hsm(tmp_path, sessions=3) as hsm:
        handle = hsm.open()
        for device in hsm.devices:
            device["latency_us"] = 2_000
        with Load(hsm, handle, threads=8, count=20) as load:
            load.more(60)
        assert [device["concurrent"] for device in hsm.devices] == [0, 0]
        assert [device["bad_handles"] for device in hsm.devices] == [0, 0]
        assert [device["most_at_once"] for device in hsm.devices] == [3, 3]  # and all of them are used


def test_the_soft_device_notices_a_session_used_by_two_threads(tmp_path: Path) -> None:
    device = make_devices(tmp_path, 1, sm2.PrivateKey.generate())[0]
    connection = Connection(abi.Library(str(device.library)))
    session = Session(connection, lambda index: bytearray(PASSWORD), Rights(set()))
    device["latency_us"] = 300_000
    thread = threading.Thread(target=session.sign, args=(INDEX, bytes(32)))
    thread.start()
    until(lambda: device["at_once"] == 1)
    with pytest.raises(DeviceFault):
        session.describe()
    thread.join()
    assert device["concurrent"] == 1


def test_a_library_that_is_not_thread_safe_is_entered_by_one_thread(tmp_path: Path) -> None:
    def entry(n: int) -> SdfDeviceSettings:
        return SdfDeviceSettings(name=f"d{n}", library=str(tmp_path / f"d{n}" / "libdevice.so"), thread_safe=False)

    with open_hsm(tmp_path, devices=(entry(0), entry(1))) as hsm:
        handle = hsm.open()
        for device in hsm.devices:
            device["latency_us"] = 1_000
        hsm.sign(handle, 100)
        assert [device["most_at_once"] for device in hsm.devices] == [1, 1]


def test_the_right_is_asked_for_once_in_a_session_and_again_when_it_is_lost(tmp_path: Path) -> None:
    with open_hsm(tmp_path, sessions=4) as hsm:
        handle = hsm.open()
        with Load(hsm, handle) as load:
            load.more(50)
            assert all(device["rights_asked"] <= 4 for device in hsm.devices)
            for device in hsm.devices:
                device["right_epoch"] += 1
            load.more(50)
        assert all(5 <= device["rights_asked"] <= 8 for device in hsm.devices)
        assert [one.state for one in hsm.pool.status()] == ["in_service", "in_service"]
        assert [one.failures for one in hsm.pool.status()] == [{}, {}]


def test_drain_under_load_fails_nothing_and_resume_brings_the_device_back(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        for device in hsm.devices:
            device["latency_us"] = 1_000
        with Load(hsm, handle) as load:
            load.more()
            hsm.pool.drain("d0")
            assert hsm.devices[0]["sessions_open"] == hsm.devices[0]["devices_open"] == 0
            drained_at = hsm.devices[0]["signatures"]
            load.more(50)
            assert hsm.devices[0]["signatures"] == drained_at
            assert hsm.status(0).state == "drained"
            hsm.pool.resume("d0")
            until(lambda: hsm.devices[0]["signatures"] > drained_at + 20)
        with pytest.raises(SettingsError) as caught:
            hsm.pool.drain("d9")
        assert caught.value.code == "hsm_device"


def test_with_every_device_drained_a_request_is_refused_at_once(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        hsm.pool.drain("d0")
        hsm.pool.drain("d1")
        with pytest.raises(Unavailable) as caught:
            hsm.sign(handle)
        assert caught.value.code == "hsm_unavailable"


def test_an_idle_device_that_signs_wrongly_is_found(tmp_path: Path) -> None:
    with open_hsm(tmp_path, health_interval_s=0.05) as hsm:
        handle = hsm.open()
        hsm.devices[0]["wrong"] = 1
        hsm.until_state(0, "out")
        assert hsm.status(0).failures["signature"] >= 1
        hsm.sign(handle, 50)
        hsm.devices[0]["wrong"] = 0
        hsm.until_state(0, "in_service")


def test_an_idle_device_without_keys_is_asked_how_it_is(tmp_path: Path) -> None:
    with open_hsm(tmp_path, health_interval_s=0.05) as hsm:
        hsm.devices[0].kill()
        hsm.until_state(0, "out")


def test_a_key_that_was_let_go_is_not_signed_with(tmp_path: Path) -> None:
    with open_hsm(tmp_path, health_interval_s=0.02) as hsm:
        handle = hsm.open()
        made = sum(device["signatures"] for device in hsm.devices)
        until(lambda: sum(device["signatures"] for device in hsm.devices) > made)
        del handle
        until(lambda: not hsm.pool.keys_in_use())
        until(lambda: all(one.in_use == one.waiting == 0 for one in hsm.pool.status()))
        made = sum(device["signatures"] for device in hsm.devices)
        hsm.devices[0].kill()
        hsm.until_state(0, "out")  # several health checks later
        hsm.devices[0].repair()
        hsm.until_state(0, "in_service")
        assert sum(device["signatures"] for device in hsm.devices) == made


def test_closing_gives_everything_back(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        hsm.sign(hsm.open(), 10)
        assert [device["sessions_open"] for device in hsm.devices] == [4, 4]
        devices = hsm.devices
    until(lambda: not any(device["devices_open"] for device in devices))  # closing has a limit to its patience
    assert [device["sessions_open"] for device in hsm.devices] == [0, 0]
    assert [device["devices_open"] for device in hsm.devices] == [0, 0]
    assert [device["bad_handles"] for device in hsm.devices] == [0, 0]


def test_metrics(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with open_hsm(tmp_path, registry=registry) as hsm:
        hsm.sign(hsm.open(), 40)
        hsm.devices[1].kill()
        hsm.sign(hsm.open(), 40)
        hsm.until_state(1, "out")
        text = generate_latest(registry).decode()
    made = sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("qianyan_hsm_signatures_total{"))
    assert made == 80
    assert 'qianyan_hsm_in_service{device="d0"} 1.0' in text
    assert 'qianyan_hsm_in_service{device="d1"} 0.0' in text
    assert 'qianyan_hsm_failures_total{device="d1",kind="communication"}' in text
    assert "qianyan_hsm_batch_seconds_count 2.0" in text
    assert 'qianyan_hsm_sessions{device="d0"} 4.0' in text
