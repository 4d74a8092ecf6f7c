"""The compiled generator against servers that stall, lie, hang up and never answer: what it measures is what was.

The servers are small and real, on sockets of their own; a thread runs them, because the driver needs no interpreter.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from loadtest._engine import WHOLE_BITS, Driver, Record, Schedule, bucket
from loadtest.histogram import ERRORS, Histogram
from tests.running import free_port

SECOND = 10**9
Handler = Callable[["Server", int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nGOOD"
REQUEST = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"


class Server:
    """Answers each request by a function; counts requests and connections. Its event loop is one for all: a handler
    that blocks stalls everybody, as a stalled service does."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self.port = 0
        self.requests = 0
        self.open = self.most_open = 0
        self.bodies: list[bytes] = []
        self.loop: asyncio.AbstractEventLoop
        self.free = threading.Event()
        self.free.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int((head.partition(b"Content-Length: ")[2] or b"0\r\n").split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                self.requests += 1
                await self._handle(self, self.requests, reader, writer)
                if writer.is_closing():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()

    async def _serve(self, ready: threading.Event) -> None:
        self.loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await self._over.wait()

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Serves until the block is left."""
        ready = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            yield self
        finally:
            self.loop.call_soon_threadsafe(self._over.set)
            thread.join(30)


async def good(_: Server, __: int, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """200 and four octets."""
    writer.write(ANSWER)


def drive(
    port: int, *, rate: float = 400, seconds: float = 1.0, request: bytes = REQUEST, patch: tuple[int, int] = (0, 0),
    **more: Any,
) -> tuple[Driver, dict[str, int], Histogram]:  # fmt: skip
    """(the driver, its counts by error, its latencies) after one run."""
    record = Record(1, 20, SECOND)
    schedule = Schedule([(0, rate)], seconds + 0.5 / rate, poisson=False)  # rate × seconds arrivals
    options: dict[str, Any] = {"connections": 4, "timeout_s": 30.0, "sample_every": 0, **more}
    driver = Driver(record, schedule, [(request, *patch, 4, 4, 0, 0, 200)], [("127.0.0.1", port)], **options)
    driver.run()
    errors, max_ns, _, _, counts = record.kind(0)
    offered = sum(record.part(0, place)[0] for place in range(20))
    done = sum(record.part(0, place)[1] for place in range(20))
    assert offered == sum(errors), "every arrival ends, in one way"
    assert done == errors[0]
    return driver, dict(zip(ERRORS, errors, strict=True)), Histogram.of(counts, max_ns=max_ns)


def slower_than(latencies: Histogram, ns: int) -> int:
    """How many values lie in buckets past that of `ns`."""
    return sum(count for number, count in latencies.counts.items() if number > bucket(ns, WHOLE_BITS))


def test_every_arrival_is_sent_and_answered() -> None:
    with Server(good).running() as server:
        driver, errors, latencies = drive(server.port)
    assert errors["ok"] == server.requests == latencies.count == 400
    assert server.most_open <= 4
    assert driver.troubles == (0, 0)
    assert driver.progress == (400, 0, 0)


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one(closed: bool) -> None:
    """The server answers nobody for a second. Those who would have come meanwhile waited: 200 of them at 200 a second,
    half of these for longer than half of it. A closed loop asks nobody while it waits, and sees a question or two."""

    async def stalls(server: Server, number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if number == 100:
            threading.Event().wait(1.0)  # the whole loop: nothing is answered, nothing accepted
        writer.write(ANSWER)

    with Server(stalls).running() as server:
        _, errors, latencies = drive(server.port, rate=200, seconds=3.0, connections=2, closed=closed)
    assert errors["ok"] == latencies.count > 300
    if closed:
        assert slower_than(latencies, SECOND // 2) <= 2  # as many as there are connections
    else:
        assert slower_than(latencies, SECOND // 2) >= 95
        assert latencies.percentile_ns(90) > SECOND // 4


def test_waiting_for_a_connection_is_part_of_the_latency() -> None:
    """Each answer takes 20 ms and there is one connection: of 100 requests in a second, about half are behind."""

    async def slow(_: Server, __: int, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(ANSWER)

    with Server(slow).running() as server:
        _, errors, latencies = drive(server.port, rate=100, connections=1)
    assert errors["ok"] == 100
    assert server.most_open == 1
    assert slower_than(latencies, SECOND // 4) >= 40


def answering(octets: bytes, *, close: bool = False) -> Handler:
    """Always these octets."""

    async def handle(_: Server, __: int, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(octets)
        if close:
            await writer.drain()
            writer.close()

    return handle


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nBUSY", "status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nBAD", "size"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "size"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nGOOD and more", "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGOOD\r\n0\r\n\r\n", "protocol"),
        (b"SSH-2.0 something else\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000, "protocol"),
    ],
)
def test_answers_that_are_not_as_expected(octets: bytes, error: str) -> None:
    with Server(answering(octets)).running() as server:
        driver, errors, _ = drive(server.port, rate=100, seconds=0.3, timeout_s=20.0)
    assert errors[error] == sum(errors.values()) == 30
    assert driver.progress[1] == 30
    assert driver.troubles[1] == (503 if error == "status" else 0)


def test_a_connection_that_is_closed() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nGO"
    with Server(answering(half, close=True)).running() as server:
        _, errors, _ = drive(server.port, rate=50, seconds=0.4)
    assert errors["closed"] == sum(errors.values()) == 20


def test_an_announced_end_of_a_connection_is_no_error() -> None:
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nGOOD"
    with Server(answering(last, close=True)).running() as server:
        _, errors, _ = drive(server.port, rate=50, seconds=0.4)
    assert errors["ok"] == sum(errors.values()) == 20


def test_a_kept_connection_that_ends_unread_is_asked_once_more() -> None:
    async def every_third(_: Server, number: int, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if number % 3 == 0:
            writer.close()
        else:
            writer.write(ANSWER)

    with Server(every_third).running() as server:
        _, errors, _ = drive(server.port, rate=60, seconds=0.5, connections=1)
    assert errors["ok"] == sum(errors.values()) == 30
    assert server.requests > 30


def test_requests_that_are_never_answered_count_with_the_time_they_waited() -> None:
    async def silent(_: Server, __: int, ___: asyncio.StreamReader, ____: asyncio.StreamWriter) -> None:
        return

    with Server(silent).running() as server:
        _, errors, latencies = drive(server.port, rate=50, seconds=0.3, timeout_s=0.5)
    assert errors["timeout"] == sum(errors.values()) == 15
    assert slower_than(latencies, SECOND * 45 // 100) == 15


def test_more_than_can_wait_overflow_and_do_not_look_fast() -> None:
    """131,072 wait for the one connection; those that come then count with the age of the oldest, not with nothing."""

    async def silent(_: Server, __: int, ___: asyncio.StreamReader, ____: asyncio.StreamWriter) -> None:
        return

    with Server(silent).running() as server:
        _, errors, latencies = drive(server.port, rate=200_000, seconds=1.0, connections=1, timeout_s=4.0)
    assert errors["overflow"] == 200_000 - errors["timeout"] > 50_000
    assert latencies.count - slower_than(latencies, SECOND // 4) < 5_000


def test_nobody_listens() -> None:
    driver, errors, _ = drive(free_port(), rate=50, seconds=0.2, timeout_s=0.3)
    assert errors["timeout"] == sum(errors.values()) == 10
    assert driver.troubles[0] > 0


def test_samples_are_whole_and_random_octets_are_new_each_time() -> None:
    body = b"nonce:" + bytes(16)
    request = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 22\r\n\r\n" + body
    with Server(good).running() as server:
        driver, errors, _ = drive(
            server.port, rate=200, seconds=0.5, request=request, patch=(len(request) - 16, 16), sample_every=1
        )
        samples = driver.samples()
    assert len(samples) == errors["ok"] == len(set(server.bodies)) == 100
    assert {b"nonce:" + patch for _, _, _, _, patch, _ in samples} == set(server.bodies)
    assert {(request, status, body) for request, status, _, _, _, body in samples} == {(0, 200, b"GOOD")}
    assert all(0 <= sent <= done for _, _, sent, done, _, _ in samples)
    assert driver.samples() == []


def test_samples_that_nobody_fetches_are_bounded() -> None:
    with Server(good).running() as server:
        driver, errors, _ = drive(server.port, rate=200, seconds=0.5, sample_every=1, sample_bytes=40)
    assert len(driver.samples()) == 10
    assert driver.progress[2] == errors["ok"] - 10


def test_an_early_end_still_counts_what_was_under_way() -> None:
    def end(driver: Driver) -> None:
        stop.wait(30)
        driver.stop()

    async def counted(server: Server, number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if number == 20:
            stop.set()
        writer.write(ANSWER)

    stop = threading.Event()
    with Server(counted).running() as server:
        record = Record(1, 2, SECOND)
        schedule = Schedule([(0, 200.0)], 600.0)
        target = [("127.0.0.1", server.port)]
        driver = Driver(record, schedule, [(REQUEST, 0, 0, 4, 4, 0, 0, 200)], target, connections=2, timeout_s=5.0,
                        sample_every=0)  # fmt: skip
        thread = threading.Thread(target=end, args=(driver,))
        thread.start()
        driver.run()
        thread.join()
    assert record.kind(0)[0][0] == server.requests >= 20


def test_what_a_driver_refuses() -> None:
    record, schedule = Record(1, 1, SECOND), Schedule([(0, 1.0)], 1.0)
    for request in (
        (REQUEST, 20, 32, 0, 4, 0, 0, 200),
        (REQUEST, 0, 0, 0, 4, 1, 0, 200),
        (REQUEST, 0, 0, 0, 4, 0, 1, 200),
    ):
        with pytest.raises(ValueError, match="outside"):
            Driver(record, schedule, [request], [("127.0.0.1", 1)], connections=1, timeout_s=1, sample_every=0)
    with pytest.raises(ValueError, match="needs"):
        Driver(record, schedule, [], [("127.0.0.1", 1)], connections=1, timeout_s=1, sample_every=0)
