"""Serves status sets: GET and HEAD /set/{authority}.set and /set/{authority}-delta.set.

Knows routes and headers; which file there is to serve is for `status.set.published`.

A set's `Expires` is when a delta is due that may come with a new set, a delta's when the next one is; never past
nextUpdate. `stale-if-error` lets a cache go on with what it has while we are down, until then and no longer.
"""

from __future__ import annotations

from datetime import datetime
from email.utils import format_datetime
from typing import Final

from aiohttp import web

from core.clock import to_datetime
from core.conditional import Representation, answer
from status.set.published import ServedFile
from status.set.service import StatusSetService

CONTENT_TYPE: Final = "application/octet-stream"
#: How long a cache may keep a file whose successor is late.
_LATE_MS: Final = 5_000


class StatusSetRoutes:
    """The routes over a service's published sets."""

    def __init__(self, service: StatusSetService) -> None:
        self._published = service.published
        self._clock = service.clock
        self._settings = service.settings

    def public(self) -> list[web.RouteDef]:
        """The routes of the public listener. Of an id that ends in `-delta` the delta wins."""
        authority = r"{authority:[A-Za-z0-9._-]{1,32}}"
        return [
            web.get(f"/set/{authority}-delta.set", self._get_delta),
            web.get(f"/set/{authority}.set", self._get_set),
        ]

    async def _get_set(self, request: web.Request) -> web.Response:
        return await self._get(request, delta=False)

    async def _get_delta(self, request: web.Request) -> web.Response:
        return await self._get(request, delta=True)

    async def _get(self, request: web.Request, *, delta: bool) -> web.Response:
        served = await self._published.current(request.match_info["authority"], delta=delta)
        # Two files may be of one second.
        file = Representation(served.body, served.tag, _modified(served), CONTENT_TYPE, dates_tell=False)
        return answer(request, file, self._headers(served, delta))

    def _headers(self, served: ServedFile, delta: bool) -> dict[str, str]:
        now_ms = self._clock()
        # A change may make a new file at any moment: a cache asks again after the debounce, and mostly gets a 304.
        soon_ms = now_ms + (_LATE_MS if delta else 12 * _LATE_MS)
        expires_ms = min(soon_ms, served.until_ms)
        left_s = max(0, (expires_ms - now_ms) // 1000)
        after_s = max(0, (served.until_ms - expires_ms) // 1000)
        return {
            "ETag": f'"{served.tag}"',
            "Last-Modified": format_datetime(_modified(served), usegmt=True),
            "Expires": format_datetime(to_datetime(expires_ms), usegmt=True),
            "Cache-Control": f"public, max-age={left_s}, no-transform, stale-if-error={after_s}",
            "Accept-Ranges": "bytes",
        }


def _modified(served: ServedFile) -> datetime:
    return to_datetime(served.this_update_ms)
