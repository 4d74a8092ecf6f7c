"""Certificates and their status.

Owns the rule that `revoked` is final and `held` alone may go back to `good` (rule 3): every change of state
goes through `revoke` and `release` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Row,
    ScalarSelect,
    and_,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound, QianyanError, Refused
from core.model import CertificateState, CertificateStatus, RevocationReason, serial_to_bytes, serial_to_hex
from core.store import bulk, feed, partitions, statistics
from core.store.identified import rows_of
from core.store.schema import authorities, status_indexes
from core.store.schema_certificates import certificate_serials, certificates, of_identity
from core.store.upsert import among, on_postgres, upsert

Usage = Literal["sign", "encrypt", "ca", "ocsp"]

#: How many bound parameters one IN list gets; SQLite's default limit is 32,766, PostgreSQL's 65,535 per statement.
_IN_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class NewCertificate:
    """A signed certificate, ready to be recorded. `subject`: DER Name; `public_key`: 65 bytes.

    ra, region, customer: what statistics count it under, "" where unknown; a region from the larger to the smaller with
    "/" between. issued_at_ms: when, where that is not now (an import).
    """

    authority_id: str
    serial: int
    usage: Usage
    profile: str
    subject: bytes
    public_key: bytes
    not_before_ms: int
    not_after_ms: int
    partition: int
    status_month: int
    status_index: int
    certificate: bytes
    holder_id: str | None = None
    ra: str = ""
    region: str = ""
    customer: str = ""
    issued_at_ms: int | None = None


#: What of it is a column as it stands; the others become the row's `segment`.
_STORED = tuple(name for name in NewCertificate.__dataclass_fields__ if name not in ("ra", "region", "customer"))


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A row of the table, with the serial as a number and the state typed."""

    id: int
    authority_id: str
    serial: int
    usage: str
    profile: str
    pair_id: int | None
    subject: bytes
    public_key: bytes
    not_before_ms: int
    not_after_ms: int
    partition: int
    certificate: bytes
    issued_at_ms: int
    state: CertificateState
    revoked_at_ms: int | None
    reason: RevocationReason | None
    invalidity_at_ms: int | None
    holder_id: str | None = None
    segment: int | None = None

    @property
    def status(self) -> CertificateStatus:
        """The part of it that relying parties ask for."""
        return CertificateStatus(
            self.serial, self.state, self.revoked_at_ms, self.reason, self.invalidity_at_ms, self.not_after_ms
        )


def _reason(value: int | None) -> RevocationReason | None:
    return None if value is None else RevocationReason(value)


def _record(row: Row[Any]) -> CertificateRecord:
    return CertificateRecord(
        id=row.id,
        authority_id=row.authority_id,
        serial=int.from_bytes(row.serial, "big"),
        usage=row.usage,
        profile=row.profile,
        pair_id=row.pair_id,
        subject=row.subject,
        public_key=row.public_key,
        not_before_ms=row.not_before_ms,
        not_after_ms=row.not_after_ms,
        partition=row.partition,
        certificate=row.certificate,
        issued_at_ms=row.issued_at_ms,
        state=CertificateState(row.state),
        revoked_at_ms=row.revoked_at_ms,
        reason=_reason(row.reason),
        invalidity_at_ms=row.invalidity_at_ms,
        holder_id=row.holder_id,
        segment=row.segment,
    )


async def take_status_index(connection: AsyncConnection, authority_id: str, month: int, count: int = 1) -> int:
    """Reserves `count` consecutive status indexes of (authority, month of expiry) and returns the first, from 0.

    Committed with the issuance, so never given twice; a rolled-back issuance gives them back.
    """
    statement = upsert(connection, status_indexes).values(authority_id=authority_id, month=month, next_index=count)
    statement = statement.on_conflict_do_update(
        index_elements=["authority_id", "month"],
        set_={"next_index": status_indexes.c.next_index + statement.excluded.next_index},
    ).returning(status_indexes.c.next_index)
    return int((await connection.execute(statement)).scalar_one()) - count


