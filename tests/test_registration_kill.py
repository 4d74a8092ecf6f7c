"""`kill -9` at the steps of signed requests: all of it or none, and a retry ends in the same answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import postgres
from tests.registration_kill_driver import POINTS
from tests.store_world import store_url

_ROOT = Path(__file__).parents[1]


def driven(directory: Path, url: str, how: str, *names: str) -> dict[str, tuple[int, int]]:
    """By operation: how many kills, and after how many it had happened."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.registration_kill_driver", str(directory), url, how, *names],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, tuple[int, int]] = json.loads(ran.stdout.splitlines()[-1])
    return found


def test_a_kill_at_every_step(tmp_path: Path) -> None:
    at_least = {"issue": 15, "reissue": 15, "recovery": 8}
    found = driven(tmp_path, store_url(tmp_path), "steps", *at_least)
    assert set(found) == set(at_least)
    for name, (kills, happened) in found.items():
        assert kills >= at_least[name], name
        assert happened == 1, f"no kill came between the commit and the answer of {name}"


@pytest.mark.parametrize(
    ("backend", "names"),
    [
        ("sqlite", ["issue-enter", "issue-approve", "reissue-approve", "recovery-first"]),
        ("postgres", ["issue", "issue-approve", "reissue", "reissue-approve", "recovery"]),
    ],
)
def test_a_kill_at_each_point(tmp_path: Path, backend: str, names: list[str]) -> None:
    """By both at once, and entered by one and approved by another."""
    url = store_url(tmp_path) if backend == "sqlite" else asyncio.run(postgres.shared().new_database())
    found = driven(tmp_path, url, "points", *names)
    assert set(found) == set(names)
    assert all(tuple(each) == (len(POINTS), 1) for each in found.values()), found
