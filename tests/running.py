"""The installed command, run as a person would: an installation in a directory, a service on real sockets."""

from __future__ import annotations

import atexit
import base64
import contextlib
import http.client
import json
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import warm

INSTALLED = Path(sys.executable).parent / "qianyan"
#: What is run; a test may put a program of its own in front.
QIANYAN = INSTALLED
#: How long a command or a service may take to come up or go down before a test gives up on it.
PATIENCE_S = 120


#: Below what Linux gives to outgoing connections: none of them takes a port before the server that it was found for.
_PORTS = range(18_000, 32_000)
_ports_given: set[int] = set()


def free_port() -> int:
    """A port that nothing has now, and that this process was not given before."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _ports_given:
                _ports_given.add(port)
                return port


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.stdout)


def launch(*arguments: str | Path, cwd: Path | None = None, cold: bool = False) -> subprocess.Popen[str]:
    """The command as a process with pipes: a fork of one that has imported it already (`tests.warm`).

    The installed script itself where that is asked for (`cold`), where it was replaced by another, where the
    environment is not the one that the tests began with, and outside of pytest.
    """
    command = [str(QIANYAN), *map(str, arguments)]
    if warm.enabled and not cold and QIANYAN == INSTALLED and warm.environment() == warm.ENVIRONMENT:
        return warm.Forked(command, cwd, subprocess.PIPE, subprocess.PIPE)
    return subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def qianyan(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, cold: bool = False
) -> Ran:
    """Runs the command to its end, without a terminal; `cold` as `launch` has it, and with `env` always."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        process = launch(*arguments, cwd=cwd, cold=cold)
    try:
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ran(process.returncode, stdout, stderr)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Installation:
    """A demonstration installation on ports of its own; the private listener plain unless asked otherwise."""

    directory: Path
    public_port: int = field(default_factory=free_port)
    private_port: int = field(default_factory=free_port)
    tls: str = "off"

    def init(self, *more: str) -> Installation:
        """`qianyan init --demo`."""
        ran = qianyan(
            "init",
            "--dir",
            self.directory,
            "--demo",
            "--public-port",
            str(self.public_port),
            "--private-port",
            str(self.private_port),
            "--private-tls",
            self.tls,
            *more,
        )
        assert ran.status == 0, ran.stderr
        return self

    def made(self) -> Installation:
        """What `init()` makes, as a copy of one that it made once in this test process.

        Keys and token are those of every such copy; the authority's own certificate names the first one's port.
        """
        shutil.copytree(_template(self.tls).directory, self.directory)
        for table, port in (("public", self.public_port), ("private", self.private_port)):
            self.set(table, f"port = {port}")
        self.set("issuance", f'public_url = "http://127.0.0.1:{self.public_port}"')
        return self

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.directory / "qianyan.toml"

    @property
    def token(self) -> str:
        """The demonstration's token."""
        return (self.directory / "demo-token").read_text().strip()

    def run(self, *arguments: str | Path) -> Ran:
        """A command with this installation's settings."""
        return qianyan(*arguments, "--config", self.config)

    def set(self, table: str, line: str) -> None:
        """Adds a line to a table of the settings file, replacing the setting of that name."""
        name = line.split("=")[0].strip()
        lines = self.config.read_text().splitlines()
        at = lines.index(f"[{table}]") if f"[{table}]" in lines else -1
        if at < 0:
            lines += ["", f"[{table}]"]
            at = len(lines) - 1
        end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith("[")), len(lines))
        body = [text for text in lines[at + 1 : end] if text.split("=")[0].strip() != name]
        self.config.write_text("\n".join([*lines[: at + 1], line, *body, *lines[end:]]) + "\n")


@cache
def _template(tls: str) -> Installation:
    directory = Path(tempfile.mkdtemp(prefix="installation-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Installation(directory / "var", tls=tls).init()


class Service:
    """`qianyan serve` as a process. A context manager: up when entered, stopped when left."""

    #: What a subclass adds to the command.
    arguments: tuple[str, ...] = ()
    #: Whether it is the installed script itself (see `launch`).
    cold = False

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.process: subprocess.Popen[str]
        self.log: list[str] = []
        self.public = ""
        self.private = ""
        self._tls: ssl.SSLContext | None = None

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the process and returns when both listeners accept."""
        self.process = launch("serve", *self.arguments, "--config", self.installation.config, cold=self.cold)
        assert self.process.stderr is not None
        reader = threading.Thread(target=self._read_log, args=(self.process.stderr,), daemon=True)
        reader.start()
        assert self.process.stdout is not None
        urls = dict(self.process.stdout.readline().split() or ("", "") for _ in range(2))
        if "public" not in urls:
            reader.join(PATIENCE_S)
            raise AssertionError(f"the service did not start:\n{''.join(self.log)}")
        self.public, self.private = urls["public"], urls["private"]
        if self.private.startswith("https"):
            self._tls = ssl.create_default_context(cafile=str(self.installation.directory / "tls-ca.pem"))

    def _read_log(self, stream: Any) -> None:
        with contextlib.suppress(ValueError):  # closed under us when the process is gone
            for line in stream:
                self.log.append(line)

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def connect(self, url: str) -> http.client.HTTPConnection:
        """A connection to the listener of `url`."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, parts.port, context=self._tls, timeout=PATIENCE_S)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)

    def request(
        self, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.connect(url)
        try:
            parts = urlsplit(url)
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET from the public listener."""
        return self.request("GET", self.public + path, None, headers)

    def post(self, path: str, value: Any) -> Answer:
        """POST of JSON to the public listener."""
        return self.request("POST", self.public + path, json.dumps(value).encode())

    def call(self, method: str, path: str, value: Any = None, *, token: str | None = None, **headers: str) -> Answer:
        """A call of the private listener, JSON in, with the demonstration's token unless another is given."""
        body = None if value is None else json.dumps(value).encode()
        bearer = self.installation.token if token is None else token
        headers = {name.replace("_", "-"): text for name, text in headers.items()}
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        return self.request(method, self.private + path, body, headers)

    def ocsp(self, request: bytes) -> Answer:
        """POST /ocsp."""
        return self.request("POST", self.public + "/ocsp", request, {"Content-Type": "application/ocsp-request"})

    def issue(self, csr: bytes, profile: str = "organisation", **headers: str) -> IssuedOverHttp:
        """POST /v1/certificates, which must succeed."""
        answer = self.call(
            "POST", "/v1/certificates", {"csr": base64.b64encode(csr).decode(), "profile": profile}, **headers
        )
        assert answer.status == 201, answer.body
        return IssuedOverHttp(answer.json)


class IssuedOverHttp:
    """What POST /v1/certificates answered, decoded."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value
        by_usage = {item["usage"]: item for item in value["certificates"]}
        self.serials = {usage: str(item["serial"]) for usage, item in by_usage.items()}
        self.certificates = {usage: base64.b64decode(item["certificate"]) for usage, item in by_usage.items()}
        self.chain = [base64.b64decode(item) for item in value["chain"]]
        enveloped = value["enveloped_key"]
        self.enveloped_key = None if enveloped is None else base64.b64decode(enveloped)
