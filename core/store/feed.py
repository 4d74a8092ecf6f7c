"""The change feed: what happened to which certificate, key or authority, gap-free and in commit order.

Append-only. An entry gets its number at the end of its transaction (core.store.tail). Whoever caches anything about the
store remembers the sequence number up to which it has followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store import counters, tail
from core.store.schema import feed

FeedKind = Literal[
    "issued", "revoked", "held", "released", "key", "authority", "crl", "token", "caller", "set", "hsm", "retired"
]


@dataclass(frozen=True, slots=True)
class FeedChange:
    """Something to append. `subject_id`: the key id for kind "key", the partition as text for kind "crl", the year for
    kind "retired"."""

    kind: FeedKind
    authority_id: str | None = None
    serial: int | None = None
    subject_id: str | None = None


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """A row of the feed."""

    seq: int
    kind: str
    authority_id: str | None
    serial: int | None
    subject_id: str | None
    at_ms: int


def entry(
    seq: int, kind: str, authority_id: str | None, serial: bytes | None, subject_id: str | None, at_ms: int
) -> FeedEntry:
    """A row's columns as an entry."""
    number = None if serial is None else int.from_bytes(serial, "big")
    return FeedEntry(seq, kind, authority_id, number, subject_id, at_ms)


async def append(connection: AsyncConnection, changes: Sequence[FeedChange], *, at_ms: int) -> None:
    """Appends `changes` in order, numbered when the transaction ends."""
    tail.of(connection).feed += [
        tail.PendingFeed(change.kind, change.authority_id, change.serial, change.subject_id, at_ms)
        for change in changes
    ]


async def head(connection: AsyncConnection) -> int:
    """The last sequence number; 0 for an empty feed."""
    return await counters.current(connection, "feed")


async def read_after(connection: AsyncConnection, seq: int, *, limit: int = 10_000) -> list[FeedEntry]:
    """Entries after `seq`, in order, at most `limit`."""
    await tail.flush(connection)
    statement = select(feed).where(feed.c.seq > seq).order_by(feed.c.seq).limit(limit)
    return [
        entry(row.seq, row.kind, row.authority_id, row.serial, row.subject_id, row.at_ms)
        for row in await connection.execute(statement)
    ]
