"""The RA's client on a line that fails: what is sent again, what is not, and what is said of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

import qianyan_ra
from qianyan_ra import BadAnswer, Client, KeyTrouble, Maker, NoAnswer, Problem, Unfit, sign, tls_context
from service.cli import cli
from tests.ra_world import person
from tests.running import free_port

ANSWER = {"request_id": "r-1", "ra": "east-01", "kind": "resume", "state": "entered", "entered_by": "li"}
MESSAGE = sign(Maker("east-01").resume("01", request_id="r-1").content(), person(), datetime(2026, 11, 20, tzinfo=UTC))


def reply(status: str, body: object, *fields: str, keep: bool = True) -> bytes:
    """An HTTP answer."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(encoded)}", *fields, *([] if keep else ["Connection: close"])]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + encoded


def problem(status: str, code: str, *fields: str) -> bytes:
    members = {"code": code, "detail": "because", "field": "payload.csr"}
    return reply(status, members, "Content-Type: application/problem+json", "X-Request-Id: log-7", *fields)


GOOD = reply("202 Accepted", ANSWER)
CUT = GOOD[:-5]
NOTHING = b""
BUSY = problem("503 Service Unavailable", "busy", "Retry-After: 7")


class Line:
    """A listener that answers each request that it reads with the next of `answers`, cut off where one is cut off.

    `requests`: the bodies that came; `connections`: how many there were.
    """

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._current: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._current is not None:
            with contextlib.suppress(OSError):  # ended already
                self._current.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            self._current = connection
            with connection, connection.makefile("rb") as stream:
                while self._one(connection, stream.readline, stream.read):
                    continue

    def _one(self, connection: socket.socket, line: Callable[[], bytes], read: Callable[[int], bytes]) -> bool:
        length, first = 0, line()
        if not first:
            return False
        while (field := line()) not in (b"\r\n", b""):
            if field.lower().startswith(b"content-length:"):
                length = int(field.split(b":")[1])
        self.requests.append(read(length))
        answer = self.answers.pop(0)
        connection.sendall(answer)
        return answer not in (CUT, NOTHING) and b"Connection: close" not in answer


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    opened = Line(request.param)
    yield opened
    opened.close()


def client(line: Line, pauses: list[float] | None = None, **more: int) -> Client:
    waited: list[float] = [] if pauses is None else pauses
    return Client(line.url, pause=waited.append, **more)


@pytest.mark.parametrize("line", [[NOTHING, CUT, BUSY, GOOD]], indirect=True)
def test_the_same_octets_are_sent_until_there_is_an_answer(line: Line) -> None:
    pauses: list[float] = []
    assert client(line, pauses).send(MESSAGE).waiting
    assert line.requests == [MESSAGE] * 4
    assert len(pauses) == 3
    assert pauses[2] >= 7, "not before the service asked for it"


@pytest.mark.parametrize("line", [[NOTHING] * 3], indirect=True)
def test_no_answer_says_that_nobody_knows(line: Line) -> None:
    with pytest.raises(NoAnswer, match="send the same request again"):
        client(line, attempts=3).send(MESSAGE)
    assert len(line.requests) == 3


@pytest.mark.parametrize("line", [[BUSY] * 2], indirect=True)
def test_busy_to_the_end_is_the_services_own_problem(line: Line) -> None:
    with pytest.raises(Problem) as found:
        client(line, attempts=2).send(MESSAGE)
    assert (found.value.code, found.value.retryable, found.value.retry_after_s) == ("busy", True, 7)


@pytest.mark.parametrize("line", [[problem("422 Unprocessable Entity", "csr_signature")]], indirect=True)
def test_a_refusal_is_not_sent_again(line: Line) -> None:
    with pytest.raises(Problem) as found:
        client(line).send(MESSAGE)
    assert len(line.requests) == 1
    refused = found.value
    assert (refused.status, refused.code, refused.field, refused.request_id) == (
        422, "csr_signature", "payload.csr", "log-7",
    )  # fmt: skip
    assert not refused.retryable


@pytest.mark.parametrize("line", [[GOOD, GOOD]], indirect=True)
def test_a_connection_is_kept_open(line: Line) -> None:
    with client(line) as opened:
        opened.send(MESSAGE)
        opened.send(MESSAGE)
    assert line.connections == 1


