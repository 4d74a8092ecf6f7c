"""Signed requests of registration authorities, and the messages that were signed.

Owns the rules that a request's id means one content for good, and that a request is decided once, whoever comes at the
same time. Knows ids and octets; not what a request asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound
from core.model import serial_to_bytes
from core.store import tail
from core.store.schema_registration import ra_evidence, ra_issued, ra_requests
from core.store.upsert import hold, hold_many


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request. digest: SM3 of its content. entry_signer, first_signer: which certificates signed, by name digest.

    result: JSON of what was done. reason: sealed.
    """

    ra_id: str
    request_id: str
    kind: str
    state: str
    digest: bytes
    entry_signer: bytes
    entered_by: str
    entered_at_ms: int
    expires_at_ms: int
    first_approver: str | None = None
    first_signer: bytes | None = None
    decided_by: str | None = None
    decided_at_ms: int | None = None
    reason: bytes | None = field(default=None, repr=False)
    result: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A signed message, sealed. step: enter, both, approve, reject."""

    ra_id: str
    request_id: str
    step: str
    people: str
    sealed: bytes = field(repr=False)
    at_ms: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """Whose request a certificate comes from, and for which region and customer."""

    ra_id: str
    profile: str
    region: str | None
    customer: str | None


def _request(row: Row[Any]) -> RequestRecord:
    return RequestRecord(*(getattr(row, name) for name in RequestRecord.__dataclass_fields__))


async def find(connection: AsyncConnection, ra_id: str, request_id: str, *, lock: bool = False) -> RequestRecord | None:
    """The request of that id, where there is one.

    lock: within a write transaction, waits for another one that works on it, or is about to enter it.
    """
    statement = select(ra_requests).where(ra_requests.c.ra_id == ra_id, ra_requests.c.request_id == request_id)
    if lock and tail.writing(connection):
        await hold(connection, "ra_request", ra_id, request_id)
        statement = statement.with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _request(row)


async def find_many(
    connection: AsyncConnection, named: Sequence[tuple[str, str]], *, lock: bool = False
) -> dict[tuple[str, str], RequestRecord]:
    """The requests of these (authority, id), where there are any; `lock` as in `find`."""
    c = ra_requests.c
    statement = select(ra_requests).where(tuple_(c.ra_id, c.request_id).in_(named))
    if lock and tail.writing(connection):
        await hold_many(connection, [("ra_request", *name) for name in named])
        statement = statement.with_for_update()
    return {(row.ra_id, row.request_id): _request(row) for row in await connection.execute(statement)}


async def get(connection: AsyncConnection, ra_id: str, request_id: str) -> RequestRecord:
    """Raises NotFound (code "request_unknown")."""
    found = await find(connection, ra_id, request_id)
    if found is None:
        raise NotFound("there is no such request", code="request_unknown")
    return found


async def add(connection: AsyncConnection, records: Sequence[RequestRecord]) -> None:
    """Enters requests that the caller has looked for with `lock`, and not found."""
    rows = [{name: getattr(one, name) for name in RequestRecord.__dataclass_fields__} for one in records]
    if rows:
        await connection.execute(insert(ra_requests), rows)


async def advance(connection: AsyncConnection, seen: RequestRecord, now: RequestRecord) -> None:
    """Writes `now` over `seen`. Raises Conflict (code "request_decided") where another took a step first."""
    c = ra_requests.c
    unchanged = (c.ra_id == seen.ra_id) & (c.request_id == seen.request_id) & (c.state == seen.state)
    unchanged &= c.first_approver.is_(None) if seen.first_approver is None else c.first_approver == seen.first_approver
    names = ("state", "first_approver", "first_signer", "decided_by", "decided_at_ms", "reason", "result")
    values = {name: getattr(now, name) for name in names}
    if (await connection.execute(update(ra_requests).where(unchanged).values(**values))).rowcount != 1:
        raise Conflict("another took a step of this request first; look at it again", code="request_decided")


async def page(
    connection: AsyncConnection,
    ra_id: str,
    *,
    state: str | None = None,
    after: tuple[int, str] | None = None,
    limit: int = 50,
) -> Sequence[RequestRecord]:
    """Requests in the order of their entry, after the one that was entered at (time, id) `after`."""
    c = ra_requests.c
    statement = select(ra_requests).where(c.ra_id == ra_id).order_by(c.entered_at_ms, c.request_id).limit(limit)
    if state is not None:
        statement = statement.where(c.state == state)
    if after is not None:
        statement = statement.where(tuple_(c.entered_at_ms, c.request_id) > after)
    return [_request(row) for row in await connection.execute(statement)]


async def keep_evidence(connection: AsyncConnection, messages: Sequence[Evidence]) -> None:
    """Keeps signed messages, in the transaction of what they led to."""
    rows = [{name: getattr(one, name) for name in Evidence.__dataclass_fields__} for one in messages]
    await connection.execute(insert(ra_evidence), rows)


async def evidence_of(connection: AsyncConnection, ra_id: str, request_id: str) -> Sequence[Evidence]:
    """The messages of a request, in the order in which they came."""
    c = ra_evidence.c
    statement = select(ra_evidence).where(c.ra_id == ra_id, c.request_id == request_id).order_by(c.id)
    return [
        Evidence(row.ra_id, row.request_id, row.step, row.people, row.sealed, row.at_ms)
        for row in await connection.execute(statement)
    ]


@dataclass(frozen=True, slots=True)
class Assigned:
    """Certificates of a request, and whose they are."""

    authority_id: str
    serials: tuple[int, ...]
    of: Assignment
    request_id: str


async def assign(connection: AsyncConnection, assigned: Sequence[Assigned]) -> None:
    """Says whose certificates are, in the transaction that records them."""
    rows = [
        {
            "authority_id": one.authority_id,
            "serial": serial_to_bytes(serial),
            "ra_id": one.of.ra_id,
            "request_id": one.request_id,
            "profile": one.of.profile,
            "region": one.of.region,
            "customer": one.of.customer,
        }
        for one in assigned
        for serial in one.serials
    ]
    await connection.execute(insert(ra_issued), rows)


async def assignment(connection: AsyncConnection, authority_id: str, serial: int) -> Assignment | None:
    """Whose a certificate is; None where no registration authority asked for it."""
    c = ra_issued.c
    statement = select(ra_issued).where(c.authority_id == authority_id, c.serial == serial_to_bytes(serial))
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else Assignment(row.ra_id, row.profile, row.region, row.customer)
