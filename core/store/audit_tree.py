"""The Merkle tree over the audit record, kept in tiles, and the checkpoints made of it.

A tile holds 256 neighbouring hashes of one level (0: leaves, 1: roots of 256 leaves, and so on) and is written once,
when it is full; what is right of the last full tile comes from the rows. So a root or a proof reads a few tiles and at
most 255 rows, however long the record is. Knows rows and hashes; not keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core import merkle
from core.audit import AuditEvent, record_bytes
from core.checkpoint import Checkpoint
from core.errors import NotFound
from core.merkle import HASH_BYTES
from core.store import retention
from core.store.schema import audit, audit_checkpoints, audit_tiles

T = TypeVar("T")

_WIDTH_BITS: Final = 8
TILE_WIDTH: Final = 1 << _WIDTH_BITS


def row_bytes(row: Any) -> bytes:
    """A row of the audit table as it is hashed."""
    return record_bytes(row.seq, row.at_ms, AuditEvent(row.actor, row.action, row.subject, row.outcome), row.detail)


def split(tile: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [tile[i : i + HASH_BYTES] for i in range(0, len(tile), HASH_BYTES)]


async def _leaves(connection: AsyncConnection, start: int, count: int) -> list[bytes]:
    rows = await connection.execute(
        select(audit).where(audit.c.seq > start, audit.c.seq <= start + count).order_by(audit.c.seq)
    )
    leaves = [merkle.leaf_hash(row_bytes(row)) for row in rows]
    if len(leaves) != count:
        raise NotFound(f"the audit record lacks rows between {start + 1} and {start + count}", code="audit_rows")
    return leaves


async def _hashes(connection: AsyncConnection, tile_level: int, start: int, count: int) -> list[bytes]:
    """`count` hashes of a tile level, all inside one tile."""
    index, offset = divmod(start, TILE_WIDTH)
    found = await connection.execute(
        select(audit_tiles.c.hashes).where(audit_tiles.c.level == tile_level, audit_tiles.c.tile == index)
    )
    tile = found.scalar_one_or_none()
    if tile is not None:
        return split(tile)[offset : offset + count]
    if tile_level == 0:
        return await _leaves(connection, start, count)
    return [
        merkle.fold(await _hashes(connection, tile_level - 1, child * TILE_WIDTH, TILE_WIDTH))
        for child in range(start, start + count)
    ]


async def _with_subtrees(connection: AsyncConnection, compute: Callable[[merkle.Subtree], T]) -> T:
    """`compute`, handed the subtree hashes that it asks for: it is run once to see which, and once with them."""
    known: dict[tuple[int, int], bytes] = {}

    def note(level: int, index: int) -> bytes:
        known[level, index] = b""
        return bytes(HASH_BYTES)

    compute(note)
    for level, index in known:
        tile_level, bits = divmod(level, _WIDTH_BITS)
        known[level, index] = merkle.fold(await _hashes(connection, tile_level, index << bits, 1 << bits))
    return compute(lambda level, index: known[level, index])


async def root(connection: AsyncConnection, size: int) -> bytes:
    """The Merkle root over the first `size` rows."""
    return await _with_subtrees(connection, lambda subtree: merkle.root(size, subtree))


async def inclusion_proof(connection: AsyncConnection, seq: int, size: int) -> list[bytes]:
    """The proof that row `seq` is in the record of `size` rows. Raises NotFound (code "audit_seq")."""
    if not 1 <= seq <= size:
        raise NotFound(f"row {seq} is not among the {size} rows of the checkpoint", code="audit_seq")
    return await _with_subtrees(connection, lambda subtree: merkle.inclusion_proof(seq - 1, size, subtree))


async def consistency_proof(connection: AsyncConnection, first: int, second: int) -> list[bytes]:
    """The proof that the record of `second` rows only added to that of `first`. Raises NotFound (code "audit_seq")."""
    if not 1 <= first <= second:
        raise NotFound(f"a record of {second} rows does not continue one of {first}", code="audit_seq")
    return await _with_subtrees(connection, lambda subtree: merkle.consistency_proof(first, second, subtree))


async def tiled(connection: AsyncConnection) -> int:
    """How many rows full tiles cover."""
    newest = select(audit_tiles.c.tile).where(audit_tiles.c.level == 0).order_by(audit_tiles.c.tile.desc()).limit(1)
    tile = (await connection.execute(newest)).scalar_one_or_none()
    return 0 if tile is None else (tile + 1) * TILE_WIDTH


async def extend(connection: AsyncConnection, size: int, *, most: int) -> int:
    """Writes the tiles that the first `size` rows fill, at most `most` of them leaf tiles; returns `tiled` after it.

    For one writer at a time (`Database.write`, and on PostgreSQL the audit counter's row locked).
    """
    covered = await tiled(connection)
    for index in range(covered // TILE_WIDTH, min(size // TILE_WIDTH, covered // TILE_WIDTH + most)):
        level, tile = 0, index
        hashes = await _leaves(connection, index * TILE_WIDTH, TILE_WIDTH)
        await _write_tile(connection, level, tile, hashes)
        while (tile + 1) % TILE_WIDTH == 0:  # the last of a row of tiles fills the one above
            level, tile = level + 1, tile // TILE_WIDTH
            await _write_tile(
                connection, level, tile, await _hashes_of_children(connection, level - 1, tile * TILE_WIDTH)
            )
        covered = (index + 1) * TILE_WIDTH
    return covered


async def _hashes_of_children(connection: AsyncConnection, level: int, first: int) -> list[bytes]:
    rows = await connection.execute(
        select(audit_tiles.c.hashes)
        .where(audit_tiles.c.level == level, audit_tiles.c.tile >= first, audit_tiles.c.tile < first + TILE_WIDTH)
        .order_by(audit_tiles.c.tile)
    )
    return [merkle.fold(split(row.hashes)) for row in rows]


async def _write_tile(connection: AsyncConnection, level: int, tile: int, hashes: list[bytes]) -> None:
    await connection.execute(insert(audit_tiles).values(level=level, tile=tile, hashes=b"".join(hashes)))


async def origin(connection: AsyncConnection) -> bytes:
    """The hash of the first row: what tells one record from another. Raises NotFound for an empty record."""
    first = (await connection.execute(select(audit.c.hash).where(audit.c.seq == 1))).scalar_one_or_none()
    if first is None:
        pruned = await retention.newest(connection)
        if not pruned.size:
            raise NotFound("the audit record has no rows yet", code="audit_rows")
        return pruned.origin
    return bytes(first)


async def head(connection: AsyncConnection, size: int) -> bytes:
    """The chain hash of row `size`. Raises NotFound (code "audit_seq")."""
    found = (await connection.execute(select(audit.c.hash).where(audit.c.seq == size))).scalar_one_or_none()
    if found is None:
        pruned = await retention.newest(connection)
        if size == pruned.size and size:
            return pruned.head
        moved = ": it was moved to an archive" if size < pruned.size else ""
        raise NotFound(f"the audit record has no row {size} here{moved}", code="audit_seq")
    return bytes(found)


async def newest_checkpoint(connection: AsyncConnection) -> Checkpoint | None:
    """The longest checkpoint."""
    found = await connection.execute(select(audit_checkpoints).order_by(audit_checkpoints.c.size.desc()).limit(1))
    row = found.one_or_none()
    return None if row is None else Checkpoint.decode(row.checkpoint)


async def checkpoints(connection: AsyncConnection) -> list[Checkpoint]:
    """Every checkpoint, shortest first."""
    rows = await connection.execute(select(audit_checkpoints).order_by(audit_checkpoints.c.size))
    return [Checkpoint.decode(row.checkpoint) for row in rows]


async def add_checkpoint(connection: AsyncConnection, checkpoint: Checkpoint) -> None:
    """Keeps a signed checkpoint."""
    await connection.execute(insert(audit_checkpoints).values(size=checkpoint.size, checkpoint=checkpoint.encode()))
