"""Registration authorities and their people: registered, changed, withdrawn.

Withdrawing an authority revokes the certificates of its people that were issued here, ends every right of theirs, and
closes what its callers may read, in one commit; withdrawing a person does the same for that person. Every change is on
the audit record. Names are sealed and shown masked. Knows issuance and the store; not HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, Malformed, NotFound, Refused, TooLarge
from core.http import to_base64
from core.model import serial_to_hex
from core.store import audit, counters, registration, tail
from core.store.database import Database
from core.store.registration import CERTIFICATES_MAX, PEOPLE_MAX, PersonRecord, RaCertificate, RaRecord
from signer.holders.claim import mask
from signer.holders.vault import Vault
from signer.issuance import pairs, states
from signer.issuance.desk import Desk
from signer.issuance.grounds import REASONS, Ground
from signer.issuance.issued import Issued
from signer.issuance.lifecycle import Change
from signer.issuance.states import Operation
from signer.registration.payloads import RA_ID
from signer.registration.records import (
    Appointed,
    PersonView,
    PersonWish,
    RaWish,
    certificate_row,
    check_name,
    issuer_of,
    readable,
)
from signer.registration.roles import Role, go_together
from signer.registration.sealed_names import person_name
from signer.registration.settings import RegistrationSettings
from signer.registration.standing import Verification, require_foreign


class Warrant(Protocol):
    """Why a change is made that an administrator of the authority itself asked for."""

    async def require(self, connection: AsyncConnection, roles: Collection[Role]) -> None:
        """Judged first in the change's transaction: whether who asked may appoint, and dismiss, to all of `roles`."""

    async def settle(self, connection: AsyncConnection, result: dict[str, Any], *, at_ms: int) -> None:
        """Written last in the change's transaction; `result`: what was done, for the answer."""


class _Joining:
    """A person's certificate that is being issued, registered in the transaction that records it."""

    def __init__(
        self, admin: Administration, wish: PersonWish, ra_id: str, sealed: bytes, actor: str, warrant: Warrant | None
    ) -> None:
        self._admin = admin
        self._wish = wish
        self._ra_id = ra_id
        self._sealed = sealed
        self._actor = actor
        self._warrant = warrant

    async def recall(self, connection: AsyncConnection) -> Issued | None:
        """Nothing is remembered of before; in the recording transaction the authority is locked and must be there."""
        await self._admin.require_active(connection, self._ra_id, lock=tail.writing(connection))
        if tail.writing(connection):
            await self._admin.require_warrant(connection, self._warrant, self._ra_id, self._wish)
        return None

    async def remember(self, connection: AsyncConnection, issued: Issued, *, at_ms: int) -> None:
        """Registers person and certificate."""
        await self._admin.join(
            connection, self._ra_id, self._wish, self._sealed, issued.certificates[0].der, self._actor, at_ms
        )
        if self._warrant is not None:
            result = {
                "person": self._wish.id,
                "roles": sorted(self._wish.roles),
                "certificate": to_base64(issued.certificates[0].der),
                "chain": [to_base64(one) for one in issued.chain],
            }
            await self._warrant.settle(connection, result, at_ms=at_ms)


