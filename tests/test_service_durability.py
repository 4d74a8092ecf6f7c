"""What was answered stays: `kill -9` at any moment, a graceful stop, keys that obey at once."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.asn1 import names
from service.holder import build_request
from signer._native import sm2
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Answer, Installation, Service


def new_request(name: str) -> bytes:
    """A request with a key of its own."""
    subject = names.build_name({"C": "CN", "O": "单位", "CN": name}).public_bytes()
    return build_request(sm2.PrivateKey.generate(), subject)


class Requester(threading.Thread):
    """Asks for certificates until told to stop or the service is gone; keeps what was answered."""

    def __init__(self, service: Service, name: str) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._prefix = name
        self.ended = threading.Event()
        self.answered: list[dict[str, str]] = []
        self.first = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        count = 0
        try:
            while not self.ended.is_set():
                issued = self._service.issue(new_request(f"{self._prefix}-{count}"))
                self.answered.append(issued.serials)
                self.first.set()
                count += 1
        except (OSError, http.client.HTTPException) as error:
            self.error = error  # the service is gone, which a test that kills it expects
            self.first.set()


@contextmanager
def requesters(service: Service, count: int) -> Iterator[list[Requester]]:
    """So many at work, each with at least one answer."""
    threads = [Requester(service, f"r{i}") for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        assert thread.first.wait(60)
        assert thread.error is None
    try:
        yield threads
    finally:
        for thread in threads:
            thread.ended.set()
            thread.join(30)


def audit_is_whole(installation: Installation) -> None:
    """`qianyan audit verify` says so."""
    ran = installation.run("audit", "verify")
    assert ran.status == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("after_ms", [30, 180])
def test_kill_9_loses_nothing_that_was_answered(after_ms: int, tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    service = Service(installation)
    service.start()
    with requesters(service, 3) as threads:
        threading.Event().wait(after_ms / 1000)  # any moment will do; two of them are tried
        service.kill()
    answered = [serial for thread in threads for pair in thread.answered for serial in pair.values()]
    assert len(answered) >= 6
    audit_is_whole(installation)
    with sqlite3.connect(installation.directory / "store.sqlite3") as connection:
        pairs = connection.execute("SELECT count(*) FROM certificates WHERE profile = 'organisation'").fetchone()[0]
        alone = connection.execute(
            "SELECT count(*) FROM certificates WHERE profile = 'organisation' AND pair_id IS NULL"
        ).fetchone()[0]
        feed = connection.execute("SELECT min(seq), max(seq), count(*) FROM feed").fetchone()
        indexes = connection.execute(
            "SELECT count(*), count(DISTINCT status_index) FROM certificates"
            " WHERE authority_id = 'issuing' GROUP BY status_month"
        ).fetchall()
    assert pairs % 2 == 0
    assert alone == 0
    assert feed[0] == 1
    assert feed[1] == feed[2]
    assert all(total == distinct for total, distinct in indexes)
    with Service(installation) as again:
        states = again.post("/v1/status", {"serials": answered}).json["statuses"]
        assert {state["status"] for state in states} == {"good"}
        assert again.issue(new_request("after")).serials["sign"] not in answered


def test_kill_9_loses_no_revocation(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    installation = Installation(tmp_path / "var").made()
    service = Service(installation)
    service.start()
    issued = service.issue(new_request("one"))
    answer = service.call("POST", f"/v1/certificates/{issued.serials['sign']}/revoke", {"reason": "superseded"})
    service.kill()
    assert answer.status == 200
    number_before = 0
    with sqlite3.connect(installation.directory / "store.sqlite3") as connection:
        number_before = connection.execute("SELECT max(number) FROM crls WHERE authority_id = 'issuing'").fetchone()[0]
    with Service(installation) as again:
        request = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"])
        serial = int(issued.serials["sign"], 16)
        assert bouncycastle.check_ocsp(again.ocsp(request).body, issued.chain[0], serial).status == "revoked"
        # The start builds what is due before it listens.
        crl = bouncycastle.check_crl(again.get("/crl/issuing/0.crl").body, issued.chain[0], [serial])
        assert serial in crl.listed
        assert crl.number is not None
        assert crl.number > number_before


def accepted(installation: Installation, body: bytes) -> socket.socket:
    """A connection whose request the service has begun to handle (it said 100), with the body still to come."""
    connection = socket.create_connection(("127.0.0.1", installation.private_port), timeout=60)
    head = (
        "POST /v1/certificates HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        f"Authorization: Bearer {installation.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert b"100 Continue" in connection.recv(1024)
    return connection


def test_a_graceful_stop_answers_what_was_accepted(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    installation.set("server", "stop_timeout_s = 600")  # longer than a test waits: nothing idle may use it up
    service = Service(installation)
    service.start()
    requests = [
        json.dumps({"csr": base64.b64encode(new_request(f"last-{i}")).decode(), "profile": "organisation"}).encode()
        for i in range(8)
    ]
    connections = [accepted(installation, body) for body in requests]
    idle = service.connect(service.public)
    idle.request("GET", "/healthz")
    assert idle.getresponse().read()
    service.process.send_signal(signal.SIGTERM)
    while not any('"stopping"' in line for line in service.log):
        assert service.process.poll() is None
        threading.Event().wait(0.01)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", installation.private_port), timeout=5)
    for connection, body in zip(connections, requests, strict=True):
        connection.sendall(body)
    for connection in connections:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 201
        assert len(json.loads(answer.read())["certificates"]) == 2
        connection.close()
    assert service.stop() == 0, "an idle connection held the stop up"


def sign(service: Service) -> Answer:
    """One signature with the demonstration's key."""
    return service.call("POST", "/v1/sign", {"key": "demo", "digest": base64.b64encode(bytes(32)).decode()})


