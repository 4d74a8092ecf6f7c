"""What imports put into the store: certificates and revocations of an authority that issued elsewhere, and how far an
import has come. A chunk's rows, its report and its position are one transaction, so that what was interrupted goes on.

An imported certificate carries no status index of ours: it has a negative one here, which status sets know as "none".
A revoked serial whose certificate is not known is a row without a certificate; one that comes later is filled in.
Knows rows; not DER, files or keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound
from core.model import CertificateState, RevocationReason, serial_to_bytes
from core.store import authorities, certificates, counters, feed, import_crls, partitions, statistics, tail
from core.store.certificates import NewCertificate
from core.store.schema import authorities as authorities_table
from core.store.schema import crl_points
from core.store.schema_certificates import certificate_serials, of_identity
from core.store.schema_certificates import certificates as table
from core.store.schema_imports import import_authorities
from core.store.schema_imports import imports as jobs
from core.store.upsert import among, hold, on_postgres

_IN_CHUNK: Final = 5_000
_HOLD: Final = RevocationReason.CERTIFICATE_HOLD

Kind = Literal["certificates", "crl"]


@dataclass(frozen=True, slots=True)
class Job:
    """An import. See core.store.schema_imports."""

    id: str
    authority_id: str
    kind: str
    digest: bytes
    position: int
    report_bytes: int
    accepted: int
    known: int
    refused: int
    state: str
    actor: str
    started_at_ms: int
    changed_at_ms: int


_JOB: Final = [jobs.c[one.name] for one in fields(Job)]


async def begin(connection: AsyncConnection, job: Job) -> Job:
    """The import as it stands: new, or where it was interrupted. One process at a time works on it."""
    await hold(connection, "import", job.id)
    found = await find(connection, job.id)
    if found is None:
        await connection.execute(insert(jobs).values({one.name: getattr(job, one.name) for one in fields(Job)}))
    return found or job


async def find(connection: AsyncConnection, job_id: str) -> Job | None:
    """The import with that id."""
    row = (await connection.execute(select(*_JOB).where(jobs.c.id == job_id))).one_or_none()
    return None if row is None else Job(**row._mapping)


async def list_all(connection: AsyncConnection, authority_id: str | None = None) -> list[Job]:
    """Imports, the oldest first; of one authority where given."""
    statement = select(*_JOB).order_by(jobs.c.started_at_ms, jobs.c.id)
    if authority_id is not None:
        statement = statement.where(jobs.c.authority_id == authority_id)
    return [Job(**row._mapping) for row in await connection.execute(statement)]


async def advance(connection: AsyncConnection, before: Job, after: Job) -> None:
    """Notes how far an import is. Raises Conflict (code "import_elsewhere") where another process is ahead."""
    values = {one.name: getattr(after, one.name) for one in fields(Job)}
    same = (jobs.c.id == before.id) & (jobs.c.position == before.position) & (jobs.c.state == before.state)
    if (await connection.execute(update(jobs).where(same).values(values))).rowcount != 1:
        raise Conflict("another process works on the same import", code="import_elsewhere")


@dataclass(frozen=True, slots=True)
class Adopted:
    """An authority whose certificates are imported. `cutoff_s` None: more are to come."""

    authority_id: str
    certificate: bytes
    cutoff_s: int | None


async def adopt(connection: AsyncConnection, adopted: Adopted, *, at_ms: int) -> None:
    """Records it; the authority's own row is there and waits for its certificate."""
    values = {one.name: getattr(adopted, one.name) for one in fields(Adopted)}
    await connection.execute(insert(import_authorities).values(**values, changed_at_ms=at_ms))


async def adopted(connection: AsyncConnection, authority_id: str) -> Adopted:
    """Raises NotFound (code "import_authority")."""
    c = import_authorities.c
    statement = select(c.authority_id, c.certificate, c.cutoff_s).where(c.authority_id == authority_id)
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFound(
            f"authority {authority_id!r} was not imported; 'qianyan import ca' does that first", code="import_authority"
        )
    return Adopted(**row._mapping)


async def cutoff_of(connection: AsyncConnection, authority_id: str) -> int | None:
    """From which notBefore on (seconds since 1970) certificates have a status index; None where none were imported, or
    more are to come."""
    c = import_authorities.c
    return (await connection.execute(select(c.cutoff_s).where(c.authority_id == authority_id))).scalar_one_or_none()


async def close(connection: AsyncConnection, authority_id: str, cutoff_s: int, *, at_ms: int) -> None:
    """Says that everything with a notBefore before `cutoff_s` is there."""
    mine = import_authorities.c.authority_id == authority_id
    values = {"cutoff_s": cutoff_s, "changed_at_ms": at_ms}
    await connection.execute(update(import_authorities).where(mine).values(values))
    await feed.append(connection, [feed.FeedChange("authority", authority_id)], at_ms=at_ms)


