"""Signed requests that need not be kept any longer: which there may be, what they are about, and their removal.

A request goes as a whole, with the messages that were signed and its result; a row that says whose request a
certificate comes from goes when that request is gone. Removal says in the audit record, in its own transaction, what
went and where to. Knows rows and times; not how long what is kept (service.request_retention) or files
(core.requests_archive).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from sqlalchemy import delete, exists, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import from_datetime
from core.errors import Refused
from core.model import serial_from_hex, serial_to_bytes
from core.store import audit, counters, sealed
from core.store.registration_requests import Evidence, RequestRecord
from core.store.schema import authorities, recoveries
from core.store.schema_certificates import certificate_serials, certificates, of_identity
from core.store.schema_registration import ra_certificates, ra_evidence, ra_issued, ra_requests, ras
from core.store.tail import lift_time_limit
from core.store.upsert import among

#: What the record says of a removal.
ACTION: Final = "request.retire"
_IN_CHUNK: Final = 500

#: (registration authority, request)
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class About:
    """A certificate that a request is about: when it ends, and by which profile it was made, where that is known."""

    ends_ms: int
    profile: str | None


@dataclass(frozen=True, slots=True)
class Issued:
    """A row of `ra_issued`, with when its certificate ends."""

    authority_id: str
    serial: bytes
    ra_id: str
    request_id: str
    profile: str
    region: str | None
    customer: str | None
    ends_ms: int


@dataclass(frozen=True, slots=True)
class Removal:
    """What goes. `file`, `sm3`: of the archive that has it; empty where nothing has. keys: messages by holder key."""

    requests: Sequence[RequestRecord]
    messages: int
    keys: dict[int, int]
    issued: Sequence[Issued]
    file: str = ""
    sm3: str = ""


def settled_ms(record: RequestRecord) -> int:
    """From when on nothing more comes of a request."""
    return record.expires_at_ms if record.decided_at_ms is None else record.decided_at_ms


async def ra_ids(connection: AsyncConnection) -> list[str]:
    """Every registration authority, those withdrawn as well."""
    return list((await connection.execute(select(ras.c.id).order_by(ras.c.id))).scalars())


async def entered_before(
    connection: AsyncConnection, ra_id: str, before_ms: int, after: tuple[int, str] | None, limit: int
) -> Sequence[RequestRecord]:
    """An authority's requests that were entered before then, in the order of their entry behind (time, id) `after`."""
    c = ra_requests.c
    statement = select(ra_requests).where(c.ra_id == ra_id, c.entered_at_ms < before_ms)
    if after is not None:
        statement = statement.where(tuple_(c.entered_at_ms, c.request_id) > tuple_(*map(literal, after)))
    rows = await connection.execute(statement.order_by(c.entered_at_ms, c.request_id).limit(limit))
    return [RequestRecord(*(getattr(row, name) for name in RequestRecord.__dataclass_fields__)) for row in rows]


async def about(connection: AsyncConnection, records: Iterable[RequestRecord]) -> dict[Name, list[About]]:
    """The certificates that each request made or changed, or whose key it opened, and those of a person whom it
    appointed or dismissed. A serial names one whatever its authority: rather too many than too few."""
    serials: dict[Name, set[bytes]] = {}
    recovered: dict[str, Name] = {}
    people: dict[Name, str] = {}
    for record in records:
        name = (record.ra_id, record.request_id)
        result = {} if record.result is None else orjson.loads(record.result)
        texts = [one["serial"] for one in result.get("certificates", ())]
        texts += [result["serial"]] if "serial" in result else []
        serials[name] = {serial_to_bytes(serial_from_hex(text)) for text in texts}
        if "judicial" in result:
            recovered[result["id"]] = name
        if "person" in result:
            people[name] = result["person"]
    if recovered:
        r, s = recoveries.c, certificate_serials.c
        of_key = select(r.id, s.serial).join(certificate_serials, s.id == r.certificate_id)
        for row in await connection.execute(of_key.where(r.id.in_(list(recovered)))):
            serials[recovered[row.id]].add(bytes(row.serial))
    known = await _known(connection, sorted(set().union(*serials.values())))
    found = {name: [one for serial in those for one in known.get(serial, ())] for name, those in serials.items()}
    for name, person in people.items():
        found[name] += await _of_person(connection, name[0], person)
    return found


async def _of_person(connection: AsyncConnection, ra_id: str, person_id: str) -> list[About]:
    """The certificates under which somebody signed: an appointment vouches for all of that, so by no profile of its
    own, which is the longest."""
    c = ra_certificates.c
    ends = select(c.not_after_ms).where(c.ra_id == ra_id, c.person_id == person_id)
    return [About(ends_ms, None) for ends_ms in (await connection.execute(ends)).scalars()]


