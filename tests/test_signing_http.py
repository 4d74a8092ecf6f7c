"""Signing and verifying over a real socket: what goes in and out, which field is blamed, and the bounds."""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.clock import rfc3339
from core.errors import Malformed, QianyanError, TooLarge
from core.http import CALLER, Caller
from core.model import KeyPurpose, KeyState, RevocationReason
from service.problems import of_error
from signer._native import sm2
from signer.signing import fields
from signer.signing.http import SigningRoutes
from signer.signing.settings import SigningSettings
from signer.signing.verify_http import VerificationRoutes
from tests.engine_world import World, open_world
from tests.judges import openssl, peers
from tests.signing_world import Realm, make_realm

Client = TestClient[web.Request, web.Application]
SMALL = SigningSettings(max_items=8, max_data_bytes=5_000, max_digests=100, max_body_bytes=100_000, max_verify_items=10)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@web.middleware
async def _renders(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What the service's middleware does: lets a caller in by its token, renders errors as problem documents."""
    token = request.headers.get("Authorization")
    if token is not None:
        request[CALLER] = Caller("app", frozenset(token.split()))
    try:
        return await handler(request)
    except QianyanError as error:
        return of_error(error, "id")


class Site:
    """The routes on a socket, and what is behind them."""

    def __init__(self, world: World, realm: Realm, client: Client) -> None:
        self.world = world
        self.realm = realm
        self.client = client

    async def post(self, path: str, body: Any, *, scopes: str | None = "sign") -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} | ({} if scopes is None else {"Authorization": scopes})
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        if path.endswith("/sign") and "/keys/" in path:
            headers["Content-Type"] = "application/octet-stream"
        async with self.client.post(path, data=data, headers=headers) as response:
            content = await response.read()
            return response.status, content if response.content_type == "application/octet-stream" else orjson.loads(
                content
            )

    @property
    def public(self) -> sm2.PublicKey:
        return sm2.PublicKey.from_bytes(self.world.engine.public_key("k"))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_world(tmp_path, keys=("k",)) as world:
        realm = await make_realm(world, SMALL)
        app = web.Application(middlewares=[_renders])
        app.add_routes(SigningRoutes(world.engine, SMALL).private())
        app.add_routes(VerificationRoutes(realm.service, SMALL).private())
        async with TestClient(TestServer(app)) as client:
            yield Site(world, realm, client)


async def test_data_is_signed_and_other_implementations_agree(site: Site) -> None:
    message = b"an order"
    status, answer = await site.post("/v1/sign", {"key": "k", "data": b64(message)})
    assert status == 200
    assert answer["algorithm"] == "sm2-with-sm3"
    signature = base64.b64decode(answer["signature"])
    openssl.verify(site.public.to_bytes(), message, signature)
    peers.tongsuo_verify(site.public.to_bytes(), message, signature)


async def test_a_digest_is_signed(site: Site) -> None:
    digest = site.public.digest(b"message", user_id=b"me")
    status, answer = await site.post("/v1/sign", {"key": "k", "digest": b64(digest)})
    assert status == 200
    raw = sm2.signature_from_der(base64.b64decode(answer["signature"]))
    site.public.verify(b"message", raw, user_id=b"me")


async def test_items_are_answered_in_order(site: Site) -> None:
    digest = secrets.token_bytes(32)
    items = [
        {"data": b64(b"first")},
        {"digest": b64(digest)},
        {"data": b64(b"third"), "user_id": b64(b"me")},
        {"data": ""},
    ]
    status, answer = await site.post("/v1/sign", {"key": "k", "items": items})
    assert status == 200
    raw = [sm2.signature_from_der(base64.b64decode(text)) for text in answer["signatures"]]
    site.public.verify(b"first", raw[0])
    site.public.verify_digest(digest, raw[1])
    site.public.verify(b"third", raw[2], user_id=b"me")
    site.public.verify(b"", raw[3])
    assert len(raw) == 4


async def test_octets_in_octets_out(site: Site) -> None:
    digests = secrets.token_bytes(32 * 100)
    status, answer = await site.post("/v1/keys/k/sign", digests)
    assert status == 200
    assert sm2.verify_many(site.public, digests, answer) == b"\1" * 100