class Administration:
    """See the module. `foreign`: judges certificates that were issued elsewhere; None: none are taken."""

    def __init__(
        self,
        database: Database,
        desk: Desk,
        settings: RegistrationSettings,
        clock: Clock,
        *,
        foreign: Verification | None = None,
    ) -> None:
        self._database = database
        self._desk = desk
        self._vault: Vault = desk.vault
        self._settings = settings
        self._clock = clock
        self._foreign = foreign

    async def register(self, ra_id: str, wish: RaWish, *, actor: str) -> RaRecord:
        """Registers an authority. What the wish leaves out of the scope is nothing at all, not everything.

        Raises Refused, Conflict (code "ra_exists"), TooLarge.
        """
        if not re.fullmatch(RA_ID, ra_id):
            raise Refused("an id has 1 to 32 letters, digits, '.', '_' or '-'", code="ra_id", field="id")
        wish.check()
        if wish.name is None:
            raise Refused("a registration authority has a name", code="ra_name", field="name")
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            empty = RaRecord(ra_id, wish.name, (), (), (), False, (), "active", 1, at_ms, at_ms)
            record = replace(empty, **wish.given())
            await registration.add(connection, record)
            await _note(connection, actor, "ra.register", ra_id, at_ms, _detail(record))
        return record

    async def change(self, ra_id: str, wish: RaWish, *, actor: str) -> RaRecord:
        """Changes what the wish has, from this commit on. Raises Refused, NotFound, Conflict (code "ra_withdrawn")."""
        wish.check()
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            seen = await self.require_active(connection, ra_id, lock=True)
            now = replace(seen, **wish.given(), changed_at_ms=at_ms)
            await registration.change(connection, now)
            await _note(connection, actor, "ra.change", ra_id, at_ms, _detail(now))
        return replace(now, version=seen.version + 1)

    async def withdraw(self, ra_id: str, *, actor: str, ground: Ground = Ground.DUTY_NOT_MET) -> RaRecord:
        """Ends an authority: its people's certificates revoked, every permission closed, in one commit.

        Raises NotFound; an authority that was withdrawn before stays so.
        """
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            seen = await registration.get(connection, ra_id, lock=True)
            if seen.state == "withdrawn":
                return seen
            known = await registration.certificates_of(connection, ra_id)
            revoked = await self._revoke(connection, known, ground, actor)
            await registration.withdraw_certificates(connection, ra_id)
            await registration.withdraw_people(connection, ra_id, at_ms=at_ms)
            now = replace(seen, state="withdrawn", callers=(), changed_at_ms=at_ms)
            await registration.change(connection, now)
            detail: dict[str, str | int] = {"ground": ground.value, "revoked": revoked}
            await _note(connection, actor, "ra.withdraw", ra_id, at_ms, detail)
        return replace(now, version=seen.version + 1)

    async def get(self, ra_id: str) -> RaRecord:
        """Raises NotFound (code "ra_unknown")."""
        async with self._database.read() as connection:
            return await registration.get(connection, ra_id)

    async def list_all(self) -> Sequence[RaRecord]:
        """Every authority, by id."""
        async with self._database.read() as connection:
            return await registration.list_all(connection)

    async def people(self, ra_id: str) -> list[PersonView]:
        """An authority's people, by id. Raises NotFound."""
        async with self._database.read() as connection:
            await registration.get(connection, ra_id)
            found = await registration.people(connection, ra_id)
            known = await registration.certificates_of(connection, ra_id)
        return [await self._view(one, [c for c in known if c.person_id == one.id]) for one in found]

    async def appoint(self, ra_id: str, wish: PersonWish, *, actor: str, warrant: Warrant | None = None) -> Appointed:
        """Adds a person, or gives one that is there another certificate, and its roles as they are to be.

        warrant: of the administrator who signed for it; None: by who runs the service. Raises Refused (codes
        "roles_apart", "person_id", "certificate_usage", ...), Denied (code "role"), NotFound, Conflict, TooLarge.
        """
        self._check(wish)
        sealed = await self._vault.seal_octets(person_name(ra_id, wish.id), wish.name.encode())
        issued = None
        if wish.csr is not None:
            joining = _Joining(self, wish, ra_id, sealed, actor, warrant)
            async with self._database.read() as connection:
                await self.require_active(connection, ra_id)
            issued = await self._desk.issuer.issue(wish.csr, self._settings.profile, actor=actor, idempotency=joining)
        else:
            assert wish.certificate is not None
            await self._check_foreign(wish.certificate)
            async with self._database.write() as connection:
                at_ms = await counters.advance_time(connection, self._clock())
                await self.require_active(connection, ra_id, lock=True)
                await self.require_warrant(connection, warrant, ra_id, wish)
                await self.join(connection, ra_id, wish, sealed, wish.certificate, actor, at_ms)
                if warrant is not None:
                    result = {"person": wish.id, "roles": sorted(wish.roles)}
                    await warrant.settle(connection, result, at_ms=at_ms)
        view = next(one for one in await self.people(ra_id) if one.record.id == wish.id)
        return Appointed(view, issued)

    async def dismiss(
        self,
        ra_id: str,
        person_id: str,
        *,
        actor: str,
        ground: Ground = Ground.POST_LEFT,
        warrant: Warrant | None = None,
    ) -> PersonView:
        """Withdraws a person, and revokes the certificates that were issued here, in one commit. Raises NotFound."""
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            await registration.get(connection, ra_id, lock=True)
            person = await _person(connection, ra_id, person_id)
            if warrant is not None:
                await warrant.require(connection, {Role(role) for role in person.roles})
            known = [one for one in await registration.certificates_of(connection, ra_id) if one.person_id == person_id]
            if person.state == "active":
                revoked = await self._revoke(connection, known, ground, actor)
                await registration.withdraw_certificates(connection, ra_id, person_id)
                person = replace(person, state="withdrawn", changed_at_ms=at_ms)
                await registration.put_person(connection, person, known=True)
                await registration.touch(connection, ra_id, at_ms=at_ms)
                detail: dict[str, str | int] = {"ground": ground.value, "revoked": revoked}
                await _note(connection, actor, "ra.dismiss", f"{ra_id}/{person_id}", at_ms, detail)
                if warrant is not None:
                    await warrant.settle(connection, {"person": person_id, "revoked": revoked}, at_ms=at_ms)
        return await self._view(person, [replace(one, state="withdrawn") for one in known])

    async def require_active(self, connection: AsyncConnection, ra_id: str, *, lock: bool = False) -> RaRecord:
        """The authority, in force. Raises NotFound, Conflict (code "ra_withdrawn")."""
        record = await registration.get(connection, ra_id, lock=lock)
        if record.state != "active":
            raise Conflict("the registration authority was withdrawn", code="ra_withdrawn")
        return record

    async def join(
        self,
        connection: AsyncConnection,
        ra_id: str,
        wish: PersonWish,
        sealed: bytes,
        der: bytes,
        actor: str,
        at_ms: int,
    ) -> None:
        """Registers person and certificate; the caller has locked the authority."""
        people = await registration.people(connection, ra_id)
        known = await registration.certificates_of(connection, ra_id)
        if len(people) >= PEOPLE_MAX or len(known) >= CERTIFICATES_MAX:
            raise TooLarge("the registration authority has too many people or certificates", code="ra_people")
        before = next((one for one in people if one.id == wish.id), None)
        if before is not None and before.state != "active":
            raise Conflict("a person of that id was withdrawn; an id is one person's for good", code="person_withdrawn")
        row = await certificate_row(connection, ra_id, wish.id, der, at_ms)
        owner = await registration.key_owner(connection, row.public_key)
        if owner is not None and owner != (ra_id, wish.id):
            raise Refused("that key is another person's", code="key_of_another", field="certificate")
        if wish.csr is not None and owner is not None:
            raise Conflict("that key has a certificate; a new one is for a new key", code="certificate_registered")
        created = at_ms if before is None else before.created_at_ms
        roles = tuple(sorted(role.value for role in wish.roles))
        person = PersonRecord(ra_id, wish.id, sealed, roles, "active", created, at_ms)
        await registration.put_person(connection, person, known=before is not None)
        await registration.add_certificate(connection, row)
        await registration.touch(connection, ra_id, at_ms=at_ms)
        detail: dict[str, str | int] = {"roles": " ".join(roles), "serial": serial_to_hex(row.serial)}
        detail["issued_here"] = int(row.authority_id is not None)
        await _note(connection, actor, "ra.appoint", f"{ra_id}/{wish.id}", at_ms, detail)

    async def require_warrant(
        self, connection: AsyncConnection, warrant: Warrant | None, ra_id: str, wish: PersonWish
    ) -> None:
        """Who asked may appoint to the roles that the person is to have, and to those that it has."""
        if warrant is not None:
            people = await registration.people(connection, ra_id)
            had = {Role(role) for one in people if one.id == wish.id for role in one.roles}
            await warrant.require(connection, had | wish.roles)

    def _check(self, wish: PersonWish) -> None:
        if not re.fullmatch(RA_ID, wish.id):
            raise Refused("a person's id has 1 to 32 letters, digits, '.', '_' or '-'", code="person_id", field="id")
        check_name(wish.name)
        if not go_together(wish.roles):
            raise Refused(
                "one person does not administer, audit and do business at once", code="roles_apart", field="roles"
            )
        if (wish.certificate is None) == (wish.csr is None):
            raise Malformed("a person has a certificate, or a request for one", code="body", field="certificate")

    async def _check_foreign(self, der: bytes) -> None:
        parsed = readable(der)
        async with self._database.read() as connection:
            ours = await issuer_of(connection, parsed)
        if ours is None:
            await require_foreign(self._foreign, [der])

    async def _revoke(
        self, connection: AsyncConnection, known: Iterable[RaCertificate], ground: Ground, actor: str
    ) -> int:
        """Revokes those that were issued here and can be; returns how many."""
        count = 0
        for one in known:
            if one.authority_id is None:
                continue
            pair = await pairs.load(connection, one.serial, one.authority_id)
            if states.may(Operation.REVOKE, pair.state(self._clock())):
                change = Change(one.serial, one.authority_id, REASONS[ground], ground=ground)
                count += len(await self._desk.issuer.apply(connection, change, actor=actor))
        return count

    async def _view(self, person: PersonRecord, known: Sequence[RaCertificate]) -> PersonView:
        name = (await self._vault.open_octets(person_name(person.ra_id, person.id), person.sealed)).decode()
        return PersonView(person, mask(name, 1, 0), known)


async def _person(connection: AsyncConnection, ra_id: str, person_id: str) -> PersonRecord:
    for one in await registration.people(connection, ra_id):
        if one.id == person_id:
            return one
    raise NotFound("the registration authority has no such person", code="person_unknown")


def _detail(record: RaRecord) -> dict[str, str | int]:
    return {
        "profiles": " ".join(record.profiles),
        "regions": " ".join(record.regions),
        "customers": " ".join(record.customers),
        "callers": " ".join(record.callers),
        "unassigned": int(record.unassigned),
    }


async def _note(
    connection: AsyncConnection, actor: str, action: str, subject: str, at_ms: int, detail: dict[str, str | int]
) -> None:
    await audit.append(connection, AuditEvent(actor, action, f"ra:{subject}", detail=detail), at_ms=at_ms)
