"""Permissions to unlock a holder's medium: authorised, recorded, given as a token, and spent once.

A token is the permission's random id and a keyed hash of it, so that it can be computed again for a retry and is kept
nowhere. Whoever unlocks the medium redeems it here first.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import QianyanError, Refused
from core.store import audit, certificates, counters, events, idempotency, recoveries
from core.store.certificates import CertificateRecord
from core.store.database import Database
from core.store.events import Event
from core.store.recoveries import Unlock
from signer._native import sm3
from signer.holders.vault import Vault
from signer.issuance import pairs, states
from signer.issuance.rows import reference
from signer.issuance.settings import IssuanceSettings
from signer.issuance.states import Operation

_TOKEN: Final = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{32})")
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class UnlockToken:
    """A permission as it is given out."""

    token: str = field(repr=False)
    certificate: CertificateRecord
    expires_at_ms: int


class Unlocking:
    """See the module. `vault` has the key of the tokens."""

    def __init__(self, database: Database, vault: Vault, settings: IssuanceSettings, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._settings = settings
        self._clock = clock

    async def unlock(
        self, serial: int, *, actor: str, authority_id: str | None = None, idempotency: tuple[str, str] | None = None
    ) -> UnlockToken:
        """Permits the medium of a certificate to be unlocked, once, within the settings' time.

        Raises NotFound, Conflict, Refused (the codes of `states`; on record), Unavailable.
        """
        try:
            async with self._database.write() as connection:
                unlock, certificate = await self.permit(connection, serial, authority_id, actor, idempotency)
        except QianyanError as error:
            await self._refused(actor, "certificate.unlock", f"{authority_id or ''}/{serial:x}", error)
            raise
        return UnlockToken(await self.token(unlock.id), certificate, unlock.expires_at_ms)

    async def redeem(self, token: str, *, actor: str) -> CertificateRecord:
        """Spends a token and returns the certificate whose medium may be unlocked.

        Raises Refused (code "unlock_token", "unlock_expired", or the codes of `states`), NotFound, Conflict (code
        "unlock_used"); all on record.
        """
        try:
            unlock_id = await self._read_token(token)
            async with self._database.write() as connection:
                return await self._spend(connection, unlock_id, actor)
        except QianyanError as error:
            await self._refused(actor, "unlock.redeem", "unlock", error)
            raise

    async def permit(
        self,
        connection: AsyncConnection,
        serial: int,
        authority_id: str | None,
        actor: str,
        once: tuple[str, str] | None,
    ) -> tuple[Unlock, CertificateRecord]:
        """As `unlock`, in the caller's write transaction; refusals are the caller's to record."""
        digest = sm3.sm3(orjson.dumps(["unlock", hex(serial), authority_id]))
        if once is not None and (answer := await idempotency.recall(connection, *once, digest)) is not None:
            given = await recoveries.get_unlock(connection, answer.body.decode())
            return given, await certificates.get(connection, given.certificate_id)
        at_ms = await counters.advance_time(connection, self._clock())
        pair = await pairs.load(connection, serial, authority_id, lock=True)
        _require_holders(pair)
        states.require(Operation.UNLOCK, pair.state(at_ms))
        first = pair.first
        expires_at_ms = at_ms + self._settings.unlock_minutes * _MINUTE_MS
        unlock = Unlock(secrets.token_hex(16), first.id, actor, at_ms, expires_at_ms)
        await recoveries.add_unlock(connection, unlock)
        event = Event(first.id, Operation.UNLOCK, actor, holder_id=first.holder_id)
        await events.append(connection, event, at_ms=at_ms)
        subject = reference(first.authority_id, first.serial)
        detail: dict[str, str | int] = {"unlock": unlock.id}
        await audit.append(connection, AuditEvent(actor, "certificate.unlock", subject, detail=detail), at_ms=at_ms)
        if once is not None:
            kept = idempotency.Answer(201, unlock.id.encode())
            await idempotency.remember(connection, *once, digest, kept, at_ms=at_ms)
        return unlock, first

    async def _spend(self, connection: AsyncConnection, unlock_id: str, actor: str) -> CertificateRecord:
        at_ms = await counters.advance_time(connection, self._clock())
        unlock = await recoveries.get_unlock(connection, unlock_id)
        if at_ms >= unlock.expires_at_ms:
            raise Refused("the unlock token has run out; ask for another", code="unlock_expired", field="token")
        pair = await pairs.by_id(connection, unlock.certificate_id, lock=True)
        states.require(Operation.UNLOCK, pair.state(at_ms))  # it may have been suspended or revoked since
        await recoveries.use_unlock(connection, unlock_id, at_ms=at_ms)
        subject = reference(pair.first.authority_id, pair.first.serial)
        event = AuditEvent(actor, "unlock.redeem", subject, detail={"unlock": unlock_id})
        await audit.append(connection, event, at_ms=at_ms)
        return pair.first

    async def token(self, unlock_id: str) -> str:
        """The token of a permission."""
        return f"{unlock_id}.{(await self._vault.keyed_hash('unlock', unlock_id.encode()))[:16].hex()}"

    async def _read_token(self, token: str) -> str:
        found = _TOKEN.fullmatch(token)
        if found is None or not hmac.compare_digest(await self.token(found[1]), token):
            raise Refused("that is no unlock token of this service", code="unlock_token", field="token")
        return found[1]

    async def _refused(self, actor: str, action: str, subject: str, error: QianyanError) -> None:
        if error.kind in ("unavailable", "busy"):
            return
        async with self._database.write() as connection:
            await audit.append(connection, AuditEvent(actor, action, subject, error.code), at_ms=self._clock())


def _require_holders(pair: pairs.Pair) -> None:
    if pair.first.usage != "sign":
        raise Refused("that certificate is not on a holder's medium", code="authority_certificate")
