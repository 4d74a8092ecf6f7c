"""The engine in Python: journeys whose calls follow one another, LDAP, and listeners behind TLS. Open-loop as well.

Its timer is a millisecond coarse and it sends a few thousand requests a second at most; what must be finer or faster is
the compiled engine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import ssl
import time
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
from yarl import URL

from loadtest.call import Answer, Call, Journey, Wrong
from loadtest.plan import Plan
from loadtest.scenarios import directory
from loadtest.scenarios.base import World
from loadtest.scenarios.catalogue import SCENARIOS
from loadtest.tally import NS, Tally
from loadtest.target import Target, TargetError

#: Journeys under way; one more is counted as an overflow and not begun.
_MOST_UNDER_WAY: Final = 5_000
_LATE_NS: Final = 1_000_000


class Directory:
    """Connections to an LDAP server, one search at a time on each. No bind: what anybody may read."""

    def __init__(self, host: str, port: int, connections: int) -> None:
        self._address = (host, port)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(connections)

    async def search(self, request: bytes) -> tuple[int, bytes]:
        """(resultCode, the messages of the answer)."""
        async with self._room:
            pair = self._free.pop() if self._free else await asyncio.open_connection(*self._address)
            pair[1].write(request)
            answer = directory.Conversation()
            while not answer.feed(got := await pair[0].read(65536)):
                if not got:
                    raise ConnectionError("the directory closed the connection")
            self._free.append(pair)
            assert answer.code is not None
            return answer.code, answer.whole

    def close(self) -> None:
        """Closes what is open."""
        for _, writer in self._free:
            writer.close()


class Client:
    """Sends calls of any listener."""

    def __init__(self, target: Target, plan: Plan) -> None:
        self._target = target
        tls = ssl.create_default_context(cafile=target.ca_file) if target.ca_file else True
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=plan.connections, ssl=tls)
        timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=True)
        self._directory = Directory(*target.address("directory"), plan.connections) if target.directory else None
        self._timeout_s = plan.timeout_s

    async def close(self) -> None:
        """Closes every connection."""
        if self._directory is not None:
            self._directory.close()
        await self._session.close()

    async def send(self, call: Call) -> Answer:
        """The answer, whatever its status. Raises aiohttp.ClientError, OSError or TimeoutError."""
        body, sent = call.patched()
        sent_at = time.time()
        if call.listener == "directory":
            if self._directory is None:
                raise TargetError("the target names no directory")
            async with asyncio.timeout(self._timeout_s):
                code, octets = await self._directory.search(body)
            return Answer(code, octets, sent_at, time.time(), sent)
        headers = dict(call.headers)
        if call.listener == "private":
            headers["Authorization"] = f"Bearer {self._target.token}"
        url = self._target.url(call.listener) + call.path  # sent as written: a %2F must not become a slash
        async with self._session.request(
            call.method, URL(url, encoded=True), data=body or None, headers=headers
        ) as response:
            octets = await response.read()
            names = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, octets, sent_at, time.time(), sent, names)


class PythonEngine:
    """One run."""

    def __init__(self, plan: Plan, target: Target) -> None:
        self.tally = Tally(plan)
        self._plan = plan
        self._target = target
        self._rng = random.Random(plan.seed)  # noqa: S311 - a load, not a secret
        world = World(target, self._rng)
        self._scenarios = {name: SCENARIOS[name](world) for name in plan.rates}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._start_ns = 0

    def stop(self) -> None:
        """No more arrivals."""
        self._stopped.set()

    @property
    def progress(self) -> tuple[int, int]:
        """(ended, faulty)."""
        return self.tally.ended, self.tally.faults

    def document(self) -> dict[str, Any]:
        """What was counted."""
        return {**self.tally.document(), "left_out": 0, "connect_failures": 0, "odd_status": 0}

    def _arrivals(self) -> Iterator[tuple[int, str]]:
        def of(name: str, seed: int) -> Iterator[tuple[int, str]]:
            return ((at, name) for at in self._plan.schedule([name], seed=seed))

        return heapq.merge(*(of(name, self._plan.seed + n) for n, name in enumerate(self._plan.rates)))

    async def run(self) -> None:
        """To the end of the schedule, and until all is answered."""
        client = Client(self._target, self._plan)
        self._start_ns = time.monotonic_ns()
        try:
            for at_ns, name in self._arrivals():
                await self._until(at_ns)
                if self._stopped.is_set():
                    break
                self._arrived(client, at_ns, name)
            await asyncio.gather(*self._tasks)
        finally:
            await client.close()

    def _now_ns(self) -> int:
        return time.monotonic_ns() - self._start_ns

    async def _until(self, at_ns: int) -> None:
        """Returns when it is time, and no sooner, or when the run is stopped."""
        while not self._stopped.is_set() and (wait_ns := at_ns - self._now_ns()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_ns / NS):
                    await self._stopped.wait()
        if self._now_ns() - at_ns > _LATE_NS:
            await asyncio.sleep(0)  # those under way must go on, however late the arrivals are

    def _arrived(self, client: Client, at_ns: int, name: str) -> None:
        noticed_ns = self._now_ns()
        steps = self._scenarios[name].journey()
        call = next(steps)
        self.tally.record.offer(self.tally.number(call.kind), at_ns, noticed_ns)
        if len(self._tasks) >= _MOST_UNDER_WAY:
            self.tally.finish(call.kind, at_ns, round(self._plan.timeout_s * NS), "overflow", 0)
            return
        task = asyncio.create_task(self._journey(client, steps, call, at_ns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _journey(self, client: Client, steps: Journey, call: Call, due_ns: int) -> None:
        """Calls one after the other; the first is due when the journey was, each other when the one before ended."""
        try:
            while True:
                answer = await self._sent(client, call, due_ns)
                if answer is None:
                    steps.close()
                    return
                due_ns = self._now_ns()
                call = steps.send(answer)
                self.tally.record.follow(self.tally.number(call.kind), due_ns)
        except StopIteration:
            return
        except Wrong as error:
            self.tally.mark_wrong(call.kind, str(error))

    async def _sent(self, client: Client, call: Call, due_ns: int) -> Answer | None:
        """The answer where it is as expected; everything is counted."""
        error, answer = "ok", None
        try:
            answer = await client.send(call)
            error = call.fault(answer.status, len(answer.body))
        except TimeoutError:
            error = "timeout"
        except (aiohttp.ClientError, OSError, ValueError):
            error = "closed"
        latency_ns = self._now_ns() - due_ns
        self.tally.finish(call.kind, due_ns, latency_ns, error, 0 if answer is None else len(answer.body))
        if error != "ok" or answer is None:
            return None
        if self._rng.random() < self._plan.sample:
            self.tally.judge(call, answer)
        return answer