@pytest.mark.parametrize("line", [[GOOD, NOTHING, GOOD]], indirect=True)
def test_a_connection_that_was_ended_meanwhile_costs_no_attempt(line: Line) -> None:
    pauses: list[float] = []
    with client(line, pauses, attempts=1) as opened:
        opened.send(MESSAGE)
        opened.send(MESSAGE)
    assert (line.connections, pauses) == (2, [])


@pytest.mark.parametrize(
    "line",
    [
        [reply("200 OK", b"<html>")],
        [reply("200 OK", [])],
        [reply("200 OK", {"request_id": 1})],
        [reply("200 OK", {**ANSWER, "entered_at": "yesterday"})],
        [reply("200 OK", {**ANSWER, "request_id": "r-2"})],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes((16 << 20) + 1)],
    ],
    indirect=True,
)
def test_what_answers_otherwise_is_not_taken_for_the_service(line: Line) -> None:
    with pytest.raises(BadAnswer):
        client(line).send(MESSAGE)


@pytest.mark.parametrize("line", [[reply("302 Found", b"", "Location: http://127.0.0.1:1/"), GOOD]], indirect=True)
def test_nothing_is_sent_to_where_a_redirect_points(line: Line) -> None:
    with pytest.raises(Problem) as found:
        client(line).send(MESSAGE)
    assert (found.value.code, len(line.requests)) == ("http_302", 1)


@pytest.mark.parametrize(
    "line", [[reply("200 OK", b'{"ra":"east-01","request_id":"r-2","kind":"revoke"}')]], indirect=True
)
def test_an_approver_signs_no_other_requests_content(line: Line) -> None:
    with pytest.raises(BadAnswer, match="another request"):
        client(line).approve("east-01", "r-1", person(), look=lambda content: True)


@pytest.mark.parametrize("line", [[BUSY] * 2], indirect=True)
def test_the_commands_status_says_whether_to_try_again(line: Line, tmp_path: Path) -> None:
    file = tmp_path / "request.p7"
    file.write_bytes(MESSAGE)
    for url, attempts in ((f"http://127.0.0.1:{free_port()}", "1"), (line.url, "1")):
        arguments = ["ra", "request", "send", str(file), "--url", url, "--attempts", attempts]
        ran = CliRunner().invoke(cli, arguments)
        assert ran.exit_code == 75, ran.output
        assert ran.stderr.count("\n") == 1, "one line"
    ran = CliRunner().invoke(cli, ["ra", "request", "send", str(file), "--url", "http://ca.example.cn"])
    assert ran.exit_code == 1
    assert "https://" in ran.stderr


@pytest.mark.parametrize(
    "url", ["ca.example.cn", "ftp://ca", "https://ca/v1", "http://ca.example.cn", "https://", "https://ca:x"]
)
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(Unfit):
        Client(url)


def test_what_cannot_be_a_token_or_a_tls_file_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="token"):
        Client("https://ca.example.cn", token="a\nb")
    with pytest.raises(KeyTrouble):
        tls_context(ca_file=str(tmp_path / "nothing"))


ALONE = """
import sys
sys.path.insert(0, {directory!r})
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
import importlib.util
assert importlib.util.find_spec("signer") is None and importlib.util.find_spec("core") is None
from datetime import UTC, datetime
from qianyan_ra import KeyTrouble, SoftwareKey, check_csr, make_csr
try:
    SoftwareKey.generate()
except KeyTrouble as error:
    print(error.code)
key = SoftwareKey.generate(arithmetic="pure")
check_csr(make_csr(key, {{"C": "CN", "CN": "alone"}}))
print(SoftwareKey.from_pem(key.to_pem(b"secret"), b"secret", arithmetic="pure").public_key == key.public_key)
"""


def test_stands_alone_and_never_falls_back_by_itself(tmp_path: Path) -> None:
    """Copied to another system without the rest, it works where plain Python is asked for, and says so where not."""
    shutil.copytree(Path(qianyan_ra.__file__).parent, tmp_path / "qianyan_ra")
    program = ALONE.format(directory=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["native_missing", "True"], ran.stderr
