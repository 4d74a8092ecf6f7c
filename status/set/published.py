"""The newest set and delta of each authority that was asked for, in memory.

Owns the bytes until the feed says that there are newer ones. Only reads the store; gives out nothing that is past its
nextUpdate: a set that is, only as long as a delta of it is not, which makes the two current together. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from core.clock import Clock
from core.errors import NotFound, Unavailable
from core.store import authorities, status_sets
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from core.store.status_sets import StatusSetRecord
from status.set.format import sm3

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file as it is served. `tag` changes whenever a byte of it does; `until_ms`: nothing is served past it."""

    body: bytes
    tag: str
    this_update_ms: int
    next_update_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class ServedPair:
    """A set and its newest delta."""

    base: ServedFile
    delta: ServedFile


def _served(record: StatusSetRecord, until_ms: int) -> ServedFile:
    tag = f"{record.number}-{sm3(record.body)[:12].hex()}"
    return ServedFile(record.body, tag, record.this_update_ms, record.next_update_ms, until_ms)


class PublishedSets:
    """See the module."""

    def __init__(self, database: Database, follower: FeedFollower, clock: Clock) -> None:
        self._database = database
        self._follower = follower
        self._clock = clock
        self._lock = asyncio.Lock()
        self._held: dict[str, ServedPair] = {}
        follower.subscribe(self._on_entry)

    def _on_entry(self, entry: FeedEntry) -> None:
        if entry.kind == "set" and entry.authority_id is not None:
            self._held.pop(entry.authority_id, None)

    async def current(self, authority_id: str, *, delta: bool) -> ServedFile:
        """The newest set or delta of the authority, as of the last commit.

        Where the store cannot be asked, the one in memory: it says itself until when it may be used. Raises NotFound
        (code "authority_unknown", "set_elsewhere"); Unavailable (code "set_missing", "set_expired", or the store's).
        """
        pair = await self._newest(authority_id)
        served = pair.delta if delta else pair.base
        if self._clock() > served.until_ms:
            raise Unavailable(
                "the newest status set is past its nextUpdate; a new one could not be made",
                code="set_expired",
                retry_after_s=5,
            )
        return served

    async def _newest(self, authority_id: str) -> ServedPair:
        try:
            await self._follower.ensure_current()
        except Unavailable as error:
            held = self._held.get(authority_id)
            if held is None:
                raise
            log.warning("status_set.store_down_serve", authority=authority_id, code=error.code)
            return held
        return self._held.get(authority_id) or await self._load(authority_id)

    async def _load(self, authority_id: str) -> ServedPair:
        """Reads the files once for all who wait for them; keeps them where the feed did not move meanwhile."""
        async with self._lock:
            if authority_id in self._held:
                return self._held[authority_id]
            position = self._follower.position
            async with self._database.read() as connection:
                found = await status_sets.latest(connection, authority_id)
                authority = None if found else await authorities.get(connection, authority_id)
            if found is None:
                if authority is not None and (authority.certificate is None or authority.key_id is None):
                    raise NotFound("no status set of that authority is made here", code="set_elsewhere")
                raise Unavailable("the first status set is not built yet", code="set_missing", retry_after_s=2)
            delta_until = found.delta.next_update_ms
            pair = ServedPair(
                _served(found.base, max(found.base.next_update_ms, delta_until)), _served(found.delta, delta_until)
            )
            if position == self._follower.position:
                self._held[authority_id] = pair
            return pair