async def _known(connection: AsyncConnection, serials: Sequence[bytes]) -> dict[bytes, list[About]]:
    """Certificates by serial. One that was retired itself ends with its month, by the profile it was asked for."""
    s, c, i = certificate_serials.c, certificates.c, ra_issued.c
    statement = (
        select(s.serial, s.status_month, c.not_after_ms, c.profile, i.profile.label("asked_for"))
        .outerjoin(certificates, of_identity)
        .outerjoin(ra_issued, (i.authority_id == s.authority_id) & (i.serial == s.serial))
    )
    mine = list((await connection.execute(select(authorities.c.id))).scalars())
    found: dict[bytes, list[About]] = {}
    for start in range(0, len(serials), _IN_CHUNK):
        these = among(connection, s.serial, serials[start : start + _IN_CHUNK])
        for row in await connection.execute(statement.where(s.authority_id.in_(mine), these)):
            ends_ms = month_end_ms(row.status_month) if row.not_after_ms is None else row.not_after_ms
            found.setdefault(bytes(row.serial), []).append(About(ends_ms, row.profile or row.asked_for))
    return found


def month_end_ms(month: int) -> int:
    """When a month is over that is counted as year * 12 + month - 1."""
    following = month + 1
    return from_datetime(datetime(following // 12, following % 12 + 1, 1, tzinfo=UTC))


async def issued_after(
    connection: AsyncConnection, after: tuple[str, bytes] | None, limit: int
) -> Sequence[tuple[Issued, bool]]:
    """Rows of `ra_issued` behind (authority, serial) `after`, each with whether its request is gone."""
    i, s, q = ra_issued.c, certificate_serials.c, ra_requests.c
    there = exists().where(q.ra_id == i.ra_id, q.request_id == i.request_id)
    statement = select(ra_issued, s.status_month, there.label("there")).outerjoin(
        certificate_serials, (s.authority_id == i.authority_id) & (s.serial == i.serial)
    )
    if after is not None:
        statement = statement.where(tuple_(i.authority_id, i.serial) > tuple_(*map(literal, after)))
    names = [column.name for column in ra_issued.columns]
    rows = await connection.execute(statement.order_by(i.authority_id, i.serial).limit(limit))
    found = []
    for row in rows:
        values: dict[str, Any] = {name: getattr(row, name) for name in names}
        found.append((Issued(**values, ends_ms=_row_end_ms(row.status_month)), not row.there))
    return found


def _row_end_ms(month: int | None) -> int:
    """A row without a certificate is none of ours: it is let be."""
    return 1 << 62 if month is None else month_end_ms(month)


async def evidence_of_many(connection: AsyncConnection, names: Sequence[Name]) -> dict[Name, list[Evidence]]:
    """The messages of these requests, in the order in which they came."""
    c = ra_evidence.c
    found: dict[Name, list[Evidence]] = {}
    for start in range(0, len(names), _IN_CHUNK):
        statement = select(ra_evidence).where(tuple_(c.ra_id, c.request_id).in_(names[start : start + _IN_CHUNK]))
        for row in await connection.execute(statement.order_by(c.id)):
            one = Evidence(row.ra_id, row.request_id, row.step, row.people, bytes(row.sealed), row.at_ms)
            found.setdefault((row.ra_id, row.request_id), []).append(one)
    return found


async def remove(connection: AsyncConnection, going: Removal, *, actor: str, at_ms: int) -> None:
    """Removes it, in the caller's transaction. Raises Refused (code "retention_changed") where something of it is not
    as it was read; nothing is to be removed then."""
    await lift_time_limit(connection)
    messages = 0
    gone = 0
    for start in range(0, len(going.requests), _IN_CHUNK):
        some = going.requests[start : start + _IN_CHUNK]
        names = [(one.ra_id, one.request_id) for one in some]
        c, q = ra_evidence.c, ra_requests.c
        messages += (
            await connection.execute(delete(ra_evidence).where(tuple_(c.ra_id, c.request_id).in_(names)))
        ).rowcount
        for state in {one.state for one in some}:
            same = [(one.ra_id, one.request_id) for one in some if one.state == state]
            named = delete(ra_requests).where(tuple_(q.ra_id, q.request_id).in_(same), q.state == state)
            gone += (await connection.execute(named)).rowcount
    rows = 0
    for one in going.issued:
        i = ra_issued.c
        mine = delete(ra_issued).where(i.authority_id == one.authority_id, i.serial == one.serial)
        rows += (await connection.execute(mine)).rowcount
    if (gone, messages, rows) != (len(going.requests), going.messages, len(going.issued)):
        raise Refused("requests changed while they were being retired; do it again", code="retention_changed")
    for key_id, count in sorted(going.keys.items() if going.file else ()):
        await counters.take(connection, sealed.archived_counter(key_id), count)
    detail: dict[str, str | int] = {"requests": gone, "messages": messages, "issued": rows}
    if going.file:
        detail |= {"file": going.file, "sm3": going.sm3}
    await audit.append(connection, AuditEvent(actor, ACTION, "requests", detail=detail), at_ms=at_ms)


def as_row(record: Any) -> dict[str, Any]:
    """A record's members for an archive: octets in hexadecimal."""
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}
