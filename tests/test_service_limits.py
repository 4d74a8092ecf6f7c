"""What a caller may ask for: counted by all workers together, changed at once, a day's quota never overspent."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import Busy, Denied
from core.store.callers import Limits
from service.guesses import Guesses
from service.limits import Gate, SharedCounts
from tests.caller_world import SIGN, Connection, bearer, code, command, make_token, succeed
from tests.running import PATIENCE_S, Answer, Installation, Service

SECOND_NS = 1_000_000_000


class TwoWorkers(Service):
    """`qianyan serve --workers 2`."""

    arguments = ("--workers", "2")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers."""
    installation = Installation(tmp_path_factory.mktemp("limits") / "var").made()
    for line in ("record_interval_s = 1", "wrong_credentials_per_minute = 1", "wrong_credentials_burst = 5"):
        installation.set("private", line)
    with TwoWorkers(installation) as running:
        yield running


class Clock:
    """A steady clock that stands until it is moved."""

    now = 5 * SECOND_NS

    def __call__(self) -> int:
        return self.now


def gate(counts: SharedCounts, clock: Clock, limits: Limits, place: int = 7) -> Gate:
    return Gate(counts, place, limits, clock_ns=clock)


def entered(at: Gate, times: int) -> int:
    """How many of so many requests are let in."""
    count = 0
    for _ in range(times):
        try:
            at.enter()
        except Busy:
            continue
        count += 1
    return count


def test_a_rate_and_its_burst() -> None:
    clock = Clock()
    one = gate(SharedCounts.private(), clock, Limits(requests_per_s=10, requests_burst=4))
    assert entered(one, 20) == 4
    clock.now += SECOND_NS // 2
    assert entered(one, 20) == 4, "no more than the burst is saved up"
    clock.now += SECOND_NS // 5
    assert entered(one, 20) == 2


def test_a_refusal_says_when_to_come_back() -> None:
    clock = Clock()
    one = gate(SharedCounts.private(), clock, Limits(signatures_per_s=100))
    one.signatures(450)  # past the burst of 100, from a full bucket
    with pytest.raises(Busy) as refused:
        one.signatures(1)
    assert refused.value.code == "caller_rate"
    assert refused.value.retry_after_s == 4
    clock.now += 4 * SECOND_NS
    one.signatures(1)


OTHER_WORKER = """
import sys
from pathlib import Path
from core.store.callers import Limits
from service.limits import Gate, SharedCounts
gate = Gate(SharedCounts.shared(Path(sys.argv[1])), 7, Limits(requests_per_s=1, requests_burst=100, concurrent=5))
for _ in range(3):
    gate.enter()
print("entered", flush=True)
sys.stdin.read()
"""


def other_worker(directory: Path) -> subprocess.Popen[str]:
    """A process that has three requests under way."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_WORKER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "entered\n"
    return process


def test_workers_count_together_and_one_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    counts = SharedCounts.shared(tmp_path)
    limits = Limits(requests_per_s=1, requests_burst=100, concurrent=5)
    own = Gate(counts, 7, limits)
    first = other_worker(tmp_path)
    assert entered(own, 10) == 2
    assert entered(Gate(counts, 8, limits), 10) == 5, "another caller's requests are its own"
    first.kill()
    first.wait(PATIENCE_S)
    own.leave()
    own.leave()
    second = other_worker(tmp_path)  # takes the place of the one that was killed
    assert counts.total(7) == 3
    assert entered(own, 10) == 2
    second.kill()
    second.wait(PATIENCE_S)


def test_requests_under_way_are_let_go_again(service: Service) -> None:
    token = bearer(make_token(service.installation, "narrow", "--concurrent", "1"))
    connection = Connection(service)
    for _ in range(5):
        assert connection.sign(**token).status == 200
        assert connection.call("POST", "/v1/sign", {"key": "nobody", **SIGN, "digest": ""}, **token).status >= 400
    # A request whose body does not end keeps its place, whichever worker has it.
    held = Connection(service)
    held.begin("POST", "/v1/sign", 100, **token)
    statuses: list[Answer] = []

    def refused() -> bool:
        statuses.append(connection.sign(**token))
        return statuses[-1].status != 200

    until(refused)
    assert code(statuses[-1]) == (429, "caller_concurrency")
    held.close()
    until(lambda: connection.sign(**token).status == 200)


def until(holds: Callable[[], bool]) -> None:
    """Waits for a condition, with a deadline."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def many(service: Service, token: dict[str, str], count: int) -> Counter[tuple[int, str]]:
    """So many signatures asked for at once, each on a connection of its own: how they ended."""

    def one(_: int) -> tuple[int, str]:
        answer = Connection(service).sign(**token)
        if answer.status != 429:
            return answer.status, ""
        assert int(answer.headers["Retry-After"]) >= 1
        return code(answer)

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(one, range(count)))


