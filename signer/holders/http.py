"""Routes of holders, for the private listener: found by number, shown masked, with their history. Knows no SQL.

A number is never part of a path or query, which proxies and logs keep: it comes in a body.
"""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from core.clock import rfc3339
from core.errors import Malformed
from core.http import json_response, read_model, require
from core.model import serial_to_hex
from core.store.events import PastEvent
from signer.holders.service import Holders, HolderView

_PAGE = 200


class FindBody(BaseModel):
    """POST /v1/holders/find."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    kind: Annotated[str, Field(max_length=32)]
    """organisation, person or device."""

    number: Annotated[str, Field(min_length=1, max_length=64)]
    """Unified social credit code, identity number or device id."""


class HolderRoutes:
    """See the module."""

    def __init__(self, holders: Holders) -> None:
        self._holders = holders

    def private(self) -> list[web.RouteDef]:
        """The routes for the private listener."""
        return [
            web.post("/v1/holders/find", self.find),
            web.get("/v1/holders/{holder}", self.show),
            web.get("/v1/holders/{holder}/history", self.history),
        ]

    async def find(self, request: web.Request) -> web.Response:
        """The holder with a number, masked."""
        require(request, "holders")
        body = await read_model(request, FindBody)
        return json_response(as_json(await self._holders.find(body.kind, body.number)))

    async def show(self, request: web.Request) -> web.Response:
        """A holder, masked, with the certificates."""
        require(request, "holders")
        return json_response(as_json(await self._holders.show(request.match_info["holder"])))

    async def history(self, request: web.Request) -> web.Response:
        """The business done for a holder, newest first; `next` goes on, as `?before=`."""
        require(request, "holders")
        before = request.query.get("before")
        if before is not None and not (before.isascii() and before.isdigit() and len(before) <= 18):
            raise Malformed("before is the `next` of the page before", code="before", field="before")
        past = await self._holders.history(
            request.match_info["holder"], before_id=None if before is None else int(before), limit=_PAGE
        )
        following = past[-1].id if len(past) == _PAGE else None
        return json_response({"history": [event_as_json(event) for event in past], "next": following})


def as_json(view: HolderView) -> dict[str, Any]:
    """A holder as it is shown."""
    return {
        "id": view.record.id,
        "kind": view.record.kind,
        **view.masked,
        "created_at": rfc3339(view.record.created_at_ms),
        "changed_at": rfc3339(view.record.changed_at_ms),
        "certificates": [
            {
                "serial": serial_to_hex(record.serial),
                "authority": record.authority_id,
                "usage": record.usage,
                "profile": record.profile,
                "status": record.state.value,
                "not_before": rfc3339(record.not_before_ms),
                "not_after": rfc3339(record.not_after_ms),
            }
            for record in view.certificates
        ],
    }


def event_as_json(event: PastEvent) -> dict[str, Any]:
    """One line of a history."""
    return {
        "operation": event.operation,
        "at": rfc3339(event.at_ms),
        "actor": event.actor,
        "ground": event.ground,
        "authority": event.authority_id,
        "serial": serial_to_hex(event.serial),
        "replaces": None if event.previous_serial is None else serial_to_hex(event.previous_serial),
    }
