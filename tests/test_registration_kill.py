"""`kill -9` at every step of signed requests: all of it or none, and a retry ends in the same answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("operation", "at_least"), [("issue", 15), ("recovery", 8)])
def test_a_kill_at_every_step(tmp_path: Path, operation: str, at_least: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.registration_kill_driver", str(tmp_path), operation],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["kills"] >= at_least
    assert found["happened"] == 1, "no kill came between the commit and the answer"
