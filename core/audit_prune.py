"""Moves the beginning of the audit record out of the store, once an archive has it: checked, noted, then removed.

Owns the order. The archive is recomputed from its files and held against its signed checkpoint, that against the
store's own tree; the removal goes on record in the transaction that decides it; rows go afterwards, some at a time, and
where that is interrupted the next run goes on. Knows the archive and the store; not the command line.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from core import audit_archive
from core.audit import AuditEvent
from core.audit_archive import MANIFEST
from core.checkpoint import Checkpoint
from core.clock import Clock
from core.errors import Refused
from core.ports import SignatureVerifier
from core.store import audit as audit_store
from core.store import audit_tree, counters, retention
from core.store.audit_tree import TILE_WIDTH
from core.store.database import Database
from core.store.retention import Pruning
from core.store.schema import audit


@dataclass(frozen=True, slots=True)
class Pruned:
    """rows: how far the record is out of the store; removed: how many rows went now."""

    rows: int
    removed: int


async def prune(
    database: Database,
    directory: Path,
    verify: SignatureVerifier,
    public_key: bytes,
    clock: Clock,
    *,
    before_ms: int,
    actor: str,
) -> Pruned:
    """Removes rows of before `before_ms` that the archive in `directory` has; whole tiles of 256 only.

    Raises Refused (code "audit_archive", "signature"): the archive is not whole, or of another record; nothing was
    removed then.
    """
    checkpoint = await asyncio.to_thread(audit_archive.verify_archive, directory, verify, public_key)
    manifest = _sm3(await asyncio.to_thread((directory / MANIFEST).read_bytes))
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        await counters.take(connection, "audit", 0)  # one at a time
        before = await retention.newest(connection)
        size = await _cut(connection, checkpoint, before, before_ms)
        if size > before.size:
            head, origin = await audit_tree.head(connection, size), await audit_tree.origin(connection)
            await retention.note(connection, Pruning(size, head, origin, manifest, at_ms))
            detail: dict[str, str | int] = {"rows": size, "manifest": manifest.hex()}
            await audit_store.append(
                connection, AuditEvent(actor, retention.ACTION, "audit", detail=detail), at_ms=at_ms
            )
    return Pruned(max(size, before.size), await _remove(database, max(size, before.size)))


async def _cut(connection: AsyncConnection, checkpoint: Checkpoint, before: Pruning, before_ms: int) -> int:
    """The last row to go."""
    same = checkpoint.origin == await audit_tree.origin(connection)
    if not same or checkpoint.size > await counters.current(connection, "audit"):
        raise Refused("the archive is of another record", code="audit_archive")
    if checkpoint.size < before.size:
        raise Refused(f"the archive ends before row {before.size}, where the store begins", code="audit_archive")
    if checkpoint.root != await audit_tree.root(connection, checkpoint.size):
        raise Refused("the archive's rows are not the store's", code="audit_archive")
    late: Any = select(audit.c.seq).where(audit.c.seq > before.size, audit.c.at_ms >= before_ms).order_by(audit.c.seq)
    first_late = (await connection.execute(late.limit(1))).scalar_one_or_none()
    most = min(checkpoint.size, await audit_tree.tiled(connection))
    return (most if first_late is None else min(most, first_late - 1)) // TILE_WIDTH * TILE_WIDTH


async def _remove(database: Database, size: int) -> int:
    removed = 0
    while True:
        async with database.write() as connection:
            gone = await retention.remove(connection, size)
        if not gone:
            return removed
        removed += gone
        await asyncio.sleep(0)


def _sm3(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()
