"""Answers OCSP requests: from memory while nothing has changed, otherwise from the store with a new signature.

Two rules hold the file together. Before a kept answer is given, the change feed is looked at, so that nothing older
than the last commit leaves. And whatever the feed names is dropped from the cache *and* from the answers being made,
so that an answer begun before a change is neither kept nor shared by who asks after it.

Owns the cache and the tasks that make answers; only the event-loop thread touches them. An answer that several wait
for is made once, in a task of its own: a client that leaves cancels nothing. Writes nothing to the store (a responder
may stand beside a replica), and knows neither HTTP nor how errors are rendered.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from core.clock import Clock
from core.errors import NotFound, Refused, Unavailable
from core.model import CertificateStatus
from core.ports import Signer
from core.store.counters import CLOCK_TOLERANCE_MS, check_clock
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from status import response
from status.cache import AnswerCache, OcspAnswer
from status.issuers import Issuer, Issuers, IssuerTable, OcspSigner
from status.metrics import StatusMetrics
from status.request import CertId, OcspRequest, parse_request, plain_request
from status.settings import OcspSettings
from status.source import StatusLookup

#: A certificate: authority id and serial.
_Certificate = tuple[str, int]


class Responder:
    """The OCSP responder of one process. `close()` waits for the answers under way."""

    def __init__(
        self,
        database: Database,
        follower: FeedFollower,
        signer_for: Callable[[str], Signer],
        clock: Clock,
        settings: OcspSettings,
        metrics: StatusMetrics | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or StatusMetrics()
        self._follower = follower
        self._signer_for = signer_for
        self._clock = clock
        self._cache = AnswerCache(settings.cache_bytes)
        self._issuers = IssuerTable(database, settings.responder_id)
        self._lookup = StatusLookup(database, max_waiting=settings.max_waiting, timeout_s=settings.store_timeout_s)
        self._making: dict[_Certificate, dict[bytes, asyncio.Task[OcspAnswer]]] = {}
        self._tasks: set[asyncio.Task[OcspAnswer]] = set()
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
        if not self._follower.current():
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

    def _now(self) -> int:
        """The time. Raises Unavailable (code "clock_behind") where it stands behind one seen before (DESIGN rule 8)."""
        now_ms = self._clock()
        if now_ms >= self._latest_ms:
            self._latest_ms = now_ms
        elif now_ms + CLOCK_TOLERANCE_MS < self._latest_ms:
            raise Unavailable("the clock went back; set it right, then start again", code="clock_behind")
        return now_ms

    def _fresh(self, key: bytes) -> OcspAnswer | None:
        answer = self._cache.get(key)
        if answer is not None and answer.this_update_ms <= self._now() < answer.refresh_ms:
            return answer
        return None

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
            task = self._begin(key, certificate, self._make(issuer, asked))
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

    async def _make(self, issuer: Issuer, asked: OcspRequest) -> OcspAnswer:
        """A new answer: asks the store, signs what it says."""
        assert issuer.signer is not None
        now_ms = self._now()
        statuses, last_ms = await self._lookup.find(issuer.id, [cert_id.serial for cert_id in asked.cert_ids])
        check_clock(self._now(), last_ms)
        this_ms = now_ms // 1000 * 1000
        next_ms = [self._next_update(issuer.signer, status, this_ms, now_ms) for status in statuses]
        singles = [
            response.single_response(cert_id.raw, status, this_ms, until_ms)
            for cert_id, status, until_ms in zip(asked.cert_ids, statuses, next_ms, strict=True)
        ]
        tbs = response.response_data(issuer.signer.responder_id, this_ms, singles, asked.nonce)
        signature = await self._sign(issuer.signer, tbs)
        self.metrics.signatures.inc()
        encoded = response.ocsp_response(tbs, signature, issuer.signer.certificate)
        single = asked.nonce is None and len(statuses) == 1 and statuses[0].state is not None
        return OcspAnswer(
            der=encoded,
            this_update_ms=this_ms,
            next_update_ms=min(next_ms),
            refresh_ms=this_ms + (min(next_ms) - this_ms) // 2,
            single=single,
            version=hashlib.sha256(encoded).hexdigest()[:32] if single else "",
        )

    def _next_update(self, signer: OcspSigner, status: CertificateStatus, this_ms: int, now_ms: int) -> int:
        """When the answer ends: never past the signer's certificate (DESIGN rule 5).

        Raises Refused (code "ocsp_signer_expired") where that certificate is not valid now.
        """
        if not signer.not_before_ms <= now_ms < signer.not_after_ms:
            raise Refused("the OCSP signer's certificate is not valid now", code="ocsp_signer_expired")
        life_s = self.settings.response_life_s
        if status.state is None:
            life_s = min(life_s, self.settings.unknown_life_s)
        return min(this_ms + life_s * 1000, signer.not_after_ms)

    async def _sign(self, signer: OcspSigner, tbs: bytes) -> bytes:
        """The signature over `tbs`; a key that may come back is Unavailable, one that cannot is Refused."""
        try:
            key = self._signer_for(signer.key_id)
            if key.public_key != signer.public_key:
                raise Refused("the OCSP signing key is not its certificate's", code="ocsp_key_mismatch")
            return await key.sign(tbs)
        except NotFound as error:
            raise Refused("the OCSP signing key is not here", code="ocsp_key_missing") from error
        except Refused as error:
            if error.code == "key_frozen":
                raise Unavailable("the OCSP signing key is frozen", code="key_frozen", retry_after_s=60) from error
            raise
