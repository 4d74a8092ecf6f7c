"""Recovery of an encryption key (R-16): asked for by one, approved by two others, then enveloped for its recipient.

For a holder the recipient is the holder's current signing key: the end of the certificate's line, or another valid
signing certificate of the same holder. For a judicial recovery, which is a role of its own, it is the public key that
the order names. The three people are different ones. The key goes from its wrapping to the envelope in native memory
and nowhere else; what was asked, approved, refused and done is on the audit record.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, NotFound, QianyanError, Refused
from core.store import audit, counters, escrow, events, idempotency, recoveries
from core.store.database import Database
from core.store.events import Event
from core.store.recoveries import Recovery
from signer._native import sm2, sm3
from signer.issuance import pairs, states
from signer.issuance.kmc import KeyManagement
from signer.issuance.pairs import Pair
from signer.issuance.settings import IssuanceSettings
from signer.issuance.states import Operation, PairState
from signer.kmc.centres import Centres

_REFERENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_HOUR_MS: Final = 3_600_000
#: States in which a signing certificate's key may be trusted with a recovered key.
_VALID: Final = frozenset({PairState.ACTIVE, PairState.RENEWED})


@dataclass(frozen=True, slots=True)
class Restored:
    """A key enveloped for its recipient, ahead of the transaction that says so. It leaves with that alone."""

    recipient_key: bytes
    enveloped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecoveryWish:
    """What is asked for. `serial`: either certificate of the pair whose encryption key is wanted.

    reference: the case or order it rests on, by number. recipient_serial: the holder's signing certificate, where not
    the end of the line. recipient_key: for a judicial recovery, the public key (65 bytes) that the order names.
    """

    serial: int
    reference: str
    authority_id: str | None = None
    judicial: bool = False
    recipient_serial: int | None = None
    recipient_key: bytes | None = None

    def digest(self) -> bytes:
        """Names the request, for idempotency."""
        recipient = None if self.recipient_serial is None else hex(self.recipient_serial)
        key = None if self.recipient_key is None else self.recipient_key.hex()
        return sm3.sm3(
            orjson.dumps(
                ["recover", hex(self.serial), self.reference, self.authority_id, self.judicial, recipient, key]
            )
        )


class Recoveries:
    """See the module."""

    def __init__(
        self,
        database: Database,
        keys: KeyManagement,
        settings: IssuanceSettings,
        clock: Clock,
        centres: Centres | None = None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._centres = centres

    async def ask(self, wish: RecoveryWish, *, actor: str, idempotency: tuple[str, str] | None = None) -> Recovery:
        """Puts a recovery before its approvers. Whether `actor` may ask (or ask judicially) was checked before.

        Raises NotFound, Conflict, Refused (codes "recovery_reference", "recovery_recipient", "no_encryption_key").
        """
        try:
            async with self._database.write() as connection:
                return await self._ask(connection, wish, actor, idempotency)
        except QianyanError as error:
            await self._refused(actor, "recovery.ask", f"{wish.authority_id or ''}/{wish.serial:x}", error)
            raise

    async def approve(self, recovery_id: str, *, actor: str) -> Recovery:
        """One of two approvals; with the second the key is enveloped and the recovery done.

        An approver's repeated call gets what stands. Raises NotFound, Conflict (code "recovery_changed"), Refused
        (codes "same_person", "recovery_expired", "recovery_rejected", "recovery_recipient").
        """
        try:
            return await self._approve(recovery_id, actor)
        except QianyanError as error:
            await self._refused(actor, "recovery.approve", f"recovery:{recovery_id}", error)
            raise

    async def reject(self, recovery_id: str, *, actor: str) -> Recovery:
        """Ends a recovery that is not done. Raises NotFound, Conflict, Refused (code "recovery_done")."""
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            seen = await recoveries.get(connection, recovery_id)
            if seen.state == "rejected":
                return seen
            if seen.state == "done":
                raise Refused("the recovery is done already", code="recovery_done")
            now = replace(seen, state="rejected", changed_at_ms=at_ms)
            await recoveries.advance(connection, seen, now)
            await _put_on_record(connection, now, actor, "recovery.reject", at_ms)
        return now

    async def restore(self, wish: RecoveryWish) -> Restored:
        """Envelopes the key that is wished for, for `carry_out`. Raises as `ask`."""
        async with self._database.read() as connection:
            pair = await pairs.load(connection, wish.serial, wish.authority_id)
            if pair.second is None:
                raise Refused("the certificate has no encryption key to recover", code="no_encryption_key")
            _, recipient_key = await _recipient(connection, wish, pair, self._clock())
        return Restored(recipient_key, await self._enveloped(pair.second.id, recipient_key))

    async def carry_out(
        self, connection: AsyncConnection, wish: RecoveryWish, restored: Restored, people: tuple[str, str, str]
    ) -> Recovery:
        """A recovery with both approvals, in the caller's write transaction. `people`: who asks, both who approve.

        Raises as `ask`; Conflict (code "recovery_changed") where the recipient is another by now. Refusals are the
        caller's to record.
        """
        asker, first, second = people
        if len(set(people)) != 3:
            raise Refused("a recovery is asked for and approved by three different people", code="same_person")
        asked = await self._ask(connection, wish, asker, None)
        if asked.recipient_key != restored.recipient_key:
            raise Conflict("the recipient's certificate was replaced meanwhile; ask again", code="recovery_changed")
        at_ms = asked.created_at_ms
        approved = replace(asked, state="approved", first_approver=first)
        await recoveries.advance(connection, asked, approved)
        await _put_on_record(connection, approved, first, "recovery.approve", at_ms)
        done = replace(approved, state="done", second_approver=second, enveloped_key=restored.enveloped)
        await recoveries.advance(connection, approved, done)
        await _put_on_record(connection, done, second, "recovery.approve", at_ms)
        await _done(connection, done, second, at_ms)
        return done

    async def get(self, recovery_id: str) -> Recovery:
        """Raises NotFound (code "recovery_unknown")."""
        async with self._database.read() as connection:
            return await recoveries.get(connection, recovery_id)

    async def list_all(self, state: str | None = None) -> Sequence[Recovery]:
        """The latest recoveries, newest first."""
        async with self._database.read() as connection:
            return await recoveries.list_all(connection, state=state)

    async def _ask(
        self, connection: AsyncConnection, wish: RecoveryWish, actor: str, once: tuple[str, str] | None
    ) -> Recovery:
        if once is not None and (answer := await idempotency.recall(connection, *once, wish.digest())) is not None:
            return await recoveries.get(connection, answer.body.decode())
        at_ms = await counters.advance_time(connection, self._clock())
        if not _REFERENCE.fullmatch(wish.reference):
            raise Refused(
                "the case or order is named by 1 to 64 letters, digits, '.', '_', '/' or '-'",
                code="recovery_reference",
                field="reference",
            )
        pair = await pairs.load(connection, wish.serial, wish.authority_id, lock=True)
        states.require(Operation.RECOVER, pair.state(at_ms))
        if pair.second is None:
            raise Refused("the certificate has no encryption key to recover", code="no_encryption_key")
        if self._centres is None or not await self._centres.keeps(connection, pair.second.id):
            await escrow.get(connection, pair.second.id)
        recipient_id, recipient_key = await _recipient(connection, wish, pair, at_ms)
        asked = Recovery(
            id=secrets.token_hex(16),
            certificate_id=pair.second.id,
            judicial=wish.judicial,
            reference=wish.reference,
            recipient_id=recipient_id,
            recipient_key=recipient_key,
            requested_by=actor,
            first_approver=None,
            second_approver=None,
            state="asked",
            enveloped_key=None,
            created_at_ms=at_ms,
            expires_at_ms=at_ms + self._settings.recovery_hours * _HOUR_MS,
            changed_at_ms=at_ms,
        )
        await recoveries.add(connection, asked)
        await _put_on_record(connection, asked, actor, "recovery.ask", at_ms)
        if once is not None:
            kept = idempotency.Answer(201, asked.id.encode())
            await idempotency.remember(connection, *once, wish.digest(), kept, at_ms=at_ms)
        return asked

    async def _approve(self, recovery_id: str, actor: str) -> Recovery:
        seen = await self.get(recovery_id)
        if actor in (seen.first_approver, seen.second_approver) and seen.state in ("approved", "done"):
            return seen
        self._check_step(seen, actor)
        enveloped = None
        if seen.first_approver is not None:
            enveloped = await self._enveloped(seen.certificate_id, seen.recipient_key)
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            if enveloped is None:
                now = replace(seen, state="approved", first_approver=actor, changed_at_ms=at_ms)
            else:
                await _require_valid_recipient(connection, seen, at_ms)
                now = replace(seen, state="done", second_approver=actor, enveloped_key=enveloped, changed_at_ms=at_ms)
            await recoveries.advance(connection, seen, now)
            await _put_on_record(connection, now, actor, "recovery.approve", at_ms)
            if enveloped is not None:
                await _done(connection, now, actor, at_ms)
        return now

    async def _enveloped(self, certificate_id: int, recipient_key: bytes) -> bytes:
        """An encryption certificate's key for its recipient, from where it is kept."""
        if self._centres is not None:
            found = await self._centres.restore(certificate_id, recipient_key)
            if found is not None:
                return found
        async with self._database.read() as connection:
            wrapped = await escrow.get(connection, certificate_id)
        return await self._keys.restore(wrapped, recipient_key)

    def _check_step(self, seen: Recovery, actor: str) -> None:
        if seen.state == "rejected":
            raise Refused("the recovery was rejected", code="recovery_rejected")
        if seen.state == "done":
            raise Refused("the recovery has both of its approvals", code="recovery_done")
        if self._clock() >= seen.expires_at_ms:
            raise Refused("the recovery was not approved in time; ask for it again", code="recovery_expired")
        if actor in (seen.requested_by, seen.first_approver):
            raise Refused(
                "a recovery is asked for and approved by three different people", code="same_person", field="actor"
            )

    async def _refused(self, actor: str, action: str, subject: str, error: QianyanError) -> None:
        if error.kind in ("unavailable", "busy"):
            return
        async with self._database.write() as connection:
            await audit.append(connection, AuditEvent(actor, action, subject, error.code), at_ms=self._clock())


