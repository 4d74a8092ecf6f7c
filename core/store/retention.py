"""Audit rows that were moved to an archive and are no longer in the store: up to where, and what stays of them.

What stays is what proofs need: the Merkle tree's tiles, which have every row's leaf hash; the chain's hash at the cut;
and the hash of the first row. Only ever a beginning of the record goes, cut at the end of a tile; and the removal is
itself on the record, so that a cut that nobody made shows. Knows rows and hashes; not files or keys.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core import merkle
from core.audit import GENESIS
from core.errors import Refused
from core.store.schema import audit, audit_tiles
from core.store.schema_retention import audit_prunings

#: Rows removed in one transaction: some tens of milliseconds.
AT_ONCE: Final = 20_000
#: What the record says of a removal.
ACTION: Final = "audit.prune"
_TILE_WIDTH: Final = 256
_TILES_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Pruning:
    """Rows 1 to `size` are not here. See core.store.schema_retention."""

    size: int
    head: bytes
    origin: bytes
    manifest: bytes
    at_ms: int


#: Nothing was removed.
NOTHING: Final = Pruning(0, GENESIS, GENESIS, b"", 0)


async def newest(connection: AsyncConnection) -> Pruning:
    """How far the record was removed; `NOTHING` where it was not."""
    columns = [audit_prunings.c[one.name] for one in fields(Pruning)]
    row = (await connection.execute(select(*columns).order_by(audit_prunings.c.size.desc()).limit(1))).one_or_none()
    return NOTHING if row is None else Pruning(*row)


async def note(connection: AsyncConnection, pruning: Pruning) -> None:
    """Says that rows up to `pruning.size` are no longer here; they are removed by `remove` afterwards."""
    if pruning.size % _TILE_WIDTH:
        raise ValueError("the record is cut at the end of a tile")
    await connection.execute(
        insert(audit_prunings).values({one.name: getattr(pruning, one.name) for one in fields(Pruning)})
    )


async def remove(connection: AsyncConnection, size: int) -> int:
    """Removes some rows of those up to `size`, and returns how many; 0 where none is left."""
    first = (await connection.execute(select(audit.c.seq).order_by(audit.c.seq).limit(1))).scalar_one_or_none()
    if first is None or first > size:
        return 0
    gone = delete(audit).where(audit.c.seq <= min(size, first + AT_ONCE - 1))
    return (await connection.execute(gone)).rowcount


async def frontier(connection: AsyncConnection, size: int) -> merkle.Frontier:
    """The tree over the first `size` rows, from their leaf hashes in the tiles. Raises Refused (code "audit_tiles")."""
    tree = merkle.Frontier()
    c = audit_tiles.c
    for start in range(0, size // _TILE_WIDTH, _TILES_AT_ONCE):
        tiles = select(c.tile, c.hashes).where(c.level == 0, c.tile >= start, c.tile < start + _TILES_AT_ONCE)
        for row in await connection.execute(tiles.order_by(c.tile)):
            if row.tile * _TILE_WIDTH >= size:
                break
            if row.tile * _TILE_WIDTH != tree.size:
                break
            for at in range(0, len(row.hashes), merkle.HASH_BYTES):
                tree.add(row.hashes[at : at + merkle.HASH_BYTES])
    if tree.size != size:
        raise Refused(f"the tree lacks hashes of rows after {tree.size}", code="audit_tiles")
    return tree
