"""What every package's `http.py` shares: who calls, how a body is read, how an answer is written.

Knows aiohttp and bounds; not routes, and not how an error is rendered: handlers raise `core.errors`, and
`service.middleware` turns them into problem documents (RFC 9457).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from core.errors import Denied, Malformed, Refused, TooLarge
from core.settings import explain


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: an id that is safe in logs and the audit record, and what it may do."""

    id: str
    scopes: frozenset[str]


_JSON: Final = {"Content-Type": "application/json"}

#: Set on an application: how long a request's body may take to arrive, in seconds.
BODY_TIMEOUT_S: Final = web.AppKey("body_timeout_s", float)
_BODY_TIMEOUT_DEFAULT_S: Final = 30.0

CALLER: Final = web.RequestKey("caller", Caller)

M = TypeVar("M", bound=BaseModel)


def require(request: web.Request, scope: str) -> Caller:
    """The caller, where it holds `scope`. Raises Denied (401 for nobody, 403 for somebody else)."""
    return allow(request.get(CALLER), scope)


def allow(caller: Caller | None, scope: str) -> Caller:
    """The same caller, where it holds `scope`. Raises as `require`."""
    if caller is None:
        raise Denied("this call needs 'Authorization: Bearer TOKEN'", code="unauthenticated")
    if scope not in caller.scopes:
        raise Denied(f"the token does not admit to '{scope}'", code="scope", authenticated=True)
    return caller


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The body, bounded in size and time.

    Raises TooLarge (code "body_size") as soon as it is known to be longer than `max_bytes`, Malformed
    (code "body_slow") where it has not arrived in the time that the application allows (`BODY_TIMEOUT_S`).
    """
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    content = request.content
    if content.is_eof():  # small bodies came with their headers: nothing to wait for, so nothing to time
        body = content.read_nowait()
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(request.app.get(BODY_TIMEOUT_S, _BODY_TIMEOUT_DEFAULT_S)):
            while chunk := await content.readany():
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
    except TimeoutError as error:
        raise Malformed("the body did not arrive in time", code="body_slow") from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body of this request has at most {max_bytes} bytes", code="body_size")


async def read_json(request: web.Request, max_bytes: int = 1 << 20) -> Any:
    """The JSON body. Raises Malformed (code "json"), or as `read_body`."""
    return parse_json(await read_body(request, max_bytes))


def parse_json(body: bytes) -> Any:
    """The JSON value in a body. Raises Malformed (code "json")."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}", code="json") from error


async def read_model(request: web.Request, model: type[M], max_bytes: int = 1 << 20) -> M:
    """The JSON body as `model`. Raises Malformed naming the field, or as `read_body`."""
    value = await read_json(request, max_bytes)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        field, message = explain(error)
        raise Malformed(f"{field or 'body'}: {message}", code="body", field=field or None) from error


def from_base64(text: Any, field: str) -> bytes:
    """Strict base64 (RFC 4648 §4: standard alphabet, padded). Raises Malformed naming the field."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Malformed(f"{field} is not base64", code="base64", field=field) from error


def to_base64(data: bytes) -> str:
    """Standard base64, padded."""
    return base64.b64encode(data).decode("ascii")


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer by orjson."""
    return web.Response(body=orjson.dumps(value), status=status, headers=(headers or {}) | _JSON)


def idempotency_key(request: web.Request) -> str | None:
    """The `Idempotency-Key` header. Raises Refused where it is longer than 128 or not visible ASCII."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= 128 or not all(0x21 <= ord(c) <= 0x7E for c in key):
        raise Refused("Idempotency-Key takes 1 to 128 visible ASCII characters", code="idempotency_key")
    return key
