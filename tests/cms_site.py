"""The routes for messages and for GB/T 38629 on a socket, over a real engine, store and hierarchy."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from core.clock import system_clock
from core.errors import QianyanError
from core.http import CALLER, Caller
from core.model import KeyPurpose
from core.ports import StatusSource
from core.store import keys
from service.problems import of_error
from signer._native import sm2
from signer.signing.cms_http import CmsRoutes
from signer.signing.cms_service import CmsService
from signer.signing.settings import SigningSettings
from signer.signing.svs_http import SvsRoutes
from signer.signing.svs_keys import code_digest
from signer.signing.svs_settings import SvsSettings
from signer.signing.verification import VerificationService
from status.source import StoreStatusSource
from tests.engine_world import World, open_world
from tests.signing_world import Holder, Realm, make_realm


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def scalar(key: sm2.PrivateKey) -> bytes:
    out = bytearray(32)
    key.export_into(out)
    return bytes(out)


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


@dataclass
class Site:
    """The server and what is behind it. `steady` is the clock that waits and sessions go by, in milliseconds."""

    world: World
    realm: Realm
    cms: CmsService
    steady: list[int] = field(default_factory=lambda: [1_000_000])
    client: TestClient[web.Request, web.Application] | None = None

    async def post(self, path: str, body: Any, *, scopes: str | None = "sign") -> tuple[int, Any]:
        assert self.client is not None
        headers = {} if scopes is None else {"Authorization": scopes}
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.client.post(path, data=data, headers=headers) as response:
            return response.status, orjson.loads(await response.read())

    async def key(self, key_id: str, *, index: int | None = None, code: bytes | None = None, **issue: Any) -> Holder:
        """A key of the engine with a certificate of the realm, and an index and code where they are given."""
        await self.world.engine.create_key(key_id, KeyPurpose.DATA, "owner", "test", callers=["app"])
        holder = await self.realm.issue(key=self.world.keystore.load(key_id), **issue)
        digest = None if code is None else code_digest(key_id, code)
        async with self.world.database.write() as connection:
            await keys.set_service(connection, key_id, index, digest, holder.certificate, at_ms=system_clock())
        return holder


@asynccontextmanager
async def open_site(
    directory: Path,
    *,
    signing: SigningSettings | None = None,
    svs: SvsSettings | None = None,
    status_source: Callable[[World], StatusSource] | None = None,
) -> AsyncIterator[Site]:
    signing = signing or SigningSettings()
    async with open_world(directory) as world:
        realm = await make_realm(world, signing)
        source = StoreStatusSource(world.database) if status_source is None else status_source(world)
        verification = VerificationService(world.database, source, lambda: realm.now_ms, signing)
        cms = CmsService(world.engine, verification, world.database, signing)
        site = Site(world, realm, cms)
        national = SvsRoutes(
            world.engine, verification, cms, world.database, world.follower, svs or SvsSettings(),
            lambda: realm.now_ms, steady=lambda: site.steady[0],
        )  # fmt: skip
        app = web.Application(middlewares=[_renders], client_max_size=64 << 20)
        app.add_routes([*CmsRoutes(cms, signing).private(), *national.private()])
        async with TestClient(TestServer(app)) as client:
            site.client = client
            yield site
