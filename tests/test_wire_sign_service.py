"""The running service signs over TLS with the private hot path on and off: the same answers on real sockets."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from signer._native import sm2
from tests.caller_world import SIGN, ClientAuthority, Connection, bearer, code, command, make_token, succeed
from tests.running import Installation, Service


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClientAuthority:
    """The one that the service trusts."""
    return ClientAuthority(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module", params=["on", "off"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: ClientAuthority
) -> Iterator[Service]:
    installation = Installation(tmp_path_factory.mktemp("wire") / "var", tls="on").made()
    installation.set("private", f'hot_path = "{request.param}"')
    installation.set("private", 'client_certificates = "optional"')
    installation.set("private", f'client_ca = ["{authority.file}"]')
    installation.set("log", "requests = true")
    with Service(installation) as service:
        yield service


def public_key(service: Service) -> sm2.PublicKey:
    """Of the demonstration's key."""
    listed = succeed(command(service.installation, "key", "list", "--json")).json
    found = next(key for key in listed if key["id"] == "demo")
    return sm2.PublicKey.from_bytes(bytes.fromhex(found["public_key"]))


def test_one_connection_for_everything(running: Service, authority: ClientAuthority) -> None:
    client = authority.issue("registered")
    added = command(
        running.installation, "caller", "add", "app", "--certificate", client.certificate, "--scope", "sign"
    )
    succeed(added)
    public, digests = public_key(running), secrets.token_bytes(32 * 1024)
    connection = Connection(running, client)
    for _ in range(2):
        for _ in range(3):
            answer = connection.sign()
            assert answer.status == 200, answer.body
            raw = sm2.signature_from_der(base64.b64decode(answer.json["signature"]))
            public.verify_digest(base64.b64decode(SIGN["digest"]), raw)
        answer = connection.octets("/v1/keys/demo/sign", digests)
        assert sm2.verify_many(public, digests, answer.body) == b"\1" * 1024
        assert code(connection.call("POST", "/v1/sign", {**SIGN, "key": "none"})) == (404, "key_unknown")
        assert connection.call("GET", "/healthz").status == 200
    assert succeed(command(running.installation, "caller", "withdraw", "app")).status == 0
    assert code(connection.sign()) == (401, "certificate_unknown")
    assert code(Connection(running, client).sign()) == (401, "certificate_unknown")
    assert any('"cert:app"' in line or "cert:app" in line for line in running.log)


def test_many_connections_at_once(running: Service) -> None:
    token = bearer(running.installation.token)
    connections = [Connection(running) for _ in range(16)]

    def work(connection: Connection) -> set[int]:
        return {connection.sign(**token).status for _ in range(20)}

    with ThreadPoolExecutor(16) as pool:
        assert set().union(*pool.map(work, connections)) == {200}
    scraper = make_token(running.installation, "scraper", "--scope", "metrics")
    text = running.call("GET", "/metrics", token=scraper).body.decode()
    line = next(
        line for line in text.splitlines()
        if line.startswith('qianyan_http_requests_total{listener="private",route="/v1/sign",status="200"}')
    )  # fmt: skip
    assert float(line.split()[-1]) >= 320
    assert 'qianyan_connections{listener="private"}' in text


def test_a_stop_answers_what_came(running: Service) -> None:
    token = bearer(running.installation.token)
    connection = Connection(running)
    assert connection.sign(**token).status == 200
    body = secrets.token_bytes(32)
    connection.begin("POST", "/v1/keys/demo/sign", len(body), Content_Type="x", **token)
    connection.close()
    late = Connection(running)
    late._http.putrequest("POST", "/v1/keys/demo/sign")
    for name, text in {**token, "Content-Type": "application/octet-stream", "Content-Length": "32"}.items():
        late._http.putheader(name, text)
    late._http.endheaders(body[:16])
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(running.stop)
        late.send(body[16:])
        answer = late.answer()
        assert (answer.status, len(answer.body)) == (200, 64)
        assert stopped.result() == 0