async def latest_not_before_ms(connection: AsyncConnection, authority_id: str) -> int | None:
    """The last notBefore of an imported certificate."""
    c = table.c
    statement = select(c.not_before_ms).where(c.authority_id == authority_id, c.status_index < 0, c.certificate != b"")
    return (await connection.execute(statement.order_by(c.not_before_ms.desc()).limit(1))).scalar_one_or_none()


async def partitions_at(connection: AsyncConnection, authority_id: str, urls: Sequence[str]) -> list[int]:
    """The partitions whose CRL is at one of these addresses; a new one, for the first, where there is none."""
    c = crl_points.c
    same = select(c.partition).where(c.authority_id == authority_id, c.url.in_(urls)).order_by(c.partition)
    found = list((await connection.execute(same)).scalars())
    return found or [await partition_of(connection, authority_id, urls[0])]


async def partition_of(connection: AsyncConnection, authority_id: str, url: str) -> int:
    """The partition whose CRL is at `url`, a new one where there is none: closed to new certificates."""
    c = crl_points.c
    same = select(c.partition).where(c.authority_id == authority_id, c.url == url)
    found = (await connection.execute(same)).scalar_one_or_none()
    if found is not None:
        return int(found)
    await hold(connection, "partitions", authority_id)
    found = (await connection.execute(same)).scalar_one_or_none()
    if found is not None:
        return int(found)
    number = (await authorities.get(connection, authority_id)).partitions
    row = {"authority_id": authority_id, "partition": number, "url": url, "open": False}
    await connection.execute(insert(crl_points).values(row))
    a = authorities_table.c
    await connection.execute(update(authorities_table).where(a.id == authority_id).values(partitions=number + 1))
    await import_crls.opened(connection, authority_id, number)
    return number


async def first_partition(connection: AsyncConnection, authority_id: str) -> int:
    """The first partition that imported certificates name; 0 where none does."""
    c = crl_points.c
    closed = select(c.partition).where(c.authority_id == authority_id, c.open.is_(False)).order_by(c.partition)
    return (await connection.execute(closed.limit(1))).scalar_one_or_none() or 0


@dataclass(frozen=True, slots=True)
class Known:
    """What the store has of a serial, as far as an import looks at it."""

    id: int
    serial: int
    state: CertificateState
    certificate: bytes
    not_after_ms: int
    partition: int
    segment: int | None
    issued_at_ms: int
    status_month: int


async def rows(connection: AsyncConnection, authority_id: str, serials: Sequence[int]) -> dict[int, Known]:
    """What is there, by serial."""
    c, s = table.c, certificate_serials.c
    columns = (c.id, c.serial, c.state, c.certificate, c.not_after_ms, c.partition, c.segment, c.issued_at_ms)
    statement = select(*columns, c.status_month).join(certificate_serials, of_identity)
    found = {}
    for start in range(0, len(serials), _IN_CHUNK):
        these = among(connection, s.serial, [serial_to_bytes(s) for s in serials[start : start + _IN_CHUNK]])
        for row in await connection.execute(statement.where(s.authority_id == authority_id, these)):
            serial = int.from_bytes(row.serial, "big")
            found[serial] = Known(
                row.id,
                serial,
                CertificateState(row.state),
                bytes(row.certificate),
                row.not_after_ms,
                row.partition,
                row.segment,
                row.issued_at_ms,
                row.status_month,
            )
    return found


def counter(authority_id: str) -> str:
    """The counter of an authority's imported certificates: it grows whenever they change."""
    return f"import/{authority_id}"


async def add(
    connection: AsyncConnection, new: Sequence[NewCertificate], *, at_ms: int, pairs: Sequence[tuple[int, int]] = ()
) -> None:
    """Records certificates, all good; their status indexes are given here. Raises Conflict (code "serial_taken")."""
    if not new:
        return
    first = await counters.take(connection, counter(new[0].authority_id), len(new))
    numbered = [replace(one, status_index=-(first + place)) for place, one in enumerate(new)]
    await certificates.load(connection, numbered, at_ms=at_ms, pairs=pairs)


@dataclass(frozen=True, slots=True)
class Ended:
    """A certificate that was revoked elsewhere, or (certificateHold) is on hold."""

    serial: int
    reason: RevocationReason
    revoked_at_ms: int
    invalidity_at_ms: int | None = None

    @property
    def state(self) -> CertificateState:
        """What it becomes."""
        return CertificateState.HELD if self.reason is _HOLD else CertificateState.REVOKED


