"""Signed answers that nodes and workers share through Redis: asked after the process's own cache, before signing.

Redis is not believed. A value says what it is an answer to, at which feed position its status was read and which entry
stands there, and carries a code (HMAC with SM3, GB/T 15852.2) under a key that only the store has; then it is judged by
what the feed has named since (status.history). So whatever Redis has lost, kept too long, mixed up or made up, the
worst it can do is to make us sign.

All questions of one pass of the event loop go in one MGET, one at a time; whoever asks meanwhile shares the next one.
Writes go behind, in pipelines, from a bounded queue. A circuit breaker (status.breaker) takes Redis out of the way when
it does not answer; what tries it again is a task of its own, so that no request ever waits for a connection.

Owns the queue, the batch and the tasks; only the event-loop thread touches them. Knows values and keys; not who asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography.hazmat.primitives import constant_time, hashes, hmac

from core.clock import Clock
from core.errors import QianyanError
from core.store.database import Database
from core.store.follow import FeedFollower
from status.breaker import Breaker, State
from status.cache import OcspAnswer
from status.history import FeedHistory
from status.metrics import RedisMetrics
from status.redis_client import RedisClient, RedisTrouble, Write
from status.redis_settings import RedisSettings

#: Form of a value; another form has another number and is not read.
_FORM: Final = b"\x01"
#: Feed position, anchor, thisUpdate, nextUpdate, refresh (ms).
_HEAD: Final = struct.Struct(">QQQQQ")
_CODE_BYTES: Final = 32
_MIN_BYTES: Final = len(_FORM) + _HEAD.size + _CODE_BYTES

#: Stands for a value where Redis was not asked, or did not answer.
_NOT_ASKED: Final = object()

#: Most keys in one MGET; and most that wait for the next: past it an answer is signed at once.
_BATCH_MAX: Final = 1_000
_WAITING_MAX: Final = 4_000
#: Writes in one pipeline.
_PIPELINE_MAX: Final = 256
#: A hint is sent at most so often; what it says is the same.
_HINT_EVERY_S: Final = 0.005
#: How long until the channel is listened to again after it broke.
_LISTEN_AGAIN_S: Final = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Question:
    """Which answer: by the CertID's octets, about whose certificate, signed by whom (`signer`: a digest of all that
    an answer owes to its signer and to our settings)."""

    authority_id: str
    serial: int
    cert_id: bytes
    key_id: str
    signer: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the feed stood before an answer's status was read."""

    position: int
    anchor: int


