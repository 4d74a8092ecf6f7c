"""`kill -9` at every step of a bulk run: nothing twice, nothing lost, and the results complete in the end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import postgres
from tests.store_world import BACKENDS, store_url

_ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kill_at_every_step(tmp_path: Path, backend: str) -> None:
    url = store_url(tmp_path) if backend == "sqlite" else asyncio.run(postgres.shared().new_database())
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bulk_kill_driver", str(tmp_path), url],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["kills"] >= 15
