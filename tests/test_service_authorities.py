"""External roots and renewal: the authority's life beyond the first start."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

from signer.engine.keystore import KeyStore
from signer.engine.settings import KeyStoreSettings
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Installation, Service

NOW = datetime.now(UTC).replace(microsecond=0)


def csr_for(judge: BouncyCastle, name: str) -> bytes:
    """A request that BouncyCastle made."""
    return judge.make_csr(f"C=CN,O=单位,CN={name}").der


def test_a_root_that_is_outside(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    """BouncyCastle is the root: request, certificate, installation, then the main job under it."""
    installation = Installation(tmp_path / "var").init("--external-root")
    refused = installation.run("issue", "--csr", installation.config, "--profile", "person", "--out-dir", tmp_path)
    assert refused.status == 1
    csr = (installation.directory / "issuing.csr.der").read_bytes()
    openssl.verify_csr(csr)
    subject, point = bouncycastle.verify_csr(csr)
    root_key = bouncycastle.generate()
    name = "C=CN,O=National root,CN=Test root"
    times = {"not_before": NOW - timedelta(hours=1), "not_after": NOW + timedelta(days=3650)}
    root = bouncycastle.make_certificate(
        "root", name, root_key.public, private=root_key.private, issuer=None, serial=1, **times
    )
    issuing = bouncycastle.make_certificate(
        "authority", subject, point, private=root_key.private, issuer=root, serial=2, **times
    )
    other = bouncycastle.make_certificate(
        "authority", subject, root_key.public, private=root_key.private, issuer=root, serial=3, **times
    )
    for path, content in (("root.cer", root), ("issuing.cer", issuing), ("other.cer", other)):
        (tmp_path / path).write_bytes(content)
    (tmp_path / "flipped.cer").write_bytes(issuing[:-1] + bytes([issuing[-1] ^ 1]))
    for bad in ("other.cer", "flipped.cer"):
        ran = installation.run("ca", "install", "--certificate", tmp_path / bad, "--chain", tmp_path / "root.cer")
        assert ran.status == 1, bad
        assert ran.stderr.count("\n") == 1
    ran = installation.run("ca", "install", "--certificate", tmp_path / "issuing.cer", "--chain", tmp_path / "root.cer")
    assert ran.status == 0, ran.stderr
    again = installation.run(
        "ca", "install", "--certificate", tmp_path / "issuing.cer", "--chain", tmp_path / "root.cer"
    )
    assert again.status == 1
    with Service(installation) as service:
        assert service.get("/readyz").status == 200, service.get("/readyz").body
        issued = service.issue(csr_for(bouncycastle, "甲"))
        assert issued.chain == [issuing, root]
        bouncycastle.validate_path(root, [issued.certificates["sign"], issuing], at=datetime.now(UTC))
        request = openssl.make_ocsp_request(issuing, issued.certificates["sign"])
        serial = int(issued.serials["sign"], 16)
        assert bouncycastle.check_ocsp(service.ocsp(request).body, issuing, serial).status == "good"
        assert service.get("/ca/root.cer").body == root


def test_a_request_can_be_written_again(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    installation = Installation(tmp_path / "var").init("--external-root")
    first = (installation.directory / "issuing.csr.der").read_bytes()
    assert installation.run("ca", "request", "--out", tmp_path / "again.der").status == 0
    assert bouncycastle.verify_csr((tmp_path / "again.der").read_bytes()) == bouncycastle.verify_csr(first)


def test_the_ocsp_signer_is_renewed_under_a_running_service(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    installation = Installation(tmp_path / "var").made()
    with Service(installation) as service:
        issued = service.issue(csr_for(bouncycastle, "甲"))
        request = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], nonce=False)
        before = openssl.embedded_certificates(service.ocsp(request).body)[0]
        ran = installation.run("ca", "renew-ocsp")
        assert ran.status == 0, ran.stderr
        answer = service.ocsp(request).body
        after = openssl.embedded_certificates(answer)[0]
        assert after != before
        openssl.verify_certificate(after, issued.chain[0])
        assert bouncycastle.check_ocsp(answer, issued.chain[0], int(issued.serials["sign"], 16)).status == "good"


def test_an_ocsp_signer_about_to_end_is_renewed_at_the_start(tmp_path: Path, bouncycastle: BouncyCastle) -> None:
    """A service that finds its OCSP signer with less than 30 days to go gets it a new certificate by itself."""
    installation = Installation(tmp_path / "var").made()
    store = installation.directory / "store.sqlite3"
    key = next(k for k in installation.run("key", "list", "--json").json if k["id"] == "ocsp-issuing")
    keystore = KeyStore(
        installation.directory / "keys",
        bytearray((installation.directory / "passphrase").read_bytes().strip()),
        KeyStoreSettings(),
    )
    scalar = bytearray(32)
    keystore.load("issuing").export_into(scalar)
    with sqlite3.connect(store) as connection:
        (certificate,) = connection.execute("SELECT certificate FROM authorities WHERE id = 'issuing'").fetchone()
        old = bouncycastle.make_certificate(
            "ocsp",
            "CN=old responder",
            bytes.fromhex(key["public_key"]),
            private=bytes(scalar),
            issuer=certificate,
            serial=77,
            not_before=NOW - timedelta(days=300),
            not_after=NOW + timedelta(days=5),
        )
        connection.execute("UPDATE authorities SET ocsp_certificate = ? WHERE id = 'issuing'", (old,))
    with Service(installation) as service:
        issued = service.issue(csr_for(bouncycastle, "甲"))
        request = openssl.make_ocsp_request(issued.chain[0], issued.certificates["sign"], nonce=False)
        seen = bouncycastle.check_ocsp(service.ocsp(request).body, issued.chain[0], int(issued.serials["sign"], 16))
        assert seen.responder_not_after > NOW + timedelta(days=300)
