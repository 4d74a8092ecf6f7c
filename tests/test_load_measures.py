"""What is measured beside the requests (waiting for cores, the service's own times), and wrk as a generator."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loadtest import measure, verdict, wrk
from loadtest.call import Call
from loadtest.plan import Plan
from loadtest.target import Target, TargetError
from loadtest.x509 import Issuer
from tests.running import free_port
from tests.test_load_driver import Server, good
from tests.test_load_figures import WRK


def test_what_else_latencies_may_come_from() -> None:
    crowding = verdict.crowding
    assert crowding(0.9, 2, 1.75, {"worker-0": 0.05}) == []
    assert "1.3 of its 2 cores" in crowding(1.0, 2, 0.7, {"worker-0": 0.0})[0]
    (waited,) = crowding(0.9, 2, 1.75, {"worker-0": 0.11, "worker-1": 0.34, "redis": 0.0})
    assert "worker-1" in waited
    assert "34%" in waited
    assert crowding(1.0, 2, None, {}) == []  # nothing is known of the service's processes


def test_what_a_process_waits_for_a_core_is_measured() -> None:
    """Two threads of one process that want the one core it may use: each waits about half of the time."""
    busy = "import os, threading, time\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(flush=True)\n"
    busy += "work = lambda: [hashlib.pbkdf2_hmac('sha256', b'', b'', 10**7) for _ in range(100)]\nimport hashlib\n"
    busy += "[threading.Thread(target=work, daemon=True).start() for _ in range(2)]\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        looked = measure.Process("busy", process.pid, "service")
        deadline = time.monotonic() + 60
        while not (looked.series and looked.series[-1][3] > 0.2):
            assert time.monotonic() < deadline, looked.series
            looked.look(time.monotonic())
            threading.Event().wait(0.1)
        process.kill()
    assert looked.mean(2) > 1


def test_what_the_service_says_of_its_routes() -> None:
    def scraped(fast: int, slow: int, seconds: float) -> str:
        name, labels = "qianyan_http_request_seconds", 'listener="public",route="/ocsp"'
        rows = [("0.001", fast), ("0.01", fast + slow), ("+Inf", fast + slow)]
        lines = [f'{name}_bucket{{{labels},le="{bound}",worker="{n}"}} {c}' for n in "01" for bound, c in rows]
        lines += [f'{name}_count{{{labels},worker="{n}"}} {fast + slow}' for n in "01"]
        lines += [f'{name}_sum{{{labels},worker="{n}"}} {seconds}' for n in "01"]
        return f"# TYPE {name} histogram\n" + "\n".join(lines) + "\n"

    said = measure.ServiceMetrics("", "")
    said._first, said._last = scraped(50, 50, 1.0), scraped(50 + 97, 50 + 3, 1.5)
    (row,) = said.routes()
    assert row == {"listener": "public", "route": "/ocsp", "count": 200, "mean_ms": pytest.approx(5.0),
                   "p50_ms": 1.0, "p99_ms": 10.0}  # fmt: skip
    assert measure.ServiceMetrics("", "").routes() == []


def test_what_wrk_counted_counts_with_what_was_judged() -> None:
    told = wrk.figures(WRK, 2, 64)
    assert told["rate"] == 498.5
    assert told["faults"] == 6
    assert 0.5 <= told["latency_ms"]["p50"] < 0.51
    assert 2.0 <= told["latency_ms"]["p99"] < 2.01
    total = {"count": 100, "faults": 0, "rate": 10.0, "errors": {"wrong": 0}, "latency_ms": {"p99": 1.0}}
    met = {row["goal"]: row for row in verdict.judge(verdict.Goals(None, 0.005, 500.0), total, told)}
    assert met["error rate"]["reached"] == pytest.approx(6 / 1100)
    assert not met["error rate"]["met"]
    assert met["good answers a second"]["reached"] == 508.5
    assert met["good answers a second"]["met"]


# ---- wrk, against a server that keeps what it is sent


def engine(monkeypatch: pytest.MonkeyPatch, url: str, calls: list[Call], *, threads: int = 2) -> wrk.WrkEngine:
    """An engine with these calls prepared."""
    monkeypatch.setattr(wrk, "prepare", lambda *_: calls)
    target = Target(public=url, private=url, authority="issuing", issuer=Issuer(b""), token="t")
    return wrk.WrkEngine(Plan("", {"ocsp-nonce": 1.0}, "steady", 1.0, 1, True, 4, 5.0, 1.0), target, threads)


def test_wrk_sends_what_was_prepared_with_new_octets_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies of any octets, zeros and line ends among them; a nonce is never sent twice."""
    plain, nonce = bytes(range(256)), b"\0\r\n" + bytes(32) + b"\n\0"
    calls = [
        Call("a", "public", "POST", "/a", body=plain),
        Call("b", "public", "POST", "/b", body=nonce, patch=(3, 32)),
    ]
    with Server(good).running() as server:
        running = engine(monkeypatch, f"http://127.0.0.1:{server.port}", calls)
        running.run()
        sent = list(server.bodies)
    told = running.document()["wrk"]
    assert told["faults"] == 0
    assert 0 < told["requests"] <= len(sent)
    assert told["rate"] > 0
    assert {len(body) for body in sent} == {len(plain), len(nonce)}
    assert {body for body in sent if len(body) == len(plain)} == {plain}
    fresh = [body for body in sent if len(body) == len(nonce)]
    assert len(set(fresh)) == len(fresh) > 1
    assert all(body[:3] == nonce[:3] and body[35:] == nonce[35:] for body in fresh)


def test_wrk_ends_early_and_still_says_what_it_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(good).running() as server:
        running = engine(monkeypatch, f"http://127.0.0.1:{server.port}", [Call("a", "public", "GET", "/a")], threads=1)
        running._plan = Plan("", {"a": 1.0}, "steady", 600.0, 1, True, 4, 5.0, 1.0)
        thread = threading.Thread(target=running.run)
        thread.start()
        deadline = time.monotonic() + 60
        while server.requests < 10:
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        running.stop()
        thread.join(60)
    told = running.document()["wrk"]
    assert 0 < told["seconds"] < 300
    assert told["requests"] > 0


def test_what_wrk_cannot_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    call = Call("a", "public", "GET", "/a")
    with pytest.raises(TargetError, match="wrk failed"):
        engine(monkeypatch, f"http://127.0.0.1:{free_port()}", [call], threads=1).run()
    with pytest.raises(TargetError, match="plain HTTP"):
        engine(monkeypatch, "https://127.0.0.1:1", [call])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="apt-get install wrk"):
        engine(monkeypatch, "http://127.0.0.1:1", [call])
