"""The batcher by itself, with native keys as tickets: how requests gather, and what becomes of each of them."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from core.errors import Busy, Refused, TooLarge, Unavailable
from signer._native import sm2
from signer.engine.batch import Batcher
from signer.engine.metrics import EngineMetrics
from signer.engine.settings import EngineSettings


class Work:
    """Signs with native keys; records each call, and can be told to wait, to refuse a key or to fail."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[sm2.PrivateKey, int]]] = []
        self.threads: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.started = threading.Event()
        self.is_ready = True
        self.prepared = 0
        self.prepare_error: Exception | None = None
        self.refused: set[int] = set()
        self.broken: set[int] = set()
        self.left = 0

    def ready(self, demand: Sequence[tuple[sm2.PrivateKey, int]]) -> bool:
        return self.is_ready

    async def prepare(self, demand: Sequence[tuple[sm2.PrivateKey, int]]) -> None:
        self.prepared += 1
        await asyncio.sleep(0)
        if self.prepare_error is not None:
            raise self.prepare_error

    def admit(self, ticket: sm2.PrivateKey, count: int) -> None:
        if id(ticket) in self.refused:
            raise Refused("no", code="key_frozen")

    def sign(self, parts: Sequence[tuple[sm2.PrivateKey, int]], digests: bytes) -> bytes:
        self.calls.append(list(parts))
        self.threads.append(threading.current_thread().name)
        self.started.set()
        assert self.go_on.wait(30)
        if any(id(key) in self.broken for key, _ in parts):
            raise RuntimeError("this key is broken")
        return sm2.sign_many([key for key, count in parts for _ in range(count)], digests)

    def signed(self, ticket: sm2.PrivateKey, count: int) -> None:
        self.left += count


def batcher(work: Work, **settings: int) -> Batcher[sm2.PrivateKey]:
    given = EngineSettings(**settings)  # type: ignore[arg-type]
    return Batcher(work, given, EngineMetrics.create(), inline_max=given.inline_max)


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    made = Work()
    yield made
    made.go_on.set()


KEYS = [sm2.PrivateKey.generate() for _ in range(3)]


def check(key: sm2.PrivateKey, digests: bytes, signatures: bytes) -> None:
    assert len(signatures) == len(digests) * 2
    assert sm2.verify_many(key.public_key, digests, signatures) == b"\1" * (len(digests) // 32)


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 30)


async def test_what_arrives_together_is_one_native_call(work: Work) -> None:
    batches = batcher(work)
    asked = [(KEYS[n % 3], secrets.token_bytes(32 * (1 + n % 2))) for n in range(20)]

    async def one(key: sm2.PrivateKey, digests: bytes) -> bytes:
        return await batches.submit(key, digests)

    answers = await asyncio.gather(*(one(key, digests) for key, digests in asked))
    for (key, digests), signatures in zip(asked, answers, strict=True):
        check(key, digests, signatures)
    assert len(work.calls) == 1
    assert work.left == 30
    assert batches.pending == 0
    await batches.close()


async def test_a_lone_request_is_signed_on_the_loop_with_nothing_prepared(work: Work) -> None:
    batches = batcher(work)
    digest = secrets.token_bytes(32)
    check(KEYS[0], digest, await batches.submit(KEYS[0], digest))
    assert work.threads == [threading.current_thread().name]
    assert work.prepared == 0
    await batches.close()


async def test_a_long_batch_goes_to_a_thread_and_the_next_gathers_meanwhile(work: Work) -> None:
    batches = batcher(work, inline_max=8)
    work.go_on.clear()
    first = batches.submit(KEYS[0], secrets.token_bytes(32 * 9))
    await until(work.started)
    later = [batches.submit(KEYS[1], secrets.token_bytes(32)) for _ in range(5)]
    await asyncio.sleep(0)
    more = [batches.submit(KEYS[2], secrets.token_bytes(32)) for _ in range(6)]
    await asyncio.sleep(0)
    assert len(work.calls) == 1
    work.go_on.set()
    await asyncio.gather(first, *later, *more)
    assert [sum(count for _, count in call) for call in work.calls] == [9, 11]
    assert all(name.startswith("qianyan-sign") for name in work.threads)
    await batches.close()


async def test_a_cancelled_waiter_does_not_harm_its_batch(work: Work) -> None:
    batches = batcher(work, inline_max=0)
    work.go_on.clear()
    digests = [secrets.token_bytes(32) for _ in range(3)]
    waiters = [asyncio.ensure_future(batches.submit(KEYS[0], digest)) for digest in digests]
    await until(work.started)
    waiters[1].cancel()
    work.go_on.set()
    check(KEYS[0], digests[0], await waiters[0])
    check(KEYS[0], digests[2], await waiters[2])
    assert waiters[1].cancelled()
    assert batches.pending == 0
    await batches.close()


async def test_who_leaves_before_the_turn_is_not_signed_for(work: Work) -> None:
    batches = batcher(work)
    stays = batches.submit(KEYS[0], bytes(32))
    batches.submit(KEYS[1], bytes(32 * 5)).cancel()
    await stays
    assert work.calls == [[(KEYS[0], 1)]]
    assert batches.pending == 0
    await batches.close()


