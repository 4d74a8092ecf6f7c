"""The status routes over a real socket: media types, paths as clients write them, caching headers, bulk status."""

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse, ClientSession, web
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from yarl import URL

from core.clock import rfc3339
from core.errors import Malformed, NotFound, QianyanError, Refused, TooLarge, Unavailable
from core.http import json_response
from core.model import RevocationReason, serial_to_hex
from service.drain import Drain
from service.guard import Guard
from service.metrics import HttpMetrics
from service.settings import ServerSettings
from service.wire.listener import Wire, WireSite, ocsp_routes
from status.hot import HotOcsp
from status.http import StatusRoutes, request_from_path
from status.settings import OcspSettings
from status.source import StoreStatusSource
from tests.status_world import World, open_world, read, request, word
from tests.wire_world import ManySigner

Ocsp = ocsp.OCSPResponseStatus
TYPE = "application/ocsp-response"


@web.middleware
async def _problems(asked: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    """Errors as plain JSON; the service's own rendering is tested with the service."""
    try:
        return await handler(asked)
    except QianyanError as error:
        status = {TooLarge: 413, NotFound: 404, Malformed: 400}[type(error)]
        return json_response({"code": error.code, "field": error.field, "detail": error.detail}, status=status)


@dataclass
class Site:
    """A world with its routes on a socket."""

    world: World
    client: ClientSession
    port: int

    async def get(self, encoded: bytes, **headers: str) -> ClientResponse:
        """A GET as clients make it: base64, percent-encoded."""
        path = "/ocsp/" + quote(base64.b64encode(encoded), safe="")
        return await self.client.get(URL(path, encoded=True), headers=headers)

    async def raw(self, target: str) -> bytes:
        """The body of a GET whose target goes out just as given."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        whole = await reader.read()
        writer.close()
        await writer.wait_closed()
        return whole.partition(b"\r\n\r\n")[2]

    async def good(self) -> tuple[int, bytes]:
        """A new certificate, and the plain request about it."""
        serial = await self.world.issue()
        return serial, request(self.world.issuing.cert_id(serial))


@pytest.fixture(params=["aiohttp", "compiled"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """Behind either front end."""
    settings = OcspSettings(max_request_bytes=2_000, max_serials=50)
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(open_world(tmp_path, settings))
        routes = StatusRoutes(world.responder, StoreStatusSource(world.database), world.clock)
        application = web.Application(middlewares=[_problems])
        application.add_routes(routes.public())
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        bound = socket.create_server(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        if request.param == "aiohttp":
            await web.SockSite(runner, bound).start()
        else:
            await _start_compiled(stack, world, routes, runner, bound)
        client = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))
        yield Site(world, client, port)


async def _start_compiled(
    stack: AsyncExitStack, world: World, routes: StatusRoutes, runner: web.AppRunner, bound: socket.socket
) -> None:
    """The compiled connections in front of `runner`, as service.app wires them."""

    def signer(key_id: str) -> ManySigner:
        return ManySigner(world.signers[key_id])

    hot = HotOcsp(world.responder, world.database, world.follower, signer, world.clock, routes.refusal)
    stack.push_async_callback(hot.close)
    server, drain, metrics = ServerSettings(), Drain(), HttpMetrics(CollectorRegistry())
    guard = Guard("public", header_timeout_s=60, max_connections=100)
    octets = world.responder.settings.max_request_bytes
    wire = Wire("public", ocsp_routes(hot, octets), guard, drain, metrics, server, log_requests=False)
    await WireSite(runner, bound, wire).start()
    stack.callback(guard.stop)
    stack.callback(wire.close)


async def said(response: ClientResponse) -> ocsp.OCSPResponseStatus:
    assert (response.status, response.content_type) == (200, TYPE)
    return ocsp.load_der_ocsp_response(await response.read()).response_status


# ---- POST


@pytest.mark.parametrize("media_type", ["application/ocsp-request", "application/octet-stream", "text/plain"])
async def test_post(site: Site, media_type: str) -> None:
    serial, asked = await site.good()
    response = await site.client.post("/ocsp", data=asked, headers={"Content-Type": media_type})
    assert (response.status, response.content_type) == (200, TYPE)
    assert read(await response.read()).serial_number == serial
    assert "Cache-Control" not in response.headers
    again = await site.client.post("/ocsp/", data=asked)
    assert await again.read() == await response.read()


async def test_post_in_chunks_and_too_long(site: Site) -> None:
    _, asked = await site.good()

    async def chunks(whole: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(whole), 50):
            yield whole[at : at + 50]

    response = await site.client.post("/ocsp", data=chunks(asked))
    assert word(read(await response.read())) == "good"
    for body in (bytes(2_001), chunks(bytes(2_001))):
        refused = await site.client.post("/ocsp", data=body)
        assert refused.status == 413


async def test_errors_are_ocsp_answers(site: Site) -> None:
    serial, asked = await site.good()
    post = site.client.post
    assert await said(await post("/ocsp", data=b"")) is Ocsp.MALFORMED_REQUEST
    assert await said(await post("/ocsp", data=b"garbage")) is Ocsp.MALFORMED_REQUEST
    assert await said(await site.get(b"garbage")) is Ocsp.MALFORMED_REQUEST
    cert_id = site.world.issuing.cert_id(serial)
    assert await said(await post("/ocsp", data=request(cert_id, nonce=b""))) is Ocsp.MALFORMED_REQUEST
    other = bytearray(asked)
    other[60] ^= 1
    refused = await post("/ocsp", data=bytes(other))
    assert await said(refused) is Ocsp.UNAUTHORIZED
    assert refused.headers["Cache-Control"] == "no-store"
    signer = site.world.issuing.signer
    signer.refusal = Unavailable("no")
    assert await said(await post("/ocsp", data=asked)) is Ocsp.TRY_LATER
    signer.refusal = Refused("no", code="key_frozen")
    assert await said(await post("/ocsp", data=asked)) is Ocsp.TRY_LATER
    signer.refusal = Refused("no", code="key_retired")
    assert await said(await post("/ocsp", data=asked)) is Ocsp.INTERNAL_ERROR
    signer.refusal = None
    assert await said(await post("/ocsp", data=asked)) is Ocsp.SUCCESSFUL


# ---- GET


def max_age(response: ClientResponse) -> int:
    """Seconds that a proxy may keep it."""
    return int(response.headers["Cache-Control"].partition("max-age=")[2].split(",")[0])


async def test_get_may_be_cached_but_not_past_its_renewal(site: Site) -> None:
    serial, asked = await site.good()
    response = await site.get(asked)
    answer = read(await response.read())
    assert (word(answer), answer.serial_number, response.content_type) == ("good", serial, TYPE)
    control = {part.strip() for part in response.headers["Cache-Control"].split(",")}
    assert control == {"max-age=300", "public", "no-transform", "must-revalidate"}
    assert parsedate_to_datetime(response.headers["Last-Modified"]) == answer.this_update_utc
    assert parsedate_to_datetime(response.headers["Expires"]) == answer.next_update_utc
    site.world.clock.advance(1_070)  # renewed at 1,080 s at the earliest, at 1,620 s at the latest
    later = await site.get(asked)
    assert 9 <= max_age(later) <= 300
    assert later.headers["ETag"] == response.headers["ETag"]
    site.world.clock.advance(630)
    stale = await site.get(asked)
    assert (max_age(stale), stale.headers["ETag"]) == (0, response.headers["ETag"])


async def test_not_modified_until_it_is(site: Site) -> None:
    serial, asked = await site.good()
    etag = (await site.get(asked)).headers["ETag"]
    for wanted in (etag, f'"other", W/{etag}', "*"):
        unchanged = await site.get(asked, **{"If-None-Match": wanted})
        assert (unchanged.status, await unchanged.read()) == (304, b"")
        assert unchanged.headers["ETag"] == etag
    assert (await site.get(asked, **{"If-None-Match": '"other"'})).status == 200
    await site.world.revoke(serial)
    changed = await site.get(asked, **{"If-None-Match": etag})
    assert changed.status == 200
    assert word(read(await changed.read())) == "revoked"


async def test_what_is_not_to_be_stored(site: Site) -> None:
    serial, _ = await site.good()
    cert_id = site.world.issuing.cert_id
    for asked in (request(cert_id(serial), nonce=b"n" * 16), request(cert_id(0xAAA)), request(*[cert_id(serial)] * 2)):
        response = await site.get(asked)
        assert response.headers["Cache-Control"] == "no-store"
        assert "ETag" not in response.headers
        read(await response.read())


async def test_paths_as_clients_write_them(site: Site) -> None:
    # A request whose base64 has '//', '+' and padding.
    for number in range(1 << 10):
        nonce = b"\xff" * (8 + number % 3)
        asked = request(site.world.issuing.cert_id(0xF8_0000 + number * 0xF8F8), nonce=nonce)
        text = base64.b64encode(asked).decode()
        if "//" in text and "+" in text and text.endswith("="):
            break
    else:
        raise AssertionError("no such request")
    bare = text.rstrip("=")
    targets = [text, bare, quote(text, safe=""), quote(text), bare.replace("+", "%20"), text.replace("/", "%2f")]
    for target in [*(f"/ocsp/{one}" for one in targets), f"http://ocsp.example.cn/ocsp/{text}"]:
        answer = read(await site.raw(target))
        assert word(answer) == "unknown", target
        assert answer.extensions[0].value.nonce == nonce  # type: ignore[attr-defined]
    refused = ocsp.load_der_ocsp_response(await site.raw(f"/ocsp/{text}!"))
    assert refused.response_status is Ocsp.MALFORMED_REQUEST


@given(st.text(alphabet=st.characters(max_codepoint=0x7F), max_size=200))
def test_any_path_decodes_or_is_malformed(tail: str) -> None:
    with contextlib.suppress(Malformed):
        assert isinstance(request_from_path(f"/ocsp/{tail}", 10_000), bytes)


def test_a_path_too_long() -> None:
    with pytest.raises(TooLarge):
        request_from_path("/ocsp/" + "A" * 401, 100)


# ---- in bulk


async def test_bulk_status(site: Site) -> None:
    world = site.world
    serials = [await world.issue() for _ in range(3)]
    await world.revoke(serials[1], RevocationReason.SUPERSEDED, invalidity_at_ms=1_700_000_000_000)
    await world.revoke(serials[2], RevocationReason.CERTIFICATE_HOLD)
    texts = [serial_to_hex(serial) for serial in serials]
    response = await site.client.post("/v1/status", json={"serials": [*texts, "AB:CD", texts[0].upper()]})
    assert response.status == 200
    at = rfc3339(world.clock())
    nothing = {"revoked_at": None, "reason": None, "invalidity_at": None}
    invalid = "2023-11-14T22:13:20Z"
    assert (await response.json())["statuses"] == [
        {"serial": texts[0], "status": "good", **nothing},
        {"serial": texts[1], "status": "revoked", "revoked_at": at, "reason": "superseded", "invalidity_at": invalid},
        {"serial": texts[2], "status": "held", **nothing, "revoked_at": at, "reason": "certificate_hold"},
        {"serial": "abcd", "status": "unknown", **nothing},
        {"serial": texts[0], "status": "good", **nothing},
    ]
    await world.add_branch("branch")
    elsewhere = await site.client.post("/v1/status", json={"serials": texts, "authority": "branch"})
    assert [one["status"] for one in (await elsewhere.json())["statuses"]] == ["unknown"] * 3
    assert (await (await site.client.post("/v1/status", json={"serials": []})).json()) == {"statuses": []}


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "json", None),
        (b"[]", 400, "body", None),
        (b"{}", 400, "body", "serials"),
        (b'{"serials": "ab"}', 400, "body", "serials"),
        (b'{"serials": ["1", "2", "3", "xyz"]}', 400, "serial", "serials[3]"),
        (b'{"serials": ["1", 2]}', 400, "serial", "serials[1]"),
        (b'{"serials": [""]}', 400, "serial", "serials[0]"),
        (b'{"serials": ["%s"]}' % (b"1" * 41), 400, "serial", "serials[0]"),
        (b'{"serials": [], "authority": 7}', 400, "body", "authority"),
        (b'{"serials": [], "autority": "issuing"}', 400, "body", "autority"),
        (b'{"serials": [], "authority": "nobody"}', 404, "authority_unknown", None),
        (b'{"serials": [%s"1"]}' % (b'"1",' * 50), 413, "serials_count", None),
        (b'{"serials": ["%s"]}' % (b"1" * 9_000), 413, "body_size", None),
    ],
)
async def test_bad_bulk_requests(site: Site, body: bytes, status: int, code: str, field: str | None) -> None:
    response = await site.client.post("/v1/status", data=body, headers={"Content-Type": "application/json"})
    problem = await response.json()
    assert (response.status, problem["code"], problem["field"]) == (status, code, field)


# ---- certificates


async def test_authority_certificates(site: Site) -> None:
    response = await site.client.get("/ca/issuing.cer")
    assert (response.status, response.content_type) == (200, "application/pkix-cert")
    assert await response.read() == site.world.issuing.certificate
    headers = {"If-None-Match": response.headers["ETag"]}
    assert (await site.client.get("/ca/issuing.cer", headers=headers)).status == 304
    assert (await site.client.head("/ca/issuing.cer")).status == 200
    assert (await site.client.get("/ca/branch.cer")).status == 404
    other = await site.world.add_branch("branch")
    assert await (await site.client.get("/ca/branch.cer")).read() == other.certificate
