"""The hash space of an authority's imported certificates, kept up with the change feed.

Keys are so long that no two certificates of the universe share one, so a change of status never makes an answer wrong
and goes into a delta. The length follows from the certificates; where certificates are added to the universe, or a
whole set is made, keys are made anew. Owns the keys that are not good, as of `position`. Only ever takes over what a
row says now.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Refused
from core.model import CertificateState
from core.store import feed, imported
from core.store.imported import Row, Universe
from status.set.hashing import HashSpace, distinct_bits, full_key, new_salt

_AT_ONCE: Final = 10_000
_CHANGES: Final = ("revoked", "held", "released")
_KEY_BITS: Final = 64
_REVOKED: Final = CertificateState.REVOKED.value
_HELD: Final = CertificateState.HELD.value


class ImportState:
    """See the module."""

    def __init__(self, authority_id: str, partitions: int) -> None:
        self._authority_id = authority_id
        self.partitions = partitions
        self._universe: Universe | None = None
        self._space: tuple[bytes, int, int] | None = None
        self._marked: tuple[set[int], set[int]] = (set(), set())
        self.position = -1

    async def anew(self, connection: AsyncConnection, from_month: int) -> HashSpace | None:
        """Keys for the universe as it stands; None where there is nothing to tell of. Raises Refused."""
        self.position = -1
        universe = await imported.universe(connection, self._authority_id, from_month)
        if universe is None:
            return None
        salt, keys = new_salt(), array("Q")
        async for chunk in imported.stream(connection, universe):
            keys.extend(await asyncio.to_thread(_full_keys, salt, chunk))
        if not keys:
            return None
        bits = await asyncio.to_thread(distinct_bits, keys)
        if bits is None:
            raise Refused("no keys tell the imported certificates apart; build once more", code="set_hash")
        await self._load(connection, universe, (salt, bits, len(keys)))
        return self.value()

    async def going_on(self, connection: AsyncConnection, base: HashSpace | None, from_month: int) -> HashSpace | None:
        """The state with the keys of `base`, for a delta of its set; None where only a whole set can tell of it, or
        there is nothing to tell of (`fits` says which)."""
        universe = await imported.universe(connection, self._authority_id, from_month)
        if universe is None or base is None:
            return None
        space = (base.salt, base.bits, base.count)
        if universe == self._universe and space == self._space and self.position >= 0:
            if await self._follow(connection, universe):
                return self.value()
        elif universe.cutoff_s == base.cutoff_s and await imported.count(connection, universe) == base.count:
            await self._load(connection, universe, space)
            return self.value()
        return None

    async def fits(self, connection: AsyncConnection, base: HashSpace | None, from_month: int) -> bool:
        """Whether there being no value means that there is nothing to tell of, in the base as well."""
        if base is not None:
            return False
        universe = await imported.universe(connection, self._authority_id, from_month)
        return universe is None or await imported.count(connection, universe) == 0

    async def _load(self, connection: AsyncConnection, universe: Universe, space: tuple[bytes, int, int]) -> None:
        self.position = -1
        self._universe, self._space, self._marked = universe, space, (set(), set())
        async for chunk in imported.stream(connection, universe, partitions=self.partitions):
            self._take(chunk)
        self.position = await feed.head(connection)

    async def _follow(self, connection: AsyncConnection, universe: Universe) -> bool:
        position, serials = self.position, set()
        while True:
            entries = await feed.read_after(connection, position, limit=_AT_ONCE)
            if entries and entries[0].seq != position + 1:
                self.position = -1
                return False
            for entry in entries:
                if entry.kind in _CHANGES and entry.authority_id == self._authority_id and entry.serial is not None:
                    serials.add(entry.serial)
            position += len(entries)
            if len(entries) < _AT_ONCE:
                break
        self._take(await imported.states(connection, universe, list(serials)))
        self.position = position
        return True

    def _take(self, rows: Iterable[Row]) -> None:
        assert self._space is not None
        salt, bits, _ = self._space
        revoked, held = self._marked
        for serial, state in rows:
            key = full_key(salt, serial) >> (_KEY_BITS - bits)
            for keys, word in ((revoked, _REVOKED), (held, _HELD)):
                if state == word:
                    keys.add(key)
                else:
                    keys.discard(key)

    def value(self) -> HashSpace:
        """The state as a value."""
        assert self._space is not None
        assert self._universe is not None
        salt, bits, count = self._space
        return HashSpace(self._universe.cutoff_s, count, bits, salt, *(sorted(keys) for keys in self._marked))


def _full_keys(salt: bytes, rows: Sequence[Row]) -> array[int]:
    return array("Q", (full_key(salt, serial) for serial, _ in rows))
