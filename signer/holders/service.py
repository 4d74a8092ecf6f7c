"""Holders as issuance and those who ask about them meet them: admitted, found, shown masked, with their history.

Owns what is written of a holder with each business: `settle_all` runs in the transaction that does the business,
so that a holder is never registered without its certificate, and of two requests for one holder one is told.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, NotFound, Refused
from core.store import audit, certificates, events, holders
from core.store.certificates import CertificateRecord
from core.store.database import Database
from core.store.events import PastEvent
from core.store.holders import HolderRecord, Touch
from signer.holders.claim import HolderClaim
from signer.holders.register import RegisterCheck
from signer.holders.settings import HolderSettings
from signer.holders.vault import Sealer, Vault


@dataclass(frozen=True, slots=True)
class Found:
    """What the store said of a holder: its keyed hash, and its row where it has one."""

    number_hash: bytes
    seen: HolderRecord | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """A holder for whom something is about to be done. `seen` None: it is registered with it."""

    holder_id: str
    seen: HolderRecord | None
    fresh: HolderRecord | None


async def settle_all(
    connection: AsyncConnection, admissions: Sequence[Admission], *, at_ms: int
) -> list[Conflict | None]:
    """Registers each of different holders, or counts the business, with newer data where some was claimed.

    In the transaction that does the business. For each None, or the Conflict (code "holder_busy") where another request
    did something for the holder meanwhile; nothing was written for that one.
    """
    fresh = [one.fresh for one in admissions if one.seen is None and one.fresh is not None]
    settled = await holders.add_many(connection, fresh)
    touches = []
    for one in admissions:
        if one.seen is not None:
            sealed = None if one.fresh is None else (one.fresh.key_id, one.fresh.sealed)
            touches.append(Touch(one.holder_id, one.seen.version, sealed))
    settled |= await holders.touch_many(connection, touches, at_ms=at_ms)
    return [None if one.holder_id in settled else holders.changed_meanwhile() for one in admissions]


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

    async def number_hash(self, claim: HolderClaim) -> bytes:
        """By what the store finds the holder; for `Found`."""
        return await self._vault.number_hash(claim)

    async def admit(self, claim: HolderClaim | None, found: Found | None = None) -> Admission | None:
        """Before anything is done for a holder: the register is asked, the holder found or prepared.

        found: where the store was asked already. Raises Refused (code "holder_required" without a claim where the
        settings want one; the register's), Busy or Unavailable.
        """
        await self.check(claim)
        if claim is None:
            return None
        if found is None:
            found = Found(await self._vault.number_hash(claim))
            async with self._database.read() as connection:
                found = Found(found.number_hash, await holders.find(connection, found.number_hash))
        return await self._admission(claim, found)

    async def sealer(self) -> Sealer:
        """For `admit_many`: what hashes and seals many holders."""
        return await self._vault.sealer()

    async def check(self, claim: HolderClaim | None) -> None:
        """Asks the register, where it is to be asked. Raises as `admit`."""
        if claim is None:
            if self._settings.required:
                raise _required()
        elif self._register is not None and claim.kind in self._settings.register_kinds:
            await self._register.check(claim)

    async def admit_many(self, sealer: Sealer, hashed: Sequence[tuple[HolderClaim, bytes]]) -> list[Admission]:
        """As `admit`, for many different holders with their hashes, whom `check` let pass."""
        async with self._database.read() as connection:
            known = await holders.find_many(connection, [number_hash for _, number_hash in hashed])
        admitted: dict[int, Admission] = {}
        fresh: list[tuple[int, HolderClaim, bytes]] = []
        for place, (claim, number_hash) in enumerate(hashed):
            seen = known.get(number_hash)
            if seen is None:
                fresh.append((place, claim, number_hash))
            else:
                admitted[place] = await self._admission(claim, Found(number_hash, seen))
        admitted.update(await asyncio.to_thread(_fresh_admissions, sealer, fresh, self._clock()))
        return [admitted[place] for place in range(len(hashed))]

    async def _admission(self, claim: HolderClaim, found: Found) -> Admission:
        seen, number_hash = found.seen, found.number_hash
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


def _required() -> Refused:
    return Refused("the request has to name the certificate's holder", code="holder_required", field="holder")


def _fresh_admissions(
    sealer: Sealer, fresh: Sequence[tuple[int, HolderClaim, bytes]], now_ms: int
) -> list[tuple[int, Admission]]:
    made = []
    for place, claim, number_hash in fresh:
        holder_id = secrets.token_hex(16)
        key_id, sealed = sealer.seal(holder_id, number_hash, claim)
        record = HolderRecord(holder_id, claim.kind.value, number_hash, key_id, sealed, 1, now_ms, now_ms)
        made.append((place, Admission(holder_id, None, record)))
    return made


def _completed(claim: HolderClaim, kept: HolderClaim) -> HolderClaim:
    """The claim with what it leaves out taken from what is kept."""
    return HolderClaim(
        claim.kind,
        claim.number,
        claim.name if claim.name is not None else kept.name,
        claim.phone if claim.phone is not None else kept.phone,
        claim.address if claim.address is not None else kept.address,
    )
