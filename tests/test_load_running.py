"""`qianyan-load` against a whole service: the standard mix, a report that looks right, an early end, users, and a lie.

The first test is `make load-smoke`.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.call import Answer, Call, Wrong
from loadtest.journeys import Client
from loadtest.plan import Plan
from loadtest.scenarios.base import Single, World
from loadtest.scenarios.catalogue import MIXES, SCENARIOS
from loadtest.target import Target, load_target
from tests.browser import Browser
from tests.load_world import LOAD, Population, stand

PATIENCE_S = 120
PLOTS = 10
#: Kinds of calls that the standard mix is made of; of its life cycles there are too few to be sure of in a short run.
KINDS = {*MIXES["standard"]} - {"life-cycle", "issue", "status-set"}


@pytest.fixture(scope="module")
def target_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A service with PostgreSQL, Redis and slapd, and the file that tells of it."""
    directory = tmp_path_factory.mktemp("stand")
    with stand(directory, Population(certificates=2_000, holders=12)) as target:
        file = directory / "target.json"
        target.save(file)
        yield file


@pytest.fixture(scope="module")
def report(
    target_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The standard mix, thinned so that a busy machine keeps up."""
    out = tmp_path_factory.mktemp("report")
    return load(target_file, out, "--mix", "standard", "--rate", "250", "--duration", "8", "--sample", "0.2"), out


def load(target: Path, out: Path, *arguments: str, command: str = "run") -> subprocess.CompletedProcess[str]:
    """`qianyan-load` to its end."""
    return subprocess.run(
        [LOAD, command, "--target", target, "--out", out, "--timeout", "60", *arguments],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


def read(out: Path) -> dict[str, Any]:
    """The result of a run."""
    document: dict[str, Any] = json.loads((out / "result.json").read_text())
    return document


def test_smoke(report: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    ran, out = report
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"report {out / 'report.html'}" in ran.stdout
    assert "of 8 s" in ran.stderr
    document = read(out)
    assert document["kinds"].keys() >= KINDS
    assert document["total"]["errors"] == {**dict.fromkeys(document["total"]["errors"], 0),
                                           "ok": document["total"]["count"]}  # fmt: skip
    assert 1200 < document["total"]["count"] < 3200
    assert document["generator"]["checked"] > 150
    assert document["generator"]["samples_left_out"] == 0
    environment = document["environment"]
    assert environment["signing"] == "software"
    assert 0.1 < environment["nonce_share"] < 0.5
    assert 0.0 < environment["cache_share"] <= 1.0
    assert {"qianyan", "postgresql", "redis", "python"} <= environment["versions"].keys()
    assert {"worker-0", "worker-1", "postgresql", "redis", "slapd", "driver", "journeys"} <= {
        one["name"] for one in document["processes"]
    }
    assert document["metrics"]["failure"] == ""
    assert len(document["metrics"]["series"]) >= 2


async def test_the_report_looks_right(report: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path) -> None:
    page_url = (report[1] / "report.html").as_uri()
    async with Browser() as browser:
        page = await browser.page()
        for width, phone in ((1280, False), (390, True)):
            await page.resize(width, 844, phone=phone)
            await page.open(page_url)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
            assert await page.evaluate("document.querySelectorAll('svg').length") == PLOTS
            drawn = "[...document.querySelectorAll('polyline')].filter(one => one.getBoundingClientRect().width > 100)"
            assert await page.evaluate(f"{drawn}.length") >= 15
            texts = "[...document.querySelectorAll('.ys span')].map(one => one.getBoundingClientRect())"
            assert await page.evaluate(f"{texts}.every(box => box.left >= 0 && box.height >= 12)")
            await page.screenshot(tmp_path / f"{width}.png")
            assert (tmp_path / f"{width}.png").stat().st_size > 50_000
        assert page.complaints == []


def test_compare_finds_a_run_the_same_as_itself(
    report: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    file = report[1] / "result.json"
    ran = subprocess.run([LOAD, "compare", file, file, "--json"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {row["verdict"] for row in json.loads(ran.stdout)} == {"same"}


def test_an_early_end_still_writes_the_report(target_file: Path, tmp_path: Path) -> None:
    command = [LOAD, "run", "--target", target_file, "--out", tmp_path, "--scenario", "ocsp-post=50", "--scenario",
               "ra-life-cycle=2", "--duration", "600"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "answered" in line and " 0 answered" not in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "the report is written all the same" in said
    document = read(tmp_path)
    assert document["interrupted"]
    assert 0 < document["seconds"] < 500
    assert document["total"]["count"] == document["total"]["errors"]["ok"] > 0
    assert "ended early" in (tmp_path / "report.html").read_text()


def test_users(target_file: Path, tmp_path: Path) -> None:
    """Locust: a master, two workers, whole life cycles, every kind of listener."""
    names = (
        "ocsp-get=10",
        "ocsp-nonce=10",
        "sign=10",
        "life-cycle=2",
        "ra-life-cycle=10",
        "crl=4",
        "status-set=4",
        "ldap=4",
        "verify-bulk=2",
    )
    scenarios = [word for name in names for word in ("--scenario", name)]
    ran = load(target_file, tmp_path, *scenarios, "--users", "8", "--workers", "2", "--duration", "5", "--sample", "1",
               command="locust")  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    document = read(tmp_path)
    assert document["plan"]["closed"]
    assert document["kinds"].keys() >= {
        "ocsp-get",
        "ocsp-nonce",
        "sign",
        "issue",
        "ra-issue",
        "ocsp-after",
        "crl",
        "ldap",
    }
    assert document["total"]["errors"]["ok"] == document["total"]["count"]
    assert document["generator"]["checked"] > 20
    assert len(document["generator"]["cpu_s"]) == 2


def test_a_wrong_answer_fails_the_run(target_file: Path, tmp_path: Path) -> None:
    """The truth is turned round: what the service says rightly must now be noticed as wrong, whatever the goals."""
    target = load_target(target_file)
    good, revoked = target.population["good"], target.population["revoked"]
    lying = replace(target, population={**target.population, "good": revoked, "revoked": good})
    lying.save(tmp_path / "target.json")
    ran = load(tmp_path / "target.json", tmp_path, "--scenario", "ocsp-post=50", "--duration", "1", "--sample", "1",
               "--error-rate", "1")  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert "WRONG ANSWER ocsp-post: told" in ran.stdout
    assert "MISSED wrong answers" in ran.stdout
    assert read(tmp_path)["total"]["errors"]["wrong"] > 30


def test_goals_decide_the_exit_status(target_file: Path, tmp_path: Path) -> None:
    ran = load(target_file, tmp_path, "--scenario", "ocsp-post=20", "--duration", "1", "--p99-ms", "0.001", "--json")
    assert ran.returncode == 1
    assert [row["met"] for row in json.loads(ran.stdout)["goals"]] == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--scenario", "ocsp-post=10", "--signing", "software", "--engine", "native", "--scenario", "issue=1"),
            "auto",
        ),
        (("--scenario", "nonsense=1"), "there is no scenario"),
        ((), "name at least one"),
    ],
)
def test_what_cannot_be_run(target_file: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = load(target_file, tmp_path, *arguments, "--duration", "1")
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1


# ---- judges are judged: a true answer, bent


FORGERIES = ("ocsp-post", "ocsp-nonce", "sign", "sign-bulk", "verify-bulk", "status-bulk", "crl", "ldap")


async def answered(target: Target, name: str) -> tuple[Call, Answer]:
    """A scenario's first call and the service's answer to it."""
    plan = Plan("", {name: 1.0}, "steady", 1.0, 1, True, 1, 60.0, 1.0)
    source = SCENARIOS[name](World(target, random.Random(5)))
    call = source.call() if isinstance(source, Single) else next(source.journey())
    client = Client(target, plan)
    try:
        return call, await client.send(call)
    finally:
        await client.close()


@pytest.mark.parametrize("name", FORGERIES)
def test_a_bent_answer_is_noticed(target_file: Path, name: str) -> None:
    call, answer = asyncio.run(answered(load_target(target_file), name))
    call.check(answer)
    noticed = 0
    places = [len(answer.body) * part // 8 for part in range(1, 8)] + [len(answer.body) - 3]
    for at in places:
        bent = answer.body[:at] + bytes([answer.body[at] ^ 0x01]) + answer.body[at + 1 :]
        try:
            call.check(replace(answer, body=bent))
        except Exception:  # a judge that cannot read it counts it as wrong, too
            noticed += 1
    # A bit of an answer about many may be a date, or an unsigned name, that no truth is known of.
    assert noticed >= (1 if name in ("verify-bulk", "status-bulk", "ldap") else 6)


def test_an_old_answer_is_noticed(target_file: Path) -> None:
    target = load_target(target_file)
    for name in ("ocsp-post", "ocsp-nonce", "crl"):
        call, answer = asyncio.run(answered(target, name))
        with pytest.raises(Wrong):
            call.check(replace(answer, sent_at=time.time() + 2 * 86_400, received_at=time.time() + 2 * 86_400))
    call, answer = asyncio.run(answered(target, "ocsp-nonce"))
    with pytest.raises(Wrong, match="nonce"):
        call.check(replace(answer, sent=b"n" * 32))
