"""Libraries that are not like each other: functions missing, few sessions, a handle for each session."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.errors import SettingsError
from signer._native import sm2
from signer.engine.sdf import abi
from signer.engine.sdf.abi import DeviceMistake
from signer.engine.sdf.pool import SdfPool
from signer.engine.sdf.rights import Rights
from signer.engine.sdf.session import Connection, Session
from signer.engine.sdf.settings import SdfDeviceSettings
from tests.hsm_world import INDEX, Hsm, Load, make_devices, open_hsm, settings_for, until
from tests.softsdf import build


def test_a_library_without_the_functions_that_signing_does_not_need(tmp_path: Path) -> None:
    native = ctypes.CDLL(str(build("-DSOFTSDF_BARE")))
    assert not hasattr(native, "SDF_GetDeviceInfo")
    assert not hasattr(native, "SDF_ReleasePrivateKeyAccessRight")
    key = sm2.PrivateKey.generate()
    devices = make_devices(tmp_path, 2, key, "-DSOFTSDF_BARE")
    settings = settings_for(tmp_path, devices, health_interval_s=0.02)
    pool = SdfPool(settings)
    pool.start()
    try:
        hsm = Hsm(tmp_path, devices, key, settings, pool)
        assert [one.description for one in pool.status()] == ["", ""]
        handle = hsm.open()
        made = hsm.devices[0]["signatures"]
        until(lambda: hsm.devices[0]["signatures"] > made)  # its health is asked by a signature
        hsm.sign(handle, 100)
    finally:
        pool.close()


def test_a_session_on_a_library_without_access_rights_asks_for_no_password(tmp_path: Path) -> None:
    library = abi.Library(str(make_devices(tmp_path, 1, sm2.PrivateKey.generate())[0].library))
    library.get_right = None

    def password(_index: int) -> bytearray:
        raise AssertionError("nobody needs it")

    session = Session(Connection(library), password, Rights(set()))
    session.ready(INDEX)
    with pytest.raises(DeviceMistake, match="permissions"):  # this device does want a right
        session.sign(INDEX, bytes(32))
    with pytest.raises(SettingsError, match="SDF_OpenDevice"):
        abi.Library("libc.so.6")


def test_a_device_with_fewer_sessions_than_asked_for_is_used_with_those(tmp_path: Path) -> None:
    with open_hsm(tmp_path, sessions=8) as hsm:
        handle = hsm.open()
        hsm.devices[0]["sessions_max"] = 3
        hsm.pool.drain("d0")
        with capture_logs() as logs:
            hsm.pool.resume("d0")
        said = [entry for entry in logs if entry["event"] == "hsm_fewer_sessions"]
        assert [(entry["wanted"], entry["got"]) for entry in said] == [(8, 3)]
        assert (hsm.status(0).sessions, hsm.status(0).sessions_wanted) == (3, 8)
        assert hsm.status(0).failures == {}
        made = hsm.devices[0]["signatures"]
        with Load(hsm, handle):
            until(lambda: hsm.devices[0]["signatures"] > made + 50)
        assert hsm.devices[0]["sessions_open"] == 3
        assert hsm.devices[0]["concurrent"] == 0


def test_a_device_without_any_session_to_give_is_out(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        hsm.pool.drain("d0")
        hsm.devices[0]["sessions_max"] = 1
        other = abi.Library(str(hsm.devices[0].library))
        device, session = ctypes.c_void_p(), ctypes.c_void_p()
        assert other.open_device(ctypes.byref(device)) == abi.OK
        assert other.open_session(device, ctypes.byref(session)) == abi.OK
        with pytest.raises(Exception, match="OPENSESSION"):
            hsm.pool.resume("d0")
        assert hsm.devices[0]["devices_open"] == 1, "what was opened in vain is closed"
        assert other.close_session(session) == abi.OK
        hsm.until_state(0, "in_service")
        assert hsm.status(0).sessions == 1


def test_a_handle_for_each_session(tmp_path: Path) -> None:
    def entry(n: int) -> SdfDeviceSettings:
        return SdfDeviceSettings(name=f"d{n}", library=str(tmp_path / f"d{n}" / "libdevice.so"), handles="per_session")

    with open_hsm(tmp_path, devices=(entry(0), entry(1))) as hsm:
        assert [device["devices_open"] for device in hsm.devices] == [4, 4]
        hsm.devices[0]["alone"] = 1
        hsm.pool.drain("d0")
        assert hsm.devices[0]["devices_open"] == 0
        hsm.pool.resume("d0")
        assert hsm.status(0).sessions == 4
        hsm.sign(hsm.open(), 100)
        devices = hsm.devices
    until(lambda: not any(device["devices_open"] for device in devices))
    assert [device["bad_handles"] for device in hsm.devices] == [0, 0]


def test_a_handle_that_takes_one_session_gives_one(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        hsm.devices[0]["alone"] = 1
        hsm.pool.drain("d0")
        hsm.pool.resume("d0")
        assert hsm.status(0).sessions == 1
        hsm.sign(handle, 50)


def test_a_changed_password_is_tried_once_however_many_sessions_miss_their_right(tmp_path: Path) -> None:
    with open_hsm(tmp_path, sessions=16) as hsm:
        handle = hsm.open()
        with Load(hsm, handle, count=64) as load:
            load.more()
            (hsm.devices[0].directory / "password").write_bytes(b"changed in the device")
            hsm.devices[0]["right_epoch"] += 1
            until(lambda: INDEX in hsm.status(0).mistakes)
            load.more()
        assert hsm.devices[0]["wrong_passwords"] == 1
        assert hsm.status(0).state == "in_service"