D32 = b64(bytes(32))


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "json", None),
        (b"\xff\xfe", 400, "json", None),
        ([], 400, "body", None),
        ({"digest": D32}, 400, "body", "key"),
        ({"key": 5, "digest": D32}, 400, "body", "key"),
        ({"key": "k"}, 400, "body", "digest"),
        ({"key": "k", "digest": D32, "data": ""}, 400, "body", "digest"),
        ({"key": "k", "digest": D32, "colour": 1}, 400, "body", "colour"),
        ({"key": "k", "digest": "!"}, 400, "digest_length", "digest"),
        ({"key": "k", "digest": "!" * 44}, 400, "base64", "digest"),
        ({"key": "k", "digest": b64(bytes(31))}, 400, "digest_length", "digest"),
        ({"key": "k", "digest": b64(bytes(33))}, 400, "digest_length", "digest"),
        ({"key": "k", "digest": None}, 400, "body", "digest"),
        ({"key": "k", "digest": D32, "user_id": ""}, 400, "body", "user_id"),
        ({"key": "k", "data": "a"}, 400, "base64", "data"),
        ({"key": "k", "data": "_w=="}, 400, "base64", "data"),
        ({"key": "k", "data": b64(bytes(5_001))}, 413, "field_size", "data"),
        ({"key": "k", "data": "", "user_id": b64(bytes(8_192))}, 413, "field_size", "user_id"),
        ({"key": "k", "data": b64(bytes(90_000))}, 413, "body_size", None),
        ({"key": "k", "items": []}, 400, "body", "items"),
        ({"key": "k", "items": "x"}, 400, "body", "items"),
        ({"key": "k", "items": [{"digest": D32}], "data": ""}, 400, "body", "items"),
        ({"key": "k", "items": [{"digest": D32}] * 9}, 413, "items", "items"),
        ({"key": "k", "items": [{"digest": D32}, 7]}, 400, "body", "items[1]"),
        ({"key": "k", "items": [{"digest": D32}] * 3 + [{"digest": "x"}]}, 400, "digest_length", "items[3].digest"),
        ({"key": "k", "items": [{"data": "", "user_id": 1}]}, 400, "body", "items[0].user_id"),
        ({"key": "k", "items": [{"key": "k", "data": ""}]}, 400, "body", "items[0].key"),
        ({"key": "none", "digest": D32}, 404, "key_unknown", "key"),
        ({"key": "none", "data": ""}, 404, "key_unknown", "key"),
        ({"key": "../k", "digest": D32}, 404, "key_unknown", "key"),
    ],
)
async def test_what_is_wrong_is_named(site: Site, body: Any, status: int, code: str, field: str | None) -> None:
    got, problem = await site.post("/v1/sign", body)
    assert (got, problem["code"], problem.get("field")) == (status, code, field)
    assert problem["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"", 400, "digest_length"), (bytes(33), 400, "digest_length"), (bytes(32 * 101), 413, "body_size")],
)
async def test_what_is_wrong_with_octets(site: Site, body: bytes, status: int, code: str) -> None:
    got, problem = await site.post("/v1/keys/k/sign", body)
    assert (got, problem["code"]) == (status, code)


async def test_octets_must_say_that_they_are(site: Site) -> None:
    async with site.client.post(
        "/v1/keys/k/sign", data=bytes(32), headers={"Authorization": "sign", "Content-Type": "text/plain"}
    ) as response:
        assert response.status == 400
        assert orjson.loads(await response.read())["code"] == "content_type"


async def test_a_body_without_a_length_is_bounded_too(site: Site) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65_536)

    headers = {"Authorization": "sign", "Content-Type": "application/octet-stream"}
    async with site.client.post("/v1/keys/k/sign", data=endless(), headers=headers) as response:
        assert response.status == 413


@pytest.mark.parametrize("path", ["/v1/sign", "/v1/keys/k/sign"])
async def test_who_may_not_sign(site: Site, path: str) -> None:
    body: Any = {"key": "k", "digest": D32} if path == "/v1/sign" else bytes(32)
    assert (await site.post(path, body, scopes=None))[0] == 401
    status, problem = await site.post(path, body, scopes="issue read")
    assert (status, problem["code"]) == (403, "scope")