async def record(connection: AsyncConnection, new: NewCertificate, *, at_ms: int, pair_id: int | None = None) -> int:
    """Records an issued certificate and its feed entry; links the pair both ways where `pair_id` is given.

    Returns the row's id. Raises Conflict (code "serial_taken") where the authority has that serial already.
    """
    (segment,) = await statistics.note_new(connection, [new], at_ms=at_ms)
    row = {**_row(new, at_ms), "pair_id": pair_id, "segment": segment}
    await partitions.ensure(connection, [new.status_month])
    try:
        identity = await _insert(connection, row)
    except IntegrityError as error:
        raise _refusal(connection, error) from error
    if pair_id is not None:
        await connection.execute(update(certificates).where(by_id(pair_id)).values(pair_id=identity))
    await feed.append(connection, [feed.FeedChange("issued", new.authority_id, new.serial)], at_ms=at_ms)
    statistics.remember(connection, identity, segment)
    return identity


async def _insert(connection: AsyncConnection, row: dict[str, Any]) -> int:
    """Writes the identity and the row, on PostgreSQL in one statement; returns their id."""
    adding = insert(certificate_serials).values(_identity(row)).returning(certificate_serials.c.id)
    if not on_postgres(connection):
        identity = (await connection.execute(adding)).scalar_one()
        await connection.execute(insert(certificates).values({**row, "id": identity}))
        return int(identity)
    added = adding.cte("added")
    values = [bindparam(None, value, type_=certificates.c[name].type, unique=True) for name, value in row.items()]
    both = insert(certificates).from_select(["id", *row], select(added.c.id, *values), include_defaults=False)
    return int((await connection.execute(both.returning(certificates.c.id))).scalar_one())


def _identity(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("authority_id", "serial", "status_month")}


def _refusal(connection: AsyncConnection, error: IntegrityError) -> QianyanError:
    """What a row that was not taken means."""
    return partitions.lacking(connection, error) or Conflict(
        "a serial or status index is taken already", code="serial_taken"
    )


def _row(new: NewCertificate, at_ms: int) -> dict[str, Any]:
    """A row's values but its id and pair."""
    return {
        **{name: getattr(new, name) for name in _STORED},
        "serial": serial_to_bytes(new.serial),
        "issued_at_ms": at_ms if new.issued_at_ms is None else new.issued_at_ms,
        "state": CertificateState.GOOD.value,
    }


async def load(
    connection: AsyncConnection, new: Sequence[NewCertificate], *, at_ms: int, pairs: Sequence[tuple[int, int]] = ()
) -> list[int]:
    """Records many certificates and their feed entries at once (PostgreSQL: COPY); returns their ids, in order.

    pairs: places in `new` of two certificates that belong together. A few thousand at a time: their numbers are taken
    at the end of the transaction, and every other writer waits while they are written. Raises Conflict (code
    "serial_taken") where a serial or status index is taken already; nothing of it was done then.
    """
    await partitions.ensure(connection, {one.status_month for one in new})
    identities = await _reserve_ids(connection, len(new))
    rows = [{"id": i, "pair_id": None, **_row(one, at_ms)} for i, one in zip(identities, new, strict=True)]
    headings = await statistics.note_new(connection, new, at_ms=at_ms, identities=identities)
    for row, segment in zip(rows, headings, strict=True):
        row["segment"] = segment
    for first, second in pairs:
        rows[first]["pair_id"], rows[second]["pair_id"] = identities[second], identities[first]
    try:
        identified = [{"id": row["id"], **_identity(row)} for row in rows]
        await bulk.insert_rows(connection, certificate_serials, identified)
        await bulk.insert_rows(connection, certificates, rows)
    except IntegrityError as error:
        raise _refusal(connection, error) from error
    changes = [feed.FeedChange("issued", one.authority_id, one.serial) for one in new]
    await feed.append(connection, changes, at_ms=at_ms)
    return identities


async def _reserve_ids(connection: AsyncConnection, count: int) -> list[int]:
    """Ids that nobody else gets; on SQLite the writer is alone."""
    if on_postgres(connection):
        statement = text("SELECT nextval('certificate_serials_id_seq') FROM generate_series(1, :count)")
        return [int(value) for value in (await connection.execute(statement, {"count": count})).scalars()]
    last = (await connection.execute(select(func.max(certificate_serials.c.id)))).scalar_one() or 0
    return list(range(last + 1, last + 1 + count))


