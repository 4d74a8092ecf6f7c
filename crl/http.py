"""Serves CRLs: GET and HEAD /crl/{authority}/{partition}.crl and -delta.crl, with validators, ranges, honest expiry.

Knows routes and headers; which CRL there is to serve is for `crl.published`.

`Expires` is when the next CRL is due by the schedule, never past nextUpdate: nextUpdate itself would hide every CRL
in between from caches, and `max-age` would add to the age that a CRL already has. `stale-if-error` lets a cache go on
with what it has while we are down, until nextUpdate and no longer.
"""

from __future__ import annotations

from datetime import datetime
from email.utils import format_datetime
from typing import Final

from aiohttp import web

from core.clock import to_datetime
from core.conditional import Representation, answer
from crl.published import PublishedCrl
from crl.service import CrlService

CONTENT_TYPE: Final = "application/pkix-crl"  # RFC 2585 §4.2
#: How long a cache may keep a CRL whose successor is late.
_LATE_MS: Final = 60_000


class CrlRoutes:
    """The routes over a service's published CRLs."""

    def __init__(self, service: CrlService) -> None:
        self._published = service.published
        self._clock = service.clock
        self._period_ms = service.settings.period_s * 1000

    def public(self) -> list[web.RouteDef]:
        """The routes of the public listener."""
        scope = r"/crl/{authority:[A-Za-z0-9._-]{1,32}}/{partition:0|[1-9]\d{0,5}}"
        return [web.get(scope + ".crl", self._full), web.get(scope + "-delta.crl", self._delta)]

    async def _full(self, request: web.Request) -> web.Response:
        return await self._get(request, delta=False)

    async def _delta(self, request: web.Request) -> web.Response:
        return await self._get(request, delta=True)

    async def _get(self, request: web.Request, *, delta: bool) -> web.Response:
        scope = (request.match_info["authority"], int(request.match_info["partition"]))
        published = await self._published.current(scope, delta=delta)
        headers = self._headers(published)
        squeezed = await published.gzip() if _wants_gzip(request) else None
        body, tag = published.body, published.tag
        if squeezed is not None:
            body, tag = squeezed, published.tag + "-gz"
            headers |= {"ETag": f'"{tag}"', "Content-Encoding": "gzip"}
        file = Representation(body, tag, _modified(published), CONTENT_TYPE, dates_tell=published.dated)
        return answer(request, file, headers)

    def _headers(self, published: PublishedCrl) -> dict[str, str]:
        planned_ms = max(published.this_update_ms + self._period_ms, self._clock() + _LATE_MS)
        expires_ms = min(planned_ms, published.next_update_ms)
        after_s = (published.next_update_ms - expires_ms) // 1000
        return {
            "ETag": f'"{published.tag}"',
            "Last-Modified": format_datetime(_modified(published), usegmt=True),
            "Expires": format_datetime(to_datetime(expires_ms), usegmt=True),
            "Cache-Control": f"public, no-transform, stale-if-error={after_s}",
            "Accept-Ranges": "bytes",
            "Vary": "Accept-Encoding",
        }


def _wants_gzip(request: web.Request) -> bool:
    """Whether the client names gzip and asks for no part: parts are those of the CRL itself (RFC 9110 §12.5.3)."""
    if "Range" in request.headers:
        return False
    for item in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, parameters = item.partition(";")
        if coding.strip() == "gzip":
            return parameters.strip().replace(" ", "").rstrip("0.") != "q="
    return False


def _modified(published: PublishedCrl) -> datetime:
    return to_datetime(published.this_update_ms)
