"""pkilint on every kind of object that a running service gives out."""

from __future__ import annotations

import pytest

from tests.judges import lint, openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Service, qianyan

#: RFC 8813 §3 knows no encryption under an EC key; SM2 encryption certificates are defined by it (GB/T 20518 practice).
GM_ENCRYPTION_KEY_USAGE = "pkix.key_usage_value_prohibited_for_ec"


@pytest.mark.parametrize("profile", ["organisation", "person", "device"])
def test_certificates(profile: str, service: Service, bouncycastle: BouncyCastle) -> None:
    issued = service.issue(bouncycastle.make_csr("C=CN,O=单位,CN=lint").der, profile)
    assert len(issued.certificates) == 2
    for certificate in (issued.certificates["sign"], *issued.chain):
        assert not lint.complaints(lint.lint_certificate(certificate))
    found = lint.complaints(lint.lint_certificate(issued.certificates["encrypt"]))
    assert {finding.code for finding in found} <= {GM_ENCRYPTION_KEY_USAGE}


def test_ocsp_responses(service: Service, bouncycastle: BouncyCastle) -> None:
    issued = service.issue(bouncycastle.make_csr("C=CN,O=单位,CN=lint").der)
    for digest, nonce in (("sm3", True), ("sha256", False)):
        request = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], digest=digest, nonce=nonce)
        assert not lint.complaints(lint.lint_ocsp(service.ocsp(request).body))
    responder = openssl.embedded_certificates(service.ocsp(request).body)[0]
    assert not lint.complaints(lint.lint_certificate(responder))
    service.call("POST", f"/v1/certificates/{issued.serials['sign']}/revoke", {"reason": "superseded"})
    assert not lint.complaints(lint.lint_ocsp(service.ocsp(request).body))


def test_crls(service: Service, bouncycastle: BouncyCastle) -> None:
    issued = service.issue(bouncycastle.make_csr("C=CN,O=单位,CN=lint").der)
    revoked = service.installation.run("revoke", issued.serials["sign"], "--reason", "cessation_of_operation")
    assert revoked.status == 0, revoked.stderr
    assert service.installation.run("crl", "build").status == 0
    for path in ("/crl/issuing/0.crl", "/crl/root/0.crl"):
        crl = service.get(path).body
        assert not lint.complaints(lint.lint_crl(crl))
    listed = bouncycastle.check_crl(service.get("/crl/issuing/0.crl").body, issued.chain[0], list_all=True)
    assert int(issued.serials["sign"], 16) in listed.serials


def test_the_checker_from_outside(service: Service) -> None:
    """`qianyan crl check` finds the same CRLs good, and one under another URL not."""
    issuer = service.installation.directory / "issuing.cer"
    issuer.write_bytes(service.get("/ca/issuing.cer").body)
    named = f"http://127.0.0.1:{service.installation.public_port}/crl/issuing/0.crl"
    good = qianyan("crl", "check", named, "--issuer", issuer, "--json")
    assert good.status == 0, good.stdout + good.stderr
    assert good.json[0]["good"] is True
    other = named.replace("127.0.0.1", "localhost")
    bad = qianyan("crl", "check", other, "--issuer", issuer, "--json")
    assert bad.status == 3
    assert {problem["code"] for problem in bad.json[0]["problems"]} == {"crl_idp"}
    gone = qianyan("crl", "check", named.replace("/0.crl", "/9.crl"), "--issuer", issuer)
    assert gone.status == 1
    assert "404" in gone.stderr
