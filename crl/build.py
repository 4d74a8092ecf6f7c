"""One build, step by step: what the store says, what a CRL of it contains, what it is checked against, its publication.

Reads and writes the store; knows neither keys nor schedule. `crl.service` strings the steps together.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cryptography import x509

from core.asn1.distribution import crl_url, issuing_distribution_point
from core.asn1.x509 import key_identifier, load_certificate
from core.audit import AuditEvent
from core.clock import Clock, from_datetime
from core.errors import Refused, Unavailable
from core.store import audit, authorities, certificates, counters, crls, feed, outbox
from core.store.authorities import Authority
from core.store.crls import CrlRecord
from core.store.database import Database
from crl.builder import CrlContents
from crl.check import History, came_and_went
from crl.digest import sm3
from crl.schedule import Scope, builds_crls
from crl.settings import CrlSettings
from crl.view import CrlView


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one read transaction saw. `certificate` and `key_id` are the authority's, known to be there."""

    certificate: bytes
    key_id: str
    contents: CrlContents
    feed_seq: int
    previous: CrlRecord | None


def _key_identifier(authority: Authority, certificate: x509.Certificate) -> bytes:
    """The SKI of the authority's certificate; ours where an external issuer left it out."""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            return extension.value.digest
    return key_identifier(authority.public_key)


def _times(now_ms: int, previous: CrlRecord | None, not_after_ms: int, settings: CrlSettings) -> tuple[int, int]:
    """(thisUpdate, nextUpdate) in whole seconds (DESIGN rules 5 and 8)."""
    this_ms = now_ms // 1000 * 1000
    if previous is not None and this_ms < previous.this_update_ms:
        raise Unavailable("the clock is behind the thisUpdate of the last CRL", code="clock_behind", retry_after_s=1)
    next_ms = min(this_ms + (settings.life_s - 1) * 1000, not_after_ms)
    if next_ms <= this_ms:
        raise Refused("the authority's certificate has expired; it signs no CRL any more", code="issuer_expired")
    return this_ms, next_ms


async def take_snapshot(
    database: Database, scope: Scope, public_url: str, clock: Clock, settings: CrlSettings
) -> Snapshot:
    """Reads everything that the next CRL of `scope` says.

    The clock is read first, so nothing up to thisUpdate is left out. An entry stays until a CRL, and a whole period,
    have passed beyond its certificate's end. Raises NotFound; Refused (code "crl_elsewhere", "issuer_expired");
    Unavailable (code "clock_behind").
    """
    authority_id, partition = scope
    now_ms = clock()
    async with database.read() as connection:
        counters.check_clock(now_ms, await counters.current(connection, counters.LAST_TIME))
        authority = await authorities.get(connection, authority_id)
        if not builds_crls(authority) or not 0 <= partition < authority.partitions:
            raise Refused(f"no CRL {authority_id}/{partition} is built here", code="crl_elsewhere")
        assert authority.certificate is not None
        assert authority.key_id is not None
        certificate = load_certificate(authority.certificate)
        previous = await crls.latest(connection, authority_id, partition)
        not_after_ms = from_datetime(certificate.not_valid_after_utc)
        this_ms, next_ms = _times(now_ms, previous, not_after_ms, settings)
        kept_from_ms = min(previous.this_update_ms, this_ms - settings.period_s * 1000) if previous else 0
        entries = await certificates.revoked_entries(connection, authority_id, partition, expired_after_ms=kept_from_ms)
        feed_seq = await feed.head(connection)
    contents = CrlContents(
        issuer=authority.subject,
        issuer_key_identifier=_key_identifier(authority, certificate),
        number=previous.number + 1 if previous else 1,
        url=crl_url(public_url, authority_id, partition),
        this_update_ms=this_ms,
        next_update_ms=next_ms,
        entries=entries,
    )
    return Snapshot(authority.certificate, authority.key_id, contents, feed_seq, previous)


async def read_history(
    database: Database, scope: Scope, snapshot: Snapshot, view: CrlView, previous: CrlView | None
) -> History:
    """What the CRL is checked against, read anew: the feed since the CRL before it, not the query it was built from."""
    previous_seq = snapshot.previous.feed_seq if snapshot.previous else 0
    touched = await asyncio.to_thread(came_and_went, view, previous)
    async with database.read() as connection:
        changes = await crls.status_changes(connection, previous_seq, scope)
        touched.update(change.serial for change in changes)
        statuses = await certificates.statuses(connection, scope[0], list(touched))
    return History(
        idp=issuing_distribution_point(snapshot.contents.url).value,
        number=snapshot.contents.number,
        feed_seq=snapshot.feed_seq,
        previous=previous,
        previous_seq=previous_seq,
        changes=changes,
        statuses={status.serial: status for status in statuses},
    )


def as_record(scope: Scope, snapshot: Snapshot, crl: bytes) -> CrlRecord:
    """The row to publish."""
    contents = snapshot.contents
    return CrlRecord(
        authority_id=scope[0],
        partition=scope[1],
        number=contents.number,
        base_number=None,
        this_update_ms=contents.this_update_ms,
        next_update_ms=contents.next_update_ms,
        feed_seq=snapshot.feed_seq,
        entries=len(contents.entries),
        crl=crl,
    )


async def publish(database: Database, record: CrlRecord, clock: Clock, *, actor: str, keep: int) -> None:
    """Publishes a checked CRL: row, feed, outbox and audit in one transaction. Raises Conflict; Unavailable."""
    subject = f"{record.authority_id}/{record.partition}"
    detail: dict[str, str | int] = {
        "number": record.number,
        "entries": record.entries,
        "feed_seq": record.feed_seq,
        "sm3": (await sm3(record.crl)).hex(),
    }
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        await crls.publish(connection, record, at_ms=at_ms)
        await crls.prune(connection, record.authority_id, record.partition, keep=keep)
        await outbox.put(connection, "crl", f"{subject}/{record.number}", at_ms=at_ms)
        await audit.append(connection, AuditEvent(actor, "crl.publish", subject, detail=detail), at_ms=at_ms)
