"""A responder on a PostgreSQL replica: it signs, and accounts for that at the primary, which is all that it writes."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from signer._native import sm2
from tests.issuance_support import Request
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.postgres import Server
from tests.running import Installation, IssuedOverHttp, Service
from tests.test_service_workers import until

SUBJECT = "C=CN,O=省政务服务中心,CN=测试单位"
TRY_LATER = 3


@dataclass
class Both:
    """The node that writes, and the responder on the replica of its store."""

    server: Server
    writing: Service
    responder: Service
    workers_before: int

    def workers(self) -> int:
        return workers(self.server)


def workers(server: Server) -> int:
    """How many processes have reserved uses of keys, by the primary's audit record."""
    counted = "SELECT count(DISTINCT detail::json->>'worker') FROM audit WHERE action = 'sign.reserve'"
    return int(asyncio.run(server.execute(counted)))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("both")
    server = Server.make().initialise().start()
    replica = None
    try:
        writing = Installation(directory / "writing").init("--store-url", server.url())
        writing.set("store", "heartbeat_s = 0.2")
        replica = server.replica().start()
        shutil.copytree(writing.directory, directory / "responder")
        reading = Installation(directory / "responder")
        reading.set("store", f'url = "{replica.url()}"')
        reading.set("store", f'primary_url = "{server.url()}"')
        reading.set("store", "heartbeat_s = 0")
        reading.set("store", "replica_max_lag_s = 3")
        reading.set("public", f"port = {reading.public_port}")
        reading.set("private", f"port = {reading.private_port}")
        with Service(writing) as first:
            first.issue(Request().encode())
            before = workers(server)
            with Service(reading) as second:
                yield Both(server, first, second, before)
    finally:
        if replica is not None:
            replica.remove()
        server.remove()


def asked(issued: IssuedOverHttp, *, nonce: bool = True) -> bytes:
    return openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], nonce=nonce)


def status(judge: BouncyCastle, service: Service, issued: IssuedOverHttp) -> str:
    """What the service answers to a request with a nonce, which needs a signature."""
    body = service.ocsp(asked(issued)).body
    code = judge.ocsp_status(body)
    if code:
        return {TRY_LATER: "try later"}.get(code, str(code))
    return judge.check_ocsp(body, issued.chain[0], int(issued.serials["sign"], 16)).status


def test_it_signs_and_accounts_for_it_at_the_primary(both: Both, bouncycastle: BouncyCastle) -> None:
    issued = both.writing.issue(bouncycastle.make_csr(SUBJECT).der)
    until(lambda: status(bouncycastle, both.responder, issued) == "good", "the responder does not say good")
    assert both.workers() == both.workers_before + 1, "a block was reserved where it can be"
    answer = both.writing.call("POST", f"/v1/certificates/{issued.serials['sign']}/revoke", {"reason": "superseded"})
    assert answer.status == 200
    until(lambda: status(bouncycastle, both.responder, issued) == "revoked", "the responder does not say revoked")
    for _ in range(5):
        assert status(bouncycastle, both.responder, issued) == "revoked"
    metrics = both.responder.call("GET", "/metrics").body.decode()
    assert "qianyan_replica_lag_seconds" in metrics


def test_it_answers_for_status_and_nothing_else(both: Both, bouncycastle: BouncyCastle) -> None:
    digest = base64.b64encode(bytes(32)).decode()
    assert both.responder.call("POST", "/v1/sign", {"key": "demo", "digest": digest}).status == 404
    csr = base64.b64encode(bouncycastle.make_csr(SUBJECT).der).decode()
    assert both.responder.call("POST", "/v1/certificates", {"csr": csr, "profile": "organisation"}).status == 404
    ready = both.responder.get("/readyz")
    assert ready.status == 200, ready.body
    crl = both.responder.get("/crl/issuing/0.crl")
    assert (crl.status, crl.body) == (200, both.writing.get("/crl/issuing/0.crl").body)


def test_without_the_primary_it_says_so(both: Both, bouncycastle: BouncyCastle) -> None:
    """Comes last: the primary is killed."""
    holder = Request()
    good, revoked = (both.writing.issue(csr) for csr in (holder.encode(), bouncycastle.make_csr(SUBJECT).der))
    until(lambda: status(bouncycastle, both.responder, revoked) == "good", "it is not there yet")
    item = {
        "certificate": base64.b64encode(good.certificates["sign"]).decode(),
        "data": base64.b64encode(b"data").decode(),
        "signature": base64.b64encode(sm2.signature_to_der(holder.key.sign(b"data"))).decode(),
    }
    assert both.responder.post("/v1/verify", {"items": [item]}).json["results"][0]["valid"]
    both.writing.call("POST", f"/v1/certificates/{revoked.serials['sign']}/revoke", {"reason": "superseded"})
    until(lambda: status(bouncycastle, both.responder, revoked) == "revoked", "the responder does not say revoked")
    both.server.kill()
    seen: set[str] = set()

    def silent() -> bool:
        seen.add(status(bouncycastle, both.responder, revoked))
        return status(bouncycastle, both.responder, good) == "try later"

    until(silent, "it goes on without its primary")
    assert seen <= {"revoked", "try later"}
    assert status(bouncycastle, both.responder, revoked) == "try later"
    told = both.responder.post("/v1/verify", {"items": [item]})
    assert told.status == 503, "what may have been revoked since is not called valid"
