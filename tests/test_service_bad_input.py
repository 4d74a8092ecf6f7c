"""Bad input over HTTP: each its own status and code, nothing stored, no serial used."""

from __future__ import annotations

import base64
import sqlite3
from typing import Any

import pytest

from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.running import Answer, Service


def counts(service: Service) -> dict[str, Any]:
    """What a refused request must not change: certificates, feed, status indexes."""
    with sqlite3.connect(service.installation.directory / "store.sqlite3") as connection:
        return {
            "certificates": connection.execute("SELECT count(*) FROM certificates").fetchone(),
            "escrowed": connection.execute("SELECT count(*) FROM escrowed_keys").fetchone(),
            "indexes": connection.execute("SELECT authority_id, month, next_index FROM status_indexes").fetchall(),
            "idempotency": connection.execute("SELECT count(*) FROM idempotency").fetchone(),
        }


def problem(answer: Answer, status: int, code: str, field: str | None = None) -> None:
    """The answer is that problem document."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json
    assert document["code"] == code
    assert document["status"] == status
    assert document["request_id"] == answer.headers["X-Request-Id"]
    if field is not None:
        assert document["field"] == field


def request_for(csr: bytes, profile: str = "organisation") -> dict[str, str]:
    """A body of POST /v1/certificates."""
    return {"csr": base64.b64encode(csr).decode(), "profile": profile}


def test_requests_for_certificates(service: Service, bouncycastle: BouncyCastle) -> None:
    good = bouncycastle.make_csr("C=CN,O=单位,CN=甲").der
    at = good.index("甲".encode())
    other_name = good[:at] + "乙".encode() + good[at + 3 :]
    long_name = bouncycastle.make_csr("C=CN,O=单位,CN=" + "长" * 65).der
    rsa = openssl.run("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj", "/C=CN/CN=a",
                      "-outform", "DER")  # fmt: skip
    before = counts(service)
    for body, status, field in (
        (request_for(b"not a request"), 400, "csr"),
        (request_for(good[:-5]), 400, "csr"),
        (request_for(other_name), 422, "csr.signature"),
        (request_for(rsa), 422, "csr.public_key"),
        (request_for(long_name), 422, "subject.CN"),
        (request_for(good, "no-such-profile"), 422, "profile"),
        ({"csr": "%%%", "profile": "organisation"}, 400, "csr"),
        ({"profile": "organisation"}, 400, "csr"),
        ({**request_for(good), "surprise": 1}, 400, "surprise"),
    ):
        answer = service.call("POST", "/v1/certificates", body)
        assert answer.status == status, (field, answer.body)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["field"] == field, answer.body
    assert counts(service) == before


def test_a_country_that_is_not_two_letters(service: Service, bouncycastle: BouncyCastle) -> None:
    before = counts(service)
    csr = bouncycastle.make_csr("C=cn,O=单位,CN=甲").der
    answer = service.call("POST", "/v1/certificates", request_for(csr))
    assert (answer.status, answer.json["field"]) == (422, "subject.C")
    assert counts(service) == before


def test_idempotency_key_used_again(service: Service, bouncycastle: BouncyCastle) -> None:
    csr = bouncycastle.make_csr("C=CN,O=单位,CN=重试").der
    first = service.call("POST", "/v1/certificates", request_for(csr), Idempotency_Key="retry-1")
    before = counts(service)
    again = service.call("POST", "/v1/certificates", request_for(csr), Idempotency_Key="retry-1")
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    other = bouncycastle.make_csr("C=CN,O=单位,CN=别的").der
    problem(
        service.call("POST", "/v1/certificates", request_for(other), Idempotency_Key="retry-1"), 409, "idempotency_key"
    )
    assert counts(service) == before


def test_callers(service: Service) -> None:
    sign = {"key": "demo", "digest": base64.b64encode(bytes(32)).decode()}
    problem(service.call("POST", "/v1/sign", sign, token=""), 401, "unauthenticated")
    answer = service.call("POST", "/v1/sign", sign, token="wrong")
    problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    made = service.installation.run("token", "create", "reader", "--scope", "read")
    assert made.status == 0, made.stderr
    reader = made.stdout.strip()
    problem(service.call("POST", "/v1/sign", sign, token=reader), 403, "scope")
    assert service.installation.run("token", "withdraw", "reader").status == 0
    problem(service.call("POST", "/v1/sign", sign, token=reader), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"key": "demo", "digest": base64.b64encode(bytes(31)).decode()}, 400, None),
        ({"key": "demo", "digest": "!" * 44}, 400, "base64"),
        ({"key": "nobody", "digest": base64.b64encode(bytes(32)).decode()}, 404, "key_unknown"),
        ({"key": "issuing", "digest": base64.b64encode(bytes(32)).decode()}, 422, "key_purpose"),
        ({"key": "demo"}, 400, None),
        ([], 400, None),
    ],
)
def test_signing(service: Service, body: Any, status: int, code: str | None) -> None:
    answer = service.call("POST", "/v1/sign", body)
    assert answer.status == status, answer.body
    assert code is None or answer.json["code"] == code


def test_a_body_that_is_not_json(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.installation.token}"}
    problem(service.request("POST", service.private + "/v1/sign", b"{", headers), 400, "json")


def test_paths_and_methods(service: Service) -> None:
    problem(service.get("/nowhere"), 404, "not_found")
    problem(service.request("DELETE", service.public + "/ocsp"), 405, "method_not_allowed")
    problem(service.get("/crl/issuing/99.crl"), 404, "crl_unknown")
    assert service.get("/ca/nobody.cer").status == 404
    problem(service.get("/ca/a%00b.cer"), 400, "path")
    problem(service.call("GET", "/v1/audit?subject=%00"), 400, "path")


def test_a_body_past_the_limit(service: Service) -> None:
    answer = service.request("POST", service.public + "/v1/status", b"x" * (5 << 20))
    assert answer.status == 413
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_ocsp(service: Service, bouncycastle: BouncyCastle) -> None:
    assert bouncycastle.ocsp_status(service.ocsp(b"\x30\x03junk").body) == 1
    assert service.ocsp(b"\x30" * 20_000).status == 413
    issuing, root = service.get("/ca/issuing.cer").body, service.get("/ca/root.cer").body
    never = bouncycastle.make_ocsp_request(issuing, [0x1234567890ABCDEF])
    assert bouncycastle.check_ocsp(service.ocsp(never).body, issuing, 0x1234567890ABCDEF).status == "unknown"
    foreign = bouncycastle.make_ocsp_request(root, [1])
    assert bouncycastle.ocsp_status(service.ocsp(foreign).body) == 6


def test_status_of_a_serial_that_is_none(service: Service) -> None:
    problem(service.post("/v1/status", {"serials": ["00ff", "xyz"]}), 400, "serial", "serials[1]")


def test_request_ids(service: Service) -> None:
    mine = service.request("GET", service.public + "/healthz", None, {"X-Request-Id": "ra-7-abc"})
    assert mine.headers["X-Request-Id"] == "ra-7-abc"
    made = service.request("GET", service.public + "/healthz", None, {"X-Request-Id": "a b<script>"})
    assert made.headers["X-Request-Id"] != "a b<script>"
    assert mine.headers["Server"] == "qianyan"
    assert service.get("/healthz").headers["X-Request-Id"] != service.get("/healthz").headers["X-Request-Id"]
