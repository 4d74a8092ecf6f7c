"""The main job over real sockets: issue, sign, verify, ask, revoke, download; judged by others."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.asn1.x509 import public_key_of_certificate
from signer._native import sm2
from tests.judges import Refused, openssl, peers
from tests.judges.bouncycastle import BouncyCastle
from tests.judges.views import Csr
from tests.running import Answer, Installation, IssuedOverHttp, Service

SUBJECT = "C=CN,O=省政务服务中心,CN=测试单位"


def serial_number(issued: IssuedOverHttp, usage: str = "sign") -> int:
    """The serial as a number."""
    return int(issued.serials[usage], 16)


def flipped(der: bytes) -> bytes:
    """The same with one bit of its signature changed: the signature comes last in each structure."""
    return der[:-1] + bytes([der[-1] ^ 1])


def crl_when(service: Service, serial: int, judge: BouncyCastle, issuer: bytes) -> bytes:
    """The CRL, once it lists the serial; it is built a moment after the revocation."""
    deadline = time.monotonic() + 30
    while True:
        answer = service.get("/crl/issuing/0.crl")
        assert answer.status == 200
        if serial in judge.check_crl(answer.body, issuer, [serial]).listed:
            return answer.body
        assert time.monotonic() < deadline, "the CRL never listed the certificate"


@pytest.fixture(scope="module")
def csr(bouncycastle: BouncyCastle) -> Csr:
    """A request that BouncyCastle made."""
    return bouncycastle.make_csr(SUBJECT)


@pytest.fixture(scope="module")
def issued(service: Service, csr: Csr) -> IssuedOverHttp:
    """A pair of certificates for it."""
    return service.issue(csr.der)


def test_bouncycastle_accepts_the_chain_and_refuses_a_flipped_bit(
    issued: IssuedOverHttp, bouncycastle: BouncyCastle
) -> None:
    issuing, root = issued.chain
    now = datetime.now(UTC)
    for certificate in issued.certificates.values():
        bouncycastle.validate_path(root, [certificate, issuing], at=now)
        with pytest.raises(Refused):
            bouncycastle.validate_path(root, [flipped(certificate), issuing], at=now)
    with pytest.raises(Refused):
        bouncycastle.validate_path(root, [issued.certificates["sign"], flipped(issuing)], at=now)


def test_openssl_verifies_the_certificates(issued: IssuedOverHttp) -> None:
    for certificate in issued.certificates.values():
        openssl.verify_certificate(certificate, issued.chain[0])
        openssl.verify_signed(certificate, issued.chain[0])
        with pytest.raises(Refused):
            openssl.verify_signed(flipped(certificate), issued.chain[0])


def test_the_holder_opens_the_encryption_key(issued: IssuedOverHttp, csr: Csr, bouncycastle: BouncyCastle) -> None:
    assert issued.enveloped_key is not None
    opened = bouncycastle.open_enveloped_key(csr.private, issued.enveloped_key)
    assert opened.public == public_key_of_certificate(issued.certificates["encrypt"])
    secret = bouncycastle.encrypt(opened.public, b"for the holder only")
    assert bouncycastle.decrypt(opened.private, secret) == b"for the holder only"


@pytest.mark.parametrize("digest", ["sm3", "sha1", "sha256"])
def test_ocsp_asked_by_openssl_judged_by_bouncycastle(
    digest: str, service: Service, issued: IssuedOverHttp, bouncycastle: BouncyCastle
) -> None:
    request = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], digest=digest)
    answer = service.ocsp(request)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/ocsp-response"
    seen = bouncycastle.check_ocsp(answer.body, issued.chain[0], serial_number(issued))
    assert seen.status == "good"
    assert seen.digest.lower().replace("-", "") == digest
    assert seen.no_check
    assert seen.nonce is not None
    openssl.verify_ocsp(answer.body, issued.chain[0])
    assert "good" in openssl.ocsp_text(answer.body)
    with pytest.raises(Refused):
        bouncycastle.check_ocsp(flip_response_signature(answer.body), issued.chain[0], serial_number(issued))


def flip_response_signature(response: bytes) -> bytes:
    """One bit of the basic response's signature changed; found by its place, for certificates follow it."""
    from cryptography.x509 import ocsp

    signature = ocsp.load_der_ocsp_response(response).signature
    at = response.index(signature) + len(signature) - 1
    return response[:at] + bytes([response[at] ^ 1]) + response[at + 1 :]


