"""Signed requests of registration authorities: entered, approved, rejected, read.

The order of it. (1) The message is taken apart and its signatures are verified, without the store: who the signers are
is in memory. (2) People, roles and times are judged by that, so that most of what must be refused costs no transaction;
what memory refuses is looked at again in the store first. (3) In the transaction of the effect everything is judged
once more by what is in force there (`filing`), and the record, the evidence and the effect are written together.
A request that comes again gets the answer that there is, and no refusal takes a request's id.

Every refusal is on record: who signed is named there once the signatures hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from core.audit import AuditEvent
from core.errors import Conflict, Denied, NotFound, QianyanError, Refused
from core.store import audit, counters, registration
from core.store import registration_requests as requests
from core.store.registration_requests import Evidence, RequestRecord
from signer.holders.vault import Vault
from signer.issuance.unlocking import Unlocking
from signer.registration import view as views
from signer.registration.directory import Parties, RaView, Seats, denied, judge, seat
from signer.registration.effects import Effects
from signer.registration.envelope import Signed, open_signed, read_object
from signer.registration.filing import Filing, Replayed, Rules, Step, request_subject
from signer.registration.metrics import RegistrationMetrics
from signer.registration.payloads import RejectionBody, RequestBody, read_model, read_payload, read_request
from signer.registration.reception import UNRECORDED, Asked, Reception, asked_of_path
from signer.registration.roles import Kind, may_approve
from signer.registration.sealed_names import reason_name
from signer.registration.standing import require_standing

#: The largest message that any setting ever let in.
_KEPT_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Answered:
    """An HTTP status and the members of the answer."""

    status: int
    members: dict[str, Any]


class SignedRequests:
    """See the module."""

    def __init__(
        self,
        rules: Rules,
        effects: Effects,
        reception: Reception,
        vault: Vault,
        unlocking: Unlocking,
        metrics: RegistrationMetrics,
    ) -> None:
        self._rules = rules
        self._directory = rules.directory
        self._clock = rules.clock
        self._effects = effects
        self._reception = reception
        self._database = effects.database
        self._vault = vault
        self._unlocking = unlocking
        self._metrics = metrics

    async def submit(self, message: bytes, *, source: str) -> Answered:
        """A request by one or two signers. `source`: the address it came from.

        Raises Malformed, Denied, Refused, NotFound, Conflict, TooLarge (on record), Busy or Unavailable; nothing was
        done then.
        """
        asked = Asked(source)
        async with self._reception.recorded(asked):
            with self._metrics.seconds.time():
                return await self._submit(message, asked)

    async def approve(self, ra_id: str, request_id: str, message: bytes, *, source: str) -> Answered:
        """An approval by one signer over the request's own content. Raises as `submit`."""
        asked = asked_of_path(source, ra_id, request_id)
        async with self._reception.recorded(asked):
            with self._metrics.seconds.time():
                return await self._approve(message, asked)

    async def reject(self, ra_id: str, request_id: str, message: bytes, *, source: str) -> Answered:
        """A rejection with its reason, by an approver or whoever entered the request. Raises as `submit`."""
        asked = asked_of_path(source, ra_id, request_id)
        async with self._reception.recorded(asked):
            return await self._reject(message, asked)

    async def show(self, ra_id: str, request_id: str) -> dict[str, Any]:
        """A request as it stands. Raises NotFound (code "request_unknown")."""
        async with self._database.read() as connection:
            record = await requests.get(connection, ra_id, request_id)
        return views.members_of(record, self._clock(), reason=await self._reason(record))

    async def page(
        self, ra_id: str, state: str | None, after: str | None, limit: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Requests in the order of their entry, and where the next page begins."""
        cursor = None if after is None else views.read_cursor(after)
        async with self._database.read() as connection:
            found = await requests.page(connection, ra_id, state=state, after=cursor, limit=limit + 1)
        shown = [views.members_of(record, self._clock(), reason=await self._reason(record)) for record in found[:limit]]
        return shown, views.cursor_of(found[limit - 1]) if len(found) > limit else None

    async def content(self, ra_id: str, request_id: str, *, outside: str | None = None) -> bytes:
        """The octets that were signed, for an approver to sign. Raises NotFound (code "request_unknown").

        outside: who reads and is none of the RA's own callers: that they looked is on record, for holders are named.
        """
        async with self._database.read() as connection:
            await requests.get(connection, ra_id, request_id)
            kept = await requests.evidence_of(connection, ra_id, request_id)
        await self._looked(outside, ra_id, request_id, "content")
        return open_signed(
            await self._reception.unsealed(ra_id, request_id, kept[0].sealed), max_bytes=_KEPT_MAX
        ).content

    async def evidence(
        self, ra_id: str, request_id: str, *, outside: str | None = None
    ) -> list[tuple[str, str, bytes]]:
        """(step, people, message) of a request, in the order in which they came. `outside` as in `content`.

        Raises NotFound; Conflict (code "evidence_held") where a message that is sent again now is told what opens.
        """
        async with self._database.read() as connection:
            record = await requests.get(connection, ra_id, request_id)
            kept = await requests.evidence_of(connection, ra_id, request_id)
        if record.kind == Kind.UNLOCK:
            self._reception.require_past(max((one.at_ms for one in kept), default=0))
        await self._looked(outside, ra_id, request_id, "evidence")
        return [(one.step, one.people, await self._reception.unsealed(ra_id, request_id, one.sealed)) for one in kept]

    async def _looked(self, outside: str | None, ra_id: str, request_id: str, what: str) -> None:
        if outside is None:
            return
        event = AuditEvent(outside, "request.read", request_subject(ra_id, request_id), detail={"what": what})
        async with self._database.write() as connection:
            await audit.append(connection, event, at_ms=self._clock())

    async def may_read(self, ra_id: str, caller_id: str) -> bool:
        """Whether the authority, while it is in force, has named that caller."""
        async with self._database.read() as connection:
            record = await registration.find(connection, ra_id)
        return record is not None and record.state == "active" and caller_id in record.callers

    async def _submit(self, message: bytes, asked: Asked) -> Answered:
        signed = self._reception.open(message)
        body = read_request(signed.content)
        asked.ra, asked.request_id = body.ra, body.request_id
        view = await self._reception.verified(body.ra, signed, asked)
        if not self._reception.in_window(signed):
            return await self._again(body, signed)
        payload = read_payload(body)
        now_ms = self._clock()

        def people(of: RaView) -> tuple[Seats, Parties]:
            seats = seat(of, body.kind, signed.signers, now_ms)
            return seats, judge(of, body.kind, seats, now_ms)

        try:
            seats, parties = people(view)
        except Denied:
            seats, parties = people(await self._directory.view(body.ra, anew=True))
        await self._reception.stand_elsewhere(view, seats.all)
        step = Step.BOTH if parties.approved_by else Step.ENTER
        filing = await self._filing(signed, body, step, seats, parties)
        try:
            if not filing.whole:
                await self._effects.look_ahead(body.kind, payload)
        except QianyanError:
            # What was entered before may have changed what speaks against it now: the answer given then stands.
            if (before := await self._before(body, signed)) is not None:
                return await self._replayed(before, signed)
            raise
        return await self._file(filing)

    async def _approve(self, message: bytes, asked: Asked) -> Answered:
        signed = self._reception.open(message)
        body = read_request(signed.content)
        asked.require(body.ra, body.request_id)
        view = await self._reception.verified(body.ra, signed, asked, signers=1)
        async with self._database.read() as connection:
            seen = await requests.get(connection, body.ra, body.request_id)
        if seen.digest != signed.digest:
            raise Refused("what was signed is not the content of that request", code="request_content")
        approver = signed.signers[0]
        if seen.state == "done" and view.credentials[approver].person_id in (seen.first_approver, seen.decided_by):
            return await self._replayed(seen, signed)
        self._reception.require_window(signed)
        first = () if seen.first_signer is None else (seen.first_signer,)
        if first and view.credentials[approver].person_id == seen.first_approver:
            return await self._replayed(seen, signed)
        seats = Seats(seen.entry_signer, (*first, approver))
        try:
            parties = judge(view, body.kind, seats, self._clock())
        except Denied:
            view = await self._directory.view(body.ra, anew=True)
            parties = judge(view, body.kind, seats, self._clock())
        await self._reception.stand_elsewhere(view, seats.all)
        return await self._file(await self._filing(signed, body, Step.APPROVE, seats, parties))

    async def _reject(self, message: bytes, asked: Asked) -> Answered:
        signed = self._reception.open(message)
        body = read_model(RejectionBody, read_object(signed.content))
        asked.require(body.ra, body.request_id)
        view = await self._reception.verified(body.ra, signed, asked, signers=1)
        await self._reception.stand_elsewhere(view, signed.signers)
        sealed = await self._reception.sealed(body.ra, body.request_id, signed.message)
        reason = await self._vault.seal_octets(reason_name(body.ra, body.request_id), body.reason.encode())
        signer = signed.signers[0]
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            view = await self._directory.in_force(connection, body.ra)
            seen = await requests.find(connection, body.ra, body.request_id, lock=True)
            if seen is None:
                raise NotFound("there is no such request", code="request_unknown")
            person, credential = view.signer(signer, at_ms)
            await require_standing(connection, [credential], self._directory.standing(connection))
            if seen.state == "rejected" and seen.decided_by == person.id:
                return await self._answer(seen, "replayed", told=False)
            if seen.state != "entered":
                raise Conflict(f"the request is {seen.state} already", code="request_decided")
            if not may_approve(person.roles, Kind(seen.kind)) and person.id != seen.entered_by:
                raise denied(f"{person.id} may not reject requests to {seen.kind}", "role")
            self._reception.require_window(signed)
            now = replace(seen, state="rejected", decided_by=person.id, decided_at_ms=at_ms, reason=reason)
            await requests.advance(connection, seen, now)
            kept = Evidence(now.ra_id, now.request_id, "reject", person.id, sealed, at_ms)
            await requests.keep_evidence(connection, [kept])
            detail: dict[str, str | int] = {
                "kind": now.kind,
                "entered_by": now.entered_by,
                "evidence": signed.evidence.hex(),
            }
            event = AuditEvent(
                f"ra:{now.ra_id}/{person.id}",
                "request.reject",
                request_subject(now.ra_id, now.request_id),
                detail=detail,
            )
            await audit.append(connection, event, at_ms=at_ms)
        return await self._answer(now, "rejected")

    async def _before(self, body: RequestBody, signed: Signed) -> RequestRecord | None:
        """The same request, as it was entered before. Raises Conflict where its id has another content."""
        async with self._database.read() as connection:
            found = await requests.find(connection, body.ra, body.request_id)
        if found is not None and found.digest != signed.digest:
            raise Conflict("that request id was used for another request", code="request_id_reused")
        return found

    async def _again(self, body: RequestBody, signed: Signed) -> Answered:
        """A message of long ago is a replay, or too old."""
        found = await self._before(body, signed)
        if found is None:
            self._reception.require_window(signed)
            raise AssertionError("the signing time was out of the window and is not")
        return await self._replayed(found, signed)

    async def _replayed(self, found: RequestRecord, signed: Signed) -> Answered:
        """The answer that there is, for people who are in force now. Raises Denied.

        What opens something goes to those alone who took part and sign now: an old message may be in anybody's hands.
        """
        async with self._database.read() as connection:
            view = await self._directory.unlocked(connection, found.ra_id)
            signers = [view.signer(signer, self._clock()) for signer in signed.signers]
            credentials = [credential for _, credential in signers]
            await require_standing(connection, credentials, self._directory.standing(connection))
        took_part = {found.entered_by, found.first_approver, found.decided_by}
        told = self._reception.in_window(signed) and all(person.id in took_part for person, _ in signers)
        return await self._answer(found, "replayed", told=told)

    async def _filing(self, signed: Signed, body: RequestBody, step: Step, seats: Seats, parties: Parties) -> Filing:
        sealed = await self._reception.sealed(body.ra, body.request_id, signed.message)
        return Filing(self._rules, signed, body, read_payload(body), step, seats, parties, sealed)

    async def _file(self, filing: Filing) -> Answered:
        try:
            if filing.whole:
                await self._effects.carry_out(filing)
            else:
                await self._effects.enter(filing)
        except Replayed as replayed:
            return await self._replayed(replayed.record, filing.signed)
        except UNRECORDED:
            raise
        except QianyanError as error:
            # The same step may have been faster and be what stands against this one; then that is the answer.
            return await self._replayed(await self._overtaken(filing, error), filing.signed)
        if filing.before is not None:
            return await self._replayed(filing.before, filing.signed)
        record = filing.record
        if record is None:  # the certificates were found by their request in a read: the record is there
            async with self._database.read() as connection:
                record = await requests.get(connection, filing.body.ra, filing.body.request_id)
        waits = "approved" if filing.step is Step.APPROVE else "entered"
        return await self._answer(record, "done" if record.state == "done" else waits)

    async def _overtaken(self, filing: Filing, error: QianyanError) -> RequestRecord:
        """The request, where this very step was taken meanwhile. Raises `error`, or Conflict where another was."""
        async with self._database.read() as connection:
            found = await requests.find(connection, filing.body.ra, filing.body.request_id)
        if found is None or found.state == "entered" or not filing.same_content(found):
            raise error
        mine = found.state == "done" and filing.parties.all[-1] in (found.first_approver, found.decided_by)
        if filing.step is Step.APPROVE and not mine:
            raise Conflict(f"the request is {found.state} already", code="request_decided") from error
        return found

    async def _answer(self, record: RequestRecord, outcome: str, *, told: bool = True) -> Answered:
        """told: whether an unlock's token is in it."""
        self._metrics.requests.labels(record.kind, outcome).inc()
        token = None
        if told and record.kind == Kind.UNLOCK and record.result is not None:
            token = await self._unlocking.token(orjson.loads(record.result)["unlock"])
        members = views.members_of(record, self._clock(), reason=await self._reason(record), token=token)
        return Answered(views.status_of(record), members)

    async def _reason(self, record: RequestRecord) -> str | None:
        if record.reason is None:
            return None
        return (await self._vault.open_octets(reason_name(record.ra_id, record.request_id), record.reason)).decode()
