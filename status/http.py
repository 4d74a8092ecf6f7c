"""Routes for relying parties: OCSP over POST and GET, status in bulk, authorities' certificates.

Knows media types, caching headers and how an error becomes an OCSPResponseStatus; not threads, SQL or signing. OCSP
answers are HTTP 200 whatever they say (RFC 6960 Appendix A.2); only a request past a bound is refused by HTTP, with
413. The media type of a POST is not looked at: clients send several, and the bytes tell.
"""

from __future__ import annotations

import base64
import binascii
import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson
import structlog
from aiohttp import web

from core.clock import Clock, rfc3339
from core.errors import Malformed, NotFound, QianyanError, TooLarge
from core.http import json_response, read_body
from core.model import CertificateStatus, serial_from_hex, serial_to_hex
from core.ports import StatusSource
from status import bulk
from status.cache import OcspAnswer
from status.responder import Responder
from status.response import ResponseStatus, error_response

_log = structlog.get_logger()

#: kind → OCSPResponseStatus (RFC 6960 §2.3); what is not named is internalError.
_STATUS_OF_KIND: Final = {
    "malformed": ResponseStatus.MALFORMED_REQUEST,
    "unavailable": ResponseStatus.TRY_LATER,
    "busy": ResponseStatus.TRY_LATER,
    "not_found": ResponseStatus.UNAUTHORIZED,
}
_ERRORS: Final[dict[ResponseStatus, bytes]] = {
    status: error_response(status) for status in ResponseStatus if status is not ResponseStatus.SUCCESSFUL
}

_OCSP_PREFIX: Final = "/ocsp/"
_OCSP_HEADERS: Final = {"Content-Type": "application/ocsp-response"}
_NO_STORE_HEADERS: Final = {**_OCSP_HEADERS, "Cache-Control": "no-store"}
_DEFAULT_AUTHORITY: Final = "issuing"
_CA_MAX_AGE_S: Final = 3_600
#: How often the same trouble is logged at most.
_LOG_EVERY_S: Final = 10.0
#: Hexadecimal digits, quotes, comma and some white space; colons between octets.
_BYTES_PER_SERIAL: Final = 72


@lru_cache(maxsize=4096)
def http_date(at_s: int) -> str:
    """A time as HTTP writes it (RFC 9110 §5.6.7)."""
    return formatdate(at_s, usegmt=True)


def request_from_path(raw_path: str, max_bytes: int) -> bytes:
    """The request in the path of a GET, as RFC 6960 Appendix A.1 has it: base64, then percent-encoded.

    `raw_path` is the path as it was sent, so that `//` stays what it is. A `+` that became a space on the way and
    padding that got lost are put right. Raises Malformed, TooLarge.
    """
    tail = raw_path[len(_OCSP_PREFIX) :]
    if len(tail) > 4 * max_bytes:  # each octet of base64 may be written with three characters
        raise TooLarge(f"an OCSP request has at most {max_bytes} bytes", code="ocsp_request_size")
    text = unquote_to_bytes(tail).replace(b" ", b"+").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise Malformed("the path is not base64", code="ocsp_path") from error


