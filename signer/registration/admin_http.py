"""Routes of registration authorities and their people, for the private listener. Knows no SQL and no DER.

Scopes: `registration:read` to look, `registration:write` to change.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from core.http import json_response, read_body, read_model, require, to_base64
from signer.issuance.grounds import Ground
from signer.issuance.http import read_optional
from signer.registration.admin import Administration
from signer.registration.appointing import Appointments
from signer.registration.bodies import PersonBody
from signer.registration.http import MEDIA_TYPE
from signer.registration.records import Appointed, RaWish, person_as_json, ra_as_json
from signer.registration.settings import RegistrationSettings

__all__ = ["NewRaBody", "PersonBody", "RaBody", "RegistrationRoutes", "WithdrawBody", "appointed_as_json"]

READ: Final = "registration:read"
WRITE: Final = "registration:write"

_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=500)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class RaBody(_Body):
    """POST /v1/ras/{ra}; what is left out stays."""

    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """What it is called."""

    profiles: _Names | None = None
    """Certificate profiles it may ask for; ["*"]: every one."""

    regions: _Names | None = None
    """Administrative divisions it is for, 2 to 6 digits each; ["*"]: every one."""

    customers: _Names | None = None
    """Customers it is for; ["*"]: every one."""

    unassigned: bool | None = None
    """Whether it may act on certificates that no registration authority asked for."""

    callers: _Names | None = None
    """Who may read its requests: token:NAME, cert:NAME."""

    def wish(self) -> RaWish:
        """As it is asked for."""
        return RaWish(
            self.name,
            _tuple(self.profiles),
            _tuple(self.regions),
            _tuple(self.customers),
            self.unassigned,
            _tuple(self.callers),
        )


class NewRaBody(RaBody):
    """POST /v1/ras. What is left out of the scope is nothing at all."""

    id: Annotated[str, Field(min_length=1, max_length=32)]
    """Its id, for good."""


class WithdrawBody(_Body):
    """POST …/withdraw; the body may be left out."""

    ground: Ground | None = Field(default=None, strict=False)
    """Why: duty_not_met, post_left, lost, ..."""


class RegistrationRoutes:
    """See the module."""

    def __init__(
        self, administration: Administration, appointments: Appointments, settings: RegistrationSettings
    ) -> None:
        self._administration = administration
        self._appointments = appointments
        self._max_bytes = settings.max_request_bytes

    def private(self) -> list[web.RouteDef]:
        """The routes for the private listener."""
        return [
            web.get("/v1/ras", self.index),
            web.post("/v1/ras", self.register),
            web.get("/v1/ras/{ra}", self.show),
            web.post("/v1/ras/{ra}", self.change),
            web.post("/v1/ras/{ra}/withdraw", self.withdraw),
            web.get("/v1/ras/{ra}/people", self.people),
            web.post("/v1/ras/{ra}/people", self.appoint),
            web.post("/v1/ras/{ra}/people/{person}/withdraw", self.dismiss),
        ]

    async def index(self, request: web.Request) -> web.Response:
        """Every RA, by id."""
        require(request, READ)
        return json_response({"ras": [ra_as_json(one) for one in await self._administration.list_all()]})

    async def register(self, request: web.Request) -> web.Response:
        """Registers an RA: 201."""
        caller = require(request, WRITE)
        body = await read_model(request, NewRaBody)
        made = await self._administration.register(body.id, body.wish(), actor=caller.id)
        return json_response(ra_as_json(made), status=201)

    async def show(self, request: web.Request) -> web.Response:
        """An RA with its people."""
        require(request, READ)
        ra_id = request.match_info["ra"]
        value = ra_as_json(await self._administration.get(ra_id))
        return json_response(value | {"people": await self._people(ra_id)})

    async def change(self, request: web.Request) -> web.Response:
        """Changes an RA, from this commit on."""
        caller = require(request, WRITE)
        body = await read_model(request, RaBody)
        changed = await self._administration.change(request.match_info["ra"], body.wish(), actor=caller.id)
        return json_response(ra_as_json(changed))

    async def withdraw(self, request: web.Request) -> web.Response:
        """Withdraws an RA: its people's certificates revoked, every permission closed."""
        caller = require(request, WRITE)
        body = await read_optional(request, WithdrawBody)
        ground = body.ground or Ground.DUTY_NOT_MET
        ended = await self._administration.withdraw(request.match_info["ra"], actor=caller.id, ground=ground)
        return json_response(ra_as_json(ended))

    async def people(self, request: web.Request) -> web.Response:
        """An RA's people, by id."""
        require(request, READ)
        return json_response({"people": await self._people(request.match_info["ra"])})

    async def appoint(self, request: web.Request) -> web.Response:
        """Adds a person, or gives one that is there another certificate: 201. By token, or signed by an administrator
        of the RA."""
        if request.content_type == MEDIA_TYPE:
            return await self._signed(request, None)
        caller = require(request, WRITE)
        body = await read_model(request, PersonBody)
        made = await self._administration.appoint(request.match_info["ra"], body.wish(), actor=caller.id)
        return json_response(appointed_as_json(made), status=201)

    async def dismiss(self, request: web.Request) -> web.Response:
        """Withdraws a person; certificates that were issued here are revoked. By token, or signed."""
        if request.content_type == MEDIA_TYPE:
            return await self._signed(request, request.match_info["person"])
        caller = require(request, WRITE)
        body = await read_optional(request, WithdrawBody)
        ended = await self._administration.dismiss(
            request.match_info["ra"],
            request.match_info["person"],
            actor=caller.id,
            ground=body.ground or Ground.POST_LEFT,
        )
        return json_response(person_as_json(ended))

    async def _signed(self, request: web.Request, person_id: str | None) -> web.Response:
        message = await read_body(request, self._max_bytes)
        answered = await self._appointments.carry_out(
            request.match_info["ra"], message, source=request.remote or "", person_id=person_id
        )
        return json_response(answered.members, status=answered.status)

    async def _people(self, ra_id: str) -> list[dict[str, Any]]:
        return [person_as_json(one) for one in await self._administration.people(ra_id)]


def appointed_as_json(made: Appointed) -> dict[str, Any]:
    """A person as it was added; with the certificate that was made, and the chain above it."""
    value = person_as_json(made.view)
    if made.issued is not None:
        value["certificate"] = to_base64(made.issued.certificates[0].der)
        value["chain"] = [to_base64(one) for one in made.issued.chain]
    return value


def _tuple(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
