"""The description of the HTTP interface: sound, whole, and true of what a running service answers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner
from jsonschema import ValidationError
from openapi_spec_validator import validate

from qianyan_ra import SoftwareKey, make_csr, rejection
from service.app import build_applications
from service.commands.openapi_command import openapi as openapi_command
from service.drain import Drain
from service.node import open_node
from service.openapi import OPERATIONS, document
from service.opening import find_passphrase
from service.settings import load
from tests.openapi_world import check, description, is_a
from tests.ra_world import MAKER, every_kind
from tests.running import Service

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "signer", "status", "crl", "service")
#: Codes that are put together where they are raised, and those of tables.
COMPOSED = {"key_frozen", "key_compromised", "key_retired", "certificate_revoked"}


def test_is_openapi() -> None:
    validate(description())


def registered(application: web.Application) -> set[tuple[str, str]]:
    routes = [route for route in application.router.routes() if route.resource is not None]
    return {(route.method.lower(), route.resource.canonical) for route in routes if route.method != "HEAD"}  # type: ignore[union-attr]


async def test_every_registered_route_is_described_and_nothing_else(service: Service) -> None:
    loaded = load(str(service.installation.config))
    passphrase = find_passphrase(loaded)
    assert passphrase is not None
    async with open_node(loaded, passphrase) as node:
        applications = build_applications(node, Drain())
        for listener, application in (("private", applications.private), ("public", applications.public)):
            described = {(one.method, one.path) for one in OPERATIONS if listener in one.listeners}
            settings_off = {("post", "/v1/kmc")} if listener == "private" and node.kmc is None else set()
            assert shape(registered(application) | settings_off) == shape(described), listener


def shape(routes: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """With parameters without their names."""
    return {(method, re.sub(r"\{\w+\}", "{}", path)) for method, path in routes}


def sources(*packages: str) -> str:
    return "\n".join(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))


def described_codes() -> set[str]:
    return {
        code
        for path in description()["paths"].values()
        for operation in path.values()
        for response in operation["responses"].values()
        for code in response.get("x-problem-codes", ())
    }


def test_no_code_is_described_that_nothing_raises() -> None:
    own = set(ROOT.glob("service/openapi*.py"))
    text = "\n".join(
        path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path not in own
    )
    literal = set(re.findall(r'"([a-z][a-z0-9_]+)"', text))
    assert described_codes() - literal - COMPOSED == set()


def test_every_code_of_issuance_and_registration_that_a_caller_may_meet_is_described() -> None:
    raised = set(re.findall(r'Refusal\("([a-z_]+)"', sources("signer/issuance")))
    assert raised, "the table of the life cycle has its codes where this looks"
    raised |= set(re.findall(r'code="([a-z_]+)"', sources("signer/registration")))
    raised |= set(re.findall(r'denied\([^)]*"([a-z]+_?[a-z_]+)"\)', sources("signer/registration")))
    never_over_http = {"certificate_exists"}  # an issue finds no certificate there by construction
    never_over_http |= {"holder_key_new", "holder_key_used", "holder_key_archived"}  # keys go by command alone
    assert raised - never_over_http - described_codes() == set()


def test_says_for_each_call_what_its_token_needs() -> None:
    paths = description()["paths"]
    assert paths["/v1/certificates"]["post"]["x-scope"] == "issue"
    assert paths["/v1/certificates"]["post"]["security"] == [{"token": []}]
    assert paths["/v1/requests"]["post"]["security"] == []
    assert "unauthenticated" not in paths["/v1/requests"]["post"]["responses"]["401"]["x-problem-codes"]


def test_bodies_are_those_of_the_models_with_their_descriptions() -> None:
    schema = description()["components"]["schemas"]["IssuePayload"]
    assert schema["required"] == ["csr", "profile"]
    assert schema["additionalProperties"] is False
    assert "PKCS#10" in schema["properties"]["csr"]["description"]


def test_the_command_writes_it_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "openapi.json"
    assert CliRunner().invoke(openapi_command, ["--out", str(out)]).exit_code == 0
    assert json.loads(out.read_bytes()) == json.loads(json.dumps(document()))


# ---- true of a running service


@pytest.fixture(scope="module")
def csr() -> bytes:
    with SoftwareKey.generate() as key:
        return make_csr(key, {"C": "CN", "O": "描述测试有限公司", "CN": "描述测试有限公司"})


def test_served_without_a_token(service: Service) -> None:
    answer = service.call("GET", "/openapi.json", token="")
    assert answer.status == 200
    assert answer.json == description()


def test_answers_of_issuance_are_as_described(service: Service, csr: bytes) -> None:
    body = {"csr": base64.b64encode(csr).decode(), "profile": "organisation"}
    issued = service.call("POST", "/v1/certificates", body)
    assert issued.status == 201
    check(issued, "post", "/v1/certificates")
    serial = issued.json["certificates"][0]["serial"]
    one = f"/v1/certificates/{serial}"
    check(service.call("GET", one), "get", "/v1/certificates/{serial}")
    for verb, more in (("suspend", {}), ("resume", {}), ("unlock", {}), ("renew", {}), ("revoke", {"reason": "lost"})):
        path = f"/v1/certificates/{{serial}}/{verb}"
        answer = service.call("POST", f"{one}/{verb}", more)
        assert answer.status in (200, 201, 422)
        check(answer, "post", path)
    asked = service.call("POST", f"{one}/recover", {"reference": "case-1"})
    check(asked, "post", "/v1/certificates/{serial}/recover")
    status = service.post("/v1/status", {"serials": [serial, "01"]})
    assert [each["status"] for each in status.json["statuses"]] == ["revoked", "unknown"]
    check(status, "post", "/v1/status")


def test_what_is_signed_is_as_described(csr: bytes) -> None:
    for request in every_kind(csr):
        is_a(json.loads(request.content()), "SignedRequest")
    is_a(json.loads(rejection(MAKER.ra, "r-1", "why")), "RejectionBody")
    with pytest.raises(ValidationError):
        is_a({**json.loads(MAKER.resume("01").content()), "kind": "issue"}, "SignedRequest")


def test_registration_is_as_described(service: Service, csr: bytes) -> None:
    new = {"id": "described", "name": "登记处", "profiles": ["*"], "regions": ["*"], "customers": ["*"]}
    made = service.call("POST", "/v1/ras", new)
    assert made.status == 201, made.body
    check(made, "post", "/v1/ras")
    check(service.call("POST", "/v1/ras", new), "post", "/v1/ras")
    with SoftwareKey.generate() as key:
        own = make_csr(key, {"C": "CN", "O": "登记处", "CN": "甲"})
    person = {"id": "li", "name": "李甲", "roles": ["operator"], "csr": base64.b64encode(own).decode()}
    people = "/v1/ras/described/people"
    check(service.call("POST", people, person), "post", "/v1/ras/{ra}/people")
    check(service.call("GET", people), "get", "/v1/ras/{ra}/people")
    check(service.call("GET", "/v1/ras/described"), "get", "/v1/ras/{ra}")
    check(service.call("GET", "/v1/ras"), "get", "/v1/ras")
    check(service.call("POST", "/v1/ras/described", {"name": "另一"}), "post", "/v1/ras/{ra}")
    ended = service.call("POST", f"{people}/li/withdraw")
    assert ended.status == 200
    check(ended, "post", "/v1/ras/{ra}/people/{person}/withdraw")
    check(service.call("POST", "/v1/ras/described/withdraw"), "post", "/v1/ras/{ra}/withdraw")


def test_refusals_are_as_described(service: Service, csr: bytes) -> None:
    bad = base64.b64encode(csr[:-1] + bytes([csr[-1] ^ 1])).decode()
    check(service.call("POST", "/v1/certificates", {"csr": "!", "profile": "person"}), "post", "/v1/certificates")
    refused = service.call("POST", "/v1/certificates", {"csr": bad, "profile": "organisation"})
    assert refused.status == 422
    check(refused, "post", "/v1/certificates")
    check(service.call("POST", "/v1/certificates", {}, token=""), "post", "/v1/certificates")
    check(service.call("GET", "/v1/certificates/00ff"), "get", "/v1/certificates/{serial}")
    number = {"kind": "person", "number": "110101199003070011"}
    check(service.call("POST", "/v1/holders/find", number), "post", "/v1/holders/find")


def test_other_answers_are_as_described(service: Service) -> None:
    signed = service.call("POST", "/v1/sign", {"key": "demo", "data": base64.b64encode(b"text").decode()})
    check(signed, "post", "/v1/sign")
    check(service.call("POST", "/v1/sign", {"key": "nobody", "data": ""}), "post", "/v1/sign")
    item = {"public_key": base64.b64encode(b"\x04" * 65).decode(), "data": "", "signature": signed.json["signature"]}
    check(service.post("/v1/verify", {"items": [item]}), "post", "/v1/verify")
    check(service.get("/readyz"), "get", "/readyz")
    check(service.get("/healthz"), "get", "/healthz")