async def find(connection: AsyncConnection, serial: int, authority_id: str | None = None) -> CertificateRecord:
    """The certificate with that serial. Raises NotFound, or Conflict where several authorities have the serial."""
    # By way of the authorities, which are few, the index on (authority, serial) serves without an authority, too.
    issuers = select(authorities.c.id)
    if authority_id is not None:
        issuers = issuers.where(authorities.c.id == authority_id)
    s = certificate_serials.c
    statement = select(certificates).join(certificate_serials, of_identity)
    statement = statement.where(s.authority_id.in_(issuers), s.serial == serial_to_bytes(serial))
    rows = (await connection.execute(statement.limit(2))).all()
    if not rows:
        raise NotFound(f"no certificate has serial {serial_to_hex(serial)}", code="certificate_unknown")
    if len(rows) > 1:
        raise Conflict("several authorities issued that serial; name the authority", code="serial_ambiguous")
    return _record(rows[0])


async def get(connection: AsyncConnection, certificate_id: int, *, lock: bool = False) -> CertificateRecord:
    """The certificate with that row id, which the caller has from the store.

    lock: as it stands once every transaction that changes it now has ended, and nobody changes it before ours has.
    Raises NotFound (code "certificate_retired") where its year was retired.
    """
    statement = select(certificates).where(by_id(certificate_id))
    if lock:
        statement = statement.with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFound("the certificate's record is no longer kept here", code="certificate_retired")
    return _record(row)


def by_id(certificate_id: int | ScalarSelect[Any]) -> ColumnElement[bool]:
    """Whether a row of `certificates` is that one; with its month, so that only one partition is looked into."""
    identity = certificate_serials.alias()
    month = select(identity.c.status_month).where(identity.c.id == certificate_id).scalar_subquery()
    return and_(certificates.c.id == certificate_id, certificates.c.status_month == month)


async def with_public_key(connection: AsyncConnection, public_key: bytes) -> list[CertificateRecord]:
    """The signing certificates of a key, newest first, at most 100."""
    c = certificates.c
    # Written out, not bound: only so can a plan made for any value use the index, which has signing keys alone.
    signing = c.usage == literal_column("'sign'")
    statement = select(certificates).where(c.public_key == public_key, signing).order_by(c.id.desc())
    return [_record(row) for row in await connection.execute(statement.limit(100))]


async def with_public_keys(
    connection: AsyncConnection, public_keys: Sequence[bytes]
) -> dict[bytes, list[CertificateRecord]]:
    """The signing certificates of each of these keys that has any, newest first."""
    c = certificates.c
    found: dict[bytes, list[CertificateRecord]] = {}
    for start in range(0, len(public_keys), _IN_CHUNK):
        these = among(connection, c.public_key, public_keys[start : start + _IN_CHUNK])
        signing = c.usage == literal_column("'sign'")
        for row in await connection.execute(select(certificates).where(these, signing).order_by(c.id.desc())):
            found.setdefault(bytes(row.public_key), []).append(_record(row))
    return found


async def of_holder(connection: AsyncConnection, holder_id: str) -> list[CertificateRecord]:
    """A holder's certificates, newest first, at most 1,000."""
    c = certificates.c
    statement = select(certificates).where(c.holder_id == holder_id).order_by(c.id.desc()).limit(1_000)
    return [_record(row) for row in await connection.execute(statement)]


