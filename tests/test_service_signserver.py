"""GB/T 38629 and messages against a running service, from the key's request to a signature that others accept."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import pytest

from core.asn1.x509 import certificate_der, load_certificate, public_key_of_certificate
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str, bytes]]:
    """A service whose key `demo` has a certificate of its own, index 7 and a code: (service, code, certificate)."""
    directory = tmp_path_factory.mktemp("signserver")
    installation = Installation(directory / "var").made()
    made = installation.run("key", "request", "demo", "--cn", "签名服务", "--out", directory / "demo.csr")
    assert made.status == 0, made.stderr
    issued = installation.run(
        "issue", "--csr", directory / "demo.csr", "--profile", "person-sign", "--out-dir", directory / "out"
    )
    assert issued.status == 0, issued.stderr
    pem = directory / "out" / "sign.pem"
    given = installation.run("key", "service", "demo", "--index", "7", "--certificate", pem, "--json")
    assert given.status == 0, given.stderr
    with Service(installation) as service:
        yield service, given.json["code"], certificate_der(load_certificate(pem.read_bytes()))


def form(service: Service, operation: str, fields: dict[str, str]) -> dict[str, str]:
    """One call in the urlencoded mapping, without a token: the code admits it."""
    answer = service.request(
        "POST",
        f"{service.private}/SignServer/{operation}",
        urlencode(fields).encode(),
        {"Content-Type": "application/x-www-form-urlencoded", "SVS-Request-Version": "v1"},
    )
    assert answer.status == 200, answer.body
    return {name: values[0] for name, values in parse_qs(answer.body.decode()).items()}


def b64(data: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(data).decode()


def test_sign_data_in_both_mappings(signer: tuple[Service, str, bytes], bouncycastle: BouncyCastle) -> None:
    service, code, certificate = signer
    data = "国家标准".encode()
    fields = {
        "signMethod": "131585",
        "keyIndex": "7",
        "keyValue": b64(code.encode()),
        "inDataLen": str(len(data)),
        "inData": b64(data),
    }
    by_form = form(service, "SignData", fields)
    assert by_form["respValue"] == "0"
    envelope = {"version": "v1", "reqType": "signData", "request": fields, "reqTime": "20261120081500Z"}
    answer = service.request(
        "POST",
        f"{service.private}/SignServer/SignData",
        json.dumps(envelope).encode(),
        {"Content-Type": "application/json"},
    )
    by_json = answer.json["respond"]
    for signature in (by_form["signature"], by_json["signature"]):
        bouncycastle.verify(public_key_of_certificate(certificate), data, base64.b64decode(signature))
    verified = form(
        service,
        "VerifySignedData",
        {
            "signMethod": "131585",
            "type": "1",
            "cert": b64(certificate),
            "inDataLen": str(len(data)),
            "inData": b64(data),
            "signature": by_form["signature"],
            "verifyLevel": "2",
        },
    )
    assert verified["respValue"] == "0"


def test_a_wrong_code_and_a_new_one(signer: tuple[Service, str, bytes]) -> None:
    service, code, _ = signer

    def value(secret: str) -> int:
        fields = {"signMethod": "131585", "keyIndex": "7", "inDataLen": "1", "inData": b64(b"x")}
        return int(form(service, "SignData", {**fields, "keyValue": b64(secret.encode())})["respValue"])

    assert value("0" * 40) == 0x04000006
    assert value(code) == 0
    made = service.installation.run("key", "service", "demo", "--new-code", "--json")
    assert made.status == 0, made.stderr
    assert value(code) == 0x04000006, "the old code still signs"
    assert value(made.json["code"]) == 0
    assert service.installation.run("key", "service", "demo", "--json").json["code"] is None


def test_a_message_is_signed_and_verified(signer: tuple[Service, str, bytes]) -> None:
    service, _, certificate = signer
    data = "一份合同".encode()
    made = service.call("POST", "/v1/cms/sign", {"key": "demo", "data": b64(data)})
    assert made.status == 200, made.body
    assert certificate in base64.b64decode(made.json["cms"])
    verified = service.post("/v1/cms/verify", {"cms": made.json["cms"]})
    assert verified.json["valid"] is True
    assert base64.b64decode(verified.json["content"]) == data
    altered = base64.b64decode(made.json["cms"]).replace(data, "一份合谋".encode())
    refused = service.post("/v1/cms/verify", {"cms": b64(altered)})
    assert refused.json["valid"] is False
    assert refused.json["results"][0]["reason"] == "signature"


def test_a_certificate_of_another_key_is_refused(signer: tuple[Service, str, bytes], tmp_path: Path) -> None:
    service, _, _ = signer
    (tmp_path / "issuing.cer").write_bytes(service.get("/ca/issuing.cer").body)
    ran = service.installation.run("key", "service", "demo", "--certificate", tmp_path / "issuing.cer")
    assert ran.status == 1
    assert "not for key" in ran.stderr
