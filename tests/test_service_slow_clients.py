"""Clients that are slow, idle or too many, on both listeners: each is bounded, and the others are served."""

from __future__ import annotations

import contextlib
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.caller_world import SIGN, Connection, bearer, code
from tests.running import Installation, Service

#: How long a connection may take to be closed: far longer than the limits that the tests set, far shorter than the
#: keep-alive time, which would close it, too.
DEADLINE_S = 60
MAX_CONNECTIONS = 12


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One process with little patience."""
    installation = Installation(tmp_path_factory.mktemp("slow") / "var").made()
    for line in ("header_timeout_s = 1", "keepalive_timeout_s = 3600", f"max_connections = {MAX_CONNECTIONS}"):
        installation.set("server", line)
    with Service(installation) as running:
        yield running


@pytest.fixture(params=["public", "private"])
def listener(request: pytest.FixtureRequest, service: Service) -> str:
    """The URL of each."""
    url: str = getattr(service, request.param)
    return url


def connect(url: str) -> socket.socket:
    """A plain TCP connection to a listener."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_S)


def closed(one: socket.socket, wait_s: float = 0.0) -> bool:
    """Whether the other side has closed it; what it sends is read and thrown away."""
    while select.select([one], [], [], wait_s)[0]:
        try:
            if not one.recv(65536):
                return True
        except ConnectionError:
            return True
    return False


def until_closed(one: socket.socket, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Waits for the other side to close it."""
    deadline = time.monotonic() + DEADLINE_S
    while not closed(one, 0.1):
        assert time.monotonic() < deadline, "it is still open"
        meanwhile()


def counted(service: Service, reason: str) -> float:
    """Connections closed for a reason, over both listeners."""
    text = service.call("GET", "/metrics").body.decode()
    found = re.findall(
        rf'^qianyan_connections_closed_total{{listener="\w+",reason="{reason}"}} (\S+)$', text, re.MULTILINE
    )
    return sum(map(float, found))


def test_time_in_which_the_service_did_not_run_is_nobodys_fault(service: Service, listener: str) -> None:
    """A request that was sent in time and lies unread while the process, or its machine, stands still is answered."""
    before = counted(service, "late")
    with connect(listener) as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\n")
        until_open(service, 2)  # this one, and the one that asks
        service.process.send_signal(signal.SIGSTOP)
        try:
            one.sendall(b"Host: a\r\nConnection: close\r\n\r\n")
            stood_still(service, 4.0)
        finally:
            service.process.send_signal(signal.SIGCONT)
        assert one.recv(65536).startswith(b"HTTP/1.1 200")
    assert counted(service, "late") == before


def until_open(service: Service, count: int) -> None:
    """Waits until so many connections are accepted."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        text = service.call("GET", "/metrics").body.decode()
        if sum(map(float, re.findall(r"^qianyan_connections{.*} (\S+)$", text, re.MULTILINE))) >= count:
            return
        assert time.monotonic() < deadline, "it was not accepted"


def stood_still(service: Service, seconds: float) -> None:
    """Returns when the process was stopped for so long."""
    deadline = time.monotonic() + DEADLINE_S
    while "T (stopped)" not in Path(f"/proc/{service.process.pid}/status").read_text():
        assert time.monotonic() < deadline, "it was not stopped"
    threading.Event().wait(seconds)


def test_a_connection_that_sends_nothing(service: Service, listener: str) -> None:
    before = counted(service, "late")
    with connect(listener) as one:
        until_closed(one)
    assert counted(service, "late") > before


def test_headers_that_trickle(listener: str) -> None:
    with connect(listener) as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")

        def another() -> None:
            try:
                one.sendall(b"X-More: 1\r\n")
            except ConnectionError:
                return

        until_closed(one, another)


def test_headers_that_trickle_in_a_later_request(listener: str) -> None:
    with connect(listener) as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert one.recv(65536).startswith(b"HTTP/1.1 200")
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        until_closed(one)


def test_a_slow_body_and_an_idle_connection_are_not_slow_headers(service: Service) -> None:
    idle = Connection(service)
    token = bearer(service.installation.token)
    assert idle.sign(**token).status == 200
    body = b'{"key": "demo", "digest": "' + str(SIGN["digest"]).encode() + b'"}'
    slow = Connection(service)
    slow.begin("POST", "/v1/sign", len(body), **token)
    with connect(service.private) as late:
        until_closed(late)  # the header timeout has passed for the others, too
    slow.send(body)
    assert slow.answer().status == 200
    assert idle.sign(**token).status == 200


def test_headers_past_the_bounds(listener: str) -> None:
    for head in (
        b"X-Many: 1\r\n" * 200,
        b"X-Long: " + b"x" * 20_000 + b"\r\n",
        b"X-Long" + b"x" * 20_000 + b": 1\r\n",
    ):
        with connect(listener) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n")
            answer = one.recv(65536)
            assert answer.split(b" ")[1] in (b"400", b"431"), answer
            until_closed(one)


def test_idle_connections_give_way(service: Service) -> None:
    held = []
    try:
        for _ in range(3 * MAX_CONNECTIONS):
            one = connect(service.private)
            held.append(one)
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert one.recv(65536).startswith(b"HTTP/1.1 200"), "a new connection is served, however many are idle"
        assert sum(not closed(one) for one in held) <= MAX_CONNECTIONS
        assert closed(held[0], 1.0), "the one that was idle longest stays"
    finally:
        for one in held:
            one.close()
    assert counted(service, "gave_way") > 0


def test_none_gives_way_to_one_more_while_it_works(service: Service) -> None:
    token = bearer(service.installation.token)
    body = b'{"key": "demo", "digest": "' + str(SIGN["digest"]).encode() + b'"}'
    busy = []
    for _ in range(MAX_CONNECTIONS):
        one = Connection(service)
        one.begin("POST", "/v1/sign", len(body), **token)
        busy.append(one)
    # Until the service has begun with all of them: one that is not begun may give way.
    assert service.get("/healthz").status == 200
    with connect(service.private) as more, contextlib.suppress(ConnectionError):
        more.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert more.recv(65536) == b"", "one more than the limit is served"
    for one in busy:
        one.send(body)
        assert one.answer().status == 200
        one.close()
    assert counted(service, "refused") > 0


def test_a_tls_handshake_that_does_not_come(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var", tls="on").made()
    installation.set("server", "header_timeout_s = 1")
    with Service(installation) as service:
        with connect(service.private) as one:
            until_closed(one)
        with connect(service.private) as one:
            one.sendall(bytes.fromhex("16030100"))  # the beginning of a record
            until_closed(one)
        answer = Connection(service).sign(**bearer("wrong"))
        assert code(answer) == (401, "unauthenticated")