async def test_past_max_pending_a_request_is_refused_at_once(work: Work) -> None:
    batches = batcher(work, inline_max=0, batch_max=10, max_pending=10)
    work.go_on.clear()
    accepted = [batches.submit(KEYS[0], bytes(32)) for _ in range(10)]
    waits = set()
    for _ in range(50):
        with pytest.raises(Busy) as caught:
            batches.submit(KEYS[0], bytes(32))
        waits.add(caught.value.retry_after_s)
    assert waits == {1, 2, 3}
    with pytest.raises(TooLarge):
        batches.submit(KEYS[0], bytes(32 * 11))
    work.go_on.set()
    await asyncio.gather(*accepted)
    await batches.submit(KEYS[0], bytes(32))  # there is room again
    await batches.close()


async def test_one_refused_ticket_fails_alone(work: Work) -> None:
    batches = batcher(work)
    work.refused.add(id(KEYS[1]))
    answers = await asyncio.gather(*(batches.submit(key, bytes(32)) for key in KEYS), return_exceptions=True)
    check(KEYS[0], bytes(32), answers[0])  # type: ignore[arg-type]
    check(KEYS[2], bytes(32), answers[2])  # type: ignore[arg-type]
    assert isinstance(answers[1], Refused)
    assert [count for _, count in work.calls[0]] == [1, 1]
    await batches.close()


@pytest.mark.parametrize("inline_max", [0, 48])
async def test_one_key_that_breaks_the_native_call_fails_alone(work: Work, inline_max: int) -> None:
    batches = batcher(work, inline_max=inline_max)
    work.broken.add(id(KEYS[1]))
    answers = await asyncio.gather(*(batches.submit(key, bytes(32)) for key in KEYS), return_exceptions=True)
    check(KEYS[0], bytes(32), answers[0])  # type: ignore[arg-type]
    check(KEYS[2], bytes(32), answers[2])  # type: ignore[arg-type]
    assert isinstance(answers[1], Unavailable)
    assert "broken" not in answers[1].detail
    await batches.close()


async def test_where_preparing_fails_all_are_told_and_the_next_goes_through(work: Work) -> None:
    batches = batcher(work)
    work.is_ready = False
    for error in (Unavailable("the store is gone", code="store_unavailable"), ValueError("unforeseen")):
        work.prepare_error = error
        answers = await asyncio.gather(*(batches.submit(KEYS[0], bytes(32)) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(answer, Unavailable) for answer in answers)
    assert work.calls == []
    work.prepare_error = None
    await batches.submit(KEYS[0], bytes(32))
    assert batches.pending == 0
    await batches.close()


async def test_a_long_item_is_sliced_and_a_short_one_overtakes_it(work: Work) -> None:
    batches = batcher(work, inline_max=0, batch_max=100)
    digests = secrets.token_bytes(32 * 950)
    order = []
    long = asyncio.ensure_future(batches.submit(KEYS[0], digests))
    short = asyncio.ensure_future(batches.submit(KEYS[1], bytes(32)))
    long.add_done_callback(lambda _: order.append("long"))
    short.add_done_callback(lambda _: order.append("short"))
    check(KEYS[0], digests, await long)
    await short
    assert order == ["short", "long"]
    assert max(sum(count for _, count in call) for call in work.calls) == 100
    assert batches.pending == 0
    await batches.close()


async def test_a_long_item_that_is_refused_halfway_ends_there(work: Work) -> None:
    batches = batcher(work, inline_max=0, batch_max=10)
    work.go_on.clear()
    waiting = batches.submit(KEYS[0], bytes(32 * 100))
    await until(work.started)
    work.refused.add(id(KEYS[0]))
    work.go_on.set()
    with pytest.raises(Refused):
        await waiting
    await batches.close()
    assert len(work.calls) == 1
    assert batches.pending == 0


async def test_closing_answers_what_was_accepted_and_refuses_the_rest(work: Work) -> None:
    batches = batcher(work, inline_max=0, batch_max=4)
    work.go_on.clear()
    accepted = [batches.submit(KEYS[n % 3], bytes(32)) for n in range(11)]
    closing = asyncio.ensure_future(batches.close())
    await until(work.started)
    with pytest.raises(Unavailable) as caught:
        batches.submit(KEYS[0], bytes(32))
    assert caught.value.code == "stopping"
    assert not closing.done()
    work.go_on.set()
    await closing
    assert all(future.done() and len(future.result()) == 64 for future in accepted)


async def test_closing_an_idle_batcher_with_a_turn_outstanding(work: Work) -> None:
    batches = batcher(work)
    accepted = batches.submit(KEYS[0], bytes(32))
    await batches.close()
    assert len(accepted.result()) == 64


@pytest.mark.parametrize("digests", [b"", bytes(31), bytes(33)])
async def test_only_whole_digests_are_taken(work: Work, digests: bytes) -> None:
    batches = batcher(work)
    with pytest.raises(ValueError, match="32 bytes"):
        batches.submit(KEYS[0], digests)
    await batches.close()


async def test_under_a_storm_every_future_is_resolved_once(work: Work) -> None:
    batches = batcher(work, inline_max=8, batch_max=64, max_pending=512)
    outcomes = {"signed": 0, "busy": 0, "cancelled": 0}

    async def client(seed: int) -> None:
        for n in range(20):
            key, digests = KEYS[(seed + n) % 3], secrets.token_bytes(32 * (1 + (seed * n) % 70))
            try:
                future = batches.submit(key, digests)
                if (seed + n) % 7 == 0:
                    future.cancel()
                check(key, digests, await future)
                outcomes["signed"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            except Busy:
                outcomes["busy"] += 1
                await asyncio.sleep(0)

    await asyncio.gather(*(client(seed) for seed in range(40)))
    assert sum(outcomes.values()) == 800
    assert outcomes["signed"] > 0
    assert outcomes["busy"] > 0
    assert batches.pending == 0
    await batches.close()
