"""The HTTP interface described as OpenAPI 3.1: both listeners, every route, every problem code.

Made from the tables in `service.openapi_*` and the pydantic models of the bodies; it needs no open node, so that it
can be written to a file anywhere. A test holds it equal to the routes that are registered. Knows no handlers.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import BaseModel

from service import openapi_issuance, openapi_requests, openapi_signing, openapi_status
from service.openapi_schemas import JSON, PROBLEM, Operation, Parameter, Schema, model_schemas, number, ref, text
from service.version import VERSION

_TABLES: Final = (openapi_requests, openapi_issuance, openapi_signing, openapi_status)
OPERATIONS: Final[tuple[Operation, ...]] = tuple(one for table in _TABLES for one in table.OPERATIONS)

_SERVERS: Final = {
    "private": {"url": "https://{host}:8443", "description": "private listener: RAs, applications, operators",
                "variables": {"host": {"default": "127.0.0.1"}}},
    "public": {"url": "http://{host}:8080", "description": "public listener: relying parties",
               "variables": {"host": {"default": "127.0.0.1"}}},
}  # fmt: skip
#: What any call may be answered, beside its own.
_EVERYWHERE: Final[Mapping[int, tuple[str, ...]]] = {500: ("internal",)}
_WITH_BODY: Final[Mapping[int, tuple[str, ...]]] = {400: ("json", "body", "base64", "body_slow"), 413: ("body_size",)}
_WITH_TOKEN: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("unauthenticated",), 403: ("scope",), 429: ("caller_rate", "caller_concurrency", "guessing"),
    503: ("store_unavailable", "stopping"),
}  # fmt: skip
_MEANING: Final = {
    400: "The bytes are not what they claim to be",
    401: "No token, or one that is not known",
    403: "The token, or the key, does not admit to it",
    404: "There is no such thing",
    409: "Something stands against it",
    413: "Past a bound on size or count",
    422: "Well-formed and not acceptable",
    429: "Too many; `Retry-After` says when",
    500: "A failure inside; the log has the request's id",
    503: "Busy, or a part cannot be trusted now; the same request again after `Retry-After`",
}
_DESCRIPTION: Final = (
    "SM2 signing and certificate-status service. Members are snake_case, binary values base64, serials hexadecimal, "
    "times RFC 3339 in UTC. Members that are not known are refused by name; answers may get more members in time. "
    "Errors are problem documents (RFC 9457) with a stable `code`; each answer lists the codes that it may have "
    "(`x-problem-codes`), and more may come."
)
_PROBLEM_SCHEMA: Final = {
    "type": "object",
    "required": ["type", "title", "status", "code", "request_id"],
    "properties": {
        "type": text("urn:qianyan:problem:CODE"),
        "title": text(),
        "status": number(),
        "code": text("Stable."),
        "detail": text("For people; may change."),
        "field": text("The member at fault, as a dotted path."),
        "request_id": text("As `X-Request-Id` of the answer; the log has it."),
    },
}


@functools.cache
def document() -> dict[str, Any]:
    """The whole description."""
    models: list[type[BaseModel]] = list(openapi_requests.MODELS)
    for one in OPERATIONS:
        models += [body for body in (one.body or {}).values() if isinstance(body, type)]
    schemas = {"Problem": _PROBLEM_SCHEMA, **model_schemas(list(dict.fromkeys(models)))}
    for table in _TABLES:
        schemas |= table.COMPONENTS
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qianyan",
            "version": VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [_SERVERS["private"]],
        "tags": [{"name": name} for name in dict.fromkeys(one.tag for one in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`qianyan token create`"}},
        },
    }


@functools.cache
def encoded() -> bytes:
    """The description as JSON, the same octets each time."""
    return orjson.dumps(document())


def openapi_routes() -> list[web.RouteDef]:
    """`GET /openapi.json`: for who reaches the private listener; it says nothing of this installation."""

    async def description(_request: web.Request) -> web.Response:
        # Made when it is first asked for: a start need not wait for it, nor does the event loop.
        return web.Response(
            body=await asyncio.to_thread(encoded), content_type=JSON, headers={"Cache-Control": "max-age=3600"}
        )

    return [web.get("/openapi.json", description)]


def _operation(one: Operation) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{one.method}{one.path.removesuffix('/')}")
        + "_slash" * one.path.endswith("/"),
        "summary": one.summary,
        "tags": [one.tag],
        "parameters": _parameters(one),
        "responses": _responses(one),
        "servers": [_SERVERS[name] for name in one.listeners],
        "security": [] if one.scope is None else [{"token": []}, *([{}] if one.signed else [])],
    }
    scope = f"Scope `{one.scope}`." if one.scope else ""
    if description := " ".join(part for part in (one.description, scope) if part):
        operation["description"] = description
    if one.scope:
        operation["x-scope"] = one.scope
    if one.body:
        operation["requestBody"] = {"required": not one.optional, "content": _contents(one.body)}
    return operation


def _parameters(one: Operation) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", one.path)
    ]
    once = Parameter("Idempotency-Key", text("The same key with the same request has the same answer.", maxLength=128))
    headers = [{"name": once.name, "in": "header", "required": False, "schema": once.schema}] if one.once else []
    query = [{"name": each.name, "in": "query", "required": each.required, "schema": each.schema} for each in one.query]
    return [*in_path, *query, *headers]


def _contents(by_media: Mapping[str, Schema | type[BaseModel]]) -> dict[str, Any]:
    return {
        media: {"schema": ref(body.__name__) if isinstance(body, type) else body} for media, body in by_media.items()
    }


def _responses(one: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (meaning, by_media) in one.answers.items():
        responses[str(status)] = {"description": meaning, "headers": _headers(status)}
        if by_media:
            responses[str(status)]["content"] = _contents(by_media)
    sources = [one.codes, _EVERYWHERE]
    sources += [_WITH_BODY] if one.body else []
    sources += [_WITH_TOKEN] if one.scope else []
    for status in sorted({status for source in sources for status in source} - set(one.answers)):
        codes = list(dict.fromkeys(code for source in sources for code in source.get(status, ())))
        responses[str(status)] = {
            "description": f"{_MEANING[status]}: {', '.join(f'`{code}`' for code in codes)}.",
            "headers": _headers(status),
            "content": {PROBLEM: {"schema": ref("Problem")}},
            "x-problem-codes": codes,
        }
    return responses


def _headers(status: int) -> dict[str, Any]:
    found: dict[str, Any] = {"X-Request-Id": {"schema": {"type": "string"}}}
    if status in (429, 503):
        found["Retry-After"] = {"schema": {"type": "integer"}, "description": "Seconds."}
    return found
