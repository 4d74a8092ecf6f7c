"""`make run`'s command: makes, serves, walks, finds again."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.running import QIANYAN, free_port

STEPS = [
    "request certificates",
    "open the encryption key",
    "sign with key 'demo'",
    "verify a holder's signature",
    "ask OCSP",
    "revoke",
    "ask OCSP again",
    "verify again",
    "download the CRL",
]


def walk(directory: Path, ports: tuple[int, int]) -> str:
    """`qianyan demo --once`."""
    done = subprocess.run(
        [QIANYAN, "demo", "--once", "--dir", directory, f"--public-port={ports[0]}", f"--private-port={ports[1]}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_walks_the_main_job_and_finds_what_it_made(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    first = walk(tmp_path / "var", ports)
    assert "made a demonstration authority" in first
    for output in (first, walk(tmp_path / "var", ports)):
        lines = [line for line in output.splitlines() if line.endswith(" ms")]
        assert [re.split(r"\s{2,}", line.strip())[0] for line in lines] == STEPS
        assert "revoked (keyCompromise)" in output
        assert "lists the certificate" in output
    assert "found the demonstration authority" in output


def test_a_directory_that_is_something_else(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    walk(tmp_path / "var", ports)
    (tmp_path / "var" / "demo-token").unlink()
    done = subprocess.run(
        [QIANYAN, "demo", "--once", "--dir", tmp_path / "var"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "not a demonstration" in done.stderr
