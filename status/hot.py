"""OCSP's hot path: from the octets of a request to the octets of an HTTP answer, without a framework between.

Owns the table of answers ready to send and what waits for the general way; only the event-loop thread touches them.
Stands in front of status.responder and says nothing that it would not say: kept answers come from it and are given
only while the change feed, looked at once in a pass of the event loop and at least every millisecond, names none of
them; requests with a nonce are signed in batches (status.live); all the rest waits for `Responder.respond`. Knows the
fields of an HTTP answer and the slots that service.wire hands over; not sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from core.clock import Clock
from core.errors import Busy, Malformed, QianyanError, TooLarge, Unavailable
from core.ports import BatchSigner
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from status import _answers
from status.cache import OcspAnswer
from status.http import etag_matches, http_date, request_from_path
from status.live import LiveAnswers, Slot
from status.request import parse_request, plain_request
from status.responder import Responder
from status.source import StatusLookup

#: The oldest that a look at the feed may be when a kept answer is given. A pass of the loop is mostly shorter.
CHECK_EVERY_S: Final = 0.001

_NOBODY: Final = ("", 0)

_log = structlog.get_logger()


class HotOcsp:
    """See the module. `post` and `get` are handlers for service.wire's routes; made inside the running loop.

    refusal: the unsigned OCSPResponse that stands for an error (status.http.StatusRoutes.refusal).
    """

    def __init__(
        self,
        responder: Responder,
        database: Database,
        follower: FeedFollower,
        signer_for: Callable[[str], BatchSigner],
        clock: Clock,
        refusal: Callable[[QianyanError], bytes],
    ) -> None:
        settings = responder.settings
        self._responder = responder
        self._follower = follower
        self._clock = clock
        self._refusal = refusal
        self._settings = settings
        self._waiting: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._lookup = StatusLookup(database, max_waiting=settings.max_waiting, timeout_s=settings.store_timeout_s)
        self.table = _answers.AnswerTable(
            max_bytes=settings.hot_bytes,
            max_request_bytes=settings.max_request_bytes,
            max_age_s=settings.http_max_age_s,
            check_every_s=CHECK_EVERY_S,
            check=self._check,
            miss=self._miss,
            odd_path=self._odd_path,
            matches=_matches,
            soon=self._loop.call_soon,
        )
        self.live = LiveAnswers(
            responder,
            self._lookup,
            signer_for,
            current=self.table.current,
            now_ms=lambda: self.table.now_ms,
            otherwise=self._later,
            refuse=self._refuse,
        )
        if settings.nonce != "ignore":
            self.table.live = self.live.gathered
        self.post = self.table.post
        self.get = self.table.get
        follower.subscribe(self._on_feed)

    def flush_metrics(self) -> None:
        """Adds what the table counted to the metrics."""
        hits = self.table.take_hits()
        if hits:
            self._responder.metrics.hits.inc(hits)
            self._responder.metrics.request("ok", hits)

    async def close(self) -> None:
        """Returns when every answer under way is given."""
        await self.live.close()
        while self._waiting:
            await asyncio.wait(self._waiting)
        await self._lookup.close()

    # ---- truth

    def _check(self) -> int:
        """The time in ms, with every committed change delivered; -1 where that cannot be had at once."""
        try:
            return self._responder.now_ms() if self._follower.current() else -1
        except Unavailable:
            return -1  # asked again by the general way, which says why

    def _on_feed(self, entry: FeedEntry) -> None:
        self.live.on_feed(entry)
        if entry.serial is not None and entry.authority_id is not None:
            self.table.drop((entry.authority_id, entry.serial))
        elif entry.kind in ("authority", "key"):
            self.table.clear()

    # ---- what the table does not have

    def _odd_path(self, request: Any) -> Any:
        """A GET whose path is not base64 alone."""
        try:
            octets = request_from_path(request.target.decode("ascii"), self._settings.max_request_bytes)
        except TooLarge:
            return None
        except QianyanError as error:
            return self._refuse(error)
        return self._miss(request, octets)

    def _miss(self, request: Any, octets: bytes) -> Any:
        """An answer, the request where it is kept, or None: 413 is for the general handler to say."""
        settings = self._settings
        if len(octets) > settings.max_request_bytes:
            return None
        plain = _answers.read_plain(octets)
        if plain is not None and plain[3] is not None and settings.nonce == "ignore":
            octets, plain = plain_request(plain[1]), (*plain[:3], None)
        if plain is None:
            try:
                parse_request(octets, max_bytes=settings.max_request_bytes, max_requests=settings.max_requests)
            except TooLarge:
                return None
            except Malformed as error:
                return self._refuse(error)
        try:
            asked = _answers.read_asked(request, octets)
            if asked is not None:
                self.live.ask(asked)
                return request
            answer = self._responder.cached(octets)
        except Busy as error:
            return self._refuse(error)
        except QianyanError:
            answer = None
        if answer is not None and plain is not None:
            return self._kept(request, octets, plain, answer)
        if len(self._waiting) >= settings.max_waiting:
            return self._refuse(Busy("too many requests wait", code="ocsp_queue_full", retry_after_s=1))
        self._later(request, octets)
        return request

    def _kept(
        self, request: Any, octets: bytes, plain: tuple[bytes, bytes, bytes, bytes | None], answer: OcspAnswer
    ) -> Any:
        """What the responder has kept; from now on the table has it, too. As `_miss` where a change comes between."""
        position = self._follower.position
        current = self.table.current()
        if self._follower.position != position:  # that look has dropped answers, and perhaps this one
            self._later(request, octets)
            return request
        self._responder.metrics.request("ok")
        issuer = None if self.live.issuers is None else self.live.issuers.by_cert_id.get(plain[0])
        if issuer is None:
            if self.live.issuers is None:  # an authority has changed, and nothing has asked the store since
                self.live.learn_soon()
            return self._render(request, answer)
        entry = _entry(answer, (issuer.id, int.from_bytes(plain[2], "big")))
        if current:
            self.table.put(octets, entry)
        return self.table.give(request, entry)

    def _later(self, slot: Slot, octets: bytes) -> None:
        """Answers by the general way, in a task of its own."""
        task = self._loop.create_task(self._respond(slot, octets))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _respond(self, slot: Slot, octets: bytes) -> None:
        try:
            await self.live.learn_issuers()
            answer = await self._responder.respond(octets)
            self._responder.metrics.request("ok")
            slot.answer(*self._render(slot, answer))
        except QianyanError as error:
            slot.answer(*self._refuse(error))
        except Exception as error:  # whatever it was, the client gets an answer, the log the cause
            _log.error("ocsp_failed", exc_info=error)
            slot.answer(*self._refuse(QianyanError("the answer could not be made")))

    # ---- answers

    def _refuse(self, error: QianyanError) -> _answers.Answer:
        body = self._refusal(error)
        return 200, _answers.no_store(len(body)), body

    def _render(self, request: Any, answer: OcspAnswer) -> _answers.Answer:
        if not answer.single:
            return 200, _answers.no_store(len(answer.der)), answer.der
        self.table.current()  # max-age is reckoned from its time
        return self.table.give(request, _entry(answer, _NOBODY))


def _entry(answer: OcspAnswer, owner: tuple[str, int]) -> _answers.Entry:
    return _answers.Entry(
        answer.der,
        owner,
        answer.this_update_ms,
        answer.early_ms,  # from then on the responder is asked again, which gives it on and renews it
        b'"%s"' % answer.version.encode(),
        http_date(answer.this_update_ms // 1000).encode(),
        http_date(answer.next_update_ms // 1000).encode(),
    )


def _matches(wanted: bytes, etag: bytes) -> bool:
    return etag_matches(wanted.decode("ascii"), etag.decode("ascii"))
