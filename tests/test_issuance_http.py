"""The routes of issuance over a real socket, with the error tree shown as its members."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509

from core.errors import Denied, QianyanError
from core.http import CALLER, Caller, json_response
from signer.issuance.http import IssuanceRoutes
from tests.issuance_support import Installation, Request, audit_rows, installation, snapshot
from tests.judges import openssl
from tests.judges.bouncycastle import BouncyCastle

Client = TestClient[web.Request, web.Application]
PATH = "/v1/certificates"
#: What service.problems makes of the kinds met here.
STATUS = {"malformed": 400, "denied": 403, "not_found": 404, "conflict": 409, "too_large": 413, "refused": 422}


@web.middleware
async def front(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    scopes = request.headers.get("X-Scopes", "issue revoke read")
    if scopes != "nobody":
        request[CALLER] = Caller("token:ra-1", frozenset(scopes.split()))
    try:
        return await handler(request)
    except QianyanError as error:
        status = 401 if isinstance(error, Denied) and not error.authenticated else STATUS[error.kind]
        return json_response({"code": error.code, "detail": error.detail, "field": error.field}, status=status)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[Installation]:
    async with installation(tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def client(world: Installation) -> AsyncIterator[Client]:
    app = web.Application(middlewares=[front])
    app.add_routes(IssuanceRoutes(world.issuer).private())
    async with TestClient(TestServer(app)) as made:
        yield made


def body(csr: bytes, profile: str = "organisation", **more: object) -> dict[str, object]:
    return {"csr": base64.b64encode(csr).decode(), "profile": profile, **more}


async def test_the_walk(client: Client, bouncycastle: BouncyCastle) -> None:
    request = Request()
    answer = await client.post(PATH, json=body(request.encode()))
    assert answer.status == 201
    issued = await answer.json()
    assert set(issued) == {"certificates", "chain", "enveloped_key"}
    sign, encrypt = issued["certificates"]
    assert (sign["usage"], encrypt["usage"]) == ("sign", "encrypt")
    encoded = base64.b64decode(sign["certificate"])
    assert x509.load_der_x509_certificate(encoded).serial_number == int(sign["serial"], 16)
    bouncycastle.verify_certificate(encoded, base64.b64decode(issued["chain"][0]))
    private = bytearray(32)
    request.key.export_into(private)
    bouncycastle.open_enveloped_key(bytes(private), base64.b64decode(issued["enveloped_key"]))

    shown = await (await client.get(f"{PATH}/{sign['serial']}")).json()
    assert (shown["status"], shown["pair"], shown["profile"]) == ("good", encrypt["serial"], "organisation")
    assert shown["certificate"] == sign["certificate"]

    answer = await client.post(f"{PATH}/{encrypt['serial']}/revoke", json={"reason": "certificateHold"})
    assert answer.status == 200
    assert {c["status"] for c in (await answer.json())["certificates"]} == {"held"}
    answer = await client.post(f"{PATH}/{sign['serial']}/resume")
    assert {c["status"] for c in (await answer.json())["certificates"]} == {"good"}
    revocation = {"reason": "key_compromise", "invalidity_at": "2026-01-01T00:00:00Z"}
    answer = await client.post(f"{PATH}/{sign['serial']}/revoke", json=revocation)
    assert answer.status == 200
    shown = await (await client.get(f"{PATH}/{encrypt['serial']}?authority=issuing")).json()
    assert (shown["status"], shown["reason"]) == ("revoked", "key_compromise")
    assert shown["invalidity_at"] == "2026-01-01T00:00:00Z"


async def test_pem_is_read(client: Client) -> None:
    text = openssl.pem("CERTIFICATE REQUEST", Request().encode()).decode()
    answer = await client.post(PATH, json={"csr": text, "profile": "organisation", "authority": "issuing"})
    assert answer.status == 201


async def test_a_retry_gets_the_same_bytes(client: Client, world: Installation) -> None:
    headers = {"Idempotency-Key": "order-1"}
    csr = Request().encode()
    first = await (await client.post(PATH, json=body(csr), headers=headers)).read()
    before = await snapshot(world.database)
    second = await client.post(PATH, json=body(csr), headers=headers)
    assert (second.status, await second.read()) == (201, first)
    assert await snapshot(world.database) == before
    other = await client.post(PATH, json=body(Request().encode()), headers=headers)
    assert (other.status, (await other.json())["code"]) == (409, "idempotency_key")


@pytest.mark.parametrize(
    ("sent", "status", "field"),
    [
        ({"profile": "organisation"}, 400, "csr"),
        ({"csr": "", "profile": "organisation"}, 400, "csr"),
        ({"csr": "!!!", "profile": "organisation"}, 400, "csr"),
        ({"csr": "AAAA", "profile": "organisation"}, 400, "csr"),
        ({"csr": 1, "profile": "organisation"}, 400, "csr"),
        ({"csr": "AAAA", "profile": "organisation", "more": 1}, 400, "more"),
        ({"csr": "AAAA", "profile": "organisation", "authority": "../x"}, 400, "authority"),
        (body(Request().encode(), "nobody"), 422, "profile"),
        (body(Request().encode()[:-1] + b"\0"), 422, "csr.signature"),
        ([], 400, None),
    ],
)
async def test_bad_requests(client: Client, world: Installation, sent: object, status: int, field: str | None) -> None:
    before = await snapshot(world.database)
    answer = await client.post(PATH, json=sent)
    problem = await answer.json()
    assert (answer.status, problem["field"]) == (status, field)
    assert await snapshot(world.database) == before


async def test_refusals_are_on_record(client: Client, world: Installation) -> None:
    await client.post(PATH, json=body(Request().encode(), "nobody"))
    assert (await audit_rows(world.database))[-1][0::2] == ("certificate.refuse", "profile_unknown")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"reason": "removeFromCRL"}, 400),
        ({"reason": "ca_compromise"}, 422),
        ({"reason": "superseded", "invalidity_at": "2030-01-01"}, 400),
        ({"reason": "superseded", "invalidity_at": 1}, 400),
        ({"reason": "superseded", "invalidity_at": "2300-01-01T00:00:00Z"}, 422),
        ({}, 400),
    ],
)
async def test_bad_revocations(client: Client, world: Installation, sent: object, status: int) -> None:
    issued = await world.issuer.issue(Request().encode(), "organisation", actor="cli:test")
    before = await snapshot(world.database)
    answer = await client.post(f"{PATH}/{issued.certificates[0].serial:x}/revoke", json=sent)
    assert answer.status == status
    assert await snapshot(world.database) == before


@pytest.mark.parametrize(("serial", "status"), [("zz", 400), ("0" * 41, 400), ("abcd", 404)])
async def test_bad_serials(client: Client, serial: str, status: int) -> None:
    assert (await client.get(f"{PATH}/{serial}")).status == status
    assert (await client.post(f"{PATH}/{serial}/revoke", json={"reason": "superseded"})).status == status
    assert (await client.post(f"{PATH}/{serial}/resume")).status == status


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", PATH, "issue"),
        ("GET", f"{PATH}/ab", "read"),
        ("POST", f"{PATH}/ab/revoke", "revoke"),
        ("POST", f"{PATH}/ab/resume", "revoke"),
    ],
)
async def test_scopes(client: Client, method: str, path: str, scope: str) -> None:
    others = " ".join({"issue", "read", "revoke"} - {scope})
    assert (await client.request(method, path, headers={"X-Scopes": "nobody"})).status == 401
    assert (await client.request(method, path, headers={"X-Scopes": others})).status == 403