def test_sign_is_judged_by_others(service: Service, bouncycastle: BouncyCastle) -> None:
    data = "一份公文".encode()
    answer = service.call("POST", "/v1/sign", {"key": "demo", "data": base64.b64encode(data).decode()})
    assert answer.status == 200
    assert answer.json["algorithm"] == "sm2-with-sm3"
    signature = base64.b64decode(answer.json["signature"])
    listing = service.installation.run("key", "list", "--json").json
    public_key = bytes.fromhex(next(key["public_key"] for key in listing if key["id"] == "demo"))
    bouncycastle.verify(public_key, data, signature)
    openssl.verify(public_key, data, signature)
    peers.tongsuo_verify(public_key, data, signature)
    with pytest.raises(Refused):
        bouncycastle.verify(public_key, data + b"!", signature)


def test_the_bulk_call_gives_raw_signatures_in_order(service: Service) -> None:
    listing = service.installation.run("key", "list", "--json").json
    public_key = sm2.PublicKey.from_bytes(
        bytes.fromhex(next(key["public_key"] for key in listing if key["id"] == "demo"))
    )
    digests = [public_key.digest(b"%d" % i) for i in range(300)]
    url = service.private + "/v1/keys/demo/sign"
    headers = {
        "Authorization": f"Bearer {service.installation.token}",
        "Content-Type": "application/octet-stream",
    }
    answer = service.request("POST", url, b"".join(digests), headers)
    assert answer.status == 200
    assert len(answer.body) == 300 * 64
    for i, digest in enumerate(digests):
        public_key.verify_digest(digest, answer.body[64 * i : 64 * i + 64])


def verify_over_http(service: Service, certificate: bytes, data: bytes, signature: bytes) -> dict[str, object]:
    """The one result of POST /v1/verify."""
    item = {
        "certificate": base64.b64encode(certificate).decode(),
        "data": base64.b64encode(data).decode(),
        "signature": base64.b64encode(signature).decode(),
    }
    answer = service.post("/v1/verify", {"items": [item]})
    assert answer.status == 200, answer.body
    result: dict[str, object] = answer.json["results"][0]
    return result


def test_signatures_of_others_are_verified(
    service: Service, issued: IssuedOverHttp, csr: Csr, bouncycastle: BouncyCastle
) -> None:
    by_bouncycastle = bouncycastle.sign(csr.private, b"a document")
    by_openssl = openssl.sign(csr.private, csr.public, b"a document")
    for signature in (by_bouncycastle, by_openssl):
        assert verify_over_http(service, issued.certificates["sign"], b"a document", signature)["valid"] is True
        other = verify_over_http(service, issued.certificates["sign"], b"another", signature)
        assert (other["valid"], other["reason"]) == (False, "signature")
    misused = verify_over_http(service, issued.certificates["encrypt"], b"a document", by_openssl)
    assert misused["valid"] is False