async def test_keys_that_may_not_be_used(site: Site) -> None:
    await site.world.engine.create_key("ca", KeyPurpose.CERTIFICATE, "owner", "test")
    status, problem = await site.post("/v1/sign", {"key": "ca", "digest": D32})
    assert (status, problem["code"]) == (422, "key_purpose")
    status, problem = await site.post("/v1/keys/ca/sign", bytes(32))
    assert (status, problem["code"]) == (422, "key_purpose")
    await site.world.engine.set_key_state("k", KeyState.FROZEN, "test")
    status, problem = await site.post("/v1/sign", {"key": "k", "items": [{"digest": D32}]})
    assert (status, problem["code"]) == (422, "key_frozen")


async def test_verify_says_what_it_found(site: Site) -> None:
    realm = site.realm
    good, revoked = await realm.issue(), await realm.issue()
    await realm.revoke(revoked.serial, RevocationReason.KEY_COMPROMISE, realm.now_ms - 2_000)

    def item(holder: Any, **more: Any) -> dict[str, Any]:
        signature = sm2.signature_to_der(holder.key.sign(b"m"))
        return {"certificate": b64(holder.certificate), "data": b64(b"m"), "signature": b64(signature), **more}

    bare = {
        "public_key": b64(good.key.public_key.to_bytes()),
        "digest": b64(good.key.public_key.digest(b"m")),
        "signature": b64(good.key.sign(b"m")),
    }
    body = {"items": [item(good), item(revoked), bare, item(good, data=b64(b"n")), item(good, at="yesterday"), 5]}
    status, answer = await site.post("/v1/verify", body, scopes=None)
    assert status == 200
    results = answer["results"]
    now = rfc3339(realm.now_ms)
    assert results[0] == {
        "valid": True, "reason": None, "serial": f"{good.serial:04x}", "authority": "issuing", "checked_at": now,
    }  # fmt: skip
    assert results[1]["reason"] == "revoked"
    assert results[1]["revoked_at"] == rfc3339(realm.now_ms - 2_000)
    assert results[1]["revocation_reason"] == "key_compromise"
    assert results[2] == {"valid": True, "reason": None}
    assert [result["reason"] for result in results[3:]] == ["signature", "malformed", "malformed"]
    assert "items[4].at" in results[4]["detail"]


@pytest.mark.parametrize(
    "change",
    [
        {"signature": None}, {"signature": "?"}, {"signature": b64(bytes(300))}, {"certificate": b64(bytes(70_000))},
        {"data": 5}, {"digest": D32}, {"public_key": ""}, {"user_id": []}, {"colour": 1}, {"at": "2026-11-20T00:00:00"},
    ],
)  # fmt: skip
async def test_a_malformed_item_is_a_result_and_spoils_nothing(site: Site, change: dict[str, Any]) -> None:
    holder = await site.realm.issue()
    good = {"certificate": b64(holder.certificate), "data": "", "signature": b64(holder.key.sign(b""))}
    status, answer = await site.post("/v1/verify", {"items": [good, {**good, **change}, good]})
    assert status == 200
    assert [result["reason"] for result in answer["results"]] == [None, "malformed", None]
    assert "items[1]" in answer["results"][1]["detail"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [([], 400, None), ({}, 400, "items"), ({"items": []}, 400, "items"), ({"items": [1] * 11}, 413, "items"),
     ({"items": [1], "more": 1}, 400, "more")],
)  # fmt: skip
async def test_a_verification_that_is_no_list_of_items(site: Site, body: Any, status: int, field: str | None) -> None:
    got, problem = await site.post("/v1/verify", body)
    assert (got, problem.get("field")) == (status, field)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=60),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "digest", "signature", "certificate", "public_key", "at", "x"]), inner
        )
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON)
def test_any_json_is_read_or_refused_by_name(value: Any) -> None:
    """The hand-written checks raise nothing but errors of ours, whatever the JSON."""
    routes = VerificationRoutes.__new__(VerificationRoutes)
    routes._settings = SMALL
    with contextlib.suppress(Malformed, TooLarge):
        routes.item(value, "items[0]", [])


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [("1970-01-01T00:00:01Z", 1_000), ("1970-01-01T08:00:01.5+08:00", 1_500)],
)
def test_times_are_read_with_their_offset(text: str, at_ms: int) -> None:
    assert fields.time_ms({"at": text}, "at", "") == at_ms