def test_keys_obey_from_the_commit_on(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    with Service(installation) as service:
        assert sign(service).status == 200
        assert installation.run("key", "freeze", "demo").status == 0
        answer = sign(service)
        assert (answer.status, answer.json["code"]) == (422, "key_frozen")
        assert installation.run("key", "resume", "demo").status == 0
        assert sign(service).status == 200
        assert installation.run("key", "compromise", "demo", "--yes").status == 0
        answer = sign(service)
        assert (answer.status, answer.json["code"]) == (422, "key_compromised")
        ran = installation.run("key", "resume", "demo")
        assert ran.status == 1
        assert "compromised" in ran.stderr
        made = installation.run("key", "create", "seal-office", "--caller", "*", "--json").json
        digest = base64.b64encode(bytes(32)).decode()
        answer = service.call("POST", "/v1/sign", {"key": "seal-office", "digest": digest})
        assert answer.status == 200
        signature = sm2.signature_from_der(base64.b64decode(answer.json["signature"]))
        sm2.PublicKey.from_bytes(bytes.fromhex(made["public_key"])).verify_digest(bytes(32), signature)
    audit_is_whole(installation)


def test_a_changed_audit_row_shows(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    audit_is_whole(installation)
    with sqlite3.connect(installation.directory / "store.sqlite3") as connection:
        connection.execute("UPDATE audit SET actor = 'cli:nobody' WHERE seq = 2")
    ran = installation.run("audit", "verify", "--json")
    assert ran.status == 3
    assert ran.json["broken_at"] == 2


def test_a_stopped_clock_stops_signing_certificates(tmp_path: Path) -> None:
    """The store's last time moved ahead under a running service is a clock that went back."""
    installation = Installation(tmp_path / "var").made()
    with Service(installation) as service:
        ahead_ms = (int(time.time()) + 600) * 1000
        with sqlite3.connect(installation.directory / "store.sqlite3") as connection:
            connection.execute("UPDATE counters SET value = ? WHERE name = 'last_time_ms'", (ahead_ms,))
        csr = base64.b64encode(new_request("late")).decode()
        answer = service.call("POST", "/v1/certificates", {"csr": csr, "profile": "organisation"})
        assert (answer.status, answer.json["code"]) == (503, "clock_behind")
        assert service.get("/readyz").status == 503
        frozen = installation.run("key", "freeze", "demo")
        assert frozen.status == 0, "a key can be stopped with a wrong clock"
        assert (sign(service).status, sign(service).json["code"]) == (422, "key_frozen")