async def find_pair(connection: AsyncConnection, certificate_id: int) -> CertificateRecord | None:
    """The other certificate of the pair."""
    pair_id = (
        await connection.execute(select(certificates.c.pair_id).where(by_id(certificate_id)))
    ).scalar_one_or_none()
    if pair_id is None:
        return None
    statement = select(certificates).where(by_id(pair_id))
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def statuses(
    connection: AsyncConnection, authority_id: str, serials: Sequence[int], *, lock: bool = False
) -> list[CertificateStatus]:
    """The status of each serial under `authority_id`, in order; `state` None where it was never issued.

    lock: as it stands once every transaction that changes one of them now has ended, and nobody changes one before ours
    has; any number of transactions may hold them so.
    """
    known: dict[int, CertificateStatus] = {}
    c = certificates.c
    columns = (c.serial, c.state, c.revoked_at_ms, c.reason, c.invalidity_at_ms, c.not_after_ms)
    for start in range(0, len(serials), _IN_CHUNK):
        wanted = [serial_to_bytes(serial) for serial in serials[start : start + _IN_CHUNK]]
        s = certificate_serials.c
        these = (s.authority_id == authority_id, among(connection, s.serial, wanted))
        for row in await connection.execute(rows_of(connection, columns, *these, share=lock)):
            serial = int.from_bytes(row.serial, "big")
            known[serial] = CertificateStatus(
                serial,
                CertificateState(row.state),
                row.revoked_at_ms,
                _reason(row.reason),
                row.invalidity_at_ms,
                row.not_after_ms,
            )
    return [known.get(serial) or CertificateStatus(serial, None) for serial in serials]


async def revoke(
    connection: AsyncConnection,
    certificate: CertificateRecord,
    reason: RevocationReason,
    *,
    at_ms: int,
    invalidity_at_ms: int | None = None,
) -> CertificateStatus:
    """Revokes or, with reason certificateHold, holds; feed entry included.

    A held certificate may be revoked for good (its revocation time stays that of the hold). Raises Refused
    (code "already_revoked", "already_held").
    """
    holding = reason is RevocationReason.CERTIFICATE_HOLD
    if certificate.state is CertificateState.REVOKED:
        raise Refused("the certificate is revoked already", code="already_revoked")
    if certificate.state is CertificateState.HELD and holding:
        raise Refused("the certificate is on hold already", code="already_held")
    state = CertificateState.HELD if holding else CertificateState.REVOKED
    revoked_at_ms = certificate.revoked_at_ms or at_ms
    change = feed.FeedChange("held" if holding else "revoked", certificate.authority_id, certificate.serial)
    await _change_state(
        connection,
        certificate,
        change,
        at_ms,
        {
            "state": state.value,
            "revoked_at_ms": revoked_at_ms,
            "reason": int(reason),
            "invalidity_at_ms": invalidity_at_ms,
        },
    )
    return CertificateStatus(
        certificate.serial, state, revoked_at_ms, reason, invalidity_at_ms, certificate.not_after_ms
    )


async def release(connection: AsyncConnection, certificate: CertificateRecord, *, at_ms: int) -> CertificateStatus:
    """Ends a hold. Raises Refused (code "not_held") for any other state."""
    if certificate.state is not CertificateState.HELD:
        raise Refused("the certificate is not on hold", code="not_held")
    if not certificate.certificate:
        raise Refused("its certificate is not known here and cannot become good; import it", code="certificate_missing")
    change = feed.FeedChange("released", certificate.authority_id, certificate.serial)
    cleared = {"revoked_at_ms": None, "reason": None, "invalidity_at_ms": None}
    await _change_state(connection, certificate, change, at_ms, {"state": CertificateState.GOOD.value, **cleared})
    return CertificateStatus(certificate.serial, CertificateState.GOOD, not_after_ms=certificate.not_after_ms)


async def _change_state(
    connection: AsyncConnection,
    certificate: CertificateRecord,
    change: feed.FeedChange,
    at_ms: int,
    values: dict[str, object],
) -> None:
    """Writes the new state where the row is still in the state that was read; raises Conflict where it is not."""
    unchanged = by_id(certificate.id) & (certificates.c.state == certificate.state.value)
    result = await connection.execute(update(certificates).where(unchanged).values(**values))
    if result.rowcount != 1:
        raise Conflict("the certificate was changed by another request", code="state_changed")
    await feed.append(connection, [change], at_ms=at_ms)
    statistics.remember(connection, certificate.id, certificate.segment)
    statistics.note_change(
        connection,
        certificate.segment,
        kind=change.kind,
        before=certificate.state.value,
        after=str(values["state"]),
        ends_ms=certificate.not_after_ms,
        at_ms=at_ms,
    )


async def count(connection: AsyncConnection) -> int:
    """How many certificates there are."""
    return int((await connection.execute(select(func.count()).select_from(certificates))).scalar_one())
