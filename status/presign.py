"""Makes the answers about all certificates that have not expired before anybody asks, and keeps them in Redis.

A pass goes through each authority's certificates by serial, a page at a time: what is in Redis and good for a while
stays, the rest is signed in one batch and written. So a pass that was broken off costs the next one only look-ups. The
rate is bounded; between two passes it rests, unless Redis was away and may have come back empty. Expired certificates,
and serials that were never issued, get no answers.

Owns the progress. Knows the store's pages, a signer that takes many at once, and the shared cache; not HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from core import oids
from core.asn1 import der
from core.clock import Clock
from core.errors import QianyanError, Refused, Unavailable
from core.model import CertificateStatus
from core.ports import BatchSigner
from core.store import counters, scan
from core.store.database import Database
from core.store.follow import FeedFollower
from status import _answers, response
from status.cache import OcspAnswer
from status.compose import Composed, compose, signer_digest
from status.issuers import Issuers, OcspSigner
from status.metrics import PresignMetrics
from status.redis_cache import Question, RedisCache, Standing
from status.settings import OcspSettings

#: Certificates looked at in one go: a few milliseconds of signing.
_PAGE: Final = 200
#: A pass begins so long after the one before began, as a part of an answer's life: before what that made is renewed.
_REST: Final = 0.25
_AGAIN_S: Final = 5.0
_HASHES: Final = {
    "sm3": oids.SM3, "sha1": oids.SHA1, "sha256": oids.SHA256, "sha384": oids.SHA384, "sha512": oids.SHA512
}  # fmt: skip

_log = structlog.get_logger()


@dataclass(slots=True)
class Progress:
    """Of one pass. Counts of certificates, but `signed`: answers."""

    certificates: int = 0
    looked_at: int = 0
    signed: int = 0
    seconds: float = 0.0


class Presigner:
    """See the module. `issuers()`: as of the last commit. `signer_for`: a key by its id."""

    def __init__(
        self,
        database: Database,
        follower: FeedFollower,
        issuers: Callable[[], Awaitable[Issuers]],
        signer_for: Callable[[str], BatchSigner],
        shared: RedisCache,
        clock: Clock,
        settings: OcspSettings,
        metrics: PresignMetrics,
    ) -> None:
        self._database = database
        self._follower = follower
        self._issuers = issuers
        self._signer_for = signer_for
        self._shared = shared
        self._clock = clock
        self._settings = settings
        self._metrics = metrics

    async def run(self, stop: asyncio.Event) -> None:
        """One pass after another until `stop`; a failure is logged and tried again."""
        while not stop.is_set():
            began, connected = time.monotonic(), self._shared.times_connected
            wait_s = _AGAIN_S
            try:
                progress = await self.once(self._settings.presign_per_s, stop=stop)
                wait_s = max(1.0, self._settings.response_life_s * _REST - (time.monotonic() - began))
                _log.info("presign_pass", certificates=progress.looked_at, signed=progress.signed,
                          seconds=round(progress.seconds, 1))  # fmt: skip
            except QianyanError as error:
                _log.warning("presign_failed", code=error.code, detail=error.detail)
            until = time.monotonic() + wait_s
            while not stop.is_set() and time.monotonic() < until and self._shared.times_connected == connected:
                await _until(stop, min(_AGAIN_S, until - time.monotonic()))

    async def once(
        self, per_s: int, *, stop: asyncio.Event | None = None, told: Callable[[Progress], None] | None = None
    ) -> Progress:
        """One pass of at most `per_s` signatures a second; `told` of its progress after each page.

        Raises Unavailable where Redis, the store or a key does not do its part.
        """
        await self._shared.loaded.wait()
        began = time.monotonic()
        progress = Progress()
        issuers = await self._issuers()
        wanted = [issuer.id for issuer in issuers.by_id.values() if issuer.signer is not None]
        async with self._database.read() as connection:
            for authority_id in wanted:
                progress.certificates += await scan.count(connection, authority_id)
        self._metrics.certificates.set(progress.certificates)
        for authority_id in wanted:
            after: bytes | None = b""
            while after is not None and not (stop is not None and stop.is_set()):
                after = await self._page(authority_id, after, progress)
                progress.seconds = time.monotonic() - began
                self._metrics.looked_at.set(progress.looked_at)
                if told is not None:
                    told(progress)
                ahead_s = progress.signed / per_s - progress.seconds
                await (_until(stop, ahead_s) if stop is not None else asyncio.sleep(max(0.0, ahead_s)))
        self._metrics.passes.inc()
        self._metrics.seconds.set(progress.seconds)
        return progress

    async def _page(self, authority_id: str, after: bytes, progress: Progress) -> bytes | None:
        """The serial after which the next page begins; None after the last."""
        if not self._shared.up:
            raise Unavailable("Redis does not answer: what is made in advance has nowhere to go", code="redis_down")
        issuers = await self._issuers()
        standing = self._shared.standing()
        issuer = issuers.by_id.get(authority_id)
        if issuer is None or issuer.signer is None or standing is None:
            return None
        now_ms = self._clock()
        async with self._database.read() as connection:
            counters.check_clock(now_ms, await counters.current(connection, counters.LAST_TIME))
            page = await scan.statuses_after(connection, authority_id, after, at_ms=now_ms, limit=_PAGE)
        for begins in self._beginnings(issuers, authority_id):
            progress.signed += await self._answers(authority_id, issuer.signer, begins, page.statuses, standing, now_ms)
        progress.looked_at += len(page.statuses)
        return page.after

    def _beginnings(self, issuers: Issuers, authority_id: str) -> list[bytes]:
        """What a CertID says before its serial, under each hash that is asked for."""
        algorithms = tuple(der.sequence(der.oid(_HASHES[name]), der.null()) for name in self._settings.presign_hashes)
        ways = issuers.by_cert_id.items()
        return [way for way, issuer in ways if issuer.id == authority_id and way.startswith(algorithms)]

    async def _answers(
        self,
        authority_id: str,
        signer: OcspSigner,
        begins: bytes,
        statuses: Sequence[CertificateStatus],
        standing: Standing,
        now_ms: int,
    ) -> int:
        """Makes what is not in Redis for a while yet; returns how many."""
        digest = signer_digest(signer, self._settings)
        cert_ids = [der.sequence(begins + der.integer(status.serial)) for status in statuses]
        questions = [
            Question(authority_id, status.serial, cert_id, signer.key_id, digest)
            for status, cert_id in zip(statuses, cert_ids, strict=True)
        ]
        kept = await self._shared.find_many(questions)
        lacking = [n for n, one in enumerate(kept) if one is None or now_ms >= one.early_ms]
        if not lacking:
            return 0
        composed = [compose(self._settings, signer, [(cert_ids[n], statuses[n])], now_ms) for n in lacking]
        answers = await self._signed(signer, composed)
        for n, answer in zip(lacking, answers, strict=True):
            self._shared.put(questions[n], standing, answer)
        await self._shared.drained()
        self._metrics.signed.inc(len(answers))
        return len(answers)

    async def _signed(self, signer: OcspSigner, composed: Sequence[Composed]) -> list[OcspAnswer]:
        key = self._signer_for(signer.key_id)
        if key.public_key != signer.public_key:
            raise Refused("the OCSP signing key is not its certificate's", code="ocsp_key_mismatch")
        data = [one.tbs for one in composed]
        raw = await key.sign_many(data)
        made = _answers.finish(data, raw, response.certificates_field(signer.certificate))
        return [
            OcspAnswer.made(body, one.this_update_ms, one.next_update_ms, single=True)
            for one, (_, _, body) in zip(composed, made, strict=True)
        ]


async def _until(stop: asyncio.Event, seconds: float) -> None:
    """Waits for `stop`, at most so long."""
    if seconds > 0:
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            return