def _refused_recipient(detail: str) -> Refused:
    return Refused(detail, code="recovery_recipient", field="recipient")


async def _recipient(
    connection: AsyncConnection, wish: RecoveryWish, pair: Pair, at_ms: int
) -> tuple[int | None, bytes]:
    """Row id (none for a judicial recovery) and public key of who gets the key. Raises Refused, NotFound."""
    if wish.judicial:
        if wish.recipient_key is None or wish.recipient_serial is not None:
            raise _refused_recipient("a judicial recovery goes to the public key that the order names")
        try:
            return None, sm2.PublicKey.from_bytes(wish.recipient_key).to_bytes()
        except (sm2.InvalidKey, sm2.InvalidEncoding) as error:
            raise _refused_recipient("the recipient's public key is not a point of the SM2 curve") from error
    if wish.recipient_key is not None:
        raise _refused_recipient("a holder's recovery goes to the holder's signing certificate, not to a bare key")
    if wish.recipient_serial is None:
        recipient = await pairs.latest(connection, pair)
    else:
        recipient = await pairs.load(connection, wish.recipient_serial, wish.authority_id)
        same_line = (await pairs.latest(connection, recipient)).first.id == (
            await pairs.latest(connection, pair)
        ).first.id
        holder_id = pair.first.holder_id
        if not same_line and (holder_id is None or recipient.first.holder_id != holder_id):
            raise _refused_recipient("the recipient is not a certificate of the same holder")
    if recipient.first.usage != "sign" or recipient.state(at_ms) not in _VALID:
        raise _refused_recipient("the holder has no valid signing certificate there; issue or resume one first")
    return recipient.first.id, recipient.first.public_key