class RedisCache:
    """See the module. `secret`: the store's own (core.store.secrets), for nothing else.

    `start()` begins to connect; `close()` ends it. hints: whether to say and to hear that the feed has moved.
    """

    def __init__(
        self,
        client: RedisClient,
        settings: RedisSettings,
        secret: bytes,
        database: Database,
        follower: FeedFollower,
        clock: Clock,
        metrics: RedisMetrics,
        *,
        hints: bool,
    ) -> None:
        self._client = client
        self._settings = settings
        self._secret = secret
        self._database = database
        self._follower = follower
        self._history = FeedHistory(follower, settings.history_entries)
        self._clock = clock
        self._metrics = metrics
        self._hints = hints
        self._breaker = Breaker(
            failures=settings.failures, retry_s=settings.retry_s, monotonic=time.monotonic, changed=self._state_changed
        )
        self._prefix = settings.prefix.encode() + b":"
        self._channel = self._prefix + b"feed"
        self._asked: dict[bytes, list[asyncio.Future[object]]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._queue: deque[Write] = deque()
        self._queued_bytes = 0
        self._to_write = asyncio.Event()
        self._hint = asyncio.Event()
        self._trouble, self._connected = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        #: How often Redis was found to answer. After each time it may be an empty one.
        self.times_connected = 0
        #: Set when the end of the feed was read, or could not be: until then answers from before the start are unknown.
        self.loaded = asyncio.Event()

    # ---- life

    def start(self) -> None:
        """Begins. Until Redis has answered once, nothing is asked of it."""
        self._breaker.open_now()
        self._trouble.set()
        runs = [self._load(), self._connect_again(), self._write_behind()]
        if self._hints:
            self._database.on_commit.append(self._hint.set)
            runs += [self._say(), self._hear()]
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(run) for run in runs]

    async def _load(self) -> None:
        try:
            await self._history.load(self._database)
        except QianyanError as error:
            _log.warning("redis_history_not_loaded", code=error.code, detail=error.detail)
        finally:
            self.loaded.set()

    async def connected(self, patience_s: float) -> bool:
        """Whether Redis answers, within some time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not self._breaker.closed:
                    self._connected.clear()
                    await self._connected.wait()
        return self._breaker.closed

    async def close(self) -> None:
        """Writes what waits, where Redis takes it at once; then lets go."""
        self._closed = True
        with suppress(RedisTrouble):
            await self._flush()
        tasks = {*self._tasks, *([self._asking] if self._asking else [])}
        while tasks:  # more than once: the client library may not pass a cancellation on
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)
        if self._hint.set in self._database.on_commit:
            self._database.on_commit.remove(self._hint.set)
        for waiting in self._asked.values():
            _tell(waiting, _NOT_ASKED)
        self._asked.clear()
        with suppress(RedisTrouble):
            await self._client.close()

    @property
    def up(self) -> bool:
        """Whether Redis is asked now."""
        return self._breaker.closed

    def standing(self) -> Standing | None:
        """Where the feed stands now, as later answers are to say it; None where that is not known."""
        position = self._follower.position
        anchored = self._history.anchor_at(position)
        return None if anchored is None else Standing(position, anchored)

    # ---- asking

    async def find(self, question: Question) -> OcspAnswer | None:
        """The answer to serve now, or None: to be signed. Never raises for Redis's sake."""
        return (await self.find_many([question]))[0]

    async def find_many(self, questions: Sequence[Question]) -> list[OcspAnswer | None]:
        """An answer or None for each, in order. The feed must have been current when this was called."""
        if not self._breaker.closed or self._closed or len(self._asked) + len(questions) > _WAITING_MAX:
            self._metrics.lookups("skipped", len(questions))
            return [None] * len(questions)
        keys = [self._key(question) for question in questions]
        waiting = [self._ask(key) for key in keys]
        values = await asyncio.gather(*waiting)
        return [self._judged(*one) for one in zip(questions, keys, values, strict=True)]

    def _ask(self, key: bytes) -> asyncio.Future[object]:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[object] = loop.create_future()
        self._asked.setdefault(key, []).append(waiting)
        if self._asking is None:
            self._asking = loop.create_task(self._ask_in_batches())
        return waiting

    async def _ask_in_batches(self) -> None:
        """One MGET after the other while anybody asks. It begins after the pass that called it has ended."""
        try:
            while self._asked:
                keys = list(self._asked)[:_BATCH_MAX]
                batch = {key: self._asked.pop(key) for key in keys}
                values: Sequence[object] = [_NOT_ASKED] * len(keys)
                try:
                    values = await self._mget(keys)
                finally:  # whatever happened, nobody is left waiting
                    for waiting, value in zip(batch.values(), values, strict=True):
                        _tell(waiting, value)
        finally:
            self._asking = None

    async def _mget(self, keys: list[bytes]) -> Sequence[object]:
        if not self._breaker.closed:
            self._metrics.lookups("skipped", len(keys))
            return [_NOT_ASKED] * len(keys)
        began = time.perf_counter()
        try:
            values = await self._client.get_many(keys)
        except RedisTrouble as error:
            self._failed("mget", error)
            self._metrics.lookups("failed", len(keys))
            return [_NOT_ASKED] * len(keys)
        self._metrics.seconds.observe(time.perf_counter() - began)
        self._breaker.succeeded()
        return values

    # ---- what a value is

    def _key(self, question: Question) -> bytes:
        """The prefix, and a digest of the question; the MAC is over the whole of it."""
        said = (question.authority_id.encode(), question.cert_id, question.key_id.encode(), question.signer)
        digest = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in said)).digest()
        return self._prefix + b"ocsp:" + digest

    def _code(self, key: bytes, body: bytes) -> hmac.HMAC:
        code = hmac.HMAC(self._secret, hashes.SM3())
        code.update(len(key).to_bytes(4, "big") + key + body)
        return code

    def _judged(self, question: Question, key: bytes, value: object) -> OcspAnswer | None:
        """The answer in `value`, where it is ours, about what was asked, as new as the store, and in time."""
        if value is None or value is _NOT_ASKED:
            if value is None:
                self._metrics.lookups("absent")
            return None
        body = value[:-_CODE_BYTES] if isinstance(value, bytes) else b""
        if not isinstance(value, bytes) or len(value) < _MIN_BYTES or not value.startswith(_FORM):
            self._metrics.lookups("rejected")
            return None
        if not constant_time.bytes_eq(self._code(key, body).finalize(), value[-_CODE_BYTES:]):
            # Not what we wrote there: somebody else writes to this Redis, or it is broken.
            self._metrics.lookups("rejected")
            return None
        position, anchored, this_ms, next_ms, refresh_ms = _HEAD.unpack_from(body, len(_FORM))
        verdict = self._history.judge(position, anchored, question.authority_id, question.serial, question.key_id)
        if verdict != "current":
            self._metrics.lookups(verdict)
            return None
        if not this_ms <= self._clock() < refresh_ms:
            self._metrics.lookups("outdated")
            return None
        self._metrics.lookups("hit")
        der = body[len(_FORM) + _HEAD.size :]
        return OcspAnswer.shared(der, this_ms, next_ms, refresh_ms)

    # ---- writing

    def put(self, question: Question, standing: Standing, answer: OcspAnswer) -> None:
        """Writes the answer behind, where there is room; only one that others may be given."""
        life_ms = answer.next_update_ms - self._clock()
        if not answer.single or life_ms <= 0:
            return
        key = self._key(question)
        head = _HEAD.pack(
            standing.position, standing.anchor, answer.this_update_ms, answer.next_update_ms, answer.refresh_ms
        )
        body = _FORM + head + answer.der
        value = body + self._code(key, body).finalize()
        size = len(key) + len(value)
        if not self._breaker.closed or self._queued_bytes + size > self._settings.write_queue_bytes:
            self._metrics.writes("dropped")
            return
        self._queue.append((key, value, life_ms))
        self._queued_bytes += size
        self._to_write.set()

    async def drained(self) -> None:
        """Returns when what was put is written, or given up."""
        while self._queue and self._breaker.closed:
            with suppress(RedisTrouble):
                await self._flush()

    async def _write_behind(self) -> None:
        while not self._closed:
            await self._to_write.wait()
            self._to_write.clear()
            with suppress(RedisTrouble):  # counted and logged
                await self._flush()
            if self._queue:
                self._to_write.set()

    async def _flush(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(_PIPELINE_MAX, len(self._queue)))]
            self._queued_bytes -= sum(len(key) + len(value) for key, value, _ in batch)
            if not self._breaker.closed:
                self._metrics.writes("dropped", len(batch))
                continue
            try:
                await self._client.put_many(batch)
            except RedisTrouble as error:
                self._failed("set", error)
                self._metrics.writes("failed", len(batch))
                raise
            self._breaker.succeeded()
            self._metrics.writes("written", len(batch))

    # ---- whether it is there

    def _failed(self, what: str, error: RedisTrouble) -> None:
        self._metrics.failures.inc()
        self._breaker.failed()
        if not self._breaker.closed:
            _log.warning("redis_failing", asked=what, cause=str(error))
            self._trouble.set()

    def _state_changed(self, state: State) -> None:
        self._metrics.state(state)
        if state == "closed":
            self.times_connected += 1
            self._connected.set()

    async def _connect_again(self) -> None:
        """While the breaker is open: tries, at its times, whether Redis answers."""
        while not self._closed:
            await self._trouble.wait()
            self._trouble.clear()
            while not self._breaker.closed:
                if not self._breaker.allows():
                    await asyncio.sleep(self._breaker.wait_s)
                    continue
                try:
                    await self._client.connect()
                except RedisTrouble:
                    self._breaker.failed()
                else:
                    self._breaker.succeeded()
                    _log.info("redis_answers")

    # ---- the hint that the feed has moved

    async def _say(self) -> None:
        while not self._closed:
            await self._hint.wait()
            self._hint.clear()
            if self._breaker.closed:
                with suppress(RedisTrouble):  # a hint: whoever misses it polls
                    await self._client.publish(self._channel)
            await asyncio.sleep(_HINT_EVERY_S)

    async def _hear(self) -> None:
        while not self._closed:
            try:
                async for _ in self._client.heard(self._channel):
                    self._metrics.hints.inc()
                    self._follower.nudge()
            except RedisTrouble:
                pass  # the breaker and its log tell of it
            await asyncio.sleep(_LISTEN_AGAIN_S)


def _tell(waiting: Sequence[asyncio.Future[object]], value: object) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(value)
