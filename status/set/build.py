"""One build, step by step, inside one read transaction: what is published, what the store says now, the files of it.

Reads the store; knows neither keys nor schedule. `status.set.service` strings the steps together.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import key_identifier, load_certificate, spki_of_certificate
from core.audit import AuditEvent
from core.clock import Clock, from_datetime, to_datetime
from core.errors import Refused, Unavailable
from core.ports import SignatureVerifier
from core.store import audit, authorities, counters, leases, restored, status_sets
from core.store.authorities import Authority
from core.store.database import Database
from core.store.leases import Lease
from core.store.status_sets import Published, StatusSetRecord
from qianyan_status import StatusSet, StatusSetError, load
from status.set.format import Base, Heading, MonthState, SetState, delta_tbs, join, set_tbs, sm3
from status.set.hashing import HashSpace
from status.set.settings import StatusSetSettings

#: A month's certificates are told of for this long after its end: clocks differ.
_AFTER_END_MS: Final = 86_400_000
#: Stands for the signature while the file is judged; shows at once where it should ever get out.
_NO_SIGNATURE: Final = b"unsigned"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one read transaction saw. `heading.number` is for the first file that is made of it."""

    authority_id: str
    certificate: bytes
    key_id: str
    #: The certificate of the key that signs; None where it is the authority's own.
    delegate: bytes | None
    partitions: int
    heading: Heading
    live_from: int
    published: Published | None

    @property
    def number_published(self) -> int | None:
        """Of the newest file; None where there is none."""
        return None if self.published is None else self.published.delta.number


def builds_sets(authority: Authority, now_ms: int) -> bool:
    """Whether this authority's sets are made here: its certificate is in force; its key is here, or its delegate's."""
    if authority.certificate is None or _signing_key(authority) is None:
        return False
    return now_ms < from_datetime(load_certificate(authority.certificate).not_valid_after_utc)


def _signing_key(authority: Authority) -> str | None:
    return authority.key_id if authority.set_certificate is None else authority.set_key_id


def month_of(at_ms: int) -> int:
    """year * 12 + month - 1 in UTC."""
    at = to_datetime(at_ms)
    return at.year * 12 + at.month - 1


def live_from(this_update_ms: int) -> int:
    """The first month that a whole set of that time tells of."""
    return month_of(this_update_ms - _AFTER_END_MS)


def _authority_key_id(authority: Authority, certificate: x509.Certificate) -> bytes:
    """What certificates name as their AuthorityKeyIdentifier: the SKI, ours where an external issuer left it out."""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            return extension.value.digest
    return key_identifier(authority.public_key)


