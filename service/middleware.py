"""What every request passes: an id, who calls, errors as problem documents, metrics, one log line.

One middleware, because each layer of them costs a task switch on the hot path. Metric labels are the route's pattern,
the status and nothing that a client chooses.
"""

from __future__ import annotations

import itertools
import secrets
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from core.errors import QianyanError
from core.http import CALLER
from service import problems
from service.drain import Drain
from service.metrics import HttpMetrics
from service.tokens import TokenBook

_log = structlog.get_logger("qianyan.http")
_ID_CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.")


class RequestIds:
    """Ids that no other request of any process has: a random prefix and a counter."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._count = itertools.count(1)

    def of(self, request: web.Request) -> str:
        """The client's own `X-Request-Id` where it is harmless, else a new one."""
        given = request.headers.get("X-Request-Id")
        if given is not None and len(given) <= 64 and given and _ID_CHARACTERS.issuperset(given):
            return given
        return f"{self._prefix}-{next(self._count):x}"


def _pattern(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def make_middleware(
    listener: str,
    metrics: HttpMetrics,
    drain: Drain,
    *,
    book: TokenBook | None = None,
    log_requests: bool = False,
) -> Middleware:
    """The middleware of one listener. `book`: admits callers (private listener); None where nobody is asked."""
    ids = RequestIds()

    async def answer(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
        try:
            if book is not None:
                caller = await book.caller(request.headers.get("Authorization"))
                if caller is not None:
                    request[CALLER] = caller
            return await handler(request)
        except QianyanError as error:
            if problems.status_of(error) == 500:
                _log.error("request_failed", request_id=request_id, kind=error.kind, code=error.code, exc_info=error)
            return problems.of_error(error, request_id)
        except web.HTTPException as error:
            return problems.of_http(error, request_id)
        except Exception as error:  # the outermost frame: whatever it was, the client gets an answer, the log the cause
            _log.error("request_failed", request_id=request_id, exc_info=error)
            return problems.of_unknown(request_id)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        request_id = ids.of(request)
        with drain:
            response = await answer(request, handler, request_id)
        if drain.draining:
            response.force_close()
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = "qianyan"  # aiohttp would tell its version and Python's
        seconds = time.perf_counter() - began
        metrics.observe(listener, _pattern(request), response.status, seconds)
        if log_requests:
            caller = request.get(CALLER)
            _log.info(
                "request",
                request_id=request_id,
                method=request.method,
                route=_pattern(request),
                status=response.status,
                ms=round(seconds * 1000, 3),
                caller=caller.id if caller else None,
            )
        return response

    return middleware
