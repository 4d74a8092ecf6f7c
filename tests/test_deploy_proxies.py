"""The example settings of nginx and HAProxy, run in front of two nodes of one store, of which one is killed."""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from tests.judges import openssl
from tests.running import Installation, Service, free_port

DEPLOY = Path(__file__).parent.parent / "deploy"
PATIENCE_S = 60


@dataclass(frozen=True)
class Site:
    """Two nodes on one store, and an OCSP request that both answer with good."""

    first: Service
    second: Service
    request: bytes


class Second(Installation):
    """The other node: the same directory, ports of its own, by a settings file of its own."""

    @property
    def config(self) -> Path:
        return self.directory / "second.toml"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    first = Installation(tmp_path_factory.mktemp("proxied") / "var", tls="on").init()
    second = Second(first.directory, tls="on")
    text = first.config.read_text()
    text = text.replace(f"port = {first.public_port}", f"port = {second.public_port}", 1)
    second.config.write_text(text.replace(f"port = {first.private_port}", f"port = {second.private_port}"))
    with Service(first) as one, Service(second) as two:
        csr = openssl.make_csr(openssl.make_key(), "/C=CN/O=Somewhere/CN=Somebody")
        issued = one.issue(csr)
        yield Site(one, two, openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], nonce=False))


def port_of(url: str) -> int:
    port = urllib.parse.urlsplit(url).port
    assert port is not None
    return port


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.05)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Client:
    """Asks on one connection, anew where it was closed."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def status(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(0, b"") where there was no answer."""
        try:
            self.connection.request(method, path, body, {"Content-Type": "application/ocsp-request"})
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return 0, b""

    def good(self, request: bytes) -> bool:
        """Whether OCSP says good, asked by POST and by GET."""
        encoded = urllib.parse.quote(base64.b64encode(request).decode(), safe="/+=")
        for status, body in (self.status("POST", "/ocsp", request), self.status("GET", f"/ocsp/{encoded}")):
            if status != 200:
                return False
            answer = ocsp.load_der_ocsp_response(body)
            if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
                return False
            if next(iter(answer.responses)).certificate_status is not ocsp.OCSPCertStatus.GOOD:
                return False
        return True


def ocsp_answers(service: Service) -> int:
    text = service.call("GET", "/metrics").body.decode()
    return int(float(re.findall(r'^qianyan_ocsp_requests_total\{result="ok"\} (\S+)$', text, re.MULTILINE)[0]))


def lose_one_and_get_it_back(site: Site, port: int, noticed: Callable[[], bool], back: Callable[[], bool]) -> None:
    """Both are used; one is killed; once that was noticed no request fails; it comes back and is used again."""
    client = Client(port)
    before = [ocsp_answers(one) for one in (site.first, site.second)]

    def both_were_asked() -> bool:
        assert client.good(site.request)
        after = [ocsp_answers(one) for one in (site.first, site.second)]
        return all(now > then for now, then in zip(after, before, strict=True))

    until(both_were_asked, "both nodes take their share")
    site.second.kill()
    try:
        until(lambda: client.good(site.request) and noticed(), "the proxy notices")
        assert [client.good(site.request) for _ in range(150)] == [True] * 150
    finally:
        site.second.start()
    until(back, "the proxy takes it back")
    served = ocsp_answers(site.second)
    until(lambda: client.good(site.request) and ocsp_answers(site.second) > served, "it is asked again")


# ---- HAProxy


def haproxy_settings(site: Site, directory: Path, public: int, private: int) -> Path:
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    nodes = {"10.0.0.11": site.first, "10.0.0.12": site.second}
    for address, service in nodes.items():
        text = text.replace(f"{address}:8080", f"127.0.0.1:{port_of(service.public)}")
        text = text.replace(f"{address}:8443", f"127.0.0.1:{port_of(service.private)}")
    text = text.replace("bind :80\n", f"bind 127.0.0.1:{public}\n").replace(
        "bind :8443\n", f"bind 127.0.0.1:{private}\n"
    )
    text = text.replace("/etc/haproxy/qianyan-ca.pem", str(site.first.installation.directory / "tls-ca.pem"))
    text = text.replace("maxconn 20000", "maxconn 200")  # this machine may not allow as many open files
    text = text.replace("global\n", f"global\n    stats socket {directory / 'stats'} mode 600\n", 1)
    assert "10.0.0." not in text
    file = directory / "haproxy.cfg"
    file.write_text(text)
    return file


