"""Verification as it is deployed: two installations, one that trusts the other's root; reports; the command line."""

from __future__ import annotations

import base64
from pathlib import Path

from signer._native import sm2
from signer.signing.report import check
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service, qianyan

MESSAGE = b"an application from the next province"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_foreign_signature_is_reported_on_and_the_report_is_checked(
    service: Service, bouncycastle: BouncyCastle, tmp_path: Path
) -> None:
    csr = bouncycastle.make_csr("C=CN,O=外省,CN=外省单位")
    issued = service.issue(csr.der)
    installation = Installation(tmp_path / "var").made()
    trust = installation.directory / "trust"
    trust.mkdir()
    (trust / "root.cer").write_bytes(b"no certificate")
    installation.set("verification", 'anchors = ["trust"]')
    refused = installation.run("config", "check")
    assert refused.status == 1
    assert "root.cer" in refused.stderr
    (trust / "root.cer").write_bytes(issued.chain[1])
    installation.set("verification.foreign", f'allow = ["{service.public}/"]')
    installation.set("verification.report", 'key = "demo"')
    request, out = tmp_path / "demo.csr", tmp_path / "out"
    for command in (
        ("key", "request", "demo", "--cn", "reports", "--organization", "签验", "--out", request),
        ("issue", "--csr", request, "--profile", "person-sign", "--out-dir", out),
        ("key", "service", "demo", "--certificate", out / "sign.pem"),
    ):
        ran = installation.run(*command)
        assert ran.status == 0, ran.stderr

    key = sm2.PrivateKey.from_bytes(csr.private)
    item = {
        "certificate": b64(issued.certificates["sign"]),
        "data": b64(MESSAGE),
        "signature": b64(key.sign(MESSAGE)),
    }
    body = {"items": [item, {**item, "data": b64(b"x")}], "intermediates": [b64(issued.chain[0])]}
    with Service(installation) as judging:
        results = judging.post("/v1/verify", body).json["results"]
        assert [(result["reason"], result.get("detail")) for result in results] == [(None, None), ("signature", None)]
        assert judging.post("/v1/verify", {"items": [item]}).json["results"][0]["reason"] == "chain"
        answer = judging.call("POST", "/v1/reports", {**body, "report": {"reference": "17"}})
        assert answer.status == 200
        assert judging.call("POST", "/v1/reports", body, token="").status == 401
        metrics = judging.call("GET", "/metrics").body.decode()
        assert 'qianyan_foreign_fetches_total{kind="ocsp",result="ok"} 1.0' in metrics
        assert 'qianyan_verified_items_total{result="signature"}' in metrics
        root = judging.get("/ca/root.cer").body
    assert {entry["kind"] for entry in check(answer.body).report["statuses"]} == {"ocsp", "crl"}
    record, anchor = tmp_path / "report.json", tmp_path / "root.cer"
    record.write_bytes(answer.body)
    anchor.write_bytes(root)
    ran = qianyan("report", "verify", record, "--anchors", anchor, "--json")
    assert (ran.status, ran.json["valid"], ran.json["reference"]) == (0, 1, "17"), ran.stdout
