"""OCSP where a change falls between two steps of an answer: what was read before it is never kept."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.model import CertificateStatus, RevocationReason
from core.store import certificates
from core.store.database import open_database
from status.cache import OcspAnswer
from status.source import StatusLookup
from tests.status_world import read, request, word
from tests.wire_world import Pair, Pipe, Wired, answers, open_pair, post


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with open_pair(tmp_path) as pair:
        yield pair


async def until(true: Callable[[], object]) -> None:
    """Gives others their turn until something has come true."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def said(pipe: Pipe | Wired) -> str:
    """good, revoked or unknown: what the one answer says that is on its way."""
    await until(lambda: pipe.written)
    (got,) = answers(pipe.written)
    pipe.writes.clear()
    return word(read(got.body))


async def ask(pair: Pair, octets: bytes) -> str:
    """As `said`, on a connection of its own."""
    pipe = pair.wire()
    pipe.feed(post(octets))
    return await said(pipe)


def revoke_elsewhere(url: str, serial: int, at_ms: int) -> None:
    """Revokes through another connection, while this thread's event loop stands still."""

    async def revoke() -> None:
        database = await open_database(url)
        try:
            async with database.write() as connection:
                record = await certificates.find(connection, serial)
                await certificates.revoke(connection, record, RevocationReason.SUPERSEDED, at_ms=at_ms)
        finally:
            await database.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, revoke()).result(60)


class SlowLookup(StatusLookup):
    """Real reads; what each has found is handed out when its gate opens. `gates` and `done` in the order of asking."""

    gates: list[asyncio.Event]
    done: list[asyncio.Event]

    async def find(self, authority_id: str, serials: Sequence[int]) -> tuple[list[CertificateStatus], int]:
        gate, done = asyncio.Event(), asyncio.Event()
        self.gates.append(gate)
        self.done.append(done)
        found = await super().find(authority_id, serials)
        done.set()
        await gate.wait()
        return found


async def test_what_was_read_before_a_revocation_is_not_kept_because_another_read_began_after_it(pair: Pair) -> None:
    world, live = pair.world, pair.hot.live
    serial = await world.issue()
    octets = request(world.issuing.cert_id(serial), nonce=b"n" * 16)
    lookup = SlowLookup(world.database, max_waiting=100, timeout_s=60)
    lookup.gates, lookup.done = [], []
    live._lookup = lookup
    first, second = pair.wire(), pair.wire()
    first.feed(post(octets))
    await until(lambda: lookup.done and lookup.done[0].is_set())
    await world.revoke(serial)
    second.feed(post(octets))
    await until(lambda: len(lookup.done) == 2)
    lookup.gates[0].set()
    assert await said(first) == "good", "asked, and read, before the revocation"
    lookup.gates[1].set()
    assert await said(second) == "revoked"
    assert not live._loading
    live._lookup = pair.hot._lookup
    assert await ask(pair, octets) == "revoked"


async def test_an_answer_overtaken_on_its_way_into_the_table_is_not_kept(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stands still between finding a kept answer and putting it into the table; meanwhile another one
    revokes. The look at the feed that comes then drops the answer everywhere but where it is not yet."""
    world, hot = pair.world, pair.hot
    serial = await world.issue()
    octets = request(world.issuing.cert_id(serial))
    assert [await ask(pair, octets) for _ in range(2)] == ["good"] * 2
    hot.table.clear()
    cached = world.responder.cached

    def interrupted(asked: bytes) -> OcspAnswer | None:
        answer = cached(asked)
        assert answer is not None
        monkeypatch.undo()
        revoke_elsewhere(world.database.url, serial, world.clock())
        return answer

    monkeypatch.setattr(world.responder, "cached", interrupted)
    await ask(pair, octets)
    assert await ask(pair, octets) == "revoked"