def _times(now_ms: int, published: Published | None, not_after_ms: int, life_s: int) -> tuple[int, int]:
    """(thisUpdate, nextUpdate) in whole seconds: never back, never past the signer's end."""
    this_ms = now_ms // 1000 * 1000
    if published is not None and this_ms < published.delta.this_update_ms:
        raise Unavailable("the clock is behind the thisUpdate of the last set", code="clock_behind", retry_after_s=1)
    next_ms = min(this_ms + life_s * 1000, not_after_ms // 1000 * 1000)
    if next_ms <= this_ms:
        raise Refused("the authority's certificate has expired; it signs no set any more", code="issuer_expired")
    return this_ms, next_ms


def _delegate_until(authority_id: str, encoded: bytes, this_ms: int) -> int:
    """Until when a delegate may sign what is as of `this_ms`, in whole seconds."""
    delegate = load_certificate(encoded)
    if this_ms < from_datetime(delegate.not_valid_before_utc):
        raise Unavailable("the clock is behind the signer's notBefore", code="clock_behind", retry_after_s=1)
    until_ms = from_datetime(delegate.not_valid_after_utc) // 1000 * 1000
    if until_ms <= this_ms:
        raise Refused(
            f"the set signer of {authority_id!r} has expired: qianyan ca set-signer --authority {authority_id}",
            code="set_signer_expired",
        )
    return until_ms


async def take_snapshot(
    connection: AsyncConnection, authority_id: str, now_ms: int, position: int, settings: StatusSetSettings
) -> Snapshot:
    """What the next file of the authority begins with. `now_ms` was read before the snapshot; `position` is its feed's.

    Raises NotFound; Refused (code "set_elsewhere", "issuer_expired", "set_signer_expired"); Unavailable (code
    "clock_behind").
    """
    counters.check_clock(now_ms, await counters.current(connection, counters.LAST_TIME))
    authority = await authorities.get(connection, authority_id)
    signing_key = _signing_key(authority)
    if authority.certificate is None or signing_key is None:
        raise Refused(f"no status set of {authority_id!r} is built here", code="set_elsewhere")
    certificate = load_certificate(authority.certificate)
    published = await status_sets.latest(connection, authority_id)
    not_after_ms = from_datetime(certificate.not_valid_after_utc)
    this_ms, next_ms = _times(now_ms, published, not_after_ms, settings.life_s)
    if authority.set_certificate is not None:
        next_ms = min(next_ms, _delegate_until(authority_id, authority.set_certificate, this_ms))
    floor = await counters.current(connection, restored.set_floor(authority_id))
    number = max(published.delta.number if published else 0, floor) + 1
    key_id = _authority_key_id(authority, certificate)
    return Snapshot(
        authority_id=authority_id,
        certificate=authority.certificate,
        key_id=signing_key,
        delegate=authority.set_certificate,
        partitions=authority.partitions,
        heading=Heading(key_id, number, position, this_ms, next_ms),
        live_from=live_from(this_ms),
        published=published,
    )


def read_base(body: bytes, issuer: bytes) -> Base:
    """A set of ours, from its bytes: what a delta is made against."""
    contents = read(body, None, issuer).contents
    months, offset = [], 0
    for month, first, following in contents.spaces:
        end = offset + following - first
        lists = [
            tuple(key - offset + first for key in keys[bisect_left(keys, offset) : bisect_left(keys, end)])
            for keys in (contents.revoked, contents.held)
        ]
        months.append(MonthState(month, first, following, *lists))
        offset = end
    imports = contents.imports
    space = (
        None
        if imports is None
        else HashSpace(
            imports.cutoff, imports.count, imports.bits, imports.salt, list(imports.revoked), list(imports.held)
        )
    )
    header = contents.header
    return Base(header.number, header.position, sm3(body), SetState(tuple(months), space))


def read(body: bytes, delta: bytes | None, issuer: bytes) -> StatusSet:
    """Our own files by the shipped reader, as of their own time. Whose signatures they bear is not asked here.

    Raises Refused (code "set_unreadable") where the reader refuses them.
    """
    try:
        return load(body, delta, issuer=issuer, verify=lambda *_: None, clock=lambda: _this_update(delta or body))
    except StatusSetError as error:
        raise Refused(f"the reader refuses the status set: {error.detail}", code="set_unreadable") from error


def check_signed(body: bytes, delta: bytes | None, issuer: bytes, verify: SignatureVerifier) -> None:
    """The finished file by the shipped reader, signatures and the signer's standing included.

    Raises Refused (code "set_unreadable").
    """
    try:
        load(body, delta, issuer=issuer, verify=verify, clock=lambda: _this_update(delta or body))
    except StatusSetError as error:
        raise Refused(f"the reader refuses the signed status set: {error.detail}", code="set_unreadable") from error


def _this_update(body: bytes) -> int:
    from qianyan_status._file import read_header, split

    return read_header(split(body).tbs).this_update


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A file that waits to be judged and signed."""

    tbs: bytes
    number: int
    state: SetState

    @property
    def body(self) -> bytes:
        """The file with something in the signature's place."""
        return join(self.tbs, _NO_SIGNATURE)


async def unsigned_set(snapshot: Snapshot, state: SetState, index_oid: str) -> Unsigned:
    """A whole new set, encoded in a thread."""
    spki = spki_of_certificate(snapshot.certificate)
    tbs = await asyncio.to_thread(set_tbs, snapshot.heading, spki, index_oid, state)
    return Unsigned(tbs, snapshot.heading.number, state)


async def unsigned_delta(snapshot: Snapshot, base: Base, state: SetState) -> Unsigned:
    """A delta of `base`, encoded in a thread."""
    heading = snapshot.heading
    number = max(heading.number, base.number + 1)
    heading = Heading(
        heading.authority_key_id, number, heading.position, heading.this_update_ms, heading.next_update_ms
    )
    tbs = await asyncio.to_thread(delta_tbs, heading, base, state)
    return Unsigned(tbs, number, state)


def as_record(snapshot: Snapshot, unsigned: Unsigned, base_number: int, body: bytes) -> StatusSetRecord:
    """The row to publish."""
    state = unsigned.state
    return StatusSetRecord(
        authority_id=snapshot.authority_id,
        number=unsigned.number,
        base_number=base_number,
        this_update_ms=snapshot.heading.this_update_ms,
        next_update_ms=snapshot.heading.next_update_ms,
        feed_seq=snapshot.heading.position,
        certificates=state.size,
        revoked=len(state.revoked),
        held=len(state.held),
        body=body,
    )


async def publish(
    database: Database, records: list[StatusSetRecord], lease: Lease, clock: Clock, *, actor: str, keep: int
) -> None:
    """Publishes judged files: rows, feed, audit and the lease's return in one transaction.

    Raises Conflict, where another builder has the lease by now among others; Unavailable.
    """
    async with database.write() as connection:
        await leases.require(connection, lease)
        at_ms = await counters.advance_time(connection, clock())
        await status_sets.publish(connection, records, at_ms=at_ms)
        await status_sets.prune(connection, records[0].authority_id, keep=keep)
        for record in records:
            detail: dict[str, str | int] = {
                "number": record.number,
                "base_number": record.base_number,
                "revoked": record.revoked,
                "held": record.held,
                "feed_seq": record.feed_seq,
                "sm3": sm3(record.body).hex(),
            }
            event = AuditEvent(actor, "status_set.publish", record.authority_id, detail=detail)
            await audit.append(connection, event, at_ms=at_ms)
