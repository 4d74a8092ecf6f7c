"""`POST /v1/status` as octets: the same answers as in JSON, and bounded."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from core.errors import QianyanError
from core.http import json_response
from core.model import RevocationReason
from status.http import StatusRoutes
from status.source import StoreStatusSource
from tests.status_world import World, open_world

Client = TestClient[web.Request, web.Application]


@web.middleware
async def problems(asked: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    """Errors as plain JSON; the service's own rendering is tested with the service."""
    try:
        return await handler(asked)
    except QianyanError as error:
        status = {"too_large": 413, "not_found": 404, "malformed": 400, "unavailable": 503}[error.kind]
        return json_response({"code": error.code, "detail": error.detail}, status=status)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[Client]:
    """The status routes."""
    application = web.Application(middlewares=[problems], client_max_size=4 << 20)
    application.add_routes(StatusRoutes(world.responder, StoreStatusSource(world.database), world.clock).public())
    async with TestClient(TestServer(application)) as opened:
        yield opened


async def ask(client: Client, body: bytes, query: str = "") -> tuple[int, bytes]:
    headers = {"Content-Type": "application/octet-stream"}
    async with client.post(f"/v1/status{query}", data=body, headers=headers) as answer:
        return answer.status, await answer.read()


async def test_one_octet_for_each_serial(world: World, client: Client) -> None:
    good, gone, held = [await world.issue() for _ in range(3)]
    await world.revoke(gone)
    await world.revoke(held, RevocationReason.CERTIFICATE_HOLD)
    asked = [gone, good, 12345, held, gone]
    body = b"".join(serial.to_bytes(20, "big") for serial in asked)
    assert await ask(client, body) == (200, bytes((2, 1, 4, 3, 2)))
    await world.release(held)
    assert await ask(client, held.to_bytes(20, "big")) == (200, b"\x01")
    await world.add_branch("branch")
    assert await ask(client, body, "?authority=branch") == (200, b"\x04" * 5)
    assert await ask(client, b"") == (200, b"")


async def test_ten_thousand_in_one_call_and_no_more(world: World, client: Client) -> None:
    serial = await world.issue()
    await world.revoke(serial)
    body = os.urandom(9_999 * 20) + serial.to_bytes(20, "big")
    assert await ask(client, body) == (200, b"\x04" * 9_999 + b"\x02")
    status, _ = await ask(client, body + bytes(20))
    assert status == 413


async def test_half_a_serial_and_nobodys_authority(client: Client) -> None:
    status, problem = await ask(client, bytes(19))
    assert (status, b"serials_size" in problem) == (400, True)
    status, problem = await ask(client, bytes(20), "?authority=nobody")
    assert (status, b"authority_unknown" in problem) == (404, True)
