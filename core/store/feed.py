"""The change feed: what happened to which certificate, key or authority, gap-free and in commit order.

Append-only. Whoever caches anything about the store remembers the sequence number up to which it has followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import serial_to_bytes
from core.store import counters
from core.store.schema import feed

FeedKind = Literal["issued", "revoked", "held", "released", "key", "authority", "crl", "token"]


@dataclass(frozen=True, slots=True)
class FeedChange:
    """Something to append. `subject_id`: the key id for kind "key", the partition as text for kind "crl"."""

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


async def append(connection: AsyncConnection, changes: Sequence[FeedChange], *, at_ms: int) -> int:
    """Appends `changes` in order and returns the sequence number of the first; the last is first + len - 1."""
    first = await counters.take(connection, "feed", len(changes))
    rows = [
        {
            "seq": first + offset,
            "kind": change.kind,
            "authority_id": change.authority_id,
            "serial": None if change.serial is None else serial_to_bytes(change.serial),
            "subject_id": change.subject_id,
            "at_ms": at_ms,
        }
        for offset, change in enumerate(changes)
    ]
    await connection.execute(insert(feed), rows)
    return first


async def head(connection: AsyncConnection) -> int:
    """The last sequence number; 0 for an empty feed."""
    return await counters.current(connection, "feed")


async def read_after(connection: AsyncConnection, seq: int, *, limit: int = 10_000) -> list[FeedEntry]:
    """Entries after `seq`, in order, at most `limit`."""
    statement = select(feed).where(feed.c.seq > seq).order_by(feed.c.seq).limit(limit)
    return [
        FeedEntry(
            row.seq,
            row.kind,
            row.authority_id,
            None if row.serial is None else int.from_bytes(row.serial, "big"),
            row.subject_id,
            row.at_ms,
        )
        for row in await connection.execute(statement)
    ]
