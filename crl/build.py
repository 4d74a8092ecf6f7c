"""One build, step by step: what the store says, what a CRL of it contains, what it is checked against, its publication.

Reads and writes the store; knows neither keys nor schedule. `crl.service` strings the steps together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509

from core.asn1.distribution import issuing_distribution_point
from core.asn1.x509 import key_identifier, load_certificate
from core.audit import AuditEvent
from core.clock import Clock, from_datetime
from core.errors import Refused, Unavailable
from core.store import audit, authorities, counters, crl_points, crls, feed, imports, leases, listed, outbox, restored
from core.store.authorities import Authority
from core.store.crls import CrlRecord, CrlSummary
from core.store.database import Database
from core.store.leases import Lease
from crl import facts
from crl._entries import Entries, Row
from crl._reader import Finds
from crl.builder import CrlContents, removal
from crl.check import History, examine
from crl.facts import Known
from crl.schedule import Scope, builds_crls
from crl.settings import CrlSettings
from crl.view import CrlView, distribution_points

#: Past so many feed positions behind, everything is read anew: it takes less than going through the changes.
_RELOAD_AFTER: Final = 200_000
#: How many entries may come or go without a change in the feed before the rest counts as wrong unseen.
_UNKNOWN_MAX: Final = 1_000_000


@dataclass(slots=True)
class Stock:
    """The encoded entries of one scope, as of feed position `feed_seq`; one build at a time.

    loaded_from_ms: certificates that ended before are not among them. imported: how far the authority's imports had
    come, whose changes to what is listed already the feed does not tell as such. entries None: to be read from the
    store. url: where the scope's CRL is; None while that was not asked.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    url: str | None = None
    entries: Entries | None = None
    feed_seq: int = 0
    loaded_from_ms: int = 0
    imported: int = 0

    def overtaken(self, feed_seq: int, kept_from_ms: int, imported: int) -> bool:
        """Whether everything is to be read anew: the changes since would not do, or take longer."""
        too_far = feed_seq - self.feed_seq > _RELOAD_AFTER
        return self.loaded_from_ms > kept_from_ms or self.imported != imported or too_far


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one read transaction saw. `certificate` and `key_id` are the authority's, known to be there.

    The CRL lists `entries` with `changes` made to them, less those that end before `kept_from_ms`. base, delta_changes:
    the full CRL that a delta is for and what changed since; base None: there is no delta.
    """

    certificate: bytes
    key_id: str
    contents: CrlContents
    feed_seq: int
    previous: CrlRecord | None
    entries: Entries
    changes: list[Row]
    kept_from_ms: int
    base: CrlSummary | None
    delta_changes: list[Row]

    @property
    def delta_contents(self) -> CrlContents:
        """The delta that goes with the full CRL: the same number and times (RFC 5280 §5.2.4)."""
        assert self.base is not None
        return replace(self.contents, base_number=self.base.number, has_delta=False)


def _key_identifier(authority: Authority, certificate: x509.Certificate) -> bytes:
    """The SKI of the authority's certificate; ours where an external issuer left it out."""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            return extension.value.digest
    return key_identifier(authority.public_key)


def _times(now_ms: int, previous: CrlRecord | None, not_after_ms: int, settings: CrlSettings) -> tuple[int, int]:
    """(thisUpdate, nextUpdate) in whole seconds (rules 5 and 8)."""
    this_ms = now_ms // 1000 * 1000
    if previous is not None and this_ms < previous.this_update_ms:
        raise Unavailable("the clock is behind the thisUpdate of the last CRL", code="clock_behind", retry_after_s=1)
    next_ms = min(this_ms + (settings.life_s - 1) * 1000, not_after_ms)
    if next_ms <= this_ms:
        raise Refused("the authority's certificate has expired; it signs no CRL any more", code="issuer_expired")
    return this_ms, next_ms


