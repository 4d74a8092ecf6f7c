"""Decryption over a socket: bodies, batches, messages for a certificate, refusals, and what other programs encrypt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from core.clock import system_clock
from core.model import KeyPurpose, KeyState
from core.store import keys
from core.store.keys import KeyLimits
from signer._native import sm2
from signer.signing.cms_enveloped import envelope
from signer.signing.decrypt_http import DecryptRoutes
from signer.signing.decryption import DecryptionService
from signer.signing.http import SigningRoutes
from signer.signing.settings import SigningSettings
from tests.cms_site import _renders, b64
from tests.engine_world import World, open_world
from tests.judges import openssl
from tests.signing_world import Realm, make_realm, usage

SETTINGS = SigningSettings(max_ciphertexts=8, max_data_bytes=5_000, max_body_bytes=100_000)
TEXT = "一份密件".encode()


class Site:
    """The routes on a socket. `post` returns the status, the answer and its headers."""

    def __init__(self, world: World, realm: Realm, client: TestClient[web.Request, web.Application]) -> None:
        self.world = world
        self.realm = realm
        self.client = client

    async def post(self, path: str, body: Any, scopes: str | None = "decrypt") -> tuple[int, Any]:
        headers = {} if scopes is None else {"Authorization": scopes}
        async with self.client.post(path, data=orjson.dumps(body), headers=headers) as response:
            self.headers = response.headers
            return response.status, orjson.loads(await response.read())

    async def key(self, key_id: str = "k", purpose: KeyPurpose = KeyPurpose.ENCRYPT, **limits: Any) -> sm2.PublicKey:
        await self.world.engine.create_key(
            key_id, purpose, "owner", "test", callers=["app"], limits=KeyLimits(**limits)
        )
        return sm2.PublicKey.from_bytes(self.world.engine.public_key(key_id))

    async def certificate(self, key_id: str = "k") -> bytes:
        holder = await self.realm.issue(key=self.world.keystore.load(key_id), extensions=[usage("key_encipherment")])
        async with self.world.database.write() as connection:
            await keys.set_service(connection, key_id, None, None, holder.certificate, at_ms=system_clock())
        return holder.certificate


@asynccontextmanager
async def open_site(directory: Path) -> AsyncIterator[Site]:
    async with open_world(directory) as world:
        realm = await make_realm(world, SETTINGS)
        decryption = DecryptRoutes(DecryptionService(world.engine, world.database, SETTINGS), SETTINGS)
        app = web.Application(middlewares=[_renders], client_max_size=64 << 20)
        app.add_routes([*decryption.private(), *SigningRoutes(world.engine, SETTINGS).private()])
        async with TestClient(TestServer(app)) as client:
            yield Site(world, realm, client)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as site:
        yield site


async def test_one_and_several(site: Site) -> None:
    public = await site.key()
    for encoding in ("der", "c1c3c2"):
        sealed = b64(public.encrypt(TEXT, encoding=encoding))
        body = {"key": "k", "ciphertext": sealed, "encoding": encoding}
        assert await site.post("/v1/decrypt", body) == (200, {"plaintext": b64(TEXT)})
        items = [{"ciphertext": sealed}, {"ciphertext": b64(b"nonsense")}, {"ciphertext": sealed}]
        assert await site.post("/v1/decrypt", {"key": "k", "items": items, "encoding": encoding}) == (
            200,
            {"results": [{"plaintext": b64(TEXT)}, {"code": "decrypt_failed"}, {"plaintext": b64(TEXT)}]},
        )
    sealed = b64(public.encrypt(TEXT))
    assert await site.post("/v1/decrypt", {"key": "k", "ciphertext": sealed}) == (200, {"plaintext": b64(TEXT)})


async def test_every_failure_looks_the_same(site: Site) -> None:
    public = await site.key()
    raw = public.encrypt(TEXT, encoding="c1c3c2")
    other = sm2.PrivateKey.generate().public_key.encrypt(TEXT, encoding="c1c3c2")
    answers = []
    for bad in (b"", b"\x30\x00", bytes(200), other, raw[:-1] + b"!", raw[:97], b"\x04" + bytes(64) + raw[65:]):
        answers.append(await site.post("/v1/decrypt", {"key": "k", "ciphertext": b64(bad), "encoding": "c1c3c2"}))
        answers.append(await site.post("/v1/decrypt", {"key": "k", "ciphertext": b64(bad)}))
    assert all(answer == answers[0] for answer in answers)
    assert (answers[0][0], answers[0][1]["code"]) == (422, "decrypt_failed")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"ciphertext": "AA=="}, 400, "body"),
        ({"key": "k"}, 400, "body"),
        ({"key": "k", "ciphertext": "A"}, 400, "base64"),
        ({"key": "k", "ciphertext": "AA==", "encoding": "raw"}, 400, "body"),
        ({"key": "k", "ciphertext": "AA==", "encoding": ["der"]}, 400, "body"),
        ({"key": "k", "ciphertext": "AA==", "items": []}, 400, "body"),
        ({"key": "k", "items": []}, 400, "body"),
        ({"key": "k", "items": [{"ciphertext": "AA==", "x": 1}]}, 400, "body"),
        ({"key": "k", "items": [{"ciphertext": "AA=="}] * 9}, 413, "items"),
        ({"key": "k", "ciphertext": b64(bytes(6_000))}, 413, "field_size"),
        ({"key": "none", "ciphertext": "AA=="}, 404, "key_unknown"),
        ({"key": "data", "ciphertext": "AA=="}, 422, "key_purpose"),
    ],
)
async def test_bad_bodies(site: Site, body: Any, status: int, code: str) -> None:
    await site.key()
    await site.key("data", KeyPurpose.DATA)
    found, answer = await site.post("/v1/decrypt", body)
    assert (found, answer["code"]) == (status, code)


async def test_who_may_and_when(site: Site) -> None:
    public = await site.key(max_rate=1)
    body = {"key": "k", "ciphertext": b64(public.encrypt(TEXT))}
    assert (await site.post("/v1/decrypt", body, scopes=None))[0] == 401
    assert (await site.post("/v1/decrypt", body, scopes="sign"))[0] == 403
    status, answer = await site.post("/v1/sign", {"key": "k", "digest": b64(bytes(32))}, scopes="sign")
    assert (status, answer["code"]) == (422, "key_purpose")
    codes = [await site.post("/v1/decrypt", {"key": "k", "items": [{"ciphertext": "AA=="}] * 2})]
    assert (codes[0][0], codes[0][1]["code"]) == (413, "key_rate")
    found = [await site.post("/v1/decrypt", body)]
    while found[-1][0] == 200:
        found.append(await site.post("/v1/decrypt", body))
    assert (found[-1][0], found[-1][1]["code"], site.headers["Retry-After"]) == (429, "key_rate", "1")
    await site.world.engine.create_key("theirs", KeyPurpose.ENCRYPT, "owner", "test", callers=["other"])
    status, answer = await site.post("/v1/decrypt", {**body, "key": "theirs"})
    assert (status, answer["code"]) == (403, "key_caller")


async def test_purposes_and_callers_of_signing(site: Site) -> None:
    for purpose, status in ((KeyPurpose.DATA, 200), (KeyPurpose.SEAL, 200), (KeyPurpose.TIMESTAMP, 200)):
        await site.key(purpose.value, purpose)
        body = {"key": purpose.value, "digest": b64(bytes(32))}
        assert (await site.post("/v1/sign", body, scopes="sign"))[0] == status
        await site.world.engine.create_key(f"{purpose}-of-others", purpose, "owner", "test", callers=["other"])
        for path, theirs in (
            ("/v1/sign", {"key": f"{purpose}-of-others", "digest": b64(bytes(32))}),
            ("/v1/sign", {"key": f"{purpose}-of-others", "items": [{"data": b64(b"x")}] * 3}),
        ):
            found, answer = await site.post(path, theirs, scopes="sign")
            assert (found, answer["code"]) == (403, "key_caller")
        async with site.client.post(
            f"/v1/keys/{purpose}-of-others/sign",
            data=bytes(64),
            headers={"Authorization": "sign", "Content-Type": "application/octet-stream"},
        ) as response:
            assert response.status == 403


async def test_a_message_for_the_keys_certificate(site: Site) -> None:
    await site.key()
    message = b64(envelope([await site.certificate()], TEXT))
    assert await site.post("/v1/cms/decrypt", {"key": "k", "cms": message}) == (200, {"data": b64(TEXT)})
    await site.world.engine.set_key_state("k", KeyState.FROZEN, "test")
    status, answer = await site.post("/v1/cms/decrypt", {"key": "k", "cms": message})
    assert (status, answer["code"]) == (422, "key_frozen")


async def test_messages_that_cannot_be_opened(site: Site) -> None:
    await site.key()
    certificate = await site.certificate()
    message = envelope([certificate], TEXT)
    stranger = await site.realm.issue(extensions=[usage("key_encipherment")])
    for bad, code in (
        (b"\x30\x00", None),
        (envelope([stranger.certificate], TEXT), "cms_recipient"),
        (message[:-1] + bytes([message[-1] ^ 1]), "cms_decrypt"),
        (_with_other_key(message), "cms_decrypt"),
    ):
        status, answer = await site.post("/v1/cms/decrypt", {"key": "k", "cms": b64(bad)})
        assert status in (400, 422)
        assert code is None or answer["code"] == code
    await site.key("bare")
    status, answer = await site.post("/v1/cms/decrypt", {"key": "bare", "cms": b64(message)})
    assert (status, answer["code"]) == (422, "key_certificate")
    await site.world.engine.create_key("theirs", KeyPurpose.ENCRYPT, "owner", "test", callers=["other"])
    status, answer = await site.post("/v1/cms/decrypt", {"key": "theirs", "cms": b64(message)})
    assert (status, answer["code"]) == (403, "key_caller"), "not a word of certificates to who may not use the key"
    assert (await site.post("/v1/cms/decrypt", {"key": "k", "cms": b64(message)}, scopes="sign"))[0] == 403


def _with_other_key(message: bytes) -> bytes:
    """The message with one octet of the encrypted content key changed: somewhere in its last hash."""
    at = message.index(b"\x02\x20", 20) if b"\x02\x20" in message[20:] else message.index(b"\x02\x21", 20)
    at = message.index(b"\x04\x20", at) + 10  # the hash C3
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


async def test_openssl_can_be_the_sender(site: Site) -> None:
    public = await site.key()
    body = {"key": "k", "ciphertext": b64(openssl.encrypt(public.to_bytes(), TEXT))}
    assert await site.post("/v1/decrypt", body) == (200, {"plaintext": b64(TEXT)})
