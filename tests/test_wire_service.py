"""The running service with the hot path on, over either transport, and off: the same answers on real sockets."""

from __future__ import annotations

import base64
import http.client
import sqlite3
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest
from cryptography.x509 import ocsp

from core.asn1 import der
from status.issuers import cert_id_issuers
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service
from tests.status_world import read, request, word


@pytest.fixture(scope="module", params=["on", "uvloop", "off"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    installation = Installation(tmp_path_factory.mktemp("wire") / "var").made()
    installation.set("public", f'hot_path = "{"off" if request.param == "off" else "on"}"')
    if request.param == "uvloop":
        installation.set("server", 'wire_transport = "uvloop"')
    with Service(installation) as service:
        yield service


def one(service: Service, query: str) -> tuple[bytes, ...]:
    """A row of the installation's store."""
    with sqlite3.connect(service.installation.directory / "store.sqlite3") as connection:
        row: tuple[bytes, ...] = connection.execute(query).fetchone()
        return row


def cert_id_of(service: Service, serial: int) -> bytes:
    """The CertID of a serial of the issuing authority."""
    subject, key = one(service, "SELECT subject, public_key FROM authorities WHERE id = 'issuing'")
    return der.sequence(cert_id_issuers(subject, key)[0] + der.integer(serial))


def known(service: Service) -> bytes:
    """The CertID of a certificate that there is from the start."""
    (serial,) = one(service, "SELECT serial FROM certificates WHERE authority_id = 'issuing'")
    return cert_id_of(service, int.from_bytes(serial, "big"))


def test_every_way_of_asking(running: Service) -> None:
    cert_id = known(running)
    plain, live = request(cert_id), request(cert_id, nonce=b"n" * 32)
    posted = [running.ocsp(plain) for _ in range(3)]
    assert {answer.body for answer in posted} == {posted[0].body}
    assert word(read(posted[0].body)) == "good"
    first, second = read(running.ocsp(live).body), read(running.ocsp(live).body)
    assert first.extensions[0].value.nonce == b"n" * 32  # type: ignore[attr-defined]
    assert first.signature != second.signature
    path = "/ocsp/" + quote(base64.b64encode(plain).decode(), safe="")
    got = running.get(path)
    assert got.body == posted[0].body
    assert got.headers["Cache-Control"].startswith("max-age=")
    unchanged = running.get(path, **{"If-None-Match": got.headers["ETag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert running.ocsp(bytes(20_000)).status == 413
    assert running.request("DELETE", running.public + "/ocsp").status == 405
    assert ocsp.load_der_ocsp_response(running.ocsp(b"x").body).response_status.value == 1
    named = running.request("POST", running.public + "/ocsp", plain, {"X-Request-Id": "mine"})
    assert (named.headers["X-Request-Id"], named.headers["Server"]) == ("mine", "qianyan")


def test_one_connection_for_all(running: Service) -> None:
    cert_id = known(running)
    parts = urlsplit(running.public)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    try:
        for body in (request(cert_id), request(cert_id, nonce=b"n"), None, request(cert_id)):
            connection.request("GET" if body is None else "POST", "/healthz" if body is None else "/ocsp", body)
            response = connection.getresponse()
            assert (response.status, len(response.read()) > 10) == (200, True)
    finally:
        connection.close()


def test_requests_are_counted(running: Service) -> None:
    made = running.installation.run("token", "create", "scraper", "--scope", "metrics")
    assert made.status == 0, made.stderr
    cert_id = known(running)
    running.ocsp(request(cert_id))
    text = running.call("GET", "/metrics", token=made.stdout.strip()).body.decode()
    assert 'qianyan_http_requests_total{listener="public",route="/ocsp",status="200"}' in text
    assert 'qianyan_ocsp_requests_total{result="ok"}' in text


def test_a_revocation_on_the_command_line(running: Service, bouncycastle: BouncyCastle) -> None:
    issued = running.issue(bouncycastle.make_csr("C=CN,O=单位,CN=甲").der)
    serial = issued.serials["sign"]
    cert_id = cert_id_of(running, int(serial, 16))
    asked = request(cert_id), request(cert_id, nonce=b"n")
    for _ in range(3):
        assert [word(read(running.ocsp(octets).body)) for octets in asked] == ["good", "good"]
    revoked = running.installation.run("revoke", serial, "--reason", "key_compromise")
    assert revoked.status == 0, revoked.stderr
    assert [word(read(running.ocsp(octets).body)) for octets in asked] == ["revoked", "revoked"]
