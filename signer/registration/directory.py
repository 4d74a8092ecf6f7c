"""Registration authorities as requests are judged by: who their people are, under which certificates, in what scope.

Owns what this process has in memory of them. It may be old: a view names its version, and who relies on one compares
that, under the row's lock, in the transaction of the effect (`in_force`). Judging itself is pure: view, kind, signers
and time in, people out, or the refusal. Knows roles and ids; not signatures or what is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import rfc3339
from core.errors import Denied
from core.store import registration
from core.store.database import Database
from core.store.registration import RaCertificate, RaRecord
from core.store.registration_requests import Assignment
from signer._native import sm2
from signer.registration.roles import Kind, Role, may_approve, may_enter

#: Views kept in memory; an authority past that is read again.
_VIEWS_MAX: Final = 256
#: Transactions under way that are remembered; one past that looks again.
_TRANSACTIONS_MAX: Final = 8


def denied(detail: str, code: str) -> Denied:
    """A refusal of somebody who is known."""
    return Denied(detail, code=code, authenticated=True)


@dataclass(frozen=True, slots=True)
class Person:
    """One of an authority's people."""

    id: str
    roles: frozenset[Role]
    active: bool


@dataclass(frozen=True, slots=True)
class Credential:
    """A person's certificate, with its key ready to verify with. authority_id None: issued elsewhere."""

    person_id: str
    authority_id: str | None
    serial: int
    certificate: bytes = field(repr=False)
    key: sm2.PublicKey = field(repr=False)
    not_before_ms: int
    not_after_ms: int
    active: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """What an authority is for. None: for every one."""

    profiles: frozenset[str] | None
    regions: frozenset[str] | None
    customers: frozenset[str] | None
    unassigned: bool

    @classmethod
    def of(cls, record: RaRecord) -> Scope:
        """From the row."""
        return cls(_members(record.profiles), _members(record.regions), _members(record.customers), record.unassigned)

    def check(self, profile: str, region: str | None, customer: str | None) -> None:
        """Raises Denied (codes "scope_profile", "scope_region", "scope_customer")."""
        if self.profiles is not None and profile not in self.profiles:
            raise denied("the registration authority is not for that profile", "scope_profile")
        # A region is within those that its digits begin with: 440106 is in 4401 and in 44 (GB/T 2260).
        if self.regions is not None and not any((region or "").startswith(one) for one in self.regions):
            raise denied("the registration authority is not for that region, or none was named", "scope_region")
        if self.customers is not None and customer not in self.customers:
            raise denied("the registration authority is not for that customer, or none was named", "scope_customer")

    def check_certificate(self, ra_id: str, assigned: Assignment | None, profile: str) -> None:
        """The same for business on a certificate. Raises Denied (code "scope_certificate", or as `check`)."""
        if assigned is None:
            if not self.unassigned:
                raise denied("no registration authority asked for that certificate", "scope_certificate")
            if self.profiles is not None and profile not in self.profiles:
                raise denied("the registration authority is not for that profile", "scope_profile")
            return
        if assigned.ra_id != ra_id:
            raise denied("another registration authority asked for that certificate", "scope_certificate")
        self.check(assigned.profile, assigned.region, assigned.customer)


def _members(names: Sequence[str]) -> frozenset[str] | None:
    return None if "*" in names else frozenset(names)


