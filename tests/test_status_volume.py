"""Status at volume within one process: policies, renewal before it is needed, answers in advance, mass revocation."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ocsp
from pydantic import ValidationError
from sqlalchemy import text

from core import oids
from core.asn1 import der
from core.clock import to_datetime
from core.errors import Malformed, Refused, Unavailable
from core.model import KeyState, RevocationReason
from core.ports import BatchSigner
from core.store import certificates, keys
from core.store.feed import FeedEntry
from service.settings import ServiceSettings
from status.breaker import Breaker
from status.history import FeedHistory, anchor
from status.metrics import PresignMetrics
from status.presign import Presigner, Progress
from status.settings import OcspSettings
from tests.faults_world import add_certificates
from tests.judges import lint
from tests.redis_world import RedisServer, Sharer, patient, sharer, until
from tests.status_world import World, open_world, read, request, word
from tests.wire_world import ManySigner, Pair, answers, get, open_pair, post

Ocsp = ocsp.OCSPResponseStatus


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        yield made


async def both(pair: Pair, body: bytes) -> list[bytes]:
    """The answers of the compiled front end and of aiohttp."""
    found = []
    for pipe in (pair.wire(), pair.plain()):
        pipe.feed(post(body))
        await pair.settled()
        (answer,) = answers(pipe.written)
        found.append(answer.body)
        pipe.close()
    return found


# ---- policies


async def test_nonces_that_are_ignored(tmp_path: Path) -> None:
    async with open_pair(tmp_path, OcspSettings(nonce="ignore")) as pair:
        world = pair.world
        cert_id = world.issuing.cert_id(await world.issue())
        bodies = [*await both(pair, request(cert_id)), *await both(pair, request(cert_id, nonce=b"n" * 32))]
        assert len(set(bodies)) == 1
        assert list(read(bodies[0]).extensions) == []
        assert world.issuing.signer.signed == 1
        several = await both(pair, request(cert_id, cert_id, nonce=b"n" * 16))
        assert all(not list(read(body).extensions) for body in several)
        for body in await both(pair, request(cert_id, nonce=b"")):  # RFC 9654: malformed whatever is done with it
            assert ocsp.load_der_ocsp_response(body).response_status is Ocsp.MALFORMED_REQUEST


async def test_nonces_that_are_required(tmp_path: Path) -> None:
    async with open_pair(tmp_path, OcspSettings(nonce="required")) as pair:
        world = pair.world
        cert_id = world.issuing.cert_id(await world.issue())
        for body in await both(pair, request(cert_id)):
            assert ocsp.load_der_ocsp_response(body).response_status is Ocsp.MALFORMED_REQUEST
        for body in await both(pair, request(cert_id, nonce=b"n" * 32)):
            assert read(body).extensions[0].value.nonce == b"n" * 32  # type: ignore[attr-defined]
        assert world.responder.cached(request(cert_id)) is None
        with pytest.raises(Malformed, match="nonce"):
            await world.responder.respond(request(cert_id))


async def test_nonces_of_the_sizes_that_have_to_work(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        cert_id = pair.world.issuing.cert_id(await pair.world.issue())
        for size in (1, 16, 24, 32, 128):
            for body in await both(pair, request(cert_id, nonce=bytes(range(size)))):
                assert read(body).extensions[0].value.nonce == bytes(range(size))  # type: ignore[attr-defined]
        for size in (0, 129):
            for body in await both(pair, request(cert_id, nonce=bytes(size))):
                assert ocsp.load_der_ocsp_response(body).response_status is Ocsp.MALFORMED_REQUEST


def cutoff_of(response: ocsp.OCSPResponse) -> datetime | None:
    """The archive cutoff; None where there is none."""
    found = [e for e in response.single_extensions if e.oid.dotted_string == oids.OCSP_ARCHIVE_CUTOFF]
    if not found:
        return None
    (extension,) = found
    assert not extension.critical
    text = der.Reader(extension.value.public_bytes()).take(0x18).decode()
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


async def test_the_archive_cutoff(tmp_path: Path) -> None:
    async with open_pair(tmp_path, OcspSettings(archive_cutoff_days=3_650)) as pair:
        world = pair.world
        good, revoked = await world.issue(), await world.issue()
        await world.revoke(revoked, RevocationReason.CESSATION_OF_OPERATION, invalidity_at_ms=world.clock() - 60_000)
        for serial, extensions in ((good, 1), (revoked, 2), (0xABC, 0)):
            cert_id = world.issuing.cert_id(serial)
            for body in [*await both(pair, request(cert_id)), *await both(pair, request(cert_id, nonce=b"n" * 16))]:
                response = read(body)
                assert len(list(response.single_extensions)) == extensions
                produced = response.produced_at_utc
                assert cutoff_of(response) == (produced - timedelta(days=3_650) if extensions else None)
                assert lint.complaints(lint.lint_ocsp(body)) == []


async def test_headers_and_answer_tell_the_same_times(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        cert_id = pair.world.issuing.cert_id(await pair.world.issue())
        path = "/ocsp/" + base64.b64encode(request(cert_id)).decode().replace("/", "%2F")
        for advance in (0, 700):
            pair.world.clock.advance(advance)
            for pipe in (pair.wire(), pair.plain()):
                pipe.feed(get(path))
                await pair.settled()
                (answer,) = answers(pipe.written)
                response = read(answer.body)
                told = "%a, %d %b %Y %H:%M:%S GMT"
                assert answer.fields["last-modified"] == response.this_update_utc.strftime(told)
                assert response.next_update_utc is not None
                assert answer.fields["expires"] == response.next_update_utc.strftime(told)
                seconds = int(answer.fields["cache-control"].split("max-age=")[1].split(",")[0])
                assert to_datetime(pair.world.clock()) + timedelta(seconds=seconds) < response.next_update_utc
                pipe.close()


# ---- authorities


async def test_a_ca_key_that_is_retired_leaves_its_certificates_answered(world: World) -> None:
    serial = await world.issue()
    async with world.database.write() as connection:
        await keys.change_state(connection, world.issuing.key.key_id, KeyState.RETIRED, at_ms=world.clock())
    assert word(await world.ask(serial)) == "good"
    await world.add_branch("branch")
    await world.revoke(serial)
    assert word(await world.ask(serial)) == "revoked"


# ---- a feed that cannot be trusted


async def test_a_gap_in_the_feed_is_never_answered_over(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        world = pair.world
        serial = await world.issue()
        asked = request(world.issuing.cert_id(serial))
        assert {word(read(body)) for body in await both(pair, asked)} == {"good"}
        async with world.database.write() as connection:  # what a lost entry looks like
            await connection.execute(text("UPDATE counters SET value = value + 1 WHERE name = 'feed'"))
        await world.issue()
        for body in [*await both(pair, asked), *await both(pair, request(world.issuing.cert_id(serial), nonce=b"n"))]:
            assert ocsp.load_der_ocsp_response(body).response_status is Ocsp.TRY_LATER


# ---- renewal


async def test_an_answer_is_renewed_once_while_the_old_one_is_given(world: World) -> None:
    asked = request(world.issuing.cert_id(await world.issue()))
    old = await world.responder.respond(asked)
    assert old.this_update_ms + 1_080_000 <= old.early_ms < old.this_update_ms + 1_620_000
    world.clock.advance(1_700)
    signer = world.issuing.signer
    signer.gate.clear()
    signer.waiting.clear()
    for _ in range(20):
        assert world.responder.cached(asked) is old
    async with asyncio.timeout(60):
        await signer.waiting.wait()
    assert await world.responder.respond(asked) is old
    signer.gate.set()
    await until(lambda: world.responder.cached(asked) is not old)
    new = world.responder.cached(asked)
    assert new is not None
    assert new.this_update_ms == old.this_update_ms + 1_700_000
    assert signer.signed == 2


async def test_a_renewal_that_fails_is_not_tried_at_every_request(world: World) -> None:
    asked = request(world.issuing.cert_id(await world.issue()))
    old = await world.responder.respond(asked)
    world.clock.advance(1_700)
    world.issuing.signer.refusal = Unavailable("no")
    for _ in range(20):
        assert world.responder.cached(asked) is old
        await asyncio.sleep(0.002)
    assert world.responder.metrics.renewals._value.get() == 1
    world.clock.advance(200)  # past half its life: not given any more
    with pytest.raises(Unavailable):
        await world.responder.respond(asked)


async def test_a_renewal_reads_the_store(world: World) -> None:
    serial = await world.issue()
    asked = request(world.issuing.cert_id(serial))
    await world.responder.respond(asked)
    world.clock.advance(1_700)
    world.responder.cached(asked)
    await world.revoke(serial)
    assert word(await world.ask(serial)) == "revoked"
    await world.responder.close()
    assert word(read((world.responder.cached(asked) or pytest.fail("nothing kept")).der)) == "revoked"


async def test_answers_made_together_are_not_renewed_together(world: World) -> None:
    serials = [await world.issue() for _ in range(40)]
    made = [await world.responder.respond(request(world.issuing.cert_id(serial))) for serial in serials]
    assert len({answer.this_update_ms for answer in made}) == 1
    assert len({answer.early_ms for answer in made}) > 20


# ---- many at once


async def test_a_mass_revocation_costs_one_signature_for_each_that_is_asked_for(world: World) -> None:
    _, serials = await add_certificates(world.database, 400)
    signer = world.issuing.signer
    asked = [request(world.issuing.cert_id(serial)) for serial in serials]
    await asyncio.gather(*(world.responder.respond(one) for one in asked))
    assert signer.signed == 400
    async with world.database.write() as connection:
        for serial in serials:
            record = await certificates.find(connection, serial, "issuing")
            await certificates.revoke(connection, record, RevocationReason.CA_COMPROMISE, at_ms=world.clock())
    said = await asyncio.gather(*(world.responder.respond(one) for one in asked[:50] for _ in range(20)))
    assert {word(read(answer.der)) for answer in said} == {"revoked"}
    assert signer.signed == 450


# ---- in advance


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.remove()


def presigner(sharing: Sharer, settings: OcspSettings) -> Presigner:
    """Over the sharer's cache, with the world's keys."""
    world = sharing.world

    def many(key_id: str) -> BatchSigner:
        return ManySigner(world.signers[key_id])

    return Presigner(
        *(world.database, world.follower, sharing.responder.issuers, many, sharing.cache, world.clock, settings),
        PresignMetrics(),
    )


async def test_answers_in_advance(world: World, redis: RedisServer) -> None:
    _, live = await add_certificates(world.database, 450)
    _, expired = await add_certificates(world.database, 10, life_ms=-1_000)
    await world.revoke(live[0])
    signer = world.issuing.signer
    settings = OcspSettings(presign_hashes=("sm3", "sha256"))
    async with sharer(world, patient(redis.url), ocsp=settings) as sharing:
        maker = presigner(sharing, settings)
        told: list[int] = []

        def tell(progress: Progress) -> None:
            told.append(progress.looked_at)

        first = await maker.once(1_000_000, told=tell)
        assert (first.looked_at, first.signed, first.certificates) == (450, 900, 460)
        assert told == sorted(told)
        assert len(told) == 3
        assert (await maker.once(1_000_000)).signed == 0
        await world.revoke(live[1])
        assert (await maker.once(1_000_000)).signed == 2
        async with sharer(world, patient(redis.url), ocsp=settings) as other:
            before = signer.signed
            for serial, algorithm in ((live[0], "sm3"), (live[1], "sha256"), (live[2], "sm3")):
                wanted = "good" if serial == live[2] else "revoked"
                assert word(read(await other.ask(serial, algorithm))) == wanted
            assert signer.signed == before
            await other.ask(expired[0])
            assert signer.signed == before + 1
        world.clock.advance(1_700)
        assert (await maker.once(1_000_000)).signed == 900


async def test_in_advance_stops_where_it_cannot_go_on(world: World) -> None:
    own = RedisServer().start()
    try:
        async with sharer(world, patient(own.url, failures=1)) as sharing:
            maker = presigner(sharing, OcspSettings())
            await world.issue()
            world.issuing.signer.refusal = Refused("no", code="key_retired")
            with pytest.raises(Refused):
                await maker.once(1_000)
            world.issuing.signer.refusal = None
            own.kill()
            await sharing.ask(await world.issue())
            with pytest.raises(Unavailable, match="Redis"):
                await maker.once(1_000)
    finally:
        own.remove()


def test_in_advance_needs_redis() -> None:
    issuance: dict[str, Any] = {"public_url": "http://pki.example.cn"}
    with pytest.raises(ValidationError, match=r"needs \[redis\]"):
        ServiceSettings.model_validate({"issuance": issuance, "ocsp": {"presign_per_s": 10}})


# ---- parts


def test_the_breaker() -> None:
    now, states = [0.0], []
    breaker = Breaker(failures=2, retry_s=1.0, monotonic=lambda: now[0], changed=states.append)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert (breaker.state, breaker.allows()) == ("open", False)
    breaker.succeeded()  # of something asked before
    assert breaker.state == "open"
    now[0] = 1.3
    assert breaker.allows()
    assert not breaker.allows(), "a second trial at the same time"
    breaker.failed()
    now[0] += 1.9
    assert not breaker.allows(), "the wait did not grow"
    now[0] += 0.6
    assert breaker.allows()
    breaker.succeeded()
    assert (breaker.allows(), states) == (True, ["open", "half_open", "open", "half_open", "closed"])


async def test_the_history_joins_what_was_before_to_what_came_meanwhile(world: World) -> None:
    serials = [await world.issue() for _ in range(5)]
    await world.follower.ensure_current()
    history = FeedHistory(world.follower, 1_000)
    start = world.follower.position
    assert history.anchor_at(start) is None
    await world.revoke(serials[0])
    await world.follower.ensure_current()
    await history.load(world.database)
    for position in range(1, start + 2):
        assert history.anchor_at(position) is not None
    at = history.anchor_at(start)
    assert at is not None
    assert history.judge(start, at, "issuing", serials[0], "k") == "overtaken"
    assert history.judge(start, at, "issuing", serials[1], "k") == "current"
    assert history.judge(start, at, "branch", serials[0], "k") == "current"
    assert history.judge(start, at + 1, "issuing", serials[1], "k") == "unknown"
    assert anchor(FeedEntry(1, "key", None, None, "a", 5)) != anchor(FeedEntry(1, "key", None, None, "a", 6))
