"""`qianyan-load` against a whole service: the standard mix, a report that looks right, an early end, users, and a lie.

The first test is `make load-smoke`.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from loadtest.call import Answer, Call, Wrong
from loadtest.journeys import Client, PythonEngine
from loadtest.plan import Plan
from loadtest.scenarios.base import Single, World
from loadtest.scenarios.catalogue import MIXES, SCENARIOS, is_fast
from loadtest.scenarios.issuance import private
from loadtest.target import Target, load_target
from tests.browser import Browser
from tests.load_world import LOAD, Population, stand
from tests.running import free_port

PATIENCE_S = 120
PLOTS = 11
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
        for width, phone, dark in ((1280, False, False), (390, True, True)):
            await page.resize(width, 844, phone=phone, dark=dark)
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
    """Locust: a master, a worker here and one from elsewhere, whole life cycles, every kind of listener."""
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
    port = str(free_port())
    # One worker comes from elsewhere: a command of its own, which joins the master.
    joining = [LOAD, "locust", "--target", target_file, *scenarios, "--users", "8", "--duration", "5", "--sample", "1"]
    with subprocess.Popen([*joining, "--worker-of", f"127.0.0.1:{port}"], stderr=subprocess.PIPE) as other:
        ran = load(target_file, tmp_path, *scenarios, "--users", "8", "--workers", "1", "--elsewhere", "1", "--port",
                   port, "--duration", "5", "--sample", "1", command="locust")  # fmt: skip
        _, said = other.communicate(timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert other.returncode == 0, said.decode()
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


class Liar:
    """Stands before the public listener and hands everything on, but for OCSP by POST: what `answer` makes of it."""

    def __init__(self, target: Target, answer: Callable[[bytes, bytes], bytes]) -> None:
        self._target, self._answer = target, answer
        self.port = 0

    async def _handle(self, request: web.Request) -> web.Response:
        url = URL(self._target.public + request.raw_path, encoded=True)
        asked = await request.read()
        async with self._session.request(request.method, url, data=asked, headers=request.headers) as response:
            told = await response.read()
        told = self._answer(asked, told) if request.path == "/ocsp" else told
        return web.Response(status=response.status, body=told, headers={"Content-Type": response.content_type})

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app)
        async with aiohttp.ClientSession() as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            ready.set()
            await self._over.wait()
            await runner.cleanup()

    @contextmanager
    def running(self, file: Path) -> Iterator[None]:
        """Serves until the block is left; `file`: a target that believes it to be the service."""
        ready = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        thread.start()
        assert ready.wait(PATIENCE_S)
        replace(self._target, public=f"http://127.0.0.1:{self.port}").save(file)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._over.set)
            thread.join(PATIENCE_S)


def flipped(_: bytes, told: bytes) -> bytes:
    """A revoked certificate is told good: the status alone is changed, without the key to sign it anew."""
    at = told.find(b"\xa1", told.find(b"\x18\x0f", 20) + 17)  # CertStatus [1] after producedAt and the CertID
    return told[:at] + b"\x80" + told[at + 1 :] if at > 0 else told


@pytest.mark.parametrize("engine", ["run", "locust"])
def test_a_service_that_lies_fails_the_run(target_file: Path, tmp_path: Path, engine: str) -> None:
    """Every twentieth certificate is revoked. Statuses are flipped on the way; goals could not be lower."""
    truth = load_target(target_file)
    only = replace(truth, population={"revoked": truth.population["revoked"]}, holders=[])
    more = {
        "run": ("--scenario", "ocsp-post=40", "--scenario", "sign=10"),
        "locust": ("--scenario", "ocsp-post=40", "--users", "4"),
    }[engine]
    with Liar(only, flipped).running(tmp_path / "target.json"):
        ran = load(tmp_path / "target.json", tmp_path, *more, "--duration", "1", "--sample", "1", "--error-rate", "1",
                   command="locust" if engine == "locust" else "run")  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "WRONG ANSWER ocsp-post: " in ran.stdout
    assert "MISSED wrong answers" in ran.stdout
    document = read(tmp_path)
    assert document["total"]["errors"]["wrong"] > 5
    assert "wrong answers</span>" in (tmp_path / "report.html").read_text()


async def revoked_since(truth: Target) -> tuple[Target, dict[bytes, bytes]]:
    """A certificate that the service said to be good and has revoked since: the truth, and what it said by question."""
    _, issued = await answered(truth, "issue")
    serial = json.loads(issued.body)["certificates"][0]["serial"]
    target = replace(truth, population={"revoked": [int(serial, 16)]}, holders=[])
    question, good = await answered(target, "ocsp-post")
    client = Client(truth, Plan("", {"issue": 1.0}, "steady", 1.0, 1, True, 1, 60.0, 1.0))
    try:
        path, reason = f"/v1/certificates/{serial}/revoke", {"reason": "key_compromise"}
        revoked = await client.send(private("revoke", path, reason))
    finally:
        await client.close()
    assert revoked.status == 200
    return target, {question.body: good.body}


def test_an_answer_from_before_a_revocation_fails_the_run(target_file: Path, tmp_path: Path) -> None:
    """What lies best: the service's own answer, signed, in time, and overtaken by a revocation. The goals are met."""
    target, kept = asyncio.run(revoked_since(load_target(target_file)))
    with Liar(target, lambda asked, told: kept.get(asked, told)).running(tmp_path / "target.json"):
        ran = load(tmp_path / "target.json", tmp_path, "--scenario", "ocsp-post=40", "--duration", "1", "--sample", "1",
                   "--error-rate", "1")  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert " good, but it is " in ran.stdout
    assert "MISSED wrong answers" in ran.stdout
    assert read(tmp_path)["total"]["errors"]["wrong"] == read(tmp_path)["total"]["count"] > 20


