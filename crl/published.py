"""The newest CRL of each scope that was asked for, in memory.

Owns the bytes until the feed says that there is a newer one. Only reads the store; gives out nothing that is past its
nextUpdate (DESIGN rule 5). Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from core.clock import Clock
from core.errors import NotFound, Unavailable
from core.store import authorities, crls
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from crl.digest import sm3
from crl.metrics import CrlMetrics
from crl.schedule import Scope

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PublishedCrl:
    """A CRL as it is served. `tag` changes whenever a byte of it does."""

    body: bytes
    tag: str
    this_update_ms: int
    next_update_ms: int


class PublishedCrls:
    """See the module."""

    def __init__(self, database: Database, follower: FeedFollower, clock: Clock, metrics: CrlMetrics) -> None:
        self._database = database
        self._follower = follower
        self._clock = clock
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._held: dict[Scope, PublishedCrl] = {}
        self._partitions: dict[str, int] | None = None
        follower.subscribe(self._on_entry)

    def _on_entry(self, entry: FeedEntry) -> None:
        if entry.kind == "authority":
            self._partitions = None
        elif entry.kind == "crl" and entry.authority_id is not None and entry.subject_id is not None:
            self._held.pop((entry.authority_id, int(entry.subject_id)), None)

    async def current(self, scope: Scope) -> PublishedCrl:
        """The newest CRL of `scope`, as of the last commit.

        Where the store cannot be asked, the one in memory: it says itself until when it may be used. Raises NotFound
        (code "crl_unknown"); Unavailable (code "crl_missing", "crl_expired", or the store's).
        """
        published = await self._newest(scope)
        if self._clock() > published.next_update_ms:
            raise Unavailable(
                "the newest CRL is past its nextUpdate; a new one could not be made",
                code="crl_expired",
                retry_after_s=5,
            )
        return published

    async def _newest(self, scope: Scope) -> PublishedCrl:
        try:
            await self._follower.ensure_current()
        except Unavailable as error:
            held = self._held.get(scope)
            if held is None:
                raise
            self._metrics.store_down_serves.inc()
            log.warning("crl.store_down_serve", authority=scope[0], partition=scope[1], code=error.code)
            return held
        return self._held.get(scope) or await self._load(scope)

    async def _load(self, scope: Scope) -> PublishedCrl:
        """Reads the CRL once for all who wait for it; keeps it where the feed did not move meanwhile."""
        async with self._lock:
            if scope in self._held:
                return self._held[scope]
            await self._require(scope)
            position = self._follower.position
            async with self._database.read() as connection:
                record = await crls.latest(connection, *scope)
            if record is None:
                raise Unavailable("the first CRL is not built yet", code="crl_missing", retry_after_s=2)
            digest = await sm3(record.crl)
            tag = f"{record.number}-{digest[:12].hex()}"
            published = PublishedCrl(record.crl, tag, record.this_update_ms, record.next_update_ms)
            if position == self._follower.position:
                self._held[scope] = published
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