def test_a_days_quota_is_exact_over_all_workers(service: Service) -> None:
    installation = service.installation
    token = bearer(make_token(installation, "daily", "--signatures-per-day", "20"))
    assert many(service, token, 40) == {(200, ""): 20, (429, "caller_quota"): 20}
    succeed(command(installation, "caller", "limit", "daily", "--signatures-per-day", "23"))
    assert many(service, token, 8) == {(200, ""): 3, (429, "caller_quota"): 5}
    shown = command(installation, "caller", "show", "daily", "--json").json
    assert shown["signatures_taken_today"] == 23
    # What signs nothing takes nothing, and one call may take several at once, or none.
    succeed(command(installation, "caller", "limit", "daily", "--signatures-per-day", "26"))
    unknown = {"key": "nobody", "digest": SIGN["digest"]}
    assert Connection(service).call("POST", "/v1/sign", unknown, **token).status in (403, 404)
    items = {"key": "demo", "items": [{"digest": SIGN["digest"]}] * 4}
    assert code(Connection(service).call("POST", "/v1/sign", items, **token)) == (429, "caller_quota")
    items["items"] = [{"digest": SIGN["digest"]}] * 3
    assert Connection(service).call("POST", "/v1/sign", items, **token).status == 200
    assert many(service, token, 4) == {(429, "caller_quota"): 4}
    succeed(command(installation, "caller", "limit", "daily", "--signatures-per-day", "none"))
    assert many(service, token, 4) == {(200, ""): 4}


def test_a_rate_holds_over_all_workers_and_changes_at_once(service: Service) -> None:
    token = bearer(make_token(service.installation, "slow", "--requests-per-second", "1", "--requests-burst", "5"))
    began = time.monotonic()
    ended = many(service, token, 40)
    earned = time.monotonic() - began
    assert set(ended) == {(200, ""), (429, "caller_rate")}
    assert 5 <= ended[200, ""] <= 5 + earned + 2
    succeed(
        command(
            service.installation,
            *("caller", "limit", "slow", "--requests-per-second", "none"),
            *("--requests-burst", "none"),
        )
    )
    assert many(service, token, 20) == {(200, ""): 20}
    refused = re.findall(
        r'^qianyan_caller_refused_total\{caller="token:slow",code="caller_rate",worker="\d"\} (\S+)$',
        service.call("GET", "/metrics").body.decode(),
        re.MULTILINE,
    )
    assert sum(map(float, refused)) == ended[429, "caller_rate"]


def test_a_quota_outlives_a_restart(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    token = bearer(make_token(installation, "daily", "--signatures-per-day", "1000"))
    with Service(installation) as service:
        assert Connection(service).sign(**token).status == 200
        taken = command(installation, "caller", "show", "daily", "--json").json["signatures_taken_today"]
        assert 1 <= taken <= 20, "a process takes a fiftieth at most"
    shown = command(installation, "caller", "show", "daily", "--json").json
    assert shown["signatures_taken_today"] == 1, "a stop gives back what was not used"
    with Service(installation) as service:
        assert Connection(service).sign(**token).status == 200
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(PATIENCE_S)
    shown = command(installation, "caller", "show", "daily", "--json").json
    assert 2 <= shown["signatures_taken_today"] <= 21, "a kill loses what was held, and overspends nothing"


def test_limits_that_make_no_sense(service: Service) -> None:
    run = service.installation
    assert command(run, "caller", "limit", "demo").status == 2
    assert command(run, "caller", "limit", "demo", "--concurrent", "0").status == 2
    assert command(run, "caller", "limit", "demo", "--requests-burst", "5").status == 2
    assert command(run, "caller", "limit", "nobody", "--concurrent", "5").status == 1


def test_guesses_are_slowed_and_recorded_in_sum(service: Service) -> None:
    answers = Counter(code(Connection(service).sign(**bearer(f"guess-{number}"))) for number in range(40))
    assert set(answers) == {(401, "unauthenticated"), (429, "guessing")}
    # Five at once for each worker, and one more each minute.
    assert answers[429, "guessing"] >= 20
    slowed = Connection(service).sign(**bearer("guess-last"))
    assert code(slowed) == (429, "guessing")
    assert int(slowed.headers["Retry-After"]) >= 1
    assert Connection(service).sign(**bearer(service.installation.token)).status == 200

    def recorded() -> bool:
        with sqlite3.connect(f"file:{service.installation.directory}/store.sqlite3?mode=ro", uri=True) as connection:
            rows = connection.execute("SELECT subject, detail FROM audit WHERE action = 'caller.refuse'").fetchall()
        counts = [json.loads(detail)["count"] for subject, detail in rows if subject == "127.0.0.1"]
        return sum(counts) == 41 and len(counts) < 20

    until(recorded)


def test_the_table_of_addresses_is_bounded() -> None:
    guesses = Guesses(per_minute=1, burst=2)
    wrong = Denied("no", code="unauthenticated")
    for number in range(30_000):
        assert guesses.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", wrong) is wrong
    rows = guesses.take_failures()
    assert len(rows) <= 101
    assert sum(count for _, _, count in rows) == 30_000
    assert len(guesses._until_s) <= 10_000
    # An IPv6 caller is its network, and one address written in two ways is one.
    kinds = [type(guesses.failed(f"2001:db8::{number:x}", wrong)) for number in range(4)]
    assert kinds == [Denied, Denied, Busy, Busy]
    kinds = [type(guesses.failed(address, wrong)) for address in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1")]
    assert kinds == [Denied, Denied, Busy]