class StatusRoutes:
    """The package's routes. `source` answers in bulk; `clock` dates what proxies are told."""

    def __init__(self, responder: Responder, source: StatusSource, clock: Clock) -> None:
        self._responder = responder
        self._source = source
        self._clock = clock
        self._settings = responder.settings
        self._metrics = responder.metrics
        self._logged_s: dict[str, float] = {}

    def public(self) -> list[web.RouteDef]:
        """Routes of the public listener."""
        return [
            web.post("/ocsp", self.post_ocsp),
            web.post("/ocsp/", self.post_ocsp),
            web.get("/ocsp/{request:.+}", self.get_ocsp),
            web.post("/v1/status", self.post_status),
            web.get("/ca/{authority}.cer", self.get_certificate),
        ]

    # ---- OCSP

    async def post_ocsp(self, request: web.Request) -> web.Response:
        """POST /ocsp."""
        started = time.perf_counter()
        try:
            body = await read_body(request, self._settings.max_request_bytes)
            answer = await self._respond(body)
        except QianyanError as error:
            return self._refuse(error)
        self._metrics.seconds.observe(time.perf_counter() - started)
        return web.Response(body=answer.der, headers=_OCSP_HEADERS if answer.single else _NO_STORE_HEADERS)

    async def get_ocsp(self, request: web.Request) -> web.Response:
        """GET /ocsp/{base64}, cacheable as RFC 9919 has it."""
        started = time.perf_counter()
        try:
            asked = request_from_path(request.rel_url.raw_path, self._settings.max_request_bytes)
            answer = await self._respond(asked)
        except QianyanError as error:
            return self._refuse(error)
        self._metrics.seconds.observe(time.perf_counter() - started)
        if not answer.single:
            return web.Response(body=answer.der, headers=_NO_STORE_HEADERS)
        headers = self._cache_headers(answer)
        if _matches(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        return web.Response(body=answer.der, headers={**headers, **_OCSP_HEADERS})

    async def _respond(self, request: bytes) -> OcspAnswer:
        answer = await self._responder.respond(request)
        self._metrics.request("ok")
        return answer

    def _refuse(self, error: QianyanError) -> web.Response:
        """The unsigned OCSP answer to an error; TooLarge goes on to become 413."""
        if isinstance(error, TooLarge):
            self._metrics.request(error.kind)
            raise error
        return web.Response(body=self.refusal(error), headers=_NO_STORE_HEADERS)

    def refusal(self, error: QianyanError) -> bytes:
        """The unsigned OCSPResponse that stands for an error, which is counted.

        What is our own fault is logged, but not for every request that meets it.
        """
        self._metrics.request(error.kind)
        status = _STATUS_OF_KIND.get(error.kind, ResponseStatus.INTERNAL_ERROR)
        if status in (ResponseStatus.TRY_LATER, ResponseStatus.INTERNAL_ERROR):
            now_s = time.monotonic()
            if now_s - self._logged_s.get(error.code, -_LOG_EVERY_S) >= _LOG_EVERY_S:
                self._logged_s[error.code] = now_s
                _log.warning("ocsp_failing", code=error.code, detail=error.detail, answer=status.name.lower())
        return _ERRORS[status]

    def _cache_headers(self, answer: OcspAnswer) -> dict[str, str]:
        """Caching as RFC 9919 has it; max-age ends when the answer is renewed, well before nextUpdate."""
        left_s = max(0, answer.early_ms - self._clock()) // 1000
        max_age_s = min(left_s, self._settings.http_max_age_s)
        return {
            "Cache-Control": f"max-age={max_age_s}, public, no-transform, must-revalidate",
            "ETag": f'"{answer.version}"',
            "Last-Modified": http_date(answer.this_update_ms // 1000),
            "Expires": http_date(answer.next_update_ms // 1000),
        }

    # ---- in bulk

    async def post_status(self, request: web.Request) -> web.Response:
        """POST /v1/status: {"serials": [hex...], "authority"?} → {"statuses": [...]} in the same order.

        As application/octet-stream: serials of 20 octets in, one octet for each out; ?authority= names the authority.
        """
        if request.headers.get("Content-Type") == bulk.CONTENT_TYPE:
            body = await read_body(request, self._settings.max_serials * bulk.SERIAL_BYTES + 1)
            serials = bulk.parse_serials(body, self._settings.max_serials)
            statuses = await self._statuses(request.query.get("authority", _DEFAULT_AUTHORITY), serials)
            answer = bulk.status_octets(statuses)
            return web.Response(body=answer, content_type=bulk.CONTENT_TYPE, headers={"Cache-Control": "no-store"})
        limit = self._settings.max_serials * _BYTES_PER_SERIAL + 1024
        body = await read_body(request, limit)
        authority_id, serials = self._parse_bulk(body)
        statuses = await self._statuses(authority_id, serials)
        return json_response(
            {"statuses": [_as_json(status) for status in statuses]}, headers={"Cache-Control": "no-store"}
        )

    async def _statuses(self, authority_id: str, serials: list[int]) -> list[CertificateStatus]:
        issuers = await self._responder.issuers()
        if authority_id not in issuers.by_id:
            raise NotFound("there is no such authority", code="authority_unknown")
        statuses = await self._source.statuses(authority_id, serials)
        self._metrics.bulk_serials.inc(len(serials))
        return statuses

    def _parse_bulk(self, body: bytes) -> tuple[str, list[int]]:
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Malformed(f"the body is not JSON: {error}", code="json") from error
        if not isinstance(value, dict):
            raise Malformed("the body is not a JSON object", code="body")
        unknown = sorted(set(value) - {"serials", "authority"})
        if unknown:
            raise Malformed("the body has a member that is not known", code="body", field=unknown[0][:64])
        authority_id = value.get("authority", _DEFAULT_AUTHORITY)
        if not isinstance(authority_id, str):
            raise Malformed("authority is not a string", code="body", field="authority")
        return authority_id, self._parse_serials(value.get("serials"))

    def _parse_serials(self, texts: Any) -> list[int]:
        if not isinstance(texts, list):
            raise Malformed("serials is not a list of hexadecimal strings", code="body", field="serials")
        if len(texts) > self._settings.max_serials:
            raise TooLarge(f"at most {self._settings.max_serials} serials in one request", code="serials_count")
        serials = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise Malformed("a serial is not a string", code="serial", field=f"serials[{index}]")
            try:
                serials.append(serial_from_hex(text))
            except ValueError as error:
                raise Malformed(str(error), code="serial", field=f"serials[{index}]") from error
        return serials

    # ---- certificates

    async def get_certificate(self, request: web.Request) -> web.Response:
        """GET /ca/{authority}.cer: the authority's certificate in DER (RFC 5280 §4.2.2.1)."""
        issuer = (await self._responder.issuers()).by_id.get(request.match_info["authority"])
        if issuer is None or issuer.certificate is None:
            raise NotFound("there is no certificate of that authority", code="authority_unknown")
        headers = {"ETag": f'"{issuer.certificate_version}"', "Cache-Control": f"public, max-age={_CA_MAX_AGE_S}"}
        if _matches(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        return web.Response(body=issuer.certificate, headers={**headers, "Content-Type": "application/pkix-cert"})


def _matches(request: web.Request, etag: str) -> bool:
    """Whether If-None-Match names `etag` (RFC 9110 §13.1.2, weak comparison)."""
    wanted = request.headers.get("If-None-Match")
    return wanted is not None and etag_matches(wanted, etag)


def etag_matches(wanted: str, etag: str) -> bool:
    """Whether the value of If-None-Match names `etag`."""
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in wanted.split(","))


def _as_json(status: CertificateStatus) -> dict[str, str | None]:
    return {
        "serial": serial_to_hex(status.serial),
        "status": "unknown" if status.state is None else status.state.value,
        "revoked_at": None if status.revoked_at_ms is None else rfc3339(status.revoked_at_ms),
        "reason": None if status.reason is None else status.reason.label,
        "invalidity_at": None if status.invalidity_at_ms is None else rfc3339(status.invalidity_at_ms),
    }
