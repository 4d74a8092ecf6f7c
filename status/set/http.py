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
        return _answer(request, served, self._headers(served, delta))

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


def _answer(request: web.Request, served: ServedFile, headers: dict[str, str]) -> web.Response:
    """The file, a part of it, or that the client has it (RFC 9110 §13, §14)."""
    if _unchanged(request, served):
        return web.Response(status=304, headers=headers)
    size = len(served.body)
    asked = _range(request, served, size)
    if asked is None:
        return web.Response(body=served.body, content_type=CONTENT_TYPE, headers=headers)
    start, end = asked
    if start >= end:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return web.Response(status=206, body=served.body[start:end], content_type=CONTENT_TYPE, headers=headers)


def _unchanged(request: web.Request, served: ServedFile) -> bool:
    """If-None-Match, else If-Modified-Since (RFC 9110 §13.2.2); of two files of one second only a tag tells."""
    try:
        tags = request.if_none_match
    except ValueError:
        return False
    if tags is not None:
        return any(tag.value in (served.tag, "*") for tag in tags)
    since = request.if_modified_since
    return since is not None and _modified(served) < since


def _range(request: web.Request, served: ServedFile, size: int) -> tuple[int, int] | None:
    """(start, end) of a single satisfiable range; (0, 0) for one that is not; None where all of it is to be sent."""
    if request.method != "GET" or not _range_applies(request, served):
        return None
    try:
        asked = request.http_range
    except ValueError:
        return None  # several ranges, another unit or nonsense: a server may ignore Range (RFC 9110 §14.2)
    if asked.start is None:
        return None
    if asked.start == 0 and "=-" in request.headers["Range"]:
        return 0, 0  # the last no bytes
    start, end, _ = slice(asked.start, asked.stop).indices(size)
    return (start, end) if start < end else (0, 0)


def _range_applies(request: web.Request, served: ServedFile) -> bool:
    """If-Range: the part is wanted only of the same file; dates are too coarse to tell (RFC 9110 §13.1.5)."""
    condition = request.headers.get("If-Range")
    return condition is None or condition == f'"{served.tag}"'
