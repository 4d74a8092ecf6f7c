"""Routes of signed requests, for the private listener. Knows no SQL and no DER.

A signed message needs no token: its signatures say who asks. Reading needs the scope `requests:read`, or a caller that
the authority has named as its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from aiohttp import hdrs, web

from core.errors import Denied, Malformed
from core.http import CALLER, json_response, read_body, to_base64
from signer.registration.payloads import RA_ID, REQUEST_ID
from signer.registration.service import Answered, SignedRequests
from signer.registration.settings import RegistrationSettings
from signer.registration.view import STATES

READ: Final = "requests:read"
MEDIA_TYPE: Final = "application/pkcs7-mime"
_PAGE: Final = 50
_PAGE_MAX: Final = 200


class RequestRoutes:
    """See the module."""

    def __init__(self, requests: SignedRequests, settings: RegistrationSettings) -> None:
        self._requests = requests
        self._max_bytes = settings.max_request_bytes

    def private(self) -> list[web.RouteDef]:
        """The routes for the private listener."""
        return [
            web.post("/v1/requests", self.submit),
            web.get("/v1/requests", self.index),
            web.get("/v1/requests/{request}", self.show),
            web.get("/v1/requests/{request}/content", self.content),
            web.get("/v1/requests/{request}/evidence", self.evidence),
            web.post("/v1/requests/{request}/approve", self.approve),
            web.post("/v1/requests/{request}/reject", self.reject),
        ]

    async def submit(self, request: web.Request) -> web.Response:
        """A request by one signer (202: it waits for an approval) or two (200 or 201: it is done)."""
        message = await self._message(request)
        return _answer(await self._requests.submit(message, source=request.remote or ""))

    async def approve(self, request: web.Request) -> web.Response:
        """The approval, over the request's own content."""
        message = await self._message(request)
        ra_id, request_id = _named(request)
        return _answer(await self._requests.approve(ra_id, request_id, message, source=request.remote or ""))

    async def reject(self, request: web.Request) -> web.Response:
        """The rejection, with its reason."""
        message = await self._message(request)
        ra_id, request_id = _named(request)
        return _answer(await self._requests.reject(ra_id, request_id, message, source=request.remote or ""))

    async def show(self, request: web.Request) -> web.Response:
        """A request as it stands. An unlock token is told to who asked for it alone."""
        ra_id, request_id = _named(request)
        await self._require_reader(request, ra_id)
        return json_response(await self._requests.show(ra_id, request_id))

    async def index(self, request: web.Request) -> web.Response:
        """An authority's requests in the order of their entry; `?state=`, `?after=`, `?limit=`."""
        ra_id = _ra(request)
        await self._require_reader(request, ra_id)
        query = request.query
        state = query.get("state")
        if state is not None and state not in STATES - {"failed"}:
            raise Malformed("state is one of: done, entered, rejected", code="state", field="state")
        limit = query.get("limit", str(_PAGE))
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:4]) <= _PAGE_MAX or len(limit) > 3:
            raise Malformed(f"limit is a number from 1 to {_PAGE_MAX}", code="limit", field="limit")
        shown, following = await self._requests.page(ra_id, state, query.get("after"), int(limit))
        return json_response({"requests": shown, "next": following})

    async def content(self, request: web.Request) -> web.Response:
        """The octets that were signed, as they are: an approver signs these."""
        ra_id, request_id = _named(request)
        outside = await self._require_reader(request, ra_id)
        body = await self._requests.content(ra_id, request_id, outside=outside)
        return web.Response(body=body, content_type="application/json")

    async def evidence(self, request: web.Request) -> web.Response:
        """Every message that was signed for a request, in the order in which they came."""
        ra_id, request_id = _named(request)
        outside = await self._require_reader(request, ra_id)
        found = await self._requests.evidence(ra_id, request_id, outside=outside)
        value = [{"step": step, "people": people, "message": to_base64(message)} for step, people, message in found]
        return json_response({"evidence": value})

    async def _message(self, request: web.Request) -> bytes:
        if request.content_type != MEDIA_TYPE:
            raise Malformed(f"a signed request comes as {MEDIA_TYPE}", code="content_type")
        return await read_body(request, self._max_bytes)

    async def _require_reader(self, request: web.Request, ra_id: str) -> str | None:
        """The caller's id where it is none of the RA's own. Raises Denied."""
        caller = request.get(CALLER)
        if caller is None:
            raise Denied("this call needs 'Authorization: Bearer TOKEN'", code="unauthenticated")
        if await self._requests.may_read(ra_id, caller.id):
            return None
        if READ not in caller.scopes:
            raise Denied(f"the token does not admit to '{READ}', nor to that RA", code="scope", authenticated=True)
        found: str = caller.id
        return found


def only_signed(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """The same routes, those that change something refused: where certificates are changed by signed requests alone."""

    async def refuse(_request: web.Request) -> Any:
        raise Denied(
            "here certificates are issued and changed by signed requests: POST /v1/requests",
            code="signed_request_required",
            authenticated=True,
        )

    return [route if route.method == hdrs.METH_GET else web.post(route.path, refuse) for route in routes]


def _answer(answered: Answered) -> web.Response:
    return json_response(answered.members, status=answered.status)


def _ra(request: web.Request) -> str:
    """The RA's id in the query. Raises Malformed."""
    ra_id = request.query.get("ra", "")
    if not re.fullmatch(RA_ID, ra_id):
        raise Malformed("the RA is named by its id: ?ra=…", code="ra", field="ra")
    return ra_id


def _named(request: web.Request) -> tuple[str, str]:
    """(RA, request). Raises Malformed."""
    request_id = request.match_info["request"]
    if not re.fullmatch(REQUEST_ID, request_id):
        raise Malformed("a request's id has 1 to 64 letters, digits, '.', '_' or '-'", code="request_id")
    return _ra(request), request_id