@dataclass(frozen=True)
class Haproxy:
    directory: Path
    public: int
    private: int

    def state(self, backend: str, server: str) -> str:
        """UP or DOWN, as HAProxy has it."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self.directory / "stats"))
            asked.sendall(b"show stat\n")
            text = b"".join(iter(lambda: asked.recv(65536), b"")).decode()
        header, *lines = text.removeprefix("# ").splitlines()
        columns = header.split(",")
        rows = [dict(zip(columns, line.split(","), strict=False)) for line in lines if line]
        return next(row["status"] for row in rows if (row["pxname"], row["svname"]) == (backend, server))


@pytest.fixture(scope="module")
def haproxy(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haproxy]:
    running = Haproxy(tmp_path_factory.mktemp("ha"), free_port(), free_port())
    file = haproxy_settings(site, running.directory, running.public, running.private)
    checked = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "WARNING" not in checked.stderr, checked.stderr
    with (running.directory / "log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-db", "-f", file], stdout=log, stderr=log)
        try:
            stats = running.directory / "stats"
            until(lambda: (accepts(running.public) and stats.exists()) or process.poll() is not None, "HAProxy listens")
            assert process.poll() is None, (running.directory / "log").read_text()
            yield running
        finally:
            process.terminate()
            process.wait(30)


def test_haproxy_loses_no_request_when_a_node_dies(site: Site, haproxy: Haproxy) -> None:
    for backend in ("public_ready", "public_alive", "private_ready"):
        for server in ("node1", "node2"):
            until(lambda: haproxy.state(backend, server) == "UP", f"{backend}/{server}")  # noqa: B023 - asked at once
    lose_one_and_get_it_back(
        site,
        haproxy.public,
        lambda: haproxy.state("public_ready", "node2").startswith("DOWN"),
        lambda: haproxy.state("public_ready", "node2") == "UP",
    )


def test_haproxy_hands_tls_on_unopened(site: Site, haproxy: Haproxy) -> None:
    until(lambda: haproxy.state("private_ready", "node1") == "UP", "the check speaks TLS")
    context = ssl.create_default_context(cafile=str(site.first.installation.directory / "tls-ca.pem"))
    connection = http.client.HTTPSConnection("127.0.0.1", haproxy.private, context=context, timeout=30)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {site.first.installation.token}"})
    assert connection.getresponse().status == 200
    connection.close()


# ---- nginx


@pytest.fixture(scope="module")
def nginx(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory, port = tmp_path_factory.mktemp("nginx"), free_port()
    text = (DEPLOY / "nginx" / "qianyan.conf").read_text()
    text = text.replace("10.0.0.11:8080", f"127.0.0.1:{port_of(site.first.public)}")
    text = text.replace("10.0.0.12:8080", f"127.0.0.1:{port_of(site.second.public)}")
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    assert "10.0.0." not in text
    paths = " ".join(
        f"{kind}_temp_path {directory / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    file = directory / "nginx.conf"
    file.write_text(
        f"{user} worker_processes 1; pid {directory / 'pid'}; error_log stderr warn; daemon off;\n"
        f"events {{ }}\nhttp {{ access_log off; {paths}\n{text}\n}}\n"
    )
    checked = subprocess.run(["nginx", "-t", "-c", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr, checked.stderr
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["nginx", "-c", file], stdout=log, stderr=log)
        try:
            until(lambda: accepts(port) or process.poll() is not None, "nginx listens")
            assert process.poll() is None, (directory / "log").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(30)


def test_nginx_loses_no_request_when_a_node_dies(site: Site, nginx: int) -> None:
    lose_one_and_get_it_back(site, nginx, lambda: True, lambda: site.second.get("/readyz").status == 200)


def test_nginx_hands_on_everything_of_the_public_listener(site: Site, nginx: int) -> None:
    client = Client(nginx)
    status, crl = client.status("GET", "/crl/issuing/0.crl")
    assert status == 200
    assert crl in (site.first.get("/crl/issuing/0.crl").body, site.second.get("/crl/issuing/0.crl").body)
    assert client.status("GET", "/status")[0] == 200
    assert client.status("GET", "/metrics")[0] == 404
    # Base64 with two slashes in a row stays as it is: no such request is known, but it is a request.
    assert client.status("GET", "/ocsp/" + base64.b64encode(b"\xff\xff\xff" * 8).decode())[0] in (200, 400)