@dataclass(frozen=True, slots=True)
class RaView:
    """An authority at a version. credentials: by name digest, those that were withdrawn as well."""

    id: str
    version: int
    active: bool
    scope: Scope
    people: Mapping[str, Person]
    credentials: Mapping[bytes, Credential]

    def signer(self, name_digest: bytes, at_ms: int) -> tuple[Person, Credential]:
        """Who signs with that certificate at that time. Raises Denied.

        The codes are "ra_withdrawn", "signer_unknown", "person_withdrawn", "certificate_not_yet_valid",
        "certificate_expired".
        """
        if not self.active:
            raise denied("the registration authority was withdrawn", "ra_withdrawn")
        credential = self.credentials.get(name_digest)
        if credential is None:
            raise Denied("the certificate is not one of the registration authority's people", code="signer_unknown")
        person = self.people[credential.person_id]
        if not person.active or not credential.active:
            raise denied("the person, or that certificate, was withdrawn", "person_withdrawn")
        if at_ms < credential.not_before_ms:
            raise denied("the signer's certificate is not valid yet", "certificate_not_yet_valid")
        if at_ms > credential.not_after_ms:
            ended = rfc3339(credential.not_after_ms // 1000 * 1000)
            raise denied(f"the signer's certificate expired at {ended}; ask for another", "certificate_expired")
        return person, credential


@dataclass(frozen=True, slots=True)
class Seats:
    """Which certificates sign as what. `entry`: the one that enters; `approvals`: those that approve, in order."""

    entry: bytes
    approvals: tuple[bytes, ...] = ()

    @property
    def all(self) -> tuple[bytes, ...]:
        """Every one of them."""
        return (self.entry, *self.approvals)


@dataclass(frozen=True, slots=True)
class Parties:
    """The people behind the seats."""

    entered_by: str
    approved_by: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every one of them."""
        return (self.entered_by, *self.approved_by)


def seat(view: RaView, kind: Kind, signers: Sequence[bytes], at_ms: int) -> Seats:
    """Who of one or two signers enters, and who approves: a set of signatures has no order.

    Raises Denied (as `judge`).
    """
    if len(signers) == 1:
        return Seats(signers[0])
    first, second = signers
    seats = Seats(first, (second,))
    people = [view.signer(signer, at_ms)[0] for signer in signers]
    if may_enter(people[0].roles, kind) and may_approve(people[1].roles, kind):
        return seats
    return Seats(second, (first,))


def judge(view: RaView, kind: Kind, seats: Seats, at_ms: int) -> Parties:
    """The people, each in force, in role, and different ones. Raises Denied.

    The codes are those of `RaView.signer`, "same_person" and "role".
    """
    entering = view.signer(seats.entry, at_ms)[0]
    approving = [view.signer(signer, at_ms)[0] for signer in seats.approvals]
    people = (entering.id, *(person.id for person in approving))
    if len(set(people)) != len(people):
        raise denied("who enters a request and who approves it are different people", "same_person")
    if not may_enter(entering.roles, kind):
        raise denied(f"{entering.id} may not enter requests to {kind.value}", "role")
    for person in approving:
        if not may_approve(person.roles, kind):
            raise denied(f"{person.id} may not approve requests to {kind.value}", "role")
    return Parties(entering.id, tuple(person.id for person in approving))


@dataclass(slots=True)
class _Looked:
    """What a transaction has locked or seen: it holds until that has ended."""

    transaction: object
    views: dict[str, RaView] = field(default_factory=dict)
    stood: set[tuple[str, int]] = field(default_factory=set)


class Directory:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked: list[_Looked] = []
        self._views: OrderedDict[str, RaView] = OrderedDict()

    async def view(self, ra_id: str, *, anew: bool = False) -> RaView:
        """As it is in memory; read where it is not there, or `anew`. Raises Denied (code "ra_unknown")."""
        found = None if anew else self._views.get(ra_id)
        if found is not None:
            return found
        async with self._database.read() as connection:
            return await self._load(connection, ra_id)

    async def in_force(self, connection: AsyncConnection, ra_id: str) -> RaView:
        """As it is now, and stays until the caller's write transaction has ended. Raises Denied ("ra_unknown")."""
        looked = self._of(connection)
        if ra_id not in looked.views:
            looked.views[ra_id] = await self._locked(connection, ra_id)
        return looked.views[ra_id]

    async def unlocked(self, connection: AsyncConnection, ra_id: str) -> RaView:
        """As it is in the caller's read transaction. Raises Denied ("ra_unknown")."""
        looked = self._of(connection)
        if ra_id not in looked.views:
            version = await registration.version(connection, ra_id)
            view = self._views.get(ra_id)
            known = view is not None and view.version == version
            looked.views[ra_id] = view if known and view is not None else await self._load(connection, ra_id)
        return looked.views[ra_id]

    def standing(self, connection: AsyncConnection) -> set[tuple[str, int]]:
        """Which certificates, by authority and serial, were found good in the caller's transaction."""
        return self._of(connection).stood

    def _of(self, connection: AsyncConnection) -> _Looked:
        """What was seen in this transaction, which may be that of several requests at once."""
        assert connection.sync_connection is not None
        mine = connection.sync_connection.get_transaction()
        for looked in self._looked:
            if looked.transaction is mine:
                return looked
        self._looked = [*self._looked[-_TRANSACTIONS_MAX:], _Looked(mine)]
        return self._looked[-1]

    async def _locked(self, connection: AsyncConnection, ra_id: str) -> RaView:
        locked = await registration.lock_version(connection, ra_id)
        view = self._views.get(ra_id)
        if locked is None or view is None or view.version != locked[0]:
            return await self._load(connection, ra_id)
        return view

    async def _load(self, connection: AsyncConnection, ra_id: str) -> RaView:
        record = await registration.find(connection, ra_id)
        if record is None:
            raise Denied("there is no such registration authority", code="ra_unknown")
        people = await registration.people(connection, ra_id)
        certificates = await registration.certificates_of(connection, ra_id)
        view = RaView(
            record.id,
            record.version,
            record.state == "active",
            Scope.of(record),
            {one.id: Person(one.id, frozenset(map(Role, one.roles)), one.state == "active") for one in people},
            {one.name_digest: _credential(one) for one in certificates},
        )
        self._views[ra_id] = view
        self._views.move_to_end(ra_id)
        while len(self._views) > _VIEWS_MAX:
            self._views.popitem(last=False)
        return view


def _credential(row: RaCertificate) -> Credential:
    return Credential(
        row.person_id,
        row.authority_id,
        row.serial,
        row.certificate,
        sm2.PublicKey.from_bytes(row.public_key),
        row.not_before_ms,
        row.not_after_ms,
        row.state == "active",
    )
