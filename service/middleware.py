"""What every request passes: an id, who calls and within what limits, errors as problem documents, metrics, one log
line.

One middleware, because each layer of them costs a task switch on the hot path; nor is it cut into coroutines, each of
which would cost as much as all that it does. Metric labels are the route's pattern, the status and nothing that a
client chooses.
"""

from __future__ import annotations

import itertools
import secrets
import time
from typing import Final

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from core.errors import Busy, Malformed, QianyanError
from core.http import CALLER
from service import problems
from service.callers import Callers
from service.drain import Drain
from service.guard import Guard
from service.metrics import HttpMetrics

_log = structlog.get_logger("qianyan.http")
_ID_CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.")
#: As the headers' own dictionary compares names: a plain string would be folded on every request.
_REQUEST_ID: Final = istr("X-Request-Id")


class RequestIds:
    """Ids that no other request of any process has: a random prefix and a counter."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._count = itertools.count(1)

    def of(self, request: web.Request) -> str:
        """The client's own `X-Request-Id` where it is harmless, else a new one."""
        given = request.headers.get(_REQUEST_ID)
        if given is not None and len(given) <= 64 and given and _ID_CHARACTERS.issuperset(given):
            return given
        return f"{self._prefix}-{next(self._count):x}"


def _of_failure(error: Exception, request_id: str) -> web.Response:
    """The answer to a request that failed; what is ours to mend goes to the log."""
    if isinstance(error, QianyanError):
        if problems.status_of(error) == 500:
            _log.error("request_failed", request_id=request_id, kind=error.kind, code=error.code, exc_info=error)
        return problems.of_error(error, request_id)
    if isinstance(error, web.HTTPException):
        return problems.of_http(error, request_id)
    # Whatever it was, the client gets an answer and the log the cause.
    _log.error("request_failed", request_id=request_id, exc_info=error)
    return problems.render(error, request_id).response()


def make_middleware(
    listener: str,
    metrics: HttpMetrics,
    drain: Drain,
    guard: Guard,
    *,
    callers: Callers | None = None,
    log_requests: bool = False,
) -> Middleware:
    """The middleware of one listener. `callers`: whom it admits (private listener); None where nobody is asked."""
    request_id_of = RequestIds().of
    connection_of = guard.connections.get
    series_of = metrics.listener(listener)
    clock = time.perf_counter

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = clock()
        request_id = request_id_of(request)
        connection = connection_of(request.protocol)  # None: not a connection of the guard's (tests, a Unix socket)
        if connection is not None:
            connection.begin()
        drain.under_way += 1
        account = gate = None
        response: web.StreamResponse
        try:
            if callers is not None:
                if not callers.fresh(connection):
                    await callers.refresh()
                account = callers.account(request, connection)
                if account is not None:
                    request[CALLER] = account.caller
                    if account.gate is not None:
                        try:
                            account.gate.enter()
                        except Busy as error:
                            account.refused[error.code] += 1
                            raise
                        gate = account.gate
            if "%00" in request.raw_path:
                # No id or text has one, and PostgreSQL takes none: it would be its fault, and so ours.
                raise Malformed("the address has a NUL in it", code="path")
            response = await handler(request)
        except Exception as error:  # the outermost frame
            response = _of_failure(error, request_id)
        finally:
            drain.end()
            if gate is not None:
                gate.leave()
            if connection is not None:
                connection.end()
        if drain.draining:
            response.force_close()
        headers = response.headers
        headers[_REQUEST_ID] = request_id
        headers[hdrs.SERVER] = "qianyan"  # aiohttp would tell its version and Python's
        seconds = clock() - began
        series_of(request.match_info.route, response.status).count(seconds)
        if log_requests:
            _log.info(
                "request",
                request_id=request_id,
                method=request.method,
                route=metrics.pattern(request.match_info.route),
                status=response.status,
                ms=round(seconds * 1000, 3),
                caller=None if account is None else account.caller.id,
            )
        return response

    return middleware
