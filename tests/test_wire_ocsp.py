"""OCSP on the hot path: the truth at once, one signature batch for all that came together, and bounded everything."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.x509 import ocsp
from structlog.testing import capture_logs

from core.errors import Refused, Unavailable
from core.store import feed
from core.store.database import open_database
from service.settings import ServerSettings
from status.settings import OcspSettings
from tests.status_world import read, request, word
from tests.wire_world import Pair, Pipe, Transport, Wired, answers, get, open_pair, post


@pytest.fixture(params=["pipe", "own"])
def transport(request: pytest.FixtureRequest) -> Transport:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def pair(tmp_path: Path, transport: Transport) -> AsyncIterator[Pair]:
    few = ServerSettings(max_pipelined=4, max_connections=3)
    async with open_pair(tmp_path, server=few, transport=transport) as pair:
        yield pair


async def said(pair: Pair, pipe: Pipe | Wired, count: int = 1) -> list[ocsp.OCSPResponse]:
    """The next answers, of which there must be `count`; forgets them."""
    await pair.settled()
    got = answers(pipe.written)
    pipe.writes.clear()
    assert [one.status for one in got] == [200] * count
    return [ocsp.load_der_ocsp_response(one.body) for one in got]


async def ask(pair: Pair, pipe: Pipe | Wired, octets: bytes) -> str:
    """good, revoked or unknown."""
    pipe.feed(post(octets))
    return word((await said(pair, pipe))[0])


@pytest.mark.parametrize("nonce", [None, b"n" * 16])
async def test_a_revocation_shows_in_the_next_answer(pair: Pair, nonce: bytes | None) -> None:
    world = pair.world
    serial = await world.issue()
    octets = request(world.issuing.cert_id(serial), nonce=nonce)
    pipe = pair.wire()
    assert [await ask(pair, pipe, octets) for _ in range(3)] == ["good"] * 3
    assert len(pair.hot.table) + len(pair.hot.live.statuses) > 0
    await world.revoke(serial)
    assert await ask(pair, pipe, octets) == "revoked"
    other = await world.issue()
    octets = request(world.issuing.cert_id(other), nonce=nonce)
    assert await ask(pair, pipe, octets) == "good"
    elsewhere = await open_database(world.database.url)  # as another process commits it
    try:
        await world.revoke(other, database=elsewhere)
    finally:
        await elsewhere.close()
    assert await ask(pair, pipe, octets) == "revoked"


async def test_a_serial_issued_is_good_at_once(pair: Pair) -> None:
    world = pair.world
    octets = request(world.issuing.cert_id(0xABCDEF), nonce=b"n" * 16)
    pipe = pair.wire()
    assert [await ask(pair, pipe, octets) for _ in range(2)] == ["unknown"] * 2
    await world.issue(serial=0xABCDEF)
    assert await ask(pair, pipe, octets) == "good"


async def test_a_new_signer_signs_the_next_answer(pair: Pair) -> None:
    world = pair.world
    serial = await world.issue()
    pipe = pair.wire()
    plain, live = request(world.issuing.cert_id(serial)), request(world.issuing.cert_id(serial), nonce=b"n" * 16)
    for octets in (plain, plain, plain, live, live):
        assert await ask(pair, pipe, octets) == "good"
    await world.set_signer(world.issuing, "ocsp-2")
    for octets in (plain, live):
        pipe.feed(post(octets))
        answer = (await said(pair, pipe))[0]
        assert "ocsp-2" in answer.certificates[0].subject.rfc4514_string()


async def test_a_change_of_another_authority_slows_nothing_for_long(pair: Pair) -> None:
    world = pair.world
    octets = request(world.issuing.cert_id(await world.issue()))
    pipe = pair.wire()
    for _ in range(3):
        await ask(pair, pipe, octets)
    async with world.database.write() as connection:
        await feed.append(connection, [feed.FeedChange("authority", authority_id="elsewhere")], at_ms=world.clock())
    while not len(pair.hot.table):
        assert await ask(pair, pipe, octets) == "good"
        await asyncio.sleep(0.01)


async def test_nothing_kept_where_the_feed_cannot_be_read(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    world = pair.world
    serial = await world.issue()
    pipe = pair.wire()
    octets = request(world.issuing.cert_id(serial))
    for _ in range(3):
        assert await ask(pair, pipe, octets) == "good"

    def unreadable() -> bool:
        raise Unavailable("no")

    monkeypatch.setattr(world.follower, "current", unreadable)
    for asked in (octets, request(world.issuing.cert_id(serial), nonce=b"n")):
        pipe.feed(post(asked))
        assert (await said(pair, pipe))[0].response_status is ocsp.OCSPResponseStatus.TRY_LATER


async def test_a_kept_answer_ends_with_its_time(pair: Pair) -> None:
    world = pair.world
    serial = await world.issue()
    pipe = pair.wire()
    octets = request(world.issuing.cert_id(serial))
    for _ in range(3):
        await ask(pair, pipe, octets)
    signed = world.issuing.signer.signed
    world.clock.advance(1_801)
    assert await ask(pair, pipe, octets) == "good"
    assert world.issuing.signer.signed == signed + 1
    world.clock.advance(-100)
    pipe.feed(post(octets) + post(request(world.issuing.cert_id(serial), nonce=b"n")))
    for answer in await said(pair, pipe, 2):
        assert answer.response_status is ocsp.OCSPResponseStatus.TRY_LATER


async def test_what_came_together_is_signed_together(pair: Pair) -> None:
    world = pair.world
    cert_ids = [world.issuing.cert_id(await world.issue()) for _ in range(3)]
    asked = [request(one, nonce=bytes([number]) * 16) for number, one in enumerate(cert_ids)]
    pipe, other = pair.wire(), pair.wire()
    pipe.feed(b"".join(post(octets) for octets in asked))
    await said(pair, pipe, 3)
    batches = pair.many(world.issuing.signer.key_id).batches
    batches.clear()
    pipe.feed(b"".join(post(octets) for octets in asked))
    other.feed(post(asked[1]))
    await pair.settled()
    assert batches == [4]
    assert [len(pipe.writes), len(other.writes)] == [1, 1], "the answers of a batch leave in one write"
    for number, one in enumerate(answers(pipe.written)):
        answer = read(one.body)
        assert answer.extensions[0].value.nonce == bytes([number]) * 16  # type: ignore[attr-defined]
        world.issuing.signer._key.public_key.verify(answer.tbs_response_bytes, _raw(answer))


def _raw(answer: ocsp.OCSPResponse) -> bytes:
    from signer._native import sm2

    return sm2.signature_from_der(answer.signature)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refused("no", code="key_frozen"), ocsp.OCSPResponseStatus.TRY_LATER),
        (Refused("no", code="key_retired"), ocsp.OCSPResponseStatus.INTERNAL_ERROR),
        (Unavailable("no"), ocsp.OCSPResponseStatus.TRY_LATER),
        (ValueError("nobody foresaw it"), ocsp.OCSPResponseStatus.INTERNAL_ERROR),
    ],
)
async def test_a_key_that_does_not_sign(pair: Pair, refusal: Exception, status: ocsp.OCSPResponseStatus) -> None:
    world = pair.world
    octets = request(world.issuing.cert_id(await world.issue()), nonce=b"n")
    pipe = pair.wire()
    await ask(pair, pipe, octets)
    world.issuing.signer.refusal = refusal  # type: ignore[assignment]
    pipe.feed(post(octets) * 2)
    assert [answer.response_status for answer in await said(pair, pipe, 2)] == [status] * 2


async def test_answers_leave_in_the_order_of_requests(pair: Pair) -> None:
    world = pair.world
    serial = await world.issue()
    plain, live = request(world.issuing.cert_id(serial)), request(world.issuing.cert_id(serial), nonce=b"n")
    pipe = pair.wire()
    for octets in (plain, plain, live):
        await ask(pair, pipe, octets)
    world.issuing.signer.gate.clear()
    pipe.feed(post(live) + post(plain) + get("/healthz") + post(plain))
    for _ in range(20):
        await asyncio.sleep(0)
    assert pipe.written == b""
    assert not pipe.reading, "nothing is read while a connection waits to be handed over"
    world.issuing.signer.gate.set()
    await pair.settled()
    got = answers(pipe.written)
    assert [one.fields["content-type"] for one in got] == ["application/ocsp-response"] * 2 + [
        "application/json",
        "application/ocsp-response",
    ]
    assert read(got[0].body).extensions
    assert not read(got[1].body).extensions


# ---- limits


async def test_as_many_slots_as_the_setting_says(pair: Pair) -> None:
    world = pair.world
    live = request(world.issuing.cert_id(await world.issue()), nonce=b"n")
    pipe = pair.wire()
    await ask(pair, pipe, live)
    world.issuing.signer.gate.clear()
    pipe.feed(post(live) * 6)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (pair.server.open_slots, pipe.reading) == (4, False)
    world.issuing.signer.gate.set()
    await said(pair, pipe, 6)
    assert pipe.reading


async def test_nothing_is_answered_to_who_does_not_read(pair: Pair) -> None:
    world = pair.world
    plain = request(world.issuing.cert_id(await world.issue()))
    pipe = pair.wire()
    for _ in range(2):
        await ask(pair, pipe, plain)
    pipe.protocol.pause_writing()
    pipe.feed(post(plain) * 3)
    assert (pipe.written, pipe.reading) == (b"", False)
    pipe.protocol.resume_writing()
    assert pipe.reading
    assert len(pipe.writes) == 1, "what was pipelined is answered in one write"
    await said(pair, pipe, 3)


async def test_connections_past_the_bound(pair: Pair) -> None:
    pipes = [pair.wire() for _ in range(3)]
    late = pair.wire()
    await pair.settled()
    assert not late.closed
    assert sum(pipe.closed for pipe in pipes) == 1
    assert pair.server.gave_way == 1


async def test_a_client_that_left_is_nobodys_trouble(pair: Pair) -> None:
    world = pair.world
    live = request(world.issuing.cert_id(await world.issue()), nonce=b"n")
    pipe = pair.wire()
    await ask(pair, pipe, live)
    world.issuing.signer.gate.clear()
    pipe.feed(post(live) * 2)
    for _ in range(20):
        await asyncio.sleep(0)
    pipe.close()
    await asyncio.sleep(0)
    assert (pair.server.open_slots, pair.drain.under_way) == (0, 0)
    world.issuing.signer.gate.set()
    await pair.settled()
    assert await ask(pair, pair.wire(), live) == "good"


async def test_a_stop_answers_what_was_asked_and_closes(pair: Pair) -> None:
    world = pair.world
    live = request(world.issuing.cert_id(await world.issue()), nonce=b"n")
    pipe = pair.wire()
    await ask(pair, pipe, live)
    world.issuing.signer.gate.clear()
    pipe.feed(post(live))
    for _ in range(20):
        await asyncio.sleep(0)
    stop = asyncio.create_task(pair.front.finish(30))
    await asyncio.sleep(0)
    world.issuing.signer.gate.set()
    await stop
    await pair.settled()
    assert answers(pipe.written)[0].fields["connection"] == "close"
    assert pipe.closed


async def test_late_heads_and_idle_connections_are_closed(tmp_path: Path, transport: Transport) -> None:
    short = ServerSettings(header_timeout_s=0.05, keepalive_timeout_s=0.05)
    async with open_pair(tmp_path, OcspSettings(), short, transport) as pair:
        silent, begun, served = pair.wire(), pair.wire(), pair.wire()
        begun.feed(b"POST /ocsp HT")
        served.feed(post(b"x"))
        pair.server.sweep()
        assert not any(pipe.closed for pipe in (silent, begun, served))
        while not all(pipe.closed for pipe in (silent, begun, served)):
            await asyncio.sleep(0.02)
            pair.server.sweep()
        assert pair.server.late == 2


async def test_a_client_that_never_reads_its_last_answers(tmp_path: Path) -> None:
    short = ServerSettings(keepalive_timeout_s=0.05)
    async with open_pair(tmp_path, OcspSettings(), short, "own") as pair:
        assert pair.poller is not None
        octets = request(pair.world.issuing.cert_id(await pair.world.issue()))
        for _ in range(2):
            await ask(pair, pair.wire(), octets)
        pipe = Wired(pair.poller, kept=4096)
        pipe.feed(post(octets) * 30 + post(octets, "Connection: close"))
        assert pipe.closed
        assert 0 < pipe.transport.get_write_buffer_size() < 1 << 16, "too little to be asked to pause"
        while len(pair.poller):
            await asyncio.sleep(0.02)
            pair.server.sweep()


async def test_what_keeps_new_connections_out_is_logged(tmp_path: Path) -> None:
    async with open_pair(tmp_path, transport="own") as pair:
        with capture_logs() as logs:
            pair.front._troubled(OSError(errno.EMFILE, "Too many open files"))
    assert [(one["event"], one["listener"], one["detail"]) for one in logs] == [
        ("accept_failed", "public", "Too many open files")
    ]


async def test_requests_are_counted(pair: Pair) -> None:
    world = pair.world
    pipe = pair.wire()
    octets = request(world.issuing.cert_id(await world.issue()))
    for _ in range(4):
        await ask(pair, pipe, octets)
    pipe.feed(post(b"\x30\x00"))
    await pair.settled()
    list(pair.metrics.collect())
    labels = {"listener": "public", "route": "/ocsp", "status": "200"}
    assert pair.registry.get_sample_value("qianyan_http_requests_total", labels) == 5
    before = world.responder.metrics.hits._value.get()
    pair.hot.flush_metrics()
    assert world.responder.metrics.hits._value.get() > before


async def test_memory_is_bounded(tmp_path: Path) -> None:
    async with open_pair(tmp_path, OcspSettings(hot_bytes=8_000, status_table_bytes=8_000)) as pair:
        pipe = pair.wire()
        for _ in range(30):
            serial = await pair.world.issue()
            octets = request(pair.world.issuing.cert_id(serial))
            for asked in (octets, octets, request(pair.world.issuing.cert_id(serial), nonce=b"n")):
                assert await ask(pair, pipe, asked) == "good"
        assert 0 < pair.hot.table.size_bytes <= 8_000
        assert 0 < pair.hot.live.statuses.size_bytes <= 8_000
