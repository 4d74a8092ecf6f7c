"""The audit record of a running node: checkpoints at intervals, and what auditors may ask over HTTP.

Auditors read; nothing here writes but checkpoints.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aiohttp import web

from core import audit_proof
from core.audit_keeper import AuditKeeper
from core.clock import rfc3339
from core.errors import Malformed, NotFound, QianyanError, SettingsError
from core.http import json_response, require
from core.model import KeyPurpose
from core.store import audit, audit_tree
from core.store.database import Database
from service.node import Node, until_stopped

_log = structlog.get_logger("qianyan.audit")

#: What a token needs to read the record.
SCOPE: Final = "audit"
_ROWS_MAX: Final = 1_000


def audit_keeper_of(node: Node) -> AuditKeeper:
    """The node's keeper. Raises SettingsError (code "audit_key") where its key is missing."""
    key_id = node.loaded.settings.audit.key
    try:
        signer = node.engine.signer(key_id, KeyPurpose.AUDIT)
    except NotFound as error:
        raise SettingsError(
            f"there is no key {key_id!r} for checkpoints; run 'qianyan key create {key_id} --purpose audit'",
            code="audit_key",
        ) from error
    return AuditKeeper(node.database, signer, node.clock)


async def run(node: Node, stop: asyncio.Event) -> None:
    """Makes a checkpoint at each interval until `stop`; a failure is logged and tried again."""
    interval_s = node.loaded.settings.audit.checkpoint_interval_s
    while not stop.is_set():
        try:
            await audit_keeper_of(node).checkpoint()
        except QianyanError as error:
            _log.error("audit_checkpoint_failed", code=error.code, detail=error.detail)
        await until_stopped(stop, interval_s)


class AuditRoutes:
    """GET /v1/audit, /v1/audit/checkpoint and /v1/audit/{seq}/proof, for scope `audit`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def private(self) -> list[web.RouteDef]:
        """The routes of the private listener."""
        return [
            web.get("/v1/audit", self._rows),
            web.get("/v1/audit/checkpoint", self._checkpoint),
            web.get(r"/v1/audit/{seq:[1-9]\d{0,17}}/proof", self._proof),
        ]

    async def _rows(self, request: web.Request) -> web.Response:
        """?subject&action&actor&since_ms&until_ms&before&limit → {"rows": [...], "next": seq | null}, newest first.

        `next` goes into `before` of the next page.
        """
        require(request, SCOPE)
        asked = dict(request.query)
        texts = {name: asked.pop(name, None) for name in ("subject", "action", "actor")}
        numbers = {name: _number(asked.pop(name, None), name) for name in ("since_ms", "until_ms", "before", "limit")}
        if asked:
            raise Malformed("the query has a member that is not known", code="query", field=sorted(asked)[0][:64])
        limit = min(numbers.pop("limit") or _ROWS_MAX, _ROWS_MAX)
        async with self._database.read() as connection:
            rows = await audit.find(connection, **texts, **numbers, limit=limit)  # type: ignore[arg-type]
        for row in rows:
            row["at"] = rfc3339(row.pop("at_ms"))
        return json_response({"rows": rows, "next": rows[-1]["seq"] if len(rows) == limit else None})

    async def _checkpoint(self, request: web.Request) -> web.Response:
        """The newest signed checkpoint, as text: to be kept where this service cannot write."""
        require(request, SCOPE)
        async with self._database.read() as connection:
            newest = await audit_tree.newest_checkpoint(connection)
        if newest is None:
            raise NotFound("there is no checkpoint of the audit record yet", code="audit_checkpoint")
        return web.Response(body=newest.encode(), content_type="text/plain")

    async def _proof(self, request: web.Request) -> web.Response:
        """That a row is in the record, by the newest checkpoint."""
        require(request, SCOPE)
        async with self._database.read() as connection:
            return json_response(await audit_proof.prove_row(connection, int(request.match_info["seq"])))


def _number(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 15:
        raise Malformed(f"{field} is no number", code="query", field=field)
    return int(text)
