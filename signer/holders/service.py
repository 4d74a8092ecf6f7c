"""Holders as issuance and those who ask about them meet them: admitted, found, shown masked, with their history.

Owns what is written of a holder with each business: `Admission.settle` runs in the transaction that does the business,
so that a holder is never registered without its certificate, and of two requests for one holder one is told.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import NotFound, Refused
from core.store import audit, certificates, events, holders
from core.store.certificates import CertificateRecord
from core.store.database import Database
from core.store.events import PastEvent
from core.store.holders import HolderRecord
from signer.holders.claim import HolderClaim
from signer.holders.register import RegisterCheck
from signer.holders.settings import HolderSettings
from signer.holders.vault import Vault


@dataclass(frozen=True, slots=True)
class Admission:
    """A holder for whom something is about to be done. `seen` None: it is registered with it."""

    holder_id: str
    seen: HolderRecord | None
    fresh: HolderRecord | None

    async def settle(self, connection: AsyncConnection, *, at_ms: int) -> None:
        """Registers the holder or counts the business, with newer data where some was claimed.

        Raises Conflict (code "holder_busy") where another request did something for the holder meanwhile.
        """
        if self.seen is None:
            assert self.fresh is not None
            await holders.add(connection, self.fresh)
            return
        sealed = None if self.fresh is None else (self.fresh.key_id, self.fresh.sealed)
        await holders.touch(connection, self.holder_id, self.seen.version, at_ms=at_ms, sealed=sealed)


@dataclass(frozen=True, slots=True)
class HolderView:
    """A holder as it may be shown: `masked` by label, and its certificates, newest first."""

    record: HolderRecord
    masked: dict[str, str | None]
    certificates: Sequence[CertificateRecord]


class Holders:
    """See the module. `register` None: nothing is looked up."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        clock: Clock,
        settings: HolderSettings | None = None,
        *,
        register: RegisterCheck | None = None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._settings = settings or HolderSettings()
        self._register = register

    async def admit(self, claim: HolderClaim | None) -> Admission | None:
        """Before anything is done for a holder: the register is asked, the holder found or prepared.

        Raises Refused (code "holder_required" without a claim where the settings want one; the register's), Busy or
        Unavailable.
        """
        if claim is None:
            if self._settings.required:
                raise Refused(
                    "the request has to name the certificate's holder", code="holder_required", field="holder"
                )
            return None
        if self._register is not None and claim.kind in self._settings.register_kinds:
            await self._register.check(claim)
        number_hash = await self._vault.number_hash(claim)
        async with self._database.read() as connection:
            seen = await holders.find(connection, number_hash)
        kept = claim
        if seen is not None:
            before = await self._vault.open(seen)
            kept = _completed(claim, before)
            if kept == before:
                return Admission(seen.id, seen, None)
        holder_id = secrets.token_hex(16) if seen is None else seen.id
        now_ms = self._clock()
        key_id, sealed = await self._vault.seal(holder_id, number_hash, kept)
        fresh = HolderRecord(holder_id, claim.kind.value, number_hash, key_id, sealed, 1, now_ms, now_ms)
        return Admission(holder_id, seen, fresh)

    async def standing(self, holder_id: str | None) -> Admission | None:
        """For business on a certificate that has its holder already."""
        if holder_id is None:
            return None
        async with self._database.read() as connection:
            return Admission(holder_id, await holders.get(connection, holder_id), None)

    async def claim_hash(self, claim: HolderClaim) -> bytes:
        """Names a claim in a request's digest, without telling anything of it: 32 bytes."""
        return await self._vault.keyed_hash("claim", claim.kind.encode() + b"\0" + claim.encode())

    async def show(self, holder_id: str) -> HolderView:
        """Raises NotFound (code "holder_unknown")."""
        async with self._database.read() as connection:
            record = await holders.get(connection, holder_id)
            certified = await certificates.of_holder(connection, holder_id)
        return HolderView(record, (await self._vault.open(record)).masked(), certified)

    async def find(self, kind: str, number: str) -> HolderView:
        """The holder of that number. Raises Refused (as HolderClaim.of), NotFound (code "holder_unknown")."""
        number_hash = await self._vault.number_hash(HolderClaim.of(kind, number))
        async with self._database.read() as connection:
            record = await holders.find(connection, number_hash)
        if record is None:
            raise NotFound("there is no such holder", code="holder_unknown")
        return await self.show(record.id)

    async def reveal(self, holder_id: str, *, actor: str) -> HolderClaim:
        """Everything that is kept of a holder; that it was looked at is on record."""
        async with self._database.write() as connection:
            record = await holders.get(connection, holder_id)
            event = AuditEvent(actor, "holder.reveal", f"holder:{holder_id}")
            await audit.append(connection, event, at_ms=self._clock())
        return await self._vault.open(record)

    async def history(self, holder_id: str, *, before_id: int | None = None, limit: int = 200) -> Sequence[PastEvent]:
        """The business done for a holder, newest first. Raises NotFound (code "holder_unknown")."""
        async with self._database.read() as connection:
            await holders.get(connection, holder_id)
            return await events.history(connection, holder_id, before_id=before_id, limit=limit)

    async def rekey(self, *, actor: str) -> int:
        """Seals all that is kept under a new key; returns how many holders. May be broken off and begun again."""
        key_id = await self._vault.rotate()
        count = 0
        while done := await self._vault.reseal():
            count += done
        async with self._database.write() as connection:
            event = AuditEvent(actor, "holder.rekey", f"holder-key:{key_id}", detail={"holders": count})
            await audit.append(connection, event, at_ms=self._clock())
        return count


def _completed(claim: HolderClaim, kept: HolderClaim) -> HolderClaim:
    """The claim with what it leaves out taken from what is kept."""
    return HolderClaim(
        claim.kind,
        claim.number,
        claim.name if claim.name is not None else kept.name,
        claim.phone if claim.phone is not None else kept.phone,
        claim.address if claim.address is not None else kept.address,
    )
