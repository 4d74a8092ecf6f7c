"""Errors as the outside sees them: HTTP status and problem document (RFC 9457).

The only place that knows which `kind` is which status. Internal detail never reaches a client: an error that is not
ours becomes a 500 without a word of what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson
from aiohttp import web

from core.errors import Busy, Denied, QianyanError, Unavailable

_STATUS: Final = {
    "malformed": 400,
    "refused": 422,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "busy": 503,
    "unavailable": 503,
    "settings": 503,  # a device refuses every use of a key: right again when its settings are
}
#: A caller's own fault, not the service's: it is told so, and nobody need look at the service.
_TOO_MANY: Final = frozenset(
    {"caller_rate", "caller_quota", "caller_concurrency", "guessing", "key_rate", "refused_too_often"}
)
_MEDIA_TYPE: Final = "application/problem+json"
_INTERNAL: Final = "the request failed inside the service; its id is in the log"


def status_of(error: QianyanError) -> int:
    """The HTTP status for an error of ours."""
    if isinstance(error, Denied):
        return 403 if error.authenticated else 401
    if isinstance(error, Busy) and error.code in _TOO_MANY:
        return 429
    return _STATUS.get(error.kind, 500)


def _document(status: int, code: str, detail: str | None, request_id: str, field: str | None = None) -> bytes:
    members: dict[str, object] = {
        "type": f"urn:qianyan:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "request_id": request_id,
    }
    if detail:
        members["detail"] = detail
    if field:
        members["field"] = field
    return orjson.dumps(members)


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer to a request that failed; `fields` beside what every answer has."""

    status: int
    fields: dict[str, str]
    body: bytes

    def response(self) -> web.Response:
        """As aiohttp sends it."""
        return web.Response(status=self.status, body=self.body, headers=self.fields)


def render(error: Exception, request_id: str) -> Problem:
    """The answer to a request that ended in an error, ours or one that nobody foresaw (500, which says nothing)."""
    status = status_of(error) if isinstance(error, QianyanError) else 500
    fields = {"Content-Type": _MEDIA_TYPE}
    if status == 500 or not isinstance(error, QianyanError):
        return Problem(status, fields, _document(status, "internal", _INTERNAL, request_id))
    if status == 401:
        fields["WWW-Authenticate"] = "Bearer"
    if isinstance(error, (Busy, Unavailable)):
        fields["Retry-After"] = str(error.retry_after_s or 1)
    return Problem(status, fields, _document(status, error.code, error.detail, request_id, error.field))


def of_error(error: QianyanError, request_id: str) -> web.Response:
    """The answer to a request that ended in an error of ours."""
    return render(error, request_id).response()


def of_http(error: web.HTTPException, request_id: str) -> web.Response:
    """The answer for what aiohttp itself refuses: no such path or method, a body too large."""
    status = error.status
    code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    response = web.Response(status=status, body=_document(status, code, None, request_id), content_type=_MEDIA_TYPE)
    for name in ("Allow", "Location", "Retry-After"):
        if name in error.headers:
            response.headers[name] = error.headers[name]
    return response