def stricter(known: Known, ended: Ended) -> bool:
    """Whether it changes what is known: revoked is final, and a hold does not follow a hold."""
    return known.state is CertificateState.GOOD or (known.state is CertificateState.HELD and ended.reason is not _HOLD)


async def end(
    connection: AsyncConnection, authority_id: str, changes: Sequence[tuple[Known, Ended]], *, at_ms: int
) -> None:
    """Writes revocations and holds that are `stricter`, with their feed entries. Raises Conflict (code
    "state_changed") where a certificate was changed meanwhile; nothing of it was done then."""
    if not changes:
        return
    values = [
        {
            "row_id": known.id,
            "month": known.status_month,
            "old": known.state.value,
            "new": ended.state.value,
            "revoked": ended.revoked_at_ms,
            "why": int(ended.reason),
            "invalidity": ended.invalidity_at_ms,
        }
        for known, ended in changes
    ]
    if await _end(connection, values) != len(values):
        raise Conflict("a certificate was changed by another request", code="state_changed")
    said = []
    for known, ended in changes:
        kind: Literal["held", "revoked"] = "held" if ended.reason is _HOLD else "revoked"
        said.append(feed.FeedChange(kind, authority_id, known.serial, subject_id=str(ended.revoked_at_ms)))
        statistics.note_change(
            connection,
            known.segment,
            kind=kind,
            before=known.state.value,
            after=ended.state.value,
            ends_ms=known.not_after_ms,
            at_ms=ended.revoked_at_ms,
        )
    await feed.append(connection, said, at_ms=at_ms)


_END_MANY: Final = text("""
UPDATE certificates SET state = given.new, revoked_at_ms = given.revoked, reason = given.why,
  invalidity_at_ms = given.invalidity
FROM unnest(CAST(:row_id AS bigint[]), CAST(:month AS integer[]), CAST(:old AS text[]), CAST(:new AS text[]),
  CAST(:revoked AS bigint[]), CAST(:why AS integer[]), CAST(:invalidity AS bigint[]))
  AS given (row_id, month, old, new, revoked, why, invalidity)
WHERE certificates.id = given.row_id AND certificates.status_month = given.month AND certificates.state = given.old
""")


async def _end(connection: AsyncConnection, values: list[dict[str, Any]]) -> int:
    if on_postgres(connection):
        columns = {name: [one[name] for one in values] for name in values[0]}
        return (await connection.execute(_END_MANY, columns)).rowcount
    done = 0
    for one in values:  # a driver that runs many at once does not say how many rows it changed
        c = table.c
        changed = {"state": one["new"], "revoked_at_ms": one["revoked"], "reason": one["why"]}
        statement = update(table).where(c.id == one["row_id"], c.status_month == one["month"], c.state == one["old"])
        done += (await connection.execute(statement.values(**changed, invalidity_at_ms=one["invalidity"]))).rowcount
    return done


async def fill_in(connection: AsyncConnection, known: Known, new: NewCertificate, *, at_ms: int) -> None:
    """Gives a row that came from a CRL alone its certificate. Its status stays, and the heading it is counted under.

    The partition must stay where a CRL of it was published: nobody drops off that.
    """
    values = {
        "usage": new.usage,
        "profile": new.profile,
        "subject": new.subject,
        "public_key": new.public_key,
        "not_before_ms": new.not_before_ms,
        "not_after_ms": new.not_after_ms,
        "status_month": new.status_month,
        "certificate": new.certificate,
        "issued_at_ms": new.issued_at_ms,
        "partition": new.partition,
    }
    await partitions.ensure(connection, [new.status_month])
    identity = certificate_serials.c.id == known.id
    await connection.execute(update(certificate_serials).where(identity).values(status_month=new.status_month))
    c = table.c
    same = (c.id == known.id) & (c.status_month == known.status_month)
    statement = update(table).where(same, c.certificate == b"", c.state == known.state.value)
    if (await connection.execute(statement.values(**values))).rowcount != 1:
        raise Conflict("the certificate was changed by another request", code="state_changed")
    await counters.take(connection, counter(new.authority_id))
    counted = tail.of(connection).counted
    for ends_ms, issued_at_ms, count in (
        (known.not_after_ms, known.issued_at_ms, -1),
        (new.not_after_ms, new.issued_at_ms or at_ms, 1),
    ):
        counted.add(issued_at_ms, "issued", known.segment or 0, count)
        counted.add(ends_ms, f"ends.{known.state.value}", known.segment or 0, count)
    await feed.append(connection, [feed.FeedChange("issued", new.authority_id, known.serial)], at_ms=at_ms)
