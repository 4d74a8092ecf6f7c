"""One step of a request within the transaction that makes its effect: judged, recorded, its evidence kept.

So the request's record, the evidence and the effect are one durable outcome. `Filing` is a settlement of issuance
(signer.issuance.order): `recall` judges before anything is written, `remember` records after everything else; for what
issues nothing, `begin` and `finish` do the same around the effect. Knows people, requests and the store; not how a
signature is verified or what the effect is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, NotFound, QianyanError, Refused
from core.store import audit, certificates, tail
from core.store import registration_requests as requests
from core.store.registration_requests import Assigned, Assignment, Evidence, RequestRecord
from signer.issuance.issued import Issued
from signer.registration.directory import Directory, Parties, RaView, Seats, judge
from signer.registration.envelope import Signed
from signer.registration.payloads import IssuePayload, Payload, RequestBody
from signer.registration.roles import TWICE_APPROVED
from signer.registration.settings import RegistrationSettings
from signer.registration.standing import require_standing

_HOUR_MS: Final = 3_600_000


class Step(StrEnum):
    """What a message does to its request. BOTH: entered and approved at once."""

    ENTER = "enter"
    BOTH = "both"
    APPROVE = "approve"


class Replayed(QianyanError):
    """Not a failure: the step was taken before; the answer is the one given then."""

    kind = "replayed"

    def __init__(self, record: RequestRecord) -> None:
        super().__init__("the step was taken before")
        self.record = record


@dataclass(frozen=True, slots=True)
class Rules:
    """What filings go by."""

    directory: Directory
    settings: RegistrationSettings
    clock: Clock
    default_authority: str


class Filing:
    """See the module. `sealed`: the message, sealed; `seen`: the request as it was when the step was looked at."""

    def __init__(
        self,
        rules: Rules,
        signed: Signed,
        body: RequestBody,
        payload: Payload,
        step: Step,
        seats: Seats,
        parties: Parties,
        sealed: bytes,
    ) -> None:
        self._rules = rules
        self._signed = signed
        self.body = body
        self.payload = payload
        self.step = step
        self._seats = seats
        self.parties = parties
        self._sealed = sealed
        self._seen: RequestRecord | None = None
        self._assigned: Assignment | None = None
        self._authority_id = rules.default_authority
        self.record: RequestRecord | None = None
        self.before: RequestRecord | None = None

    @property
    def scope(self) -> tuple[str, str, str]:
        """What no two orders of one transaction have in common."""
        return ("ra", self.body.ra, self.body.request_id)

    @property
    def actor(self) -> str:
        """Who it is, for the history and the audit record."""
        return f"ra:{self.body.ra}/{'+'.join(self.parties.all)}"

    @property
    def whole(self) -> bool:
        """Whether this step is the last: everybody who has to has signed then."""
        needed = 2 if self.body.kind in TWICE_APPROVED else 1
        return len(self.parties.approved_by) >= needed

    @property
    def signed(self) -> Signed:
        """The message."""
        return self._signed

    def same_content(self, record: RequestRecord) -> bool:
        """Whether it is the request that was signed here."""
        return record.digest == self._signed.digest

    async def recall(self, connection: AsyncConnection) -> Issued | None:
        """The certificates that were given before; else the step is judged.

        Raises Denied, NotFound, Conflict, Refused, or Replayed where it was taken before without making certificates.
        """
        (answer,) = await self.recall_many(connection, [self])
        if isinstance(answer, QianyanError):
            raise answer
        return answer

    @classmethod
    async def recall_many(
        cls, connection: AsyncConnection, settlements: Sequence[Filing]
    ) -> list[Issued | QianyanError | None]:
        """See `SharedSettlement`. Authorities are locked first and requests then, by every transaction."""
        refused: dict[int, QianyanError] = {}
        for one in sorted(settlements, key=lambda filing: filing.body.ra):
            try:
                one._require_people(await one._view(connection))
            except QianyanError as error:
                refused[id(one)] = error
        named = [(one.body.ra, one.body.request_id) for one in settlements if id(one) not in refused]
        found = await requests.find_many(connection, named, lock=True) if named else {}
        answers: list[Issued | QianyanError | None] = []
        for one in settlements:
            if id(one) in refused:
                answers.append(refused[id(one)])
                continue
            try:
                answers.append(await one._recalled(connection, found.get((one.body.ra, one.body.request_id))))
            except QianyanError as error:
                answers.append(error)
        return answers

    async def _recalled(self, connection: AsyncConnection, found: RequestRecord | None) -> Issued | None:
        try:
            await self._judge(connection, found)
        except Replayed as replayed:
            if replayed.record.state != "done" or replayed.record.result is None:
                raise
            self.before = replayed.record
            return Issued.from_body(replayed.record.result)
        return None

    async def remember(self, connection: AsyncConnection, issued: Issued, *, at_ms: int) -> None:
        """Records the request as done, in the transaction that made the certificates."""
        await self.remember_many(connection, [(self, issued)], at_ms=at_ms)

    @classmethod
    async def remember_many(
        cls, connection: AsyncConnection, given: Sequence[tuple[Filing, Issued]], *, at_ms: int
    ) -> None:
        """See `SharedSettlement`."""
        await requests.assign(connection, [one._assigned_to(issued) for one, issued in given])
        await cls._finish_many(connection, [(one, issued.to_body()) for one, issued in given], at_ms)

    def _assigned_to(self, issued: Issued) -> Assigned:
        assert self._assigned is not None, "judged before"
        serials = tuple(certificate.serial for certificate in issued.certificates)
        return Assigned(self._authority_id, serials, self._assigned, self.body.request_id)

    async def begin(self, connection: AsyncConnection) -> None:
        """Looks for the request and judges the step, in the caller's write transaction. Raises as `recall`."""
        self._require_people(await self._view(connection))
        await self._judge(connection, await requests.find(connection, self.body.ra, self.body.request_id, lock=True))

    async def _view(self, connection: AsyncConnection) -> RaView:
        """The authority: in a write transaction as it is in force, and stays so until that has ended."""
        directory = self._rules.directory
        if tail.writing(connection):
            return await directory.in_force(connection, self.body.ra)
        return await directory.unlocked(connection, self.body.ra)

    def _look(self, found: RequestRecord | None) -> RequestRecord | None:
        """The request that the step goes on with. Raises where there is no step to take."""
        if self.step is not Step.APPROVE:
            if found is None:
                return None
            if found.digest != self._signed.digest:
                raise Conflict("that request id was used for another request", code="request_id_reused")
            raise Replayed(found)
        if found is None:
            raise NotFound("there is no such request", code="request_unknown")
        if found.digest != self._signed.digest:
            raise Refused("what was signed is not the content of that request", code="request_content")
        approver = self.parties.approved_by[-1]
        if approver in (found.first_approver, found.decided_by) and found.state != "rejected":
            raise Replayed(found)
        if found.state != "entered":
            raise Conflict(f"the request is {found.state} already", code="request_decided")
        known = () if found.first_approver is None else (found.first_approver,)
        if self.parties.all[:-1] != (found.entered_by, *known):
            raise Conflict("another approved the request meanwhile; look at it again", code="request_decided")
        if self._rules.clock() >= found.expires_at_ms:
            raise Refused("the request was not approved in time; enter it again", code="request_expired")
        return found

    async def _judge(self, connection: AsyncConnection, found: RequestRecord | None) -> None:
        self._seen = self._look(found)
        view = await self._view(connection)
        credentials = [view.credentials[signer] for signer in self._seats.all]
        await require_standing(connection, credentials, self._rules.directory.standing(connection))
        await self._check_scope(connection, view)

    def _require_people(self, view: RaView) -> None:
        parties = judge(view, self.body.kind, self._seats, self._rules.clock())
        if parties != self.parties:
            raise Conflict("the people of the authority changed meanwhile; try again", code="registration_changed")

    async def _check_scope(self, connection: AsyncConnection, view: RaView) -> None:
        payload = self.payload
        if isinstance(payload, IssuePayload):
            self._authority_id = payload.authority or self._rules.default_authority
            view.scope.check(payload.profile, payload.region, payload.customer)
            self._assigned = Assignment(view.id, payload.profile, payload.region, payload.customer)
            return
        record = await certificates.find(connection, payload.number(), payload.authority)
        assigned = await requests.assignment(connection, record.authority_id, record.serial)
        if record.profile == self._rules.settings.profile:
            raise Refused(
                "that certificate is of a person of a registration authority; withdraw the person",
                code="scope_certificate",
            )
        view.scope.check_certificate(view.id, assigned, record.profile)
        self._authority_id = record.authority_id
        self._assigned = assigned or Assignment(view.id, record.profile, None, None)

    @property
    def attribution(self) -> tuple[str, str]:
        """What statistics count the certificates under, once the step was judged: authority and customer."""
        return self.body.ra, (self._assigned.customer if self._assigned is not None else None) or ""

    async def finish(self, connection: AsyncConnection, result: bytes | None, *, at_ms: int) -> None:
        """Records the step. result: JSON of what was done; None: the request waits for an approval."""
        await self._finish_many(connection, [(self, result)], at_ms)

    @classmethod
    async def _finish_many(
        cls, connection: AsyncConnection, steps: Sequence[tuple[Filing, bytes | None]], at_ms: int
    ) -> None:
        new: list[RequestRecord] = []
        kept: list[Evidence] = []
        for filing, result in steps:
            now = filing._after(result, at_ms)
            if filing._seen is None:
                new.append(now)
            else:
                await requests.advance(connection, filing._seen, now)
            kept.append(filing._evidence(now, at_ms))
            await audit.append(connection, filing._event(now), at_ms=at_ms)
            filing.record = now
        await requests.add(connection, new)
        await requests.keep_evidence(connection, kept)

    def _after(self, result: bytes | None, at_ms: int) -> RequestRecord:
        """The request as it stands after this step."""
        done = result is not None
        approvers = self.parties.approved_by
        seen = self._seen or RequestRecord(
            ra_id=self.body.ra,
            request_id=self.body.request_id,
            kind=self.body.kind.value,
            state="entered",
            digest=self._signed.digest,
            entry_signer=self._seats.entry,
            entered_by=self.parties.entered_by,
            entered_at_ms=at_ms,
            expires_at_ms=at_ms + self._rules.settings.approval_hours * _HOUR_MS,
        )
        first = bool(approvers) and self.body.kind in TWICE_APPROVED
        return replace(
            seen,
            state="done" if done else "entered",
            first_approver=approvers[0] if first else None,
            first_signer=self._seats.approvals[0] if first else None,
            decided_by=approvers[-1] if done else None,
            decided_at_ms=at_ms if done else None,
            result=result,
        )

    def _evidence(self, now: RequestRecord, at_ms: int) -> Evidence:
        people = "+".join(self.parties.all if self.step is Step.BOTH else self.parties.all[-1:])
        return Evidence(now.ra_id, now.request_id, self.step.value, people, self._sealed, at_ms)

    def _event(self, now: RequestRecord) -> AuditEvent:
        detail: dict[str, str | int] = {
            "kind": now.kind,
            "entered_by": now.entered_by,
            "content": self._signed.digest.hex(),
            "evidence": self._signed.evidence.hex(),
        }
        if self.parties.approved_by:
            detail["approved_by"] = " ".join(self.parties.approved_by)
        word = "done" if now.state == "done" else "approve" if self.step is Step.APPROVE else "enter"
        subject = request_subject(now.ra_id, now.request_id)
        return AuditEvent(self.actor, f"request.{word}", subject, detail=detail)


def request_subject(ra_id: str, request_id: str) -> str:
    """How the audit record names a request."""
    return f"request:{ra_id}/{request_id}"