async def _require_valid_recipient(connection: AsyncConnection, recovery: Recovery, at_ms: int) -> None:
    """The recipient's certificate may have been suspended or revoked since it was asked."""
    if recovery.recipient_id is None:
        return
    recipient = await pairs.by_id(connection, recovery.recipient_id, lock=True)
    if recipient.state(at_ms) not in _VALID:
        raise _refused_recipient("the recipient's signing certificate is no longer valid; ask for the recovery again")


async def _done(connection: AsyncConnection, recovery: Recovery, actor: str, at_ms: int) -> None:
    pair = await pairs.by_id(connection, recovery.certificate_id)
    if pair.second is None:
        raise NotFound("the certificate has no pair", code="certificate_unknown")
    ground = "judicial" if recovery.judicial else "holder"
    event = Event(pair.first.id, Operation.RECOVER, actor, holder_id=pair.first.holder_id, ground=ground)
    await events.append(connection, event, at_ms=at_ms)
    await _put_on_record(connection, recovery, actor, "recovery.done", at_ms)


async def _put_on_record(connection: AsyncConnection, recovery: Recovery, actor: str, action: str, at_ms: int) -> None:
    detail: dict[str, str | int] = {"reference": recovery.reference, "judicial": int(recovery.judicial)}
    detail["requested_by"] = recovery.requested_by
    if recovery.first_approver is not None:
        detail["first_approver"] = recovery.first_approver
    if recovery.second_approver is not None:
        detail["second_approver"] = recovery.second_approver
    event = AuditEvent(actor, action, f"recovery:{recovery.id}", detail=detail)
    await audit.append(connection, event, at_ms=at_ms)
