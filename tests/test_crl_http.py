"""CRLs over HTTP, as a client and a cache between see them."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from core.errors import QianyanError, Unavailable
from core.store.follow import FeedFollower
from crl.http import CrlRoutes
from crl.service import CrlService
from tests.crl_world import NOON_MS, SetClock, World, listed, make_world, number_of

PATH = "/crl/issuing/0.crl"


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """GETs from a server of the routes. An error's code is the body: the middleware is `service`'s."""

    def __init__(self, world: World, clock: SetClock, service: CrlService, session: ClientSession, url: str) -> None:
        self.world, self.clock, self.service = world, clock, service
        self._session, self._url = session, url

    async def get(self, path: str = PATH, *, method: str = "GET", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(method, self._url + path, headers=named) as response:
            return Reply(response.status, response.headers, await response.read())

    async def body(self, **headers: str) -> bytes:
        return (await self.get(**headers)).body


@web.middleware
async def say_error(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except QianyanError as error:
        status = {"unavailable": 503, "not_found": 404}[error.kind]
        return web.Response(status=status, text=error.code, headers={"Retry-After": str(error.retry_after_s)})


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with make_world(tmp_path) as world:
        await world.add_authority(partitions=2)
        assert isinstance(world.clock, SetClock)
        service = world.service()
        await service.build("issuing", 0)
        application = web.Application(middlewares=[say_error])
        application.add_routes(CrlRoutes(service).public())
        async with TestServer(application) as server, ClientSession() as session:
            yield Client(world, world.clock, service, session, str(server.make_url("")).rstrip("/"))


async def test_the_newest_crl_with_its_headers(client: Client) -> None:
    record = await client.world.newest()
    response = await client.get()
    assert response.status == 200
    assert response.body == record.crl
    assert response.headers["Content-Type"] == "application/pkix-crl"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert parsedate_to_datetime(response.headers["Last-Modified"]).timestamp() * 1000 == record.this_update_ms
    assert "max-age" not in response.headers["Cache-Control"]


async def test_expires_is_when_the_next_one_is_due_and_never_past_next_update(client: Client) -> None:
    start_s = NOON_MS // 1000

    async def expires() -> tuple[float, int]:
        headers = (await client.get()).headers
        stale_s = int(headers["Cache-Control"].rpartition("stale-if-error=")[2])
        return parsedate_to_datetime(headers["Expires"]).timestamp() - start_s, stale_s

    assert await expires() == (3600, 86_399 - 3600)
    client.clock.advance(5000)
    assert await expires() == (5060, 86_399 - 5060 - 1)  # late: soon again
    client.clock.advance(86_390 - 5000)
    assert await expires() == (86_399, 0)


async def test_head_has_the_length_and_no_body(client: Client) -> None:
    response = await client.get(method="HEAD")
    assert response.status == 200
    assert int(response.headers["Content-Length"]) == len((await client.world.newest()).crl)
    assert response.body == b""


async def test_a_client_that_has_it_gets_304(client: Client) -> None:
    first = await client.get()
    tag, modified = first.headers["ETag"], first.headers["Last-Modified"]
    for headers in ({"If_None_Match": tag}, {"If_None_Match": f'"x", W/{tag}'}, {"If_Modified_Since": modified}):
        response = await client.get(**headers)
        assert response.status == 304
        assert response.headers["ETag"] == tag
        assert response.body == b""
    assert (await client.get(If_None_Match='"other"', If_Modified_Since=modified)).status == 200
    client.clock.advance(5)
    await client.service.build("issuing", 0)
    for headers in ({"If_None_Match": tag}, {"If_Modified_Since": modified}):
        assert (await client.get(**headers)).status == 200


async def test_ranges(client: Client) -> None:
    whole = await client.body()
    size = len(whole)
    for asked, part in (("0-9", whole[:10]), ("10-", whole[10:]), ("-7", whole[-7:]), (f"5-{size + 9}", whole[5:])):
        response = await client.get(Range=f"bytes={asked}")
        assert response.status == 206
        assert response.body == part
        assert response.headers["Content-Range"].endswith(f"/{size}")
    for asked in (f"{size}-", "-0"):
        response = await client.get(Range=f"bytes={asked}")
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{size}"
    for asked in ("bytes=0-1,4-5", "lines=0-1", "bytes=9-1", "bytes=-"):
        assert await client.body(Range=asked) == whole


async def test_a_range_of_another_crl_gets_the_whole_one(client: Client) -> None:
    first = await client.get()
    tag, modified = first.headers["ETag"], first.headers["Last-Modified"]
    assert (await client.get(Range="bytes=0-4", If_Range=tag)).status == 206
    assert (await client.get(Range="bytes=0-4", If_Range=modified)).status == 206
    client.clock.advance(5)
    await client.service.build("issuing", 0)
    assert (await client.get(Range="bytes=0-4", If_Range=tag)).status == 200
    assert (await client.get(Range="bytes=0-4", If_Range=modified)).status == 200


async def test_a_new_crl_is_served_from_its_commit_on(client: Client) -> None:
    """Built by somebody else: only the feed tells."""
    assert number_of(await client.body()) == 1
    await client.world.issue(7)
    await client.world.revoke(7)
    await client.world.service().build("issuing", 0)
    body = await client.body()
    assert number_of(body) == 2
    assert list(listed(body)) == [7]


async def test_nothing_is_served_past_its_next_update(client: Client) -> None:
    client.clock.now_ms = (await client.world.newest()).next_update_ms
    assert (await client.get()).status == 200
    client.clock.advance(1)
    response = await client.get()
    assert (response.status, response.body.decode()) == (503, "crl_expired")
    assert response.headers["Retry-After"] == "5"


async def test_what_is_not_there(client: Client) -> None:
    response = await client.get("/crl/issuing/1.crl")
    assert (response.status, response.body.decode()) == (503, "crl_missing")
    for path in ("/crl/issuing/2.crl", "/crl/nobody/0.crl"):
        response = await client.get(path)
        assert (response.status, response.body.decode()) == (404, "crl_unknown")
    for path in ("/crl/issuing/2-delta.crl", "/crl/issuing/00.crl", "/crl/issuing/-1.crl", "/crl/a%2Fb/0.crl"):
        assert (await client.get(path)).status == 404
    await client.world.add_authority("second")
    await client.service.build("second", 0)
    assert (await client.get("/crl/second/0.crl")).status == 200


async def test_a_store_that_is_down_does_not_take_a_good_crl_away(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await client.body()

    async def down(_: FeedFollower) -> None:
        raise Unavailable("the store's change feed cannot be read", code="feed_unavailable")

    monkeypatch.setattr(FeedFollower, "ensure_current", down)
    assert await client.body() == whole
    assert (await client.get("/crl/issuing/1.crl")).status == 503
    client.clock.now_ms = (await client.world.newest()).next_update_ms + 1000
    assert (await client.get()).status == 503


async def test_the_delta_beside_its_full_crl(client: Client) -> None:
    assert (await client.get("/crl/issuing/0-delta.crl")).status == 404  # the first CRL has none
    await client.world.issue(7)
    client.clock.advance(5)
    await client.world.revoke(7)
    await client.service.build("issuing", 0)
    delta = await client.get("/crl/issuing/0-delta.crl")
    full = await client.get()
    assert (delta.status, full.status) == (200, 200)
    assert delta.headers["Content-Type"] == "application/pkix-crl"
    assert number_of(delta.body) == number_of(full.body) == 2
    assert list(listed(delta.body)) == [7]
    assert delta.headers["ETag"] != full.headers["ETag"]
    assert (await client.get("/crl/issuing/0-delta.crl", If_None_Match=delta.headers["ETag"])).status == 304
    assert (await client.get("/crl/issuing/1-delta.crl")).status == 503


async def test_gzip_for_who_asks_and_where_it_helps(client: Client) -> None:
    whole = await client.get(Accept_Encoding="gzip")
    assert "Content-Encoding" not in whole.headers, "a small one gains nothing"
    serials = [(i << 100) + i for i in range(1, 60)]
    await client.world.issue(*serials)
    await client.world.revoke(*serials)
    client.clock.advance(5)
    await client.service.build("issuing", 0)
    plain = await client.get(Accept_Encoding="identity")
    squeezed = await client.get(Accept_Encoding="br;q=1.0, gzip;q=0.8")
    assert (plain.body, "Content-Encoding" in plain.headers) == (squeezed.body, False)
    assert squeezed.headers["Content-Encoding"] == "gzip"
    assert int(squeezed.headers["Content-Length"]) < len(plain.body) / 2
    assert plain.headers["Vary"] == squeezed.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != squeezed.headers["ETag"]
    again = await client.get(Accept_Encoding="gzip", If_None_Match=squeezed.headers["ETag"])
    assert again.status == 304
    for headers in ({"Accept_Encoding": "gzip;q=0"}, {"Accept_Encoding": "gzip", "Range": "bytes=0-9"}):
        assert "Content-Encoding" not in (await client.get(**headers)).headers