def test_revocation_shows_everywhere(service: Service, bouncycastle: BouncyCastle) -> None:
    csr = bouncycastle.make_csr(SUBJECT)
    issued = service.issue(csr.der)
    serial = serial_number(issued)
    issuing, root = issued.chain
    request = openssl.make_ocsp_request(issuing, issued.certificates["sign"], nonce=False)
    assert bouncycastle.check_ocsp(service.ocsp(request).body, issuing, serial).status == "good"
    signature = bouncycastle.sign(csr.private, b"a document")

    ran = service.installation.run("revoke", issued.serials["sign"], "--reason", "key_compromise")
    assert ran.status == 0, ran.stderr

    # The very next answer: the command has returned, so no cached `good` may outlive it.
    seen = bouncycastle.check_ocsp(service.ocsp(request).body, issuing, serial)
    assert (seen.status, seen.reason) == ("revoked", 1)
    refused = verify_over_http(service, issued.certificates["sign"], b"a document", signature)
    assert (refused["valid"], refused["reason"]) == (False, "revoked")
    states = service.post("/v1/status", {"serials": list(issued.serials.values())}).json["statuses"]
    assert [state["status"] for state in states] == ["revoked", "revoked"]

    crl = crl_when(service, serial, bouncycastle, issuing)
    view = bouncycastle.check_crl(crl, issuing, [serial, serial_number(issued, "encrypt")])
    assert {entry.reason for entry in view.listed.values()} == {1}
    assert view.idp_critical
    assert view.idp_uris == [f"http://127.0.0.1:{service.installation.public_port}/crl/issuing/0.crl"]
    openssl.verify_signed(crl, issuing)
    with pytest.raises(Refused):
        bouncycastle.check_crl(flipped(crl), issuing)
    arl = service.get("/crl/root/0.crl").body
    with pytest.raises(Refused, match=r"(?i)revo"):
        bouncycastle.validate_path(root, [issued.certificates["sign"], issuing], at=datetime.now(UTC), crls=[crl, arl])


def test_path_with_revocation_checked_is_accepted_while_good(
    service: Service, issued: IssuedOverHttp, bouncycastle: BouncyCastle
) -> None:
    issuing, root = issued.chain
    crls = [service.get("/crl/issuing/0.crl").body, service.get("/crl/root/0.crl").body]
    bouncycastle.validate_path(root, [issued.certificates["sign"], issuing], at=datetime.now(UTC), crls=crls)


def test_hold_and_resume(service: Service, bouncycastle: BouncyCastle) -> None:
    issued = service.issue(bouncycastle.make_csr(SUBJECT).der)
    serial = issued.serials["sign"]
    request = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], nonce=False)

    def status() -> tuple[str, int | None]:
        seen = bouncycastle.check_ocsp(service.ocsp(request).body, issued.chain[0], int(serial, 16))
        return seen.status, seen.reason

    assert status() == ("good", None)
    assert service.call("POST", f"/v1/certificates/{serial}/revoke", {"reason": "certificate_hold"}).status == 200
    assert status() == ("revoked", 6)
    assert service.call("POST", f"/v1/certificates/{serial}/resume").status == 200
    assert status() == ("good", None)


def test_authority_certificates_are_served(service: Service, issued: IssuedOverHttp) -> None:
    for name, expected in (("issuing", issued.chain[0]), ("root", issued.chain[1])):
        answer = service.get(f"/ca/{name}.cer")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/pkix-cert"
        assert answer.body == expected


def test_the_command_issues_what_the_service_answers_for(
    service: Service, bouncycastle: BouncyCastle, tmp_path: Path
) -> None:
    key = openssl.make_key()
    (tmp_path / "request.pem").write_bytes(
        openssl.pem("CERTIFICATE REQUEST", openssl.make_csr(key, "/C=CN/O=Bureau/CN=Mr Zhang"))
    )
    ran = service.installation.run(
        "issue", "--csr", tmp_path / "request.pem", "--profile", "organisation", "--out-dir", tmp_path / "out", "--json"
    )
    assert ran.status == 0, ran.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sign.pem", "enc.pem", "enc-key.der", "chain.pem"}
    serials = ran.json["serials"]
    issuing = service.get("/ca/issuing.cer").body
    certificate = base64.b64decode("".join((tmp_path / "out" / "sign.pem").read_text().splitlines()[1:-1]))
    answer: Answer = service.ocsp(openssl.make_ocsp_request(issuing, certificate))
    assert bouncycastle.check_ocsp(answer.body, issuing, int(serials["sign"], 16)).status == "good"


def test_tls_on_the_private_listener(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var", tls="on").init()
    with Service(installation) as service:
        assert service.private.startswith("https://")
        answer = service.call("POST", "/v1/sign", {"key": "demo", "digest": base64.b64encode(bytes(32)).decode()})
        assert answer.status == 200
        assert len(answer.headers["X-Request-Id"]) > 8
