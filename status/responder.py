"""Answers OCSP requests: from memory while nothing has changed, then from Redis where there is one, otherwise from the
store with a new signature.

Two rules hold the file together. Before a kept answer is given, the change feed is looked at, so that nothing older
than the last commit leaves. And whatever the feed names is dropped from the cache *and* from the answers being made,
so that an answer begun before a change is neither kept nor shared by who asks after it. What Redis says is judged in
the same way (status.redis_cache).

Owns the cache and the tasks that make answers; only the event-loop thread touches them. An answer that several wait
for is made once, in a task of its own: a client that leaves cancels nothing. An answer that is asked for is renewed
well before it may not be given any more, so that nobody waits for the new one. Writes nothing to the store (a
responder may stand beside a replica), and knows neither HTTP nor how errors are rendered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

from core.clock import Clock
from core.errors import Malformed, NotFound, QianyanError, Refused, Unavailable
from core.ports import Signer
from core.store.counters import CLOCK_TOLERANCE_MS, check_clock
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from status import response
from status.cache import AnswerCache, OcspAnswer
from status.compose import compose, signer_digest
from status.issuers import Issuer, Issuers, IssuerTable, OcspSigner
from status.metrics import StatusMetrics
from status.redis_cache import Question, RedisCache
from status.request import CertId, OcspRequest, parse_request, plain_request
from status.settings import OcspSettings
from status.source import StatusLookup

#: Most answers that are renewed at a time, and how long none is after one could not be.
_RENEWING_MAX: Final = 64
_RENEW_PAUSE_S: Final = 1.0

#: A certificate: authority id and serial.
_Certificate = tuple[str, int]


class Responder:
    """The OCSP responder of one process. `close()` waits for the answers under way.

    refresh_keys: returns with every committed key known to `signer_for`, or raises Unavailable.
    """

    def __init__(
        self,
        database: Database,
        follower: FeedFollower,
        signer_for: Callable[[str], Signer],
        clock: Clock,
        settings: OcspSettings,
        metrics: StatusMetrics | None = None,
        shared: RedisCache | None = None,
        refresh_keys: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or StatusMetrics()
        self._follower = follower
        self._signer_for = signer_for
        self._refresh_keys = refresh_keys
        self._clock = clock
        self._cache = AnswerCache(settings.cache_bytes)
        self._issuers = IssuerTable(database, settings.responder_id)
        self._lookup = StatusLookup(database, max_waiting=settings.max_waiting, timeout_s=settings.store_timeout_s)
        self._making: dict[_Certificate, dict[bytes, asyncio.Task[OcspAnswer]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._shared_cache = shared
        self._renewing: set[bytes] = set()
        self._renew_after = 0.0
        self._latest_ms = 0
        self._closed = False
        self.metrics.cache_bytes.set_function(lambda: self._cache.size_bytes)
        self.metrics.cache_entries.set_function(lambda: len(self._cache))
        follower.subscribe(self._on_feed)

    async def respond(self, request: bytes) -> OcspAnswer:
        """The signed answer to a DER OCSPRequest.

        Raises Malformed, TooLarge, NotFound (code "issuer_unknown"), Busy, Unavailable, or Refused where the signer
        cannot sign any more.
        """
        answer = self.cached(request)
        if answer is not None:
            return answer
        limits = self.settings
        asked = parse_request(request, max_bytes=limits.max_request_bytes, max_requests=limits.max_requests)
        if asked.nonce is None and limits.nonce == "required":
            raise Malformed("a request needs a nonce here", code="nonce_required")
        if limits.nonce == "ignore":
            asked = replace(asked, nonce=None)
        if self._closed:
            raise Unavailable("the responder is stopping", code="stopping", retry_after_s=1)
        await self._follower.ensure_current()
        issuer = self._issuer(await self._issuers.get(), asked.cert_ids)
        if asked.nonce is not None or len(asked.cert_ids) > 1:
            return await self._make(issuer, asked)
        return await self._shared(issuer, asked)

    def cached(self, request: bytes) -> OcspAnswer | None:
        """The hot path, without a wait: the kept answer to a plain request; None where there is none to give.

        Raises Unavailable where the feed cannot be read or the clock went back.
        """
        if self.settings.nonce == "required" or not self._follower.current():
            return None
        answer = self._fresh(request)
        if answer is not None:
            self.metrics.hits.inc()
        return answer

    async def issuers(self) -> Issuers:
        """The authorities, as of the last commit."""
        await self._follower.ensure_current()
        return await self._issuers.get()

    async def close(self) -> None:
        """Takes nothing new that has to be made; returns when every answer under way is made."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._lookup.close()

    # ---- what is kept

    def now_ms(self) -> int:
        """The time. Raises Unavailable (code "clock_behind") where it stands behind one seen before (rule 8)."""
        now_ms = self._clock()
        if now_ms >= self._latest_ms:
            self._latest_ms = now_ms
        elif now_ms + CLOCK_TOLERANCE_MS < self._latest_ms:
            raise Unavailable("the clock went back; set it right, then start again", code="clock_behind")
        return now_ms

    def _fresh(self, key: bytes) -> OcspAnswer | None:
        answer = self._cache.get(key)
        if answer is None:
            return None
        now_ms = self.now_ms()
        if not answer.this_update_ms <= now_ms < answer.refresh_ms:
            return None
        if now_ms >= answer.early_ms and key not in self._renewing:
            self._renew_soon(key)
        return answer

    def _renew_soon(self, key: bytes) -> None:
        """Begins to make a kept answer anew; the old one is given until that is done, and no longer than it may be."""
        if self._closed or len(self._renewing) >= _RENEWING_MAX or time.monotonic() < self._renew_after:
            return
        self._renewing.add(key)
        task = asyncio.get_running_loop().create_task(self._renew(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self, key: bytes) -> None:
        limits = self.settings
        asked = parse_request(key, max_bytes=limits.max_request_bytes, max_requests=limits.max_requests)
        try:
            await self._follower.ensure_current()
            issuer = self._issuer(await self._issuers.get(), asked.cert_ids)
            certificate = (issuer.id, asked.cert_ids[0].serial)
            making = self._making.get(certificate, {}).get(key)
            if making is None:
                self.metrics.renewals.inc()
                making = self._begin(key, certificate, self._obtain(issuer, asked))
            await asyncio.wait((making,))
            making.result()
        except QianyanError:  # whoever asks when the old one may not be given any more is told
            self._renew_after = time.monotonic() + _RENEW_PAUSE_S
        finally:
            self._renewing.discard(key)

    def _on_feed(self, entry: FeedEntry) -> None:
        """Forgets what a committed change has overtaken; who waits for an answer being made still gets that one."""
        if entry.serial is not None and entry.authority_id is not None:
            self._cache.drop(entry.authority_id, entry.serial)
            self._making.pop((entry.authority_id, entry.serial), None)
        elif entry.kind == "authority":
            self._issuers.invalidate()
            self._cache.clear()
            self._making.clear()
        elif entry.kind == "key":
            concerned = self._issuers.signed_by(entry.subject_id)
            for authority_id in concerned:
                self._cache.drop_authority(authority_id)
            for certificate in [certificate for certificate in self._making if certificate[0] in concerned]:
                del self._making[certificate]

    # ---- making answers

    @staticmethod
    def _issuer(issuers: Issuers, cert_ids: Sequence[CertId]) -> Issuer:
        """The one authority that all are about: an answer has one signer. Raises NotFound where there is none."""
        issuer = issuers.by_cert_id.get(cert_ids[0].issuer)
        if issuer is None or issuer.signer is None:
            raise NotFound("no answers are given here for that issuer", code="issuer_unknown")
        if any(issuers.by_cert_id.get(other.issuer) is not issuer for other in cert_ids[1:]):
            raise NotFound("one request can only ask about one issuer's certificates", code="issuer_unknown")
        return issuer

    async def _shared(self, issuer: Issuer, asked: OcspRequest) -> OcspAnswer:
        """The kept answer, or the one being made, or a new one."""
        key = plain_request(asked.cert_ids[0].raw)
        answer = self._fresh(key)
        if answer is not None:  # the request was not the plain one, or another change had moved the feed
            self.metrics.hits.inc()
            return answer
        certificate = (issuer.id, asked.cert_ids[0].serial)
        task = self._making.get(certificate, {}).get(key)
        if task is None:
            self.metrics.misses.inc()
            task = self._begin(key, certificate, self._obtain(issuer, asked))
        else:
            self.metrics.joined.inc()
        await asyncio.wait((task,))
        return task.result()

    def _begin(
        self, key: bytes, certificate: _Certificate, making: Coroutine[Any, Any, OcspAnswer]
    ) -> asyncio.Task[OcspAnswer]:
        """A task that others may share until the feed names the certificate."""
        task = asyncio.get_running_loop().create_task(making)
        self._tasks.add(task)
        self._making.setdefault(certificate, {})[key] = task

        def done(task: asyncio.Task[OcspAnswer]) -> None:
            self._tasks.discard(task)
            shared = self._making.get(certificate, {})
            current = shared.get(key) is task
            if current:
                del shared[key]
                if not shared:
                    del self._making[certificate]
            if task.cancelled() or task.exception() is not None:
                return  # whoever waits is told
            answer = task.result()
            if current and answer.single:
                self._cache.put(key, *certificate, answer)

        task.add_done_callback(done)
        return task

    async def _obtain(self, issuer: Issuer, asked: OcspRequest) -> OcspAnswer:
        """An answer that others may be given: from Redis, or a new one, which Redis gets."""
        shared, signer, cert_id = self._shared_cache, issuer.signer, asked.cert_ids[0]
        if shared is None or signer is None:
            return await self._make(issuer, asked)
        digest = signer_digest(signer, self.settings)
        question = Question(issuer.id, cert_id.serial, cert_id.raw, signer.key_id, digest)
        found = await shared.find(question)
        if found is not None and self.now_ms() < found.early_ms:
            return found
        standing = shared.standing()  # before the store is read: what it says is at least as new
        made = await self._make(issuer, asked)
        if standing is not None:
            shared.put(question, standing, made)
        return made

    async def _make(self, issuer: Issuer, asked: OcspRequest) -> OcspAnswer:
        """A new answer: asks the store, signs what it says."""
        assert issuer.signer is not None
        now_ms = self.now_ms()
        statuses, last_ms = await self._lookup.find(issuer.id, [cert_id.serial for cert_id in asked.cert_ids])
        check_clock(self.now_ms(), last_ms)
        pairs = [(cert_id.raw, status) for cert_id, status in zip(asked.cert_ids, statuses, strict=True)]
        composed = compose(self.settings, issuer.signer, pairs, now_ms, asked.nonce)
        signature = await self._sign(issuer.signer, composed.tbs)
        self.metrics.signatures.inc()
        encoded = response.ocsp_response(composed.tbs, signature, issuer.signer.certificate)
        return OcspAnswer.made(
            encoded,
            composed.this_update_ms,
            composed.next_update_ms,
            single=asked.nonce is None and len(statuses) == 1 and composed.known,
        )

    async def _sign(self, signer: OcspSigner, tbs: bytes) -> bytes:
        """The signature over `tbs`; a key that may come back is Unavailable, one that cannot is Refused."""
        try:
            key = await self._key(signer)
            if key.public_key != signer.public_key:
                raise Refused("the OCSP signing key is not its certificate's", code="ocsp_key_mismatch")
            return await key.sign(tbs)
        except NotFound as error:
            raise Refused("the OCSP signing key is not here", code="ocsp_key_missing") from error
        except Refused as error:
            if error.code == "key_frozen":
                raise Unavailable("the OCSP signing key is frozen", code="key_frozen", retry_after_s=60) from error
            raise

    async def _key(self, signer: OcspSigner) -> Signer:
        """The signer's key: a new authority's may have been committed a moment ago, and not be opened here yet."""
        try:
            return self._signer_for(signer.key_id)
        except NotFound:
            if self._refresh_keys is None:
                raise
            await self._refresh_keys()
            return self._signer_for(signer.key_id)
