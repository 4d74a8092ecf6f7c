"""Secrets and personal data are not in logs, metrics or error bodies, whatever is done with them."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.caller_world import SIGN, ClientAuthority, Connection, bearer, command, make_token, succeed
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Answer, Installation, Service

#: A holder, as a request names one.
PERSON, NUMBER = "欧阳震华", "440106198001014321"


def forms(secret: str) -> set[str]:
    """A secret as it might be written somewhere: itself, base64, hex, escaped, percent-encoded."""
    octets = secret.encode()
    return {
        secret,
        base64.b64encode(octets).decode().rstrip("="),
        octets.hex(),
        json.dumps(secret)[1:-1],
        quote(secret),
        hashlib.sha256(octets).hexdigest(),
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """One that logs all that it can."""
    installation = Installation(tmp_path_factory.mktemp("secrets") / "var").made()
    installation.set("log", 'level = "debug"')
    installation.set("log", "requests = true")
    installation.set("private", 'certificate_header = "X-Client-Certificate"')
    return Service(installation)


def misuse(service: Service, token: str, key_value: str, csr: bytes, certificate: str) -> list[Answer]:
    """Calls with secrets in every place where they may come, good and bad: the answers that are errors."""
    own = Connection(service)
    call = own.call
    good, bad = bearer(token), bearer(token[:-1] + ("A" if token[-1] != "A" else "B"))
    encoded = base64.b64encode(csr).decode()
    svs = {"keyIndex": 1, "keyValue": key_value, "inData": base64.b64encode(PERSON.encode()).decode()}
    answers = [
        own.sign(**good),
        own.sign(**bad),
        own.sign(Authorization=f"Basic {base64.b64encode(token.encode()).decode()}"),
        own.sign(Authorization=token),
        own.sign(X_Client_Certificate=certificate),
        own.sign(X_Client_Certificate=quote(PERSON)),
        call("GET", f"/v1/certificates/{token}", **good),
        call("GET", f"/{token}?token={token}&name={quote(PERSON)}", **good),
        call("POST", f"/v1/keys/{token}/sign", SIGN, **good),
        call("POST", "/v1/sign", {"key": "demo", "data": PERSON}, **good),
        call("POST", "/v1/certificates", {"csr": encoded, "profile": "nobody"}, **good),
        call("POST", "/v1/certificates", {"csr": encoded[:-40], "profile": "person"}, **good),
        call("POST", "/v1/certificates", {"csr": encoded, "profile": "person", "note": PERSON}, **good),
        call("POST", "/v1/certificates", {"csr": encoded, "profile": "organisation"}, Idempotency_Key="é", **good),
        call("POST", "/SignServer/signData", {"signDataReq": svs}),
        call("POST", "/SignServer/signData", svs),
        service.request("POST", service.private + "/v1/sign", b"{" + PERSON.encode() + token.encode(), good),
        service.request("POST", service.public + "/v1/verify", b"[" + PERSON.encode(), {}),
        service.request("POST", service.public + "/ocsp", token.encode(), {}),
    ]
    own.close()
    issued = service.call("POST", "/v1/certificates", {"csr": encoded, "profile": "organisation"})
    assert issued.status in (201, 422), issued.body
    return [answer for answer in answers if answer.status >= 400]


def test_nothing_secret_gets_out(service: Service, bouncycastle: BouncyCastle, tmp_path: Path) -> None:
    installation = service.installation
    token = make_token(installation, "planted", "--scope", "sign", "--scope", "issue", "--scope", "read")
    passphrase = (installation.directory / "passphrase").read_text().strip()
    key_value = "Planted-key-value-31415926"
    csr = bouncycastle.make_csr(f"C=CN,O={NUMBER},CN={PERSON}").der
    client = ClientAuthority(tmp_path).issue(PERSON)
    pem = client.certificate.read_text()
    succeed(command(installation, "caller", "add", "planted", "--certificate", client.certificate, "--scope", "sign"))
    with service:
        errors = misuse(service, token, key_value, csr, quote(pem))
        metrics = service.call("GET", "/metrics").body.decode()
    said = "".join(service.log) + metrics + "".join(answer.body.decode() for answer in errors)
    assert len(errors) >= 12
    assert said.count('"event": "request"') >= 18, "the requests were logged"
    assert 'caller="token:planted"' in metrics
    key = client.key.read_text().splitlines()[1]
    secrets = (token, installation.token, passphrase, key_value, PERSON, NUMBER, key)
    found = [form for secret in secrets for form in forms(secret) if form in said]
    assert not found
    assert base64.b64encode(ssl.PEM_cert_to_DER_cert(pem)).decode()[:60] not in said
