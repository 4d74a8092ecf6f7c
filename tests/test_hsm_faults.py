"""Devices that fail, stall, lie and come back: what becomes of the requests, and of the device."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from core.errors import Unavailable
from signer.engine.sdf.abi import CODES
from tests.hsm_world import Load, open_hsm, until
from tests.softsdf import ALWAYS


def test_a_device_that_dies_under_load_fails_no_request_and_comes_back(tmp_path: Path) -> None:
    with open_hsm(tmp_path, count=3) as hsm:
        handle = hsm.open()
        for device in hsm.devices:
            device["latency_us"] = 1_000
        with Load(hsm, handle) as load:
            load.more()
            hsm.devices[0].kill()
            hsm.until_state(0, "out")
            died_at = hsm.devices[0]["signatures"]
            load.more(50)
            assert hsm.devices[0]["signatures"] == died_at
            hsm.devices[0].repair()
            hsm.until_state(0, "in_service")
            until(lambda: hsm.devices[0]["signatures"] > died_at + 100)
        assert hsm.status(0).failures["communication"] >= 1
        assert [one.state for one in hsm.pool.status()] == ["in_service"] * 3


def test_all_devices_but_one_may_die(tmp_path: Path) -> None:
    with open_hsm(tmp_path, count=4) as hsm:
        handle = hsm.open()
        with Load(hsm, handle) as load:
            for device in hsm.devices[:3]:
                device.kill()
                load.more()
        assert [one.state for one in hsm.pool.status()] == ["out", "out", "out", "in_service"]


def test_a_call_that_stalls_is_moved_within_the_deadline(tmp_path: Path) -> None:
    with open_hsm(tmp_path, call_timeout_ms=300, request_timeout_ms=10_000) as hsm:
        handle = hsm.open()
        with Load(hsm, handle) as load:
            load.more()
            hsm.devices[0]["hang"] = 1
            hsm.until_state(0, "out")
            load.more()
            assert hsm.status(0).failures["stalled"] >= 1
            assert hsm.status(0).abandoned >= 1
        assert load.slowest_s < 5
        made = hsm.devices[0]["signatures"]
        hsm.devices[0]["hang"] = 0
        until(lambda: hsm.status(0).abandoned == 0)  # what was given up has returned, and was given back
        hsm.until_state(0, "in_service")
        assert hsm.devices[0]["sessions_open"] == 4
        assert hsm.devices[0]["devices_open"] == 1
        assert hsm.devices[0]["concurrent"] == 0
        with Load(hsm, handle) as load:
            until(lambda: hsm.devices[0]["signatures"] > made + 20)


def test_calls_that_never_return_are_bounded(tmp_path: Path) -> None:
    with open_hsm(tmp_path, call_timeout_ms=100, open_timeout_ms=200, abandoned_max=6) as hsm:
        handle = hsm.open()
        hsm.devices[0]["hang"] = 1
        with Load(hsm, handle) as load:
            hsm.until_state(0, "out")
            until(lambda: hsm.status(0).abandoned >= 6)  # 4 signatures, then attempts to open it
            until(lambda: "never returned" in (hsm.status(0).reason or ""))
            load.more(100)
        assert hsm.status(0).abandoned == 6
        assert hsm.devices[0]["hanging"] == 6
        hsm.devices[0]["hang"] = 0
        hsm.until_state(0, "in_service")
        assert hsm.status(0).abandoned == 0


def test_a_device_that_stalls_while_it_is_drained_does_not_keep_its_work(tmp_path: Path) -> None:
    with open_hsm(tmp_path, call_timeout_ms=300) as hsm:
        handle = hsm.open()
        with Load(hsm, handle) as load:
            load.more()
            hsm.devices[0]["hang"] = 1
            until(lambda: hsm.devices[0]["hanging"])
            with pytest.raises(Unavailable) as caught:
                hsm.pool.drain("d0")
            assert caught.value.code == "hsm_drain"
            load.more()
        assert hsm.status(0).state == "drained"
        assert load.slowest_s < 5


def test_with_every_device_out_a_request_waits_for_one_to_come_back(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        for device in hsm.devices:
            device.kill()
        asking = threading.Thread(target=hsm.sign, args=(handle, 30))
        asking.start()
        for number in (0, 1):
            hsm.until_state(number, "out")
        hsm.devices[1].repair()
        asking.join(30)
        assert not asking.is_alive()
        hsm.sign(handle, 30)


def test_after_a_long_outage_requests_are_refused_at_once(tmp_path: Path) -> None:
    with open_hsm(tmp_path, call_timeout_ms=100, request_timeout_ms=400) as hsm:
        handle = hsm.open()
        for device in hsm.devices:
            device.kill()
        with pytest.raises(Unavailable) as caught:
            hsm.sign(handle)
        assert caught.value.code == "hsm_deadline"

        def refused_at_once() -> bool:
            began = time.monotonic()
            with pytest.raises(Unavailable) as caught:
                hsm.sign(handle)
            return caught.value.code == "hsm_unavailable" and time.monotonic() - began < 0.2

        until(refused_at_once)
        hsm.devices[0].repair()
        hsm.until_state(0, "in_service")
        hsm.sign(handle, 10)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (CODES["COMMFAIL"], "communication"),
        (CODES["HARDFAIL"], "hardware"),
        (CODES["UNKNOWERR"], "unknown"),
        (CODES["SKOPERR"], "operation"),
        (0x01010103, "operation"),  # a vendor's own
    ],
)
def test_one_failed_signature_is_made_elsewhere(tmp_path: Path, code: int, kind: str) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        hsm.devices[0]["sign_code"] = code
        hsm.devices[0]["sign_failures"] = 1
        until(lambda: (hsm.sign(handle, 10), hsm.status(0).failures)[1])
        assert hsm.status(0).failures == {kind: 1}
        hsm.until_state(0, "in_service")


def test_a_wrong_signature_does_not_leave_where_all_are_verified(tmp_path: Path) -> None:
    with open_hsm(tmp_path, verify_one_in=1) as hsm:
        handle = hsm.open()
        hsm.devices[0]["wrong"] = 1
        # The other device may be the quicker one for long.
        until(lambda: (hsm.sign(handle, 10), hsm.status(0).failures.get("signature"))[1])
        hsm.until_state(0, "out")


def test_numbers_at_the_wrong_end_of_their_fields_are_not_taken(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        hsm.devices[0]["left_aligned"] = 1
        until(lambda: (hsm.sign(handle, 10), hsm.status(0).failures.get("encoding"))[1])


def test_pauses_between_attempts_grow_and_are_jittered(tmp_path: Path) -> None:
    with open_hsm(tmp_path, backoff_min_ms=40, backoff_max_ms=1_000) as hsm:
        device = next(iter(hsm.pool.devices))
        for failed, longest in ((0, 0.04), (1, 0.08), (3, 0.32), (10, 1.0), (1_000, 1.0)):
            device.attempts_failed = failed
            pauses = {device.pause(hsm.settings) for _ in range(50)}
            assert longest / 2 <= min(pauses) < max(pauses) <= longest
        device.attempts_failed = 0
        hsm.devices[0].kill()
        with pytest.raises(Unavailable):
            hsm.pool.resume("d0")
        until(lambda: device.attempts_failed >= 3)


def test_a_device_that_is_down_at_the_start_is_taken_in_later(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        hsm.pool.drain("d0")
        hsm.devices[0]["open_code"] = CODES["OPENDEVICE"]
        with pytest.raises(Unavailable):
            hsm.pool.resume("d0")
        handle = hsm.open()
        assert hsm.status(0).state == "out"
        hsm.devices[0].repair()
        hsm.until_state(0, "in_service")
        hsm.pool.drain("d1")
        hsm.sign(handle, 20)


def test_a_key_that_fails_alone_does_not_take_the_device_with_it(tmp_path: Path) -> None:
    with open_hsm(tmp_path, count=1) as hsm:
        other = hsm.key
        hsm.devices[0].put_key(5, other)
        one, two = hsm.open(), hsm.pool.open(5, other.public_key.to_bytes())
        (hsm.devices[0].directory / "sign-5.key").unlink()
        hsm.devices[0]["right_epoch"] += 1
        with pytest.raises(Exception, match="index 5"):
            hsm.pool.sign([(two, 1)], bytes(32))
        hsm.sign(one, 10)
        assert list(hsm.status(0).mistakes) == [5]
        assert hsm.status(0).state == "in_service"


def test_a_process_with_a_call_that_never_returns_can_end(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.hsm_world import *\n"
        "key = sm2.PrivateKey.generate()\n"
        "where = Path(sys.argv[1])\n"
        "devices = make_devices(where, 2, key)\n"
        "pool = SdfPool(settings_for(where, devices, 2, call_timeout_ms=100))\n"
        "pool.start()\n"
        "handle = pool.open(INDEX, key.public_key.to_bytes())\n"
        "devices[0]['hang'] = 1\n"
        "while not pool.status()[0].abandoned: pool.sign([(handle, 8)], bytes(256))\n"
        "pool.close()\n"
        "print('ended')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("ended\n")


def test_a_device_whose_every_signature_fails_stays_out(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        hsm.devices[0]["sign_code"] = CODES["SIGNERR"]
        hsm.devices[0]["sign_failures"] = ALWAYS
        with Load(hsm, handle) as load:
            load.more()
            hsm.until_state(0, "out")
            until(lambda: hsm.status(0).failures["operation"] >= 4)  # it was opened, and not proven
            assert hsm.status(0).state == "out"
