"""What has to change in a store that was restored from a backup, so that nothing that went out since is met again.

Between the backup and its restoration the old store went on: it gave numbers to CRLs and status sets and indexes to
certificates, and answers of it may still lie in a shared cache. Here all of these go far enough ahead that nothing is
given twice; keys that were made in advance are dropped, because others may have them by now, and permissions that were
open are ended; CRLs and status sets are made to be built anew before any is served; and the secret by which cached
answers are known is thrown away. Knows counters and rows; not what was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import load_certificate
from core.audit import AuditEvent
from core.clock import to_datetime
from core.store import audit, authorities, counters, crls, feed, status_sets
from core.store.schema import crls as crl_table
from core.store.schema import secrets, spare_keys, status_indexes, unlocks
from core.store.schema import status_sets as set_table
from core.store.upsert import upsert

_SLACK: Final = 1_000


def crl_floor(authority_id: str, partition: int) -> str:
    """The counter that a scope's CRL numbers stay above; no row: there is no such floor."""
    return f"crl/{authority_id}/{partition}"


def set_floor(authority_id: str) -> str:
    """The counter that an authority's status set numbers stay above; no row: there is no such floor."""
    return f"set/{authority_id}"


@dataclass(frozen=True, slots=True)
class Jump:
    """By how much the numbers of CRLs and status sets, and certificates' indexes, went ahead; since when was lost."""

    numbers: int
    indexes: int
    lost_from_ms: int


async def go_ahead(connection: AsyncConnection, *, now_ms: int, most_issued: int, actor: str, backup: str) -> Jump:
    """Moves every number past what the lost time can have used; in the caller's transaction.

    most_issued: certificates that can have been issued in that time, at most. CRLs and status sets are counted as two a
    second, which no schedule reaches. `backup`: a word for the audit record on what was restored.
    """
    lost_from_ms = await counters.current(connection, counters.LAST_TIME)
    numbers = 2 * max(0, now_ms - lost_from_ms) // 1000 + _SLACK
    for authority in await authorities.list_all(connection):
        for partition in range(authority.partitions):
            newest = await crls.latest(connection, authority.id, partition)
            await raise_floor(
                connection, crl_floor(authority.id, partition), (newest.number if newest else 0) + numbers
            )
        published = await status_sets.latest(connection, authority.id)
        await raise_floor(connection, set_floor(authority.id), (published.delta.number if published else 0) + numbers)
        # Whoever reads on sees that everything about the authority has to be read anew.
        await feed.append(connection, [feed.FeedChange("authority", authority.id)], at_ms=now_ms)
    # What the backup has of these is older than what relying parties hold, and must not be served again.
    await connection.execute(delete(crl_table))
    await connection.execute(delete(set_table))
    await _skip_indexes(connection, now_ms, most_issued)
    await connection.execute(delete(secrets))
    spare = (await connection.execute(delete(spare_keys))).rowcount
    at_ms = await counters.advance_time(connection, now_ms)
    detail: dict[str, str | int] = {
        "backup": backup,
        "lost_from_ms": lost_from_ms,
        "numbers": numbers,
        "indexes": most_issued,
        "spare_keys": spare,
    }
    await connection.execute(update(unlocks).where(unlocks.c.used_at_ms.is_(None)).values(used_at_ms=at_ms))
    await audit.append(connection, AuditEvent(actor, "store.restored", "store", detail=detail), at_ms=at_ms)
    return Jump(numbers, most_issued, lost_from_ms)


async def _skip_indexes(connection: AsyncConnection, now_ms: int, count: int) -> None:
    """Skips `count` indexes of every month, those included in which nothing ended yet when the backup was made.

    Status sets say nothing of what is below from now on: some of it was given to certificates that are not known here,
    and what a set does not mark it calls good. Who has such a certificate asks OCSP. One index more than can have been
    given is skipped and stays in the set, so that each month is there from the first set on: one that a delta adds
    begins at 0.
    """
    c = status_indexes.c
    first = c.next_index + count
    await connection.execute(update(status_indexes).values(next_index=first + 1, first_index=first))
    for authority in await authorities.list_all(connection):
        if authority.certificate is None or authority.key_id is None:
            continue
        end = load_certificate(authority.certificate).not_valid_after_utc  # nothing that it issues ends later
        now = to_datetime(now_ms)
        months = range(now.year * 12 + now.month - 1, end.year * 12 + end.month)
        rows = [
            {"authority_id": authority.id, "month": month, "next_index": count + 1, "first_index": count}
            for month in months
        ]
        await connection.execute(upsert(connection, status_indexes).values(rows).on_conflict_do_nothing())


async def raise_floor(connection: AsyncConnection, name: str, value: int) -> None:
    """Lifts a floor to `value`, never lowers it."""
    there = await counters.current(connection, name)
    if value > there:
        await counters.take(connection, name, value - there)