async def take_snapshot(
    database: Database, scope: Scope, url: str, clock: Clock, settings: CrlSettings, stock: Stock
) -> Snapshot:
    """Reads everything that the next CRL of `scope`, which is at `url`, says; of what `stock` has, only the changes.

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
        this_ms, next_ms = _times(now_ms, previous, from_datetime(certificate.not_valid_after_utc), settings)
        kept_from_ms = min(previous.this_update_ms, this_ms - settings.period_s * 1000) if previous else 0
        feed_seq = await feed.head(connection)
        floor = await counters.current(connection, restored.crl_floor(authority_id, partition))
        changes: list[Row] = []
        entries = stock.entries
        imported = await counters.current(connection, imports.counter(authority_id))
        if entries is None or stock.overtaken(feed_seq, kept_from_ms, imported):
            stock.entries, entries = None, Entries()
            await listed.load(connection, authority_id, partition, entries, expired_after_ms=kept_from_ms)
            stock.entries, stock.feed_seq = entries, feed_seq
            stock.loaded_from_ms, stock.imported = kept_from_ms, imported
        else:
            rows = await listed.changes(connection, authority_id, partition, after_seq=stock.feed_seq)
            changes = [row for row, _ in rows]
        base, delta_changes = None, []
        if settings.delta:
            from_ms = this_ms - settings.life_s * 1000
            base = await crls.base_for(connection, authority_id, partition, from_ms=from_ms)
        if base is not None:
            rows = await listed.changes(connection, authority_id, partition, after_seq=base.feed_seq)
            delta_changes = [row if row[1] is not None else removal(row, at_ms) for row, at_ms in rows]
    contents = CrlContents(
        issuer=authority.subject,
        issuer_key_identifier=_key_identifier(authority, certificate),
        number=max(previous.number if previous else 0, floor) + 1,
        url=url,
        this_update_ms=this_ms,
        next_update_ms=next_ms,
        has_delta=base is not None,
    )
    return Snapshot(
        certificate=authority.certificate,
        key_id=authority.key_id,
        contents=contents,
        feed_seq=feed_seq,
        previous=previous,
        entries=entries,
        changes=changes,
        kept_from_ms=kept_from_ms,
        base=base,
        delta_changes=delta_changes,
    )


async def read_history(
    database: Database, scope: Scope, snapshot: Snapshot, view: CrlView, previous: CrlView | None
) -> tuple[History, Finds | None, Known]:
    """What the CRL is checked against, read anew: the feed since the CRL before it, or since the delta's base.

    And what its entries show then (`crl.check.examine`).
    """
    previous_seq = snapshot.previous.feed_seq if snapshot.previous else 0
    after_seq = min(previous_seq, snapshot.base.feed_seq) if snapshot.base else previous_seq
    async with database.read() as connection:
        known = await facts.read(
            connection, scope, after_seq=after_seq, feed_seq=snapshot.feed_seq, fresh_after_seq=previous_seq
        )
        certificate = await crl_points.any_certificate(connection, *scope)
        history = History(
            idp=issuing_distribution_point(snapshot.contents.url).value,
            points=distribution_points(certificate) if certificate else None,
            number=snapshot.contents.number,
            feed_seq=snapshot.feed_seq,
            previous=previous,
            previous_seq=previous_seq,
            facts=known.facts,
        )
        finds = await asyncio.to_thread(examine, view, history)
        unknown = 0 if finds is None else finds["unknown"][0]
        if unknown:
            finds = await asyncio.to_thread(examine, view, history, min(unknown, _UNKNOWN_MAX))
            assert finds is not None
            await facts.add_states(connection, scope, known.facts, finds["unknown"][1])
            finds = await asyncio.to_thread(examine, view, history)
    return history, finds, known


def as_record(scope: Scope, snapshot: Snapshot, contents: CrlContents, crl: bytes, entries: int) -> CrlRecord:
    """The row to publish."""
    return CrlRecord(
        authority_id=scope[0],
        partition=scope[1],
        number=contents.number,
        base_number=contents.base_number,
        this_update_ms=contents.this_update_ms,
        next_update_ms=contents.next_update_ms,
        feed_seq=snapshot.feed_seq,
        entries=entries,
        crl=crl,
    )


async def publish(
    database: Database,
    record: CrlRecord,
    delta: CrlRecord | None,
    digests: Sequence[bytes],
    lease: Lease,
    clock: Clock,
    settings: CrlSettings,
    *,
    actor: str,
) -> None:
    """Publishes checked CRLs: rows, feed, outbox and audit in one transaction, and the lease given back in it.

    digests: the SM3 of each, for the record.

    Raises Conflict (code "lease_lost", "crl_number", "crl_feed"); Unavailable.
    """
    subject = f"{record.authority_id}/{record.partition}"
    detail: dict[str, str | int] = {
        "number": record.number,
        "entries": record.entries,
        "feed_seq": record.feed_seq,
        "sm3": digests[0].hex(),
    }
    if delta is not None and delta.base_number is not None:
        detail |= {
            "delta_base": delta.base_number,
            "delta_entries": delta.entries,
            "delta_sm3": digests[1].hex(),
        }
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        await leases.require(connection, lease)
        await crls.publish(connection, record, delta=delta, at_ms=at_ms)
        await crls.prune(
            connection, record.authority_id, record.partition, keep=settings.keep, keep_bytes=settings.keep_bytes
        )
        await outbox.put(connection, "crl", f"{subject}/{record.number}", at_ms=at_ms)
        await audit.append(connection, AuditEvent(actor, "crl.publish", subject, detail=detail), at_ms=at_ms)
