"""What an approved request does, each kind with the part of issuance that does it.

Each is one transaction at its end, in which the filing judges first and records last. Knows issuance and payloads; not
signatures or HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import Clock, from_datetime, rfc3339
from core.errors import Malformed
from core.http import from_base64
from core.model import RevocationReason, serial_from_hex, serial_to_hex
from core.store import contention, counters
from core.store.database import Database
from signer.issuance import pairs, states
from signer.issuance.csr import parse_request
from signer.issuance.desk import Desk
from signer.issuance.grounds import read_reason
from signer.issuance.http import changed_as_json
from signer.issuance.issued import Issued
from signer.issuance.lifecycle import Change
from signer.issuance.policy import grant
from signer.issuance.profiles import Profiles
from signer.issuance.recovery import RecoveryWish
from signer.issuance.recovery_http import as_json as recovery_as_json
from signer.issuance.states import Operation
from signer.registration.filing import Filing
from signer.registration.payloads import (
    ChangePayload,
    IssuePayload,
    JudicialPayload,
    Payload,
    RecoverPayload,
    ReissuePayload,
    RenewPayload,
    ResumePayload,
    RevokePayload,
    SuspendPayload,
    UnlockPayload,
    read_csr,
)
from signer.registration.roles import Kind

_OPERATIONS: Final = {kind: Operation(kind.value) for kind in Kind if kind is not Kind.RECOVER_JUDICIAL} | {
    Kind.RECOVER_JUDICIAL: Operation.RECOVER
}


@dataclass(frozen=True, slots=True)
class Effects:
    """See the module. `max_csr_bytes`: the largest certificate request that is looked at."""

    database: Database
    desk: Desk
    profiles: Profiles
    clock: Clock
    max_csr_bytes: int

    async def look_ahead(self, kind: Kind, payload: Payload) -> None:
        """What speaks against a request already when it is entered. Raises Malformed, Refused, NotFound, Conflict."""
        csr = getattr(payload, "csr", None)
        if csr is not None:
            request = parse_request(read_csr(csr), max_bytes=self.max_csr_bytes)
            if isinstance(payload, IssuePayload):
                grant(request, self.profiles.get(payload.profile))
        if isinstance(payload, IssuePayload):
            return
        async with self.database.read() as connection:
            pair = await pairs.load(connection, payload.number(), payload.authority)
        states.require(_OPERATIONS[kind], pair.state(self.clock()))

    async def carry_out(self, filing: Filing) -> None:
        """Does what the request asks for; the filing has the record then. Raises as the part that does it."""
        payload = filing.payload
        if isinstance(payload, IssuePayload | RenewPayload | ChangePayload | ReissuePayload):
            await self._make(filing, payload)
        elif isinstance(payload, UnlockPayload):
            await self._unlock(filing, payload)
        elif isinstance(payload, RecoverPayload | JudicialPayload):
            await self._recover(filing, payload)
        else:
            await self._change(filing, payload)

    async def enter(self, filing: Filing) -> None:
        """Records a step after which the request still waits for an approval."""

        async def nothing(_connection: AsyncConnection) -> None:
            return None

        await self._settled(filing, nothing)

    async def _make(
        self, filing: Filing, payload: IssuePayload | RenewPayload | ChangePayload | ReissuePayload
    ) -> Issued:
        issuer, actor = self.desk.issuer, filing.actor
        csr = None if payload.csr is None else read_csr(payload.csr)
        if isinstance(payload, IssuePayload):
            assert csr is not None
            holder = None if payload.holder is None else payload.holder.claim()
            return await issuer.issue(
                csr, payload.profile, actor=actor, idempotency=filing, authority_id=payload.authority, holder=holder
            )
        serial, authority = payload.number(), payload.authority
        if isinstance(payload, RenewPayload):
            return await issuer.renew(serial, actor=actor, csr=csr, authority_id=authority, idempotency=filing)
        assert csr is not None
        if isinstance(payload, ChangePayload):
            return await issuer.change(serial, csr, actor=actor, authority_id=authority, idempotency=filing)
        return await issuer.reissue(
            serial, csr, payload.ground, actor=actor, authority_id=authority, idempotency=filing
        )

    async def _change(self, filing: Filing, payload: SuspendPayload | ResumePayload | RevokePayload) -> None:
        change = _change_of(payload)
        count = 0

        async def effect(connection: AsyncConnection) -> dict[str, Any]:
            nonlocal count
            records = await self.desk.issuer.apply(connection, change, actor=filing.actor)
            count = len(records)
            return {"certificates": changed_as_json(records)}

        await self._settled(filing, effect)
        self.desk.issuer.count_changes(change, count)

    async def _unlock(self, filing: Filing, payload: UnlockPayload) -> None:
        async def effect(connection: AsyncConnection) -> dict[str, Any]:
            given, certificate = await self.desk.unlocking.permit(
                connection, payload.number(), payload.authority, filing.actor, None
            )
            # The token itself is kept nowhere; it is computed for the answer.
            return {
                "serial": serial_to_hex(certificate.serial),
                "unlock": given.id,
                "expires_at": rfc3339(given.expires_at_ms),
            }

        await self._settled(filing, effect)

    async def _recover(self, filing: Filing, payload: RecoverPayload | JudicialPayload) -> None:
        wish = _wish_of(payload)
        ra, parties = filing.body.ra, filing.parties
        asker, first, second = (f"ra:{ra}/{person}" for person in parties.all)
        restored = await self.desk.recoveries.restore(wish)

        async def effect(connection: AsyncConnection) -> dict[str, Any]:
            people = (asker, first, second)
            return recovery_as_json(await self.desk.recoveries.carry_out(connection, wish, restored, people))

        await self._settled(filing, effect)

    async def _settled(
        self, filing: Filing, effect: Callable[[AsyncConnection], Awaitable[dict[str, Any] | None]]
    ) -> None:
        """Judged, done and recorded in one transaction. Raises Conflict (code "request_contended") among others."""
        await contention.or_conflict(lambda: self._settle(filing, effect))

    async def _settle(
        self, filing: Filing, effect: Callable[[AsyncConnection], Awaitable[dict[str, Any] | None]]
    ) -> None:
        async with self.database.write() as connection:
            await filing.begin(connection)
            at_ms = await counters.advance_time(connection, self.clock())
            result = await effect(connection)
            await filing.finish(connection, None if result is None else orjson.dumps(result), at_ms=at_ms)


def _change_of(payload: SuspendPayload | ResumePayload | RevokePayload) -> Change:
    serial, authority = payload.number(), payload.authority
    if isinstance(payload, SuspendPayload):
        return Change(serial, authority, RevocationReason.CERTIFICATE_HOLD, ground=payload.ground)
    if isinstance(payload, ResumePayload):
        return Change(serial, authority, None)
    reason, ground = read_reason(payload.reason)
    at_ms = None if payload.invalidity_at is None else from_datetime(payload.invalidity_at)
    return Change(serial, authority, reason, at_ms, ground=ground)


def _wish_of(payload: RecoverPayload | JudicialPayload) -> RecoveryWish:
    serial, authority = payload.number(), payload.authority
    if isinstance(payload, JudicialPayload):
        key = from_base64(payload.recipient_key, "payload.recipient_key")
        return RecoveryWish(serial, payload.reference, authority, judicial=True, recipient_key=key)
    recipient = None
    if payload.recipient is not None:
        try:
            recipient = serial_from_hex(payload.recipient)
        except ValueError as error:
            raise Malformed(str(error), code="serial", field="payload.recipient") from error
    return RecoveryWish(serial, payload.reference, authority, recipient_serial=recipient)
