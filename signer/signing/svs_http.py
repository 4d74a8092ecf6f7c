"""The routes of GB/T 38629-2020: `POST /SignServer/{operation}`, in both HTTP mappings.

Knows headers, media types and bounds; not operations. What an operation refuses is an answer with its response code,
status 200; 413 and 503 are told apart by their status, too, so that proxies and clients act as they should. A missing
token (`require_token`) and an unknown operation are problem documents like everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog
from aiohttp import web

from core.clock import Clock
from core.errors import Busy, NotFound, QianyanError, TooLarge, Unavailable
from core.http import read_body, require
from core.store.database import Database
from core.store.follow import FeedFollower
from signer.engine.engine import SigningEngine
from signer.signing import svs_codec
from signer.signing.cms_service import CmsService
from signer.signing.svs_codec import Code, MappingName
from signer.signing.svs_service import SvsService, response_of
from signer.signing.svs_settings import SvsSettings
from signer.signing.verification import VerificationService

_log = structlog.get_logger()
#: As the samples have it; everything written is ASCII.
_FORM_TYPE = "application/x-www-form-urlencoded;charset=GB2312"


def steady_clock() -> int:
    """Milliseconds of a clock that never goes back."""
    return time.monotonic_ns() // 1_000_000


class SvsRoutes:
    """`private()` is mounted on the private listener by the service."""

    def __init__(
        self,
        engine: SigningEngine,
        verification: VerificationService,
        cms: CmsService,
        database: Database,
        follower: FeedFollower,
        settings: SvsSettings,
        clock: Clock,
        *,
        steady: Clock = steady_clock,
    ) -> None:
        self._service = SvsService(engine, verification, cms, database, follower, settings, clock, steady)
        self._settings = settings
        self._clock = clock

    def private(self) -> list[web.RouteDef]:
        """All of them; none where the settings turn the interface off."""
        return [web.post("/SignServer/{operation}", self.call)] if self._settings.enabled else []

    async def call(self, request: web.Request) -> web.Response:
        """POST /SignServer/{operation}."""
        operation = svs_codec.OPERATIONS.get(request.match_info["operation"].lower())
        if operation is None:
            raise NotFound("there is no such operation", code="svs_operation")
        caller = require(request, "sign").id if self._settings.require_token else "svs"
        mapping = svs_codec.mapping_of(request.content_type, b"")
        try:
            body = await read_body(request, self._settings.max_body_bytes)
            mapping = svs_codec.mapping_of(request.content_type, body)
            call = self._read(request, operation, mapping, body)
            respond = {"respValue": "0", **await self._service.run(call, caller)}
        except QianyanError as error:
            return self._refusal(operation, mapping, error)
        return self._answer(operation, mapping, respond)

    @staticmethod
    def _read(request: web.Request, operation: str, mapping: MappingName, body: bytes) -> svs_codec.Call:
        if mapping == "json":
            return svs_codec.read_json(operation, body)
        headers = request.headers
        return svs_codec.read_form(operation, body, headers.get("SVS-Request-Version"), headers.get("SVS-Request-Time"))

    def _refusal(self, operation: str, mapping: MappingName, error: QianyanError) -> web.Response:
        response, status = response_of(error), 200
        if isinstance(error, (Busy, Unavailable)):
            status = 503
        elif isinstance(error, TooLarge):
            status = 413
        if response is Code.SYSTEM_FAILURE:
            _log.warning("svs_failure", operation=operation, code=error.code, detail=error.detail)
        respond = {"respValue": str(int(response))}
        if isinstance(error, svs_codec.SvsError):
            respond |= error.respond
        answer = self._answer(operation, mapping, respond, status)
        if status == 503 or error.retry_after_s is not None:
            answer.headers["Retry-After"] = str(error.retry_after_s or 1)
        return answer

    def _answer(
        self, operation: str, mapping: MappingName, respond: Mapping[str, str], status: int = 200
    ) -> web.Response:
        now_ms = self._clock()
        headers = {
            "SVS-Response-Type": operation,
            "SVS-Response-Version": "v1",
            "SVS-Response-Time": svs_codec.time_text(now_ms),
        }
        if mapping == "json":
            headers["Content-Type"] = "application/json"
            body = svs_codec.write_json(operation, respond, now_ms)
        else:
            headers["Content-Type"] = _FORM_TYPE
            body = svs_codec.write_form(respond)
        return web.Response(status=status, body=body, headers=headers)
