"""The newest CRL, and delta CRL, of each scope that was asked for, in memory.

Owns the bytes until the feed says that there is a newer one. Only reads the store; gives out nothing that is past its
nextUpdate (rule 5). Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass, field
from typing import Final

import structlog

from core.clock import Clock
from core.errors import NotFound, Unavailable
from core.store import authorities, crls
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from crl.metrics import CrlMetrics
from crl.schedule import Scope

log = structlog.get_logger()


#: Octets at the end of a CRL: the last of its signature, which no other CRL has.
_TAG_OCTETS: Final = 12
#: Serials do not shrink, what stands around them does; more effort gains next to nothing (docs/crl.md).
_GZIP_LEVEL: Final = 1
_GZIP_FROM_BYTES: Final = 1_000


@dataclass(slots=True)
class PublishedCrl:
    """A CRL as it is served. `tag` changes whenever a byte of it does. `delta`: whether it is one. `dated`: whether
    thisUpdate tells it from those before it."""

    body: bytes
    tag: str
    this_update_ms: int
    next_update_ms: int
    delta: bool = False
    dated: bool = True
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _gzip: bytes | None = field(default=None, repr=False)

    async def gzip(self) -> bytes | None:
        """The body in gzip's form (RFC 1952), made once; None where it would gain nothing."""
        if len(self.body) < _GZIP_FROM_BYTES:
            return None
        async with self._lock:
            if self._gzip is None:
                self._gzip = await asyncio.to_thread(_gzip, self.body)
        return self._gzip


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, _GZIP_LEVEL, wbits=31)


class PublishedCrls:
    """See the module."""

    def __init__(self, database: Database, follower: FeedFollower, clock: Clock, metrics: CrlMetrics) -> None:
        self._database = database
        self._follower = follower
        self._clock = clock
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._held: dict[tuple[Scope, bool], PublishedCrl] = {}
        self._partitions: dict[str, int] | None = None
        follower.subscribe(self._on_entry)

    def _on_entry(self, entry: FeedEntry) -> None:
        if entry.kind == "authority":
            self._partitions = None
        elif entry.kind == "crl" and entry.authority_id is not None and entry.subject_id is not None:
            for delta in (False, True):
                self._held.pop(((entry.authority_id, int(entry.subject_id)), delta), None)

    async def current(self, scope: Scope, *, delta: bool = False) -> PublishedCrl:
        """The newest full or delta CRL of `scope`, as of the last commit.

        Where the store cannot be asked, the one in memory: it says itself until when it may be used. Raises NotFound
        (code "crl_unknown"); Unavailable (code "crl_missing", "crl_expired", or the store's).
        """
        published = await self._newest(scope, delta)
        if self._clock() > published.next_update_ms:
            raise Unavailable(
                "the newest CRL is past its nextUpdate; a new one could not be made",
                code="crl_expired",
                retry_after_s=5,
            )
        return published

    async def _newest(self, scope: Scope, delta: bool) -> PublishedCrl:
        try:
            await self._follower.ensure_current()
        except Unavailable as error:
            held = self._held.get((scope, delta))
            if held is None:
                raise
            self._metrics.store_down_serves.inc()
            log.warning("crl.store_down_serve", authority=scope[0], partition=scope[1], code=error.code)
            return held
        return self._held.get((scope, delta)) or await self._load(scope, delta)

    async def _load(self, scope: Scope, delta: bool) -> PublishedCrl:
        """Reads the CRL once for all who wait for it; keeps it where the feed did not move meanwhile."""
        async with self._lock:
            if (scope, delta) in self._held:
                return self._held[scope, delta]
            await self._require(scope)
            position = self._follower.position
            async with self._database.read() as connection:
                record = await crls.latest(connection, *scope, delta=delta)
                if record is None and delta and await crls.newest(connection, *scope) is not None:
                    raise NotFound("there is no delta of this CRL", code="crl_unknown")
                dated = record is not None and await crls.dated_alone(connection, record)
            if record is None:
                raise Unavailable("the first CRL is not built yet", code="crl_missing", retry_after_s=2)
            tag = f"{record.number}-{record.crl[-_TAG_OCTETS:].hex()}"
            published = PublishedCrl(record.crl, tag, record.this_update_ms, record.next_update_ms, delta, dated)
            if position == self._follower.position:
                self._held[scope, delta] = published
            return published

    async def _require(self, scope: Scope) -> None:
        """Raises NotFound for a scope that does not exist, from memory once the authorities are known."""
        partitions = self._partitions
        if partitions is None:
            position = self._follower.position
            async with self._database.read() as connection:
                partitions = {a.id: a.partitions for a in await authorities.list_all(connection)}
            if position == self._follower.position:
                self._partitions = partitions
        if not 0 <= scope[1] < partitions.get(scope[0], 0):
            raise NotFound("there is no such CRL", code="crl_unknown")
