"""Status sets over HTTP: validators, ranges, honest expiry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from status.set.http import StatusSetRoutes
from tests.set_world import SetWorld, open_set_world
from tests.test_status_bulk import problems

Client = TestClient[web.Request, web.Application]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[SetWorld]:
    async with open_set_world(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def client(world: SetWorld) -> AsyncIterator[Client]:
    """The routes."""
    application = web.Application(middlewares=[problems])
    application.add_routes(StatusSetRoutes(world.service).public())
    async with TestClient(TestServer(application)) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/set/issuing.set", "/set/issuing-delta.set"])
async def test_a_file_with_its_validators(world: SetWorld, client: Client, path: str) -> None:
    await world.issue()
    await world.service.build("issuing")
    published = await world.published()
    body = published.delta.body if "delta" in path else published.base.body
    answer = await client.get(path)
    assert (answer.status, await answer.read()) == (200, body)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp() * 1000 == published.delta.this_update_ms
    expires_ms = parsedate_to_datetime(answer.headers["Expires"]).timestamp() * 1000
    assert world.clock() - 1000 < expires_ms <= world.clock() + 60_000
    tag = answer.headers["ETag"]
    again = await client.get(path, headers={"If-None-Match": tag})
    assert (again.status, await again.read()) == (304, b"")
    head = await client.head(path)
    assert (head.status, head.headers["ETag"], head.headers["Content-Length"]) == (200, tag, str(len(body)))
    part = await client.get(path, headers={"Range": "bytes=10-19", "If-Range": tag})
    assert (part.status, await part.read()) == (206, body[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(body)}"
    assert (await client.get(path, headers={"Range": f"bytes={len(body)}-"})).status == 416
    other = await client.get(path, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (other.status, await other.read()) == (200, body)

    world.clock.advance(5)
    await world.service.build("issuing", whole=True)
    fresh = await client.get(path, headers={"If-None-Match": tag})
    assert fresh.status == 200
    assert fresh.headers["ETag"] != tag


async def test_never_past_its_end(world: SetWorld, client: Client) -> None:
    await world.issue()
    assert (await client.get("/set/issuing.set")).status == 503
    await world.service.build("issuing")
    world.clock.advance(world.service.settings.life_s - 2)
    answer = await client.get("/set/issuing-delta.set")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=1, no-transform, stale-if-error=0"
    world.clock.advance(3)
    for path in ("/set/issuing.set", "/set/issuing-delta.set"):
        late = await client.get(path)
        assert late.status == 503
        assert (await late.json())["code"] == "set_expired"


async def test_nobodys_set(client: Client) -> None:
    assert (await client.get("/set/nobody.set")).status == 404
    assert (await client.get("/set/../issuing.set")).status == 404
