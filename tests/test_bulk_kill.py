"""`kill -9` at every step of a bulk run: nothing twice, nothing lost, and the results complete in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def test_a_kill_at_every_step(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bulk_kill_driver", str(tmp_path)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["kills"] >= 15
