"""The route of CA-KM messages, for the private listener.

The message's own signature says which authority asks; the scope `kmc` says who may bring messages at all.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from core.http import read_body, require
from signer.kmc.messages import MAX_BYTES
from signer.kmc.server import KmcServer

MEDIA_TYPE: Final = "application/octet-stream"


class KmcRoutes:
    """`POST /v1/kmc`: a CARequest, answered by a KMRespond (both DER), with status 200 where it says an error, too."""

    def __init__(self, server: KmcServer) -> None:
        self._server = server

    def private(self) -> list[web.RouteDef]:
        """For the private listener."""
        return [web.post("/v1/kmc", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        caller = require(request, "kmc")
        message = await read_body(request, MAX_BYTES)
        return web.Response(body=await self._server.answer(message, caller.id), content_type=MEDIA_TYPE)
