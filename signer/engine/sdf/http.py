"""Hardware modules over HTTP, on the private listener: how they stand, drain, resume. Scope `operate`.

Knows routes and JSON; what an order is, and how it reaches the workers, is signer.engine.sdf.maintenance's.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import Field

from core.clock import Clock, rfc3339
from core.http import json_response, read_model, require
from core.settings import Settings
from core.store.database import Database
from signer.engine.sdf.maintenance import Standing, place, require_devices, standing, until_settled
from signer.engine.sdf.settings import SdfSettings


class _Body(Settings):
    """`POST /v1/hsm/{device}/drain` and `…/resume`; the body may be left out."""

    force: bool = False
    """Drain a device although no other one is in service."""
    wait_s: float = Field(default=20.0, ge=0, le=120)
    """How long to wait for every worker before answering how far they are."""


def standing_json(one: Standing) -> dict[str, Any]:
    """A device's standing for machines; times in RFC 3339."""
    order = one.order
    return {
        "device": one.device,
        "wanted": one.wanted,
        "complete": one.complete,
        "ordered_by": None if order is None else order.actor,
        "ordered_at": None if order is None else rfc3339(order.at_ms),
        "workers": [
            {
                "worker": report.worker,
                "state": report.state,
                "obeyed": order is None or report.number >= order.number,
                "sessions": report.sessions,
                "sessions_wanted": report.sessions_wanted,
                "abandoned_calls": report.abandoned,
                "refused_keys": [int(index) for index in report.refused_keys.split()],
                "reason": report.reason,
                "trouble": report.trouble,
                "said_at": rfc3339(report.at_ms),
            }
            for report in one.reports
        ],
    }


class HsmRoutes:
    """See the module."""

    def __init__(self, database: Database, settings: SdfSettings, clock: Clock) -> None:
        self._database = database
        self._devices = [device.name for device in settings.devices]
        self._clock = clock

    def private(self) -> list[web.RouteDef]:
        """For the private listener."""
        return [
            web.get("/v1/hsm", self._list),
            web.post("/v1/hsm/{device}/drain", self._drain),
            web.post("/v1/hsm/{device}/resume", self._resume),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        require(request, "operate")
        found = await standing(self._database, self._devices, self._clock())
        return json_response({"devices": [standing_json(one) for one in found]})

    async def _drain(self, request: web.Request) -> web.Response:
        return await self._order(request, drained=True)

    async def _resume(self, request: web.Request) -> web.Response:
        return await self._order(request, drained=False)

    async def _order(self, request: web.Request, *, drained: bool) -> web.Response:
        """200 where every worker has the device as it is wanted; 202 where one has not, or not yet: `workers` say."""
        caller = require(request, "operate")
        body = await read_model(request, _Body, 1024) if request.body_exists else _Body()
        require_devices(self._devices)
        device = request.match_info["device"]
        await place(
            self._database,
            self._devices,
            device,
            drained=drained,
            force=body.force,
            actor=caller.id,
            clock=self._clock,
        )
        found = await until_settled(self._database, self._devices, device, self._clock, body.wait_s)
        return json_response(standing_json(found), status=200 if found.complete else 202)
