"""Status sets of the running service: issue, revoke, hold, release; the reader and foreign judges agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.asn1.x509 import public_key_of_certificate
from qianyan_status import Answer, DeltaMismatch, Status, StatusSet, load
from signer.engine.verify import verify_signature
from tests.judges import Refused, openssl
from tests.judges import der as judge_der
from tests.judges.bouncycastle import BouncyCastle
from tests.running import IssuedOverHttp, Service, qianyan

PATIENCE_S = 60


@pytest.fixture(scope="module")
def issued(service: Service, bouncycastle: BouncyCastle) -> IssuedOverHttp:
    """Two certificates."""
    return service.issue(bouncycastle.make_csr("C=CN,O=省政务服务中心,CN=状态集").der)


def fetch(service: Service, issuer: bytes) -> StatusSet:
    """What a relying party does; where the two files were of two moments, both anew."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        body, delta = service.get("/set/issuing.set"), service.get("/set/issuing-delta.set")
        assert {body.status, delta.status} <= {200, 503}, "503: the first set is made a moment after the start"
        try:
            if body.status == delta.status == 200:
                return load(body.body, delta.body, issuer=issuer, verify=verify_signature)
        except DeltaMismatch:
            assert time.monotonic() < deadline
        assert time.monotonic() < deadline


def answer_when(service: Service, issued: IssuedOverHttp, usage: str, holds: Callable[[Answer], bool]) -> Answer:
    """The set's answer about a certificate, once it is as expected; a delta comes a moment after a change."""
    deadline = time.monotonic() + PATIENCE_S
    last_position = 0
    while True:
        loaded = fetch(service, issued.chain[0])
        assert loaded.position >= last_position
        last_position = loaded.position
        answer = loaded.query(issued.certificates[usage])
        if holds(answer):
            return answer
        assert time.monotonic() < deadline, f"still {answer}"
        time.sleep(0.1)


def test_a_certificate_from_issuance_to_revocation(service: Service, issued: IssuedOverHttp) -> None:
    before = fetch(service, issued.chain[0]).query(issued.certificates["sign"])
    assert before.status in (Status.GOOD, Status.NOT_COVERED)
    serial = issued.serials["sign"]
    assert service.call("POST", f"/v1/certificates/{serial}/revoke", {"reason": "certificate_hold"}).status == 200
    answer_when(service, issued, "sign", lambda a: a.status is Status.REVOKED and a.on_hold)
    assert service.call("POST", f"/v1/certificates/{serial}/resume").status == 200
    answer_when(service, issued, "sign", lambda a: a.status is Status.GOOD)
    assert service.call("POST", f"/v1/certificates/{serial}/revoke", {"reason": "key_compromise"}).status == 200
    answer_when(service, issued, "sign", lambda a: a.status is Status.REVOKED and not a.on_hold)
    other = fetch(service, issued.chain[0]).query(issued.certificates["encrypt"])
    assert other.status is Status.REVOKED, "the pair goes together"


def test_the_roots_set_speaks_of_the_issuing_authority(service: Service, issued: IssuedOverHttp) -> None:
    issuing, root = issued.chain
    body = service.get("/set/root.set")
    loaded = load(body.body, issuer=root, verify=verify_signature)
    assert loaded.query(issuing).status is Status.GOOD
    assert loaded.query(issued.certificates["encrypt"]).status is Status.NOT_COVERED


def test_foreign_judges_verify_the_signatures(
    service: Service, issued: IssuedOverHttp, bouncycastle: BouncyCastle
) -> None:
    issuing = issued.chain[0]
    for path in ("/set/issuing.set", "/set/issuing-delta.set"):
        body = service.get(path).body
        openssl.verify_signed(body, issuing)
        parts = judge_der.split(body)
        bouncycastle.verify(public_key_of_certificate(issuing), parts.tbs, parts.signature)
        with pytest.raises(Refused):
            openssl.verify_signed(body[:-1] + bytes((body[-1] ^ 1,)), issuing)


def test_the_command_checks_off_line(service: Service, bouncycastle: BouncyCastle, tmp_path: Path) -> None:
    issued = service.issue(bouncycastle.make_csr("C=CN,O=省政务服务中心,CN=离线核验").der)
    before = fetch(service, issued.chain[0])
    assert before.query(issued.certificates["encrypt"]).status is Status.NOT_COVERED, "for OCSP until the next delta"
    assert service.installation.run("set", "build", "--delta", "--authority", "issuing").status == 0
    files = {
        "set": service.get("/set/issuing.set").body,
        "delta": service.get("/set/issuing-delta.set").body,
        "issuer": issued.chain[0],
        "encrypt": issued.certificates["encrypt"],
        "root": issued.chain[1],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    options = ("--set", tmp_path / "set", "--delta", tmp_path / "delta", "--issuer", tmp_path / "issuer", "--json")
    ran = qianyan("set", "check", tmp_path / "encrypt", *options)
    assert (ran.status, ran.json["status"]) == (0, "good")
    ran = qianyan("set", "check", tmp_path / "root", *options)
    assert (ran.status, ran.json["status"]) == (3, "not_covered")
    ran = qianyan("set", "inspect", *options)
    assert ran.status == 0
    assert ran.json["certificates"] >= 2
    ran = qianyan("set", "inspect", *options, "--last-position", "999999999")
    assert ran.status == 1
    assert "older" in ran.stderr
    (tmp_path / "set").write_bytes(files["set"][:-1] + b"\x00")
    ran = qianyan("set", "check", tmp_path / "encrypt", *options)
    assert ran.status == 1
    assert "may not be used" in ran.stderr


def test_the_command_builds_and_tells(service: Service, issued: IssuedOverHttp) -> None:
    before = fetch(service, issued.chain[0]).number
    ran = service.installation.run("set", "build", "--authority", "issuing", "--json")
    assert ran.status == 0, ran.stderr
    kinds = [row["kind"] for row in ran.json]
    assert kinds == ["set", "delta"]
    assert ran.json[0]["number"] > before
    assert fetch(service, issued.chain[0]).number >= ran.json[1]["number"]
    rows = service.installation.run("set", "status", "--json").json
    assert {row["authority"] for row in rows} >= {"issuing", "root"}
    metrics = service.call("GET", "/metrics").body.decode()
    assert "qianyan_status_set_judged_wrong 0.0" in metrics
    assert "qianyan_status_set_missing 0.0" in metrics
