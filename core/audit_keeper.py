"""Makes checkpoints of the audit record at intervals, and walks the whole of it to see that nothing was changed.

Owns the order: tiles, root, signature, then the checkpoint in the store. Is handed a key as a `Signer`; knows no HTTP
and no command line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from sqlalchemy import and_, not_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core import merkle
from core.audit import GENESIS, link
from core.audit_archive import Deleted
from core.checkpoint import Checkpoint
from core.clock import Clock
from core.errors import Refused
from core.ports import SignatureVerifier, Signer
from core.store import audit_tree, counters, retention
from core.store.audit_tree import TILE_WIDTH, row_bytes
from core.store.database import Database
from core.store.retention import Pruning
from core.store.schema import audit, audit_tiles

#: Leaf tiles written in one transaction: 16,384 rows, some tens of milliseconds.
_TILES_AT_ONCE: Final = 64


class AuditKeeper:
    """Checkpoints of one store's record, signed by one key."""

    def __init__(self, database: Database, signer: Signer, clock: Clock) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock

    async def checkpoint(self) -> Checkpoint:
        """The newest checkpoint, a new one where the record has grown by more than the accounts of its own key.

        Raises NotFound (an empty record, code "audit_rows"); Refused, Busy or Unavailable as the key has it.
        """
        async with self._database.read() as connection:
            newest = await audit_tree.newest_checkpoint(connection)
            if newest is not None and not await self._grown(connection, newest.size):
                return newest
            size = await counters.current(connection, "audit")
        await self._extend(size)
        async with self._database.read() as connection:
            unsigned = Checkpoint(
                origin=await audit_tree.origin(connection),
                size=size,
                root=await audit_tree.root(connection, size),
                head=await audit_tree.head(connection, size),
                at_ms=self._clock(),
                public_key=self._signer.public_key,
            )
        made = replace(unsigned, signature=await self._signer.sign(unsigned.signed_bytes()))
        async with self._database.write() as connection:
            await counters.take(connection, "audit", 0)  # one writer of the tree at a time
            newest = await audit_tree.newest_checkpoint(connection)
            if newest is not None and newest.size >= made.size:
                return newest  # another worker was faster
            await audit_tree.add_checkpoint(connection, made)
        return made

    async def _grown(self, connection: AsyncConnection, size: int) -> bool:
        """Whether anything but the use of the checkpoints' own key was recorded since: signing must not go on for
        its own sake."""
        own = and_(audit.c.actor == "system", audit.c.action.like("sign.%"), audit.c.subject == self._signer.key_id)
        found = await connection.execute(select(audit.c.seq).where(audit.c.seq > size, not_(own)).limit(1))
        return found.first() is not None

    async def _extend(self, size: int) -> None:
        covered = -1
        while covered < size // TILE_WIDTH * TILE_WIDTH:
            async with self._database.write() as connection:
                await counters.take(connection, "audit", 0)  # one writer of the tree at a time
                covered = await audit_tree.extend(connection, size, most=_TILES_AT_ONCE)
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk over the record found. `problem`: what does not fit, None where all does; `broken_at`: the row
    before which all fits. `checkpoints`: how many were held against the rows."""

    rows: int
    head: bytes
    root: bytes
    checkpoints: int
    broken_at: int | None = None
    problem: str | None = None


class _Broken(Exception):
    """Carries the problem out of the walk; `walk` turns it into a `Walk`."""


async def walk(
    connection: AsyncConnection,
    verify: SignatureVerifier,
    *,
    public_key: bytes | None = None,
    kept: Sequence[Checkpoint] = (),
    archived: Iterable[bytes] | None = None,
    deleted: Deleted | None = None,
) -> Walk:
    """Recomputes every link, leaf, tile and root of the record, and holds every checkpoint against them.

    archived: the rows of an archive from the first on, as they were hashed: those that are no longer in the store are
    walked there. Without, of those their leaf hashes are held against the checkpoints. deleted: the beginning that the
    archive does not have any more.

    Checkpoints are those of the store and those in `kept`, which somebody took away before: rows cut off behind one of
    them show. `public_key` (65 bytes): whose signatures they must be; the newest checkpoint's where None.
    """
    stored = await audit_tree.checkpoints(connection)
    waiting = sorted([*stored, *kept], key=lambda one: one.size)
    key = public_key if public_key is not None else (waiting[-1].public_key if waiting else None)
    state = _Walker(verify, key, waiting)
    pruned = await retention.newest(connection)
    try:
        if archived is not None and (deleted is None or deleted.size < pruned.size):
            if deleted is not None:
                await _skip_deleted(connection, state, deleted)
            await _walk_archive(connection, state, archived, pruned)
        elif pruned.size:
            await _skip(connection, state, pruned)
        async for row in _rows(connection, pruned.size):
            state.take(row.seq, row_bytes(row), row.hash)
            state.note(row.action, row.detail)
            if state.rows % TILE_WIDTH == 0:
                await _check_tile(connection, state)
        state.end(await counters.current(connection, "audit"), pruned.size)
    except _Broken as broken:
        return Walk(state.rows, state.head, state.tree.root(), state.checked, state.rows + 1, str(broken))
    return Walk(state.rows, state.head, state.tree.root(), state.checked)


async def _walk_archive(
    connection: AsyncConnection, state: _Walker, archived: Iterable[bytes], pruned: Pruning
) -> None:
    """The rows that are no longer here, from an archive."""
    for record in archived:
        if state.rows == pruned.size:
            break
        state.take(state.rows + 1, record, link(state.head, record))
        state.note_record(record)
        if state.rows % TILE_WIDTH == 0:
            await _check_tile(connection, state)
    if state.rows != pruned.size:
        raise _Broken(f"the archive ends with row {state.rows}; rows up to {pruned.size} were moved out of the store")
    if state.head != pruned.head:
        raise _Broken("the archive's rows are not those that were moved out of the store")


async def _skip_deleted(connection: AsyncConnection, state: _Walker, deleted: Deleted) -> None:
    """Begins behind the rows that are nowhere any more: the archive's tree over them is the store's."""
    if deleted.tree.root() != await audit_tree.root(connection, deleted.size):
        raise _Broken("the rows that were deleted from the archive are not the store's")
    head, origin = bytes.fromhex(deleted.head), bytes.fromhex(deleted.origin)
    state.begin(Pruning(deleted.size, head, origin, b"", 0), deleted.tree)
    state.tile = await _tile_so_far(connection, deleted.size)
    while state.waiting and state.waiting[0].size <= deleted.size:
        checkpoint = state.waiting.pop(0)
        state.hold(checkpoint, await audit_tree.root(connection, checkpoint.size))


async def _tile_so_far(connection: AsyncConnection, size: int) -> list[bytes]:
    """The leaf hashes of the tile that row `size` is in, up to that row."""
    tile = select(audit_tiles.c.hashes).where(audit_tiles.c.level == 0, audit_tiles.c.tile == size // TILE_WIDTH)
    hashes = bytes((await connection.execute(tile)).scalar_one_or_none() or b"")
    return [hashes[at * merkle.HASH_BYTES : (at + 1) * merkle.HASH_BYTES] for at in range(size % TILE_WIDTH)]


async def _skip(connection: AsyncConnection, state: _Walker, pruned: Pruning) -> None:
    """Begins behind the rows that are in an archive: their leaf hashes are here, and are held against checkpoints."""
    try:
        state.begin(pruned, await retention.frontier(connection, pruned.size))
    except Refused as error:
        raise _Broken(error.detail) from None
    while state.waiting and state.waiting[0].size <= pruned.size:
        checkpoint = state.waiting.pop(0)
        state.hold(checkpoint, await audit_tree.root(connection, checkpoint.size))


async def _rows(connection: AsyncConnection, after: int) -> AsyncIterator[Any]:
    rows = await connection.stream(select(audit).where(audit.c.seq > after).order_by(audit.c.seq))
    async for row in rows:
        yield row


async def _check_tile(connection: AsyncConnection, state: _Walker) -> None:
    """The leaf tile just filled, where it is kept, says what the rows say."""
    found = await connection.execute(
        select(audit_tiles.c.hashes).where(audit_tiles.c.level == 0, audit_tiles.c.tile == state.rows // TILE_WIDTH - 1)
    )
    tile = found.scalar_one_or_none()
    if tile is not None and tile != b"".join(state.tile):
        raise _Broken("the tree's tiles do not fit the rows")


class _Walker:
    """Where a walk stands."""

    def __init__(self, verify: SignatureVerifier, key: bytes | None, waiting: list[Checkpoint]) -> None:
        self._verify = verify
        self._key = key
        self.waiting = waiting
        self._first = GENESIS
        self._removals: set[int] = set()
        self.head = GENESIS
        self.rows = 0
        self.checked = 0
        self.tree = merkle.Frontier()
        self.tile: list[bytes] = []

    def begin(self, pruned: Pruning, tree: merkle.Frontier) -> None:
        self.head, self.rows, self._first, self.tree = pruned.head, pruned.size, pruned.origin, tree

    def note(self, action: str, detail: str) -> None:
        """A removal of rows is on the record, or it was not made by us."""
        if action == retention.ACTION:
            self._removals.add(int(orjson.loads(detail)["rows"]))

    def note_record(self, record: bytes) -> None:
        """The same of a row as it is hashed."""
        if f'"{retention.ACTION}"'.encode() in record:
            row = orjson.loads(record)
            self.note(row[3], row[6])

    def take(self, seq: int, record: bytes, hashed: bytes) -> None:
        if seq != self.rows + 1 or link(self.head, record) != hashed:
            raise _Broken(f"row {self.rows + 1} does not fit the {self.rows} before it: the record was changed")
        self.head = hashed
        self.rows += 1
        if self.rows == 1:
            self._first = hashed
        leaf = merkle.leaf_hash(record)
        self.tree.add(leaf)
        if len(self.tile) == TILE_WIDTH:
            self.tile = []
        self.tile.append(leaf)
        while self.waiting and self.waiting[0].size == self.rows:
            self.hold(self.waiting.pop(0), self.tree.root(), self.head)

    def hold(self, checkpoint: Checkpoint, root: bytes, head: bytes | None = None) -> None:
        """Holds a checkpoint against the root over as many rows, and the chain's head there where it is known."""
        if checkpoint.origin != self._first:
            raise _Broken("a checkpoint is of another record")
        if checkpoint.root != root or head not in (None, checkpoint.head):
            raise _Broken(f"the checkpoint of {checkpoint.size} rows is of other rows: the record was changed")
        assert self._key is not None
        try:
            checkpoint.check(self._verify, self._key)
        except Refused as error:
            raise _Broken(f"the checkpoint of {checkpoint.size} rows: {error.detail}") from None
        self.checked += 1

    def end(self, counted: int, pruned: int) -> None:
        if self.waiting:
            raise _Broken(f"rows up to {self.waiting[-1].size} were there and are cut off")
        if pruned and pruned not in self._removals:
            raise _Broken(f"rows up to {pruned} are not here, and that they were moved to an archive is not on record")
        if counted != self.rows:
            raise _Broken(f"{counted} rows were written and {self.rows} are there: the end is cut off")
