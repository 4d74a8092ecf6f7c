"""Several workers: one that dies is replaced, a reload drops no request, what one commits is seen by all."""

from __future__ import annotations

import base64
import http.client
import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service

WORKERS = 2


class Workers(Service):
    """`qianyan serve --workers 2`."""

    arguments = ("--workers", str(WORKERS))

    def pids(self) -> list[int]:
        """The worker processes."""
        own = self.process.pid
        return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split() if alive(int(pid))]

    def metric(self, name: str) -> dict[str, float]:
        """A metric without labels of its own, by worker."""
        text = self.call("GET", "/metrics").body.decode()
        return {worker: float(v) for worker, v in re.findall(rf'^{name}{{worker="(\d+)"}} (\S+)$', text, re.MULTILINE)}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Two workers that tests use together and leave as they were."""
    with Workers(Installation(tmp_path_factory.mktemp("workers") / "var").made()) as running:
        yield running


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Two workers of an installation of the test's own."""
    with Workers(Installation(tmp_path / "var").made()) as running:
        yield running


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for a condition, with a deadline."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.05)


def sign(service: Service) -> int:
    """One signature on a connection of its own: its HTTP status."""
    digest = base64.b64encode(bytes(32)).decode()
    return service.call("POST", "/v1/sign", {"key": "demo", "digest": digest}).status


class Caller(threading.Thread):
    """Signs again and again, each time on a new connection, and keeps every answer and every failure."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service = service
        self.ended = threading.Event()
        self.statuses: list[int] = []
        self.failures: list[Exception] = []

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                self.statuses.append(sign(self._service))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)


def test_every_worker_answers_and_one_scrape_tells_of_all(standing: Workers) -> None:
    workers = standing
    assert len(workers.pids()) == WORKERS
    for _ in range(40):
        assert sign(workers) == 200
    counts = workers.metric("qianyan_sign_batch_size_count")
    assert set(counts) == {"0", "1"}
    assert all(count > 0 for count in counts.values()), "one worker got every connection"
    assert sum(counts.values()) >= 40
    assert workers.metric("qianyan_worker_up") == {"0": 1.0, "1": 1.0}


def test_a_revocation_is_seen_by_every_worker(standing: Workers, bouncycastle: BouncyCastle) -> None:
    workers = standing
    issued = workers.issue(bouncycastle.make_csr("C=CN,O=单位,CN=甲").der)
    request = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], nonce=False)
    serial = int(issued.serials["sign"], 16)

    def states() -> set[str]:
        return {bouncycastle.check_ocsp(workers.ocsp(request).body, issued.chain[0], serial).status for _ in range(16)}

    assert states() == {"good"}
    answer = workers.call("POST", f"/v1/certificates/{issued.serials['sign']}/revoke", {"reason": "key_compromise"})
    assert answer.status == 200
    assert states() == {"revoked"}


def test_a_worker_that_is_killed_is_replaced(workers: Workers) -> None:
    """Though none can be started at first: the supervisor has no descriptors left."""
    before = workers.pids()
    supervisor = workers.process.pid
    usual = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (1, usual[1]))
    os.kill(before[1], signal.SIGKILL)
    until(lambda: any("worker_not_replaced" in line for line in workers.log), "it was not said")
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, usual)
    until(lambda: len(workers.pids()) == WORKERS and before[1] not in workers.pids(), "it was not replaced")
    # New connections to its place waited in the kernel meanwhile: none is refused.
    for _ in range(20):
        assert sign(workers) == 200
    assert sum(workers.metric("qianyan_worker_restarts").values()) == 1.0
    assert any("worker_lost" in line for line in workers.log)


def test_a_reload_drops_no_request(workers: Workers) -> None:
    before = set(workers.pids())
    callers = [Caller(workers) for _ in range(4)]
    for caller in callers:
        caller.start()
    workers.installation.set("log", "requests = true")
    workers.process.send_signal(signal.SIGHUP)
    until(lambda: any('"reloaded"' in line for line in workers.log), "it did not reload")
    for caller in callers:
        caller.ended.set()
    for caller in callers:
        caller.join(60)
        assert not caller.failures
        assert set(caller.statuses) == {200}
    assert before.isdisjoint(workers.pids())
    assert sign(workers) == 200
    assert any('"event": "request"' in line for line in workers.log), "the new settings are not in force"


def test_a_worker_lost_while_its_successor_starts_leaves_one_in_its_place(workers: Workers) -> None:
    before = workers.pids()
    workers.process.send_signal(signal.SIGHUP)
    until(lambda: len(workers.pids()) > WORKERS, "no successor starts")
    os.kill(before[0], signal.SIGKILL)
    until(lambda: any('"reloaded"' in line for line in workers.log), "it did not reload")
    until(lambda: any('"worker_replaced"' in line for line in workers.log), "the lost one was not replaced")
    until(lambda: len(workers.pids()) <= WORKERS, "two workers are left in one place")
    for _ in range(10):
        assert sign(workers) == 200
    assert len(workers.pids()) == WORKERS


def test_a_reload_with_a_broken_setting_keeps_the_old_workers(workers: Workers) -> None:
    before = set(workers.pids())
    workers.installation.set("log", "requests = 7")
    workers.process.send_signal(signal.SIGHUP)
    until(lambda: any("reload_failed" in line for line in workers.log), "the failure was not said")
    assert set(workers.pids()) == before
    assert sign(workers) == 200
    assert any("log.requests" in line for line in workers.log)


def test_workers_do_not_outlive_a_killed_supervisor(workers: Workers) -> None:
    pids = workers.pids()
    workers.kill()

    def gone() -> bool:
        return not any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in pids)

    until(gone, "a worker is still there")


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stop_ends_all(workers: Workers) -> None:
    assert workers.stop() == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", workers.installation.private_port), timeout=5)


def test_a_port_that_other_workers_have_is_not_shared(standing: Workers) -> None:
    """SO_REUSEPORT alone would let a second service take half of the first one's connections."""
    workers = standing
    for more in (("--workers", "2"), ()):
        ran = workers.installation.run("serve", *more)
        assert ran.status == 1
        assert str(workers.installation.private_port) in ran.stderr


def test_a_wrong_passphrase_is_said_once_by_the_worker(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    (installation.directory / "passphrase").write_text("wrong\n")
    ran = installation.run("serve", "--workers", "2")
    assert ran.status == 1
    assert ran.stderr.count("passphrase") == 1
