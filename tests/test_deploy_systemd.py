"""The systemd units: accepted by systemd's own tools, as closed as they say, and the service lives within them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import tests.running
from service.notify import READY, notify
from tests.running import Installation, Service

UNITS = Path(__file__).parent.parent / "deploy" / "systemd"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs that are here."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/qianyan/bin/qianyan", str(tests.running.QIANYAN))
        (tmp_path / unit.name).write_text(text.replace("/bin/kill", shutil.which("kill") or "/bin/kill"))
    return tmp_path


@pytest.mark.parametrize("name", ["qianyan.service", "qianyan-backup.service", "qianyan-backup.timer"])
def test_systemd_accepts_it(units: Path, name: str) -> None:
    # Units that only name what is not installed here (PostgreSQL's, say) are no error: After= asks for order alone.
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"./{name}"],
        cwd=units, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Unknown" not in ran.stderr, ran.stderr


@pytest.mark.parametrize(("name", "exposure"), [("qianyan.service", 20), ("qianyan-backup.service", 15)])
def test_it_is_closed(units: Path, name: str, exposure: int) -> None:
    """systemd's own measure, in tenths; 10.0 is a unit without any of it, and below 2 is called OK."""
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={exposure}", f"./{name}"],
        cwd=units, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr


def test_what_matters_most_is_set() -> None:
    lines = (UNITS / "qianyan.service").read_text().splitlines()
    for setting in ("NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "LimitCORE=0", "Type=notify",
                    "MemoryDenyWriteExecute=yes", "CapabilityBoundingSet=", "UMask=0077"):  # fmt: skip
        assert setting in lines, setting


WITHOUT_NEW_CODE = f"""#!{sys.executable}
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(65, 1, 0, 0, 0) == 0 and libc.prctl(66, 0, 0, 0, 0) == 1  # PR_SET_MDWE, PR_GET_MDWE
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
os.execv({str(tests.running.QIANYAN)!r}, sys.argv)
"""


def test_it_serves_without_ever_making_code_and_says_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MemoryDenyWriteExecute= and NoNewPrivileges= do, and Type=notify: workers, signatures, OCSP, all of it."""
    installation = Installation(tmp_path / "var").init()
    program = tmp_path / "closed"
    program.write_text(WITHOUT_NEW_CODE)
    program.chmod(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(60)
        monkeypatch.setattr(tests.running, "QIANYAN", program)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr(Service, "arguments", ("--workers", "1"))
        with Service(installation) as service:
            assert told.recv(100) == READY.encode()
            assert service.get("/readyz").status == 200
            answer = service.call("POST", "/v1/sign", {"key": "demo", "data": "AAAA"})
            assert answer.status == 200, answer.body
            told.setblocking(False)
            with pytest.raises(BlockingIOError):
                told.recv(100)  # workers do not speak for the service


def test_an_abstract_socket_and_none_at_all() -> None:
    name = f"@qianyan-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind("\0" + name[1:])
        told.settimeout(60)
        notify(name, READY, "STATUS=serving")
        assert told.recv(100) == b"READY=1\nSTATUS=serving"
    notify(name, READY)  # gone: serving does not depend on it
    notify(None, READY)
