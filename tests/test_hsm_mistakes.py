"""Settings that do not fit the devices: said as such, once, with what to do; nothing is tried again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from core.errors import SettingsError, Unavailable
from signer._native import sm2
from signer.engine.sdf import abi
from signer.engine.sdf.abi import CODES, DeviceFault, DeviceMistake
from signer.engine.sdf.passwords import read_password
from signer.engine.sdf.settings import SdfDeviceSettings, SdfSettings
from tests.hsm_world import INDEX, Load, open_hsm, until
from tests.softsdf import PASSWORD


@pytest.mark.parametrize("code", [0, CODES["PARDENY"], CODES["INARGERR"], 0x01000100])
def test_a_wrong_password_is_reported_and_not_tried_again(tmp_path: Path, code: int) -> None:
    with open_hsm(tmp_path) as hsm:
        (tmp_path / "password").write_bytes(b"another one\n")
        for device in hsm.devices:
            device["password_code"] = code
        with capture_logs() as logs, pytest.raises(SettingsError) as caught:
            hsm.open()
        assert caught.value.code == "hsm_password"
        assert "password file" in caught.value.detail
        assert [device["wrong_passwords"] for device in hsm.devices] == [1, 1]
        assert [one.state for one in hsm.pool.status()] == ["in_service", "in_service"]
        assert b"another one".decode() not in repr(logs)
        hsm.devices[0].kill()
        hsm.devices[0].repair()
        assert [device["wrong_passwords"] for device in hsm.devices] == [1, 1]


def test_a_wrong_password_on_one_device_leaves_the_work_to_the_others(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        (hsm.devices[0].directory / "password").write_bytes(b"changed in the device")
        handle = hsm.open()
        until(lambda: INDEX in hsm.status(0).mistakes)
        with Load(hsm, handle) as load:
            load.more(50)
        assert hsm.devices[0]["wrong_passwords"] == 1
        assert hsm.devices[0]["signatures"] == 0
        with pytest.raises(SettingsError) as caught:
            hsm.pool.resume("d0")
        assert caught.value.code == "hsm_password"
        assert hsm.devices[0]["wrong_passwords"] == 2
        (hsm.devices[0].directory / "password").write_bytes(PASSWORD)
        hsm.pool.resume("d0")
        with Load(hsm, handle):
            until(lambda: hsm.devices[0]["signatures"] > 20)


def test_a_wrong_index(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        with pytest.raises(SettingsError) as caught:
            hsm.pool.open(33, hsm.key.public_key.to_bytes())
        assert caught.value.code == "hsm_key_missing"
        assert "index 33" in caught.value.detail
        with pytest.raises(SettingsError) as caught:
            hsm.pool.export(33)
        assert caught.value.code == "hsm_key_missing"
        assert [one.failures for one in hsm.pool.status()] == [{}, {}]


def test_another_key_at_the_index_of_one_device_is_never_signed_with(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        hsm.devices[1].put_key(INDEX, sm2.PrivateKey.generate())
        handle = hsm.open()
        for _ in range(20):
            hsm.sign(handle, 20)
        assert "another key" in hsm.status(1).mistakes[INDEX]
        assert hsm.devices[1]["signatures"] == 0
        with pytest.raises(SettingsError) as caught:
            hsm.pool.export(INDEX)
        assert caught.value.code == "hsm_key_mismatch"


def test_a_key_replaced_while_its_device_was_out_is_not_used_when_it_returns(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        hsm.pool.drain("d0")
        hsm.devices[0].put_key(INDEX, sm2.PrivateKey.generate())
        with pytest.raises(SettingsError) as caught:
            hsm.pool.resume("d0")
        assert caught.value.code == "hsm_key_mismatch"
        for _ in range(20):
            hsm.sign(handle, 20)


def test_a_key_that_vanishes_is_refused_there_and_then_everywhere(tmp_path: Path) -> None:
    with open_hsm(tmp_path) as hsm:
        handle = hsm.open()
        for device in hsm.devices:
            (device.directory / "sign-1.key").unlink()
            device["right_epoch"] += 1
        with pytest.raises(SettingsError) as caught:
            hsm.sign(handle, 10)
        assert caught.value.code == "hsm_key_missing"
        with pytest.raises(SettingsError):
            hsm.sign(handle, 10)
        # Once when the key was proven, and once by the first of four sessions that missed its right.
        assert [device["rights_asked"] for device in hsm.devices] == [2, 2]
        assert [one.state for one in hsm.pool.status()] == ["in_service", "in_service"]


@pytest.mark.parametrize(
    ("content", "mode", "what"),
    [
        (None, 0o600, "cannot be read"),
        (b"", 0o600, "empty"),
        (b"\n", 0o600, "empty"),
        (PASSWORD, 0o640, "chmod 600"),
    ],
)
def test_the_password_file(tmp_path: Path, content: bytes | None, mode: int, what: str) -> None:
    with open_hsm(tmp_path) as hsm:
        path = tmp_path / "password"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
            path.chmod(mode)
        with pytest.raises(SettingsError, match=what) as caught:
            hsm.open()
        assert caught.value.code == "hsm_password_file"
        assert [device["rights_asked"] for device in hsm.devices] == [0, 0]


def test_passwords_by_key_and_by_device(tmp_path: Path) -> None:
    def secret(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
        return str(tmp_path / name)

    with open_hsm(
        tmp_path, password_file=None, key_password_files={INDEX: secret("of-key", PASSWORD + b"\r\nnot this\n")}
    ) as hsm:
        hsm.sign(hsm.open(), 10)
        hsm.devices[0].put_key(2, hsm.key)
        with pytest.raises(SettingsError, match="no password file for key index 2"):
            hsm.pool.open(2, hsm.key.public_key.to_bytes())
    assert bytes(read_password(tmp_path / "of-key")) == PASSWORD


def test_what_is_not_a_device_library(tmp_path: Path) -> None:
    for library, what in (("libm.so.6", "no function SDF_OpenDevice"), (str(tmp_path / "none.so"), "cannot be loaded")):
        with pytest.raises(SettingsError, match=what) as caught, open_hsm_with(tmp_path, library):
            pass
        assert caught.value.code == "hsm_library"


def open_hsm_with(directory: Path, library: str) -> Any:
    where = directory / library.replace("/", "_")
    where.mkdir()
    return open_hsm(where, devices=(SdfDeviceSettings(name="d0", library=library),))


@pytest.mark.parametrize(
    "changes",
    [
        {"call_timeout_ms": 1_000, "request_timeout_ms": 1_999},
        {"backoff_min_ms": 500, "backoff_max_ms": 400},
        {"devices": ({"name": "a", "library": "x"}, {"name": "a", "library": "y"})},
        {"devices": ({"name": "Not A Name", "library": "x"},)},
        {"sessions_per_device": 0},
        {"no_such_setting": 1},
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SdfSettings(**changes)


def test_codes_are_the_standards_and_each_has_its_meaning() -> None:
    assert CODES["UNKNOWERR"] == 0x01000001
    assert CODES["PARDENY"] == 0x01000007
    assert CODES["PRKRERR"] == 0x01000018
    assert CODES["OUTARGERR"] == 0x0100001E
    for name in ("COMMFAIL", "HARDFAIL", "OPENDEVICE", "OPENSESSION", "UNKNOWERR", "NOBUFFER", "SIGNERR"):
        assert isinstance(abi.judge("f", CODES[name]), DeviceFault)
    for name in ("KEYNOTEXIST", "KEYTYPEERR", "NOTSUPPORT", "ALGNOTSUPPORT"):
        assert isinstance(abi.judge("f", CODES[name], 1), DeviceMistake)
    assert isinstance(abi.judge_right(0x01000100, 1, gained_before=False), DeviceMistake)
    assert isinstance(abi.judge_right(0x01000100, 1, gained_before=True), DeviceFault)
    assert isinstance(abi.judge_right(CODES["COMMFAIL"], 1, gained_before=False), DeviceFault)
    assert "SDR_COMMFAIL (0x01000003)" in str(abi.judge("f", CODES["COMMFAIL"]))


def test_structures_have_the_standards_sizes() -> None:
    import ctypes

    assert [ctypes.sizeof(one) for one in (abi.DeviceInfo, abi.PublicKey)] == [100, 132]


def test_a_request_for_a_key_no_device_has_been_able_to_prove(tmp_path: Path) -> None:
    with open_hsm(tmp_path, call_timeout_ms=100, request_timeout_ms=200) as hsm:
        for device in hsm.devices:
            device.kill()
        until(lambda: _fails(hsm))
        handle = hsm.open()  # on trust of the record
        with pytest.raises(Unavailable):
            hsm.sign(handle)
        hsm.devices[1].repair()
        hsm.until_state(1, "in_service")
        hsm.sign(handle)


def _fails(hsm: Any) -> bool:
    """Whether both devices are out; asks them something, because nothing else does."""
    try:
        hsm.pool.export(INDEX)
    except Unavailable:
        return all(one.state == "out" for one in hsm.pool.status())
    return False