def test_wrk_drives_and_our_own_engine_judges(target_file: Path, tmp_path: Path) -> None:
    ran = load(target_file, tmp_path, "--scenario", "ocsp-nonce=30", "--generator", "wrk", "--duration", "2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "ocsp-nonce, as fast as it is answered" in ran.stdout
    assert "judged whole: " in ran.stdout
    document = read(tmp_path)
    assert document["wrk"]["faults"] == 0
    assert document["wrk"]["requests"] > document["total"]["count"] == document["generator"]["checked"] > 20
    assert document["total"]["errors"]["ok"] == document["total"]["count"]
    assert document["environment"]["nonce_share"] == 1.0
    assert "wrk, beside which" in (tmp_path / "report.html").read_text()


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
        (("--generator", "wrk", "--mix", "ocsp"), "wrk drives one scenario"),
        (("--generator", "wrk", "--scenario", "issue=1"), "wrk drives one scenario"),
    ],
)
def test_what_cannot_be_run(target_file: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = load(target_file, tmp_path, *arguments, "--duration", "1")
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1


async def test_every_scenario_can_be_used_alone(target_file: Path) -> None:
    """By the Python engine, all at once; everything that they are told is judged."""
    target = load_target(target_file)
    plans = {name: Plan("", {name: 4.0}, "steady", 1.0, 3, False, 4, 60.0, 1.0) for name in SCENARIOS}
    engines = {name: PythonEngine(plan, target) for name, plan in plans.items()}
    await asyncio.gather(*(engine.run() for engine in engines.values()))
    for name, engine in engines.items():
        tally = engine.tally
        assert tally.faults == 0, (name, tally.wrong, tally.document())
        assert tally.checked == tally.ended >= 3, name


def test_every_scenario_that_the_task_is_made_of_is_there() -> None:
    """And fast paths are for the compiled engine."""
    fast = {"ocsp-post", "ocsp-get", "ocsp-nonce", "ocsp-unknown", "ocsp-several", "sign", "sign-bulk", "verify-bulk"}
    slow = {"issue", "life-cycle", "revoke", "ra-issue", "ra-life-cycle", "crl", "status-set", "ldap"}
    assert {name for name in SCENARIOS if is_fast(name)} >= fast
    assert slow <= SCENARIOS.keys()
    assert all(MIXES[mix].keys() <= SCENARIOS.keys() for mix in MIXES)


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
