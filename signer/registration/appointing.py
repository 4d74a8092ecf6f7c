"""People appointed and dismissed by administrators of the registration authority itself, by signed messages.

Who may appoint whom is said in `roles`; the administrator is judged in the transaction that makes the change, and the
message is kept as evidence, as of any request: its id is one of the authority's request ids.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, Malformed
from core.store import audit
from core.store import registration_requests as requests
from core.store.database import Database
from core.store.registration_requests import Evidence, RequestRecord
from signer.issuance.grounds import Ground
from signer.registration import view as views
from signer.registration.admin import Administration
from signer.registration.bodies import PersonBody
from signer.registration.directory import Directory, denied
from signer.registration.envelope import Signed, read_object
from signer.registration.filing import request_subject
from signer.registration.payloads import RA_ID, REQUEST_ID, read_model
from signer.registration.reception import Asked, Reception
from signer.registration.roles import Role, may_appoint
from signer.registration.service import Answered
from signer.registration.standing import require_standing


class _Signed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    version: Literal[1]
    """1."""

    request_id: Annotated[str, Field(pattern=REQUEST_ID)]
    """Unique within the RA, for good."""

    ra: Annotated[str, Field(pattern=RA_ID)]
    """The RA's id."""


class AppointmentBody(_Signed):
    """Signed by who appoints."""

    act: Literal["appoint"]
    """appoint."""

    person: PersonBody
    """The person."""


class DismissalBody(_Signed):
    """Signed by who dismisses."""

    act: Literal["dismiss"]
    """dismiss."""

    person: Annotated[str, Field(pattern=RA_ID)]
    """The person's id."""

    ground: Ground | None = Field(default=None, strict=False)
    """Why."""


class _Warrant:
    """One administrator's message: judged and recorded in the transaction of the change."""

    def __init__(
        self, directory: Directory, clock: Clock, body: AppointmentBody | DismissalBody, signed: Signed, sealed: bytes
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._body = body
        self._signed = signed
        self._sealed = sealed
        self._person = ""
        self.record: RequestRecord | None = None

    async def require(self, connection: AsyncConnection, roles: Collection[Role]) -> None:
        """The signer is in force and may appoint to all of `roles`. Raises Denied, Conflict."""
        view = await self._directory.in_force(connection, self._body.ra)
        person, credential = view.signer(self._signed.signers[0], self._clock())
        await require_standing(connection, [credential], self._directory.standing(connection))
        if not may_appoint(person.roles, roles):
            raise denied(f"{person.id} may not appoint or dismiss people of those roles", "role")
        if await requests.find(connection, self._body.ra, self._body.request_id, lock=True) is not None:
            raise Conflict("that request id was used for another request", code="request_id_reused")
        self._person = person.id

    async def settle(self, connection: AsyncConnection, result: dict[str, Any], *, at_ms: int) -> None:
        """Keeps the message, and the answer."""
        body, signed = self._body, self._signed
        self.record = RequestRecord(
            ra_id=body.ra,
            request_id=body.request_id,
            kind=body.act,
            state="done",
            digest=signed.digest,
            entry_signer=signed.signers[0],
            entered_by=self._person,
            entered_at_ms=at_ms,
            expires_at_ms=at_ms,
            decided_by=self._person,
            decided_at_ms=at_ms,
            result=orjson.dumps(result),
        )
        await requests.add(connection, [self.record])
        kept = Evidence(body.ra, body.request_id, "both", self._person, self._sealed, at_ms)
        await requests.keep_evidence(connection, [kept])
        event = AuditEvent(
            f"ra:{body.ra}/{self._person}",
            "request.done",
            request_subject(body.ra, body.request_id),
            detail={"kind": body.act, "content": signed.digest.hex(), "evidence": signed.evidence.hex()},
        )
        await audit.append(connection, event, at_ms=at_ms)


class Appointments:
    """See the module."""

    def __init__(
        self,
        database: Database,
        administration: Administration,
        directory: Directory,
        reception: Reception,
        clock: Clock,
    ) -> None:
        self._database = database
        self._administration = administration
        self._directory = directory
        self._reception = reception
        self._clock = clock

    async def carry_out(self, ra_id: str, message: bytes, *, source: str, person_id: str | None = None) -> Answered:
        """An appointment, or with `person_id` that person's dismissal. Raises as `SignedRequests.submit`."""
        asked = Asked(source)
        async with self._reception.recorded(asked):
            signed = self._reception.open(message)
            value = read_object(signed.content)
            body: AppointmentBody | DismissalBody
            body = read_model(AppointmentBody, value) if person_id is None else read_model(DismissalBody, value)
            asked.ra, asked.request_id = body.ra, body.request_id
            if body.ra != ra_id or (isinstance(body, DismissalBody) and body.person != person_id):
                raise Malformed("what was signed is about another than the path", code="request_content")
            view = await self._reception.verified(body.ra, signed, asked, signers=1)
            before = await self._before(body, signed)
            if before is not None:
                (await self._directory.view(body.ra, anew=True)).signer(signed.signers[0], self._clock())
            else:
                self._reception.require_window(signed)
                await self._reception.stand_elsewhere(view, signed.signers)
                before = await self._done(body, signed, asked)
        members = views.members_of(before, self._clock(), reason=None)
        return Answered(views.status_of(before), members)

    async def _before(self, body: AppointmentBody | DismissalBody, signed: Signed) -> RequestRecord | None:
        async with self._database.read() as connection:
            found = await requests.find(connection, body.ra, body.request_id)
        if found is not None and found.digest != signed.digest:
            raise Conflict("that request id was used for another request", code="request_id_reused")
        return found

    async def _done(self, body: AppointmentBody | DismissalBody, signed: Signed, asked: Asked) -> RequestRecord:
        sealed = await self._reception.sealed(body.ra, body.request_id, signed.message)
        warrant = _Warrant(self._directory, self._clock, body, signed, sealed)
        actor = f"ra:{body.ra}/{asked.people}"
        if isinstance(body, AppointmentBody):
            await self._administration.appoint(body.ra, body.person.wish(), actor=actor, warrant=warrant)
        else:
            ground = body.ground or Ground.POST_LEFT
            await self._administration.dismiss(body.ra, body.person, actor=actor, ground=ground, warrant=warrant)
        if warrant.record is None:
            raise Conflict("the person was withdrawn before", code="person_withdrawn")
        return warrant.record
