"""The state of one authority's certificates, kept up with the change feed.

Owns the keys that are not good, by month, as of `position`. Brought forward inside the read transaction that the next
file is made from, so that everything in a file is of one snapshot. Only ever takes over what a row says now, never a
difference: a change that is seen twice does no harm. Where the feed has a gap, everything is read anew.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import CertificateState
from core.store import feed, status_sets
from core.store.status_sets import Place
from status.set.format import MonthState, SetState
from status.set.hashing import HashSpace

_AT_ONCE: Final = 10_000
_CHANGES: Final = ("revoked", "held", "released")


def _note(keys: array[int], index: int, wanted: bool) -> None:
    at = bisect_left(keys, index)
    there = at < len(keys) and keys[at] == index
    if wanted and not there:
        insort(keys, index)
    elif there and not wanted:
        del keys[at]


class AuthorityState:
    """See the module. `partitions`: how many the authority has, by which what is not good is found."""

    def __init__(self, authority_id: str, partitions: int) -> None:
        self._authority_id = authority_id
        self.partitions = partitions
        self._marked: dict[int, tuple[array[int], array[int]]] = {}
        self._from_month: int | None = None
        self.position = -1

    def forget(self) -> None:
        """Everything is read anew next time."""
        self.position = -1

    async def follow(self, connection: AsyncConnection, *, from_month: int) -> None:
        """Brings the state to the feed position of `connection`'s snapshot. Nothing before `from_month` is needed."""
        if self.position < 0 or self._from_month is None or from_month < self._from_month:
            await self._load(connection, from_month)
            return
        serials: set[int] = set()
        position = self.position
        while True:
            entries = await feed.read_after(connection, position, limit=_AT_ONCE)
            if entries and entries[0].seq != position + 1:
                await self._load(connection, from_month)
                return
            for entry in entries:
                if entry.kind in _CHANGES and entry.authority_id == self._authority_id and entry.serial is not None:
                    serials.add(entry.serial)
            position += len(entries)
            if len(entries) < _AT_ONCE:
                break
        if position != await feed.head(connection):
            await self._load(connection, from_month)
            return
        # A failure half-way leaves the position where it was; what was taken over already is taken over again.
        self._take(await status_sets.places(connection, self._authority_id, list(serials)))
        self.position = position

    async def _load(self, connection: AsyncConnection, from_month: int) -> None:
        self.position = -1
        marked: dict[int, tuple[list[int], list[int]]] = {}
        chunks = status_sets.stream_places(
            connection, self._authority_id, from_month=from_month, partitions=self.partitions
        )
        async for chunk in chunks:
            for month, index, state, _ in chunk:
                pair = marked.setdefault(month, ([], []))
                pair[state == CertificateState.HELD.value].append(index)
        self._marked = {
            month: (array("Q", sorted(revoked)), array("Q", sorted(held))) for month, (revoked, held) in marked.items()
        }
        self._from_month = from_month
        self.position = await feed.head(connection)

    def _take(self, places: Iterable[Place]) -> None:
        for place in places:
            revoked, held = self._marked.setdefault(place.month, (array("Q"), array("Q")))
            _note(revoked, place.index, place.state == CertificateState.REVOKED.value)
            _note(held, place.index, place.state == CertificateState.HELD.value)

    def snapshot(
        self, spaces: dict[int, tuple[int, int]], *, from_month: int, imports: HashSpace | None = None
    ) -> SetState:
        """The state as a value. `spaces`: the first index and the next one by month, of the same snapshot."""
        months = []
        for month, (first, following) in sorted(spaces.items()):
            if month >= from_month and following > first:
                revoked, held = self._marked.get(month, (array("Q"), array("Q")))
                covered = [tuple(keys[bisect_left(keys, first) :]) for keys in (revoked, held)]
                months.append(MonthState(month, first, following, covered[0], covered[1]))
        return SetState(tuple(months), imports)
