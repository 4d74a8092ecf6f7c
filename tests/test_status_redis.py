"""Answers shared through a real Redis: what is gained, and that nothing Redis does can make an answer wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from core.errors import Refused
from core.model import KeyState, RevocationReason
from core.store import keys
from status.redis_cache import Question, Standing
from status.redis_settings import RedisSettings
from status.settings import OcspSettings
from tests.redis_world import DelayProxy, RedisServer, Sharer, patient, sharer, until
from tests.running import free_port
from tests.status_world import KeySigner, World, open_world, read, request, word


@pytest.fixture(scope="module")
def module_redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.remove()


@pytest.fixture
def redis(module_redis: RedisServer) -> RedisServer:
    module_redis.client.flushall()
    module_redis.client.config_resetstat()
    return module_redis


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        yield made


@pytest.fixture
def signer(world: World) -> KeySigner:
    return world.issuing.signer


@pytest.fixture
async def first(world: World, redis: RedisServer) -> AsyncIterator[Sharer]:
    async with sharer(world, patient(redis.url)) as made:
        yield made


@pytest.fixture
async def second(world: World, redis: RedisServer) -> AsyncIterator[Sharer]:
    async with sharer(world, patient(redis.url)) as made:
        yield made


def values(redis: RedisServer) -> dict[bytes, bytes]:
    """All that Redis has."""
    client = redis.client
    return {key: cast(bytes, client.get(key)) for key in cast(list[bytes], client.keys())}


async def fill(sharing: Sharer, *serials: int) -> list[bytes]:
    """Asks for each and waits until Redis has the answers."""
    wanted = sharing.written() + len(serials)
    answers = [await sharing.ask(serial) for serial in serials]
    await until(lambda: sharing.written() >= wanted)
    return answers


# ---- what is gained


async def test_what_one_signed_another_gives(
    world: World, first: Sharer, second: Sharer, signer: KeySigner, redis: RedisServer
) -> None:
    serial = await world.issue()
    (made,) = await fill(first, serial)
    assert await second.ask(serial) == made
    assert (signer.signed, second.counts()) == (1, {"hit": 1})
    assert second.responder.cached(request(world.issuing.cert_id(serial))) is not None
    ((key, _),) = values(redis).items()
    assert key.startswith(b"qianyan:ocsp:")
    life_ms = cast(int, redis.client.pttl(key))
    assert 3_590_000 < life_ms <= 3_600_000


async def test_all_that_ask_at_once_are_one_mget(
    world: World, first: Sharer, second: Sharer, signer: KeySigner, redis: RedisServer
) -> None:
    serials = [await world.issue() for _ in range(30)]
    await fill(first, *serials)
    await second.responder.issuers()
    redis.client.config_resetstat()
    await asyncio.gather(*(second.ask(serial) for serial in serials for _ in range(10)))
    statistics = cast(dict[str, Any], redis.client.info("commandstats"))
    assert statistics["cmdstat_mget"]["calls"] == 1
    assert second.counts() == {"hit": 30}
    assert signer.signed == 30


async def test_unknown_serials_and_nonces_never_get_there(world: World, first: Sharer, redis: RedisServer) -> None:
    serial = await world.issue()
    cert_id = world.issuing.cert_id
    for octets in (request(cert_id(0xABC)), request(cert_id(serial), nonce=b"n" * 16), request(*[cert_id(serial)] * 2)):
        await first.responder.respond(octets)
    await first.cache.drained()
    assert values(redis) == {}
    assert (first.written(), first.counts()) == (0, {"absent": 1})


# ---- truth


async def test_an_answer_older_than_the_last_change_is_never_given(
    world: World, first: Sharer, second: Sharer, redis: RedisServer
) -> None:
    serial, other = await world.issue(), await world.issue()
    await fill(first, serial, other)
    before = values(redis)
    await world.revoke(serial, RevocationReason.CERTIFICATE_HOLD)
    assert word(read(await second.ask(serial))) == "revoked"
    assert word(read(await second.ask(other))) == "good"
    assert second.counts() == {"overtaken": 1, "hit": 1}
    await second.cache.drained()
    await until(lambda: second.written() == 1)
    after = values(redis)
    await world.release(serial)
    assert word(read(await first.ask(serial))) == "good"
    await until(lambda: first.written() == 3)
    # A Redis that remembers: each earlier value is put back where it was, also what said good before the hold.
    for old in (before, after):
        redis.client.mset(cast(Any, old))
        async with sharer(world, patient(redis.url)) as third:
            await world.revoke(other, RevocationReason.CERTIFICATE_HOLD)
            assert word(read(await third.ask(serial))) == "good"
            assert word(read(await third.ask(other))) == "revoked"
            assert third.counts() == {"overtaken": 2}
        await world.release(other)


async def test_what_is_not_ours_is_not_believed(
    world: World, first: Sharer, signer: KeySigner, redis: RedisServer
) -> None:
    good, revoked = await world.issue(), await world.issue()
    await world.revoke(revoked)
    await fill(first, good, revoked)
    by_serial = values(redis)
    (key_a, value_a), (key_b, value_b) = by_serial.items()
    flipped = bytearray(value_a)
    flipped[len(value_a) // 2] ^= 1
    lies = [b"", b"x", b"\x01" * 200, value_a[:-1], value_a + b"x", bytes(flipped), value_b, b"\x02" + value_a[1:]]
    for count, lie in enumerate(lies, 1):
        redis.client.mset({key_a: lie, key_b: value_a if lie == value_b else lie})
        async with sharer(world, patient(redis.url)) as another:
            words = [word(read(await another.ask(serial))) for serial in (good, revoked)]
            assert (words, another.counts()) == (["good", "revoked"], {"rejected": 2}), lie
        assert signer.signed == 2 + 2 * count


async def test_another_store_s_answers_are_not_believed(world: World, first: Sharer, redis: RedisServer) -> None:
    serial = await world.issue()
    await fill(first, serial)
    async with sharer(world, patient(redis.url), secret=b"t" * 32) as another:
        await another.ask(serial)
        assert another.counts() == {"rejected": 1}


async def test_a_list_in_place_of_a_value(world: World, first: Sharer, second: Sharer, redis: RedisServer) -> None:
    serial = await world.issue()
    await fill(first, serial)
    (key,) = values(redis)
    redis.client.delete(key)
    redis.client.rpush(key, "x")
    assert word(read(await second.ask(serial))) == "good"


async def test_a_position_of_another_history_is_unknown(world: World, first: Sharer, second: Sharer) -> None:
    """As after a database was restored: the same numbers, other entries."""
    serial = await world.issue()
    answer = await first.responder.respond(request(world.issuing.cert_id(serial)))
    signer = world.issuing.signer
    asked = Question("issuing", serial, b"cert id", signer.key_id, b"")
    standing = first.cache.standing()
    assert standing is not None
    cases = {
        "hit": standing,
        "unknown": Standing(standing.position, standing.anchor ^ 1),
    }
    for outcome, said in cases.items():
        first.cache.put(asked, said, answer)
        await first.cache.drained()
        found = await second.cache.find(asked)
        assert (found is not None) is (outcome == "hit")
        assert second.count(outcome) == 1
    for position in (0, standing.position + 1, standing.position + 1_000_000):
        first.cache.put(asked, Standing(position, standing.anchor), answer)
        await first.cache.drained()
        assert await second.cache.find(asked) is None
    assert second.count("unknown") == 4


async def test_what_was_before_the_memory_of_changes_is_unknown(world: World, redis: RedisServer) -> None:
    serial = await world.issue()
    settings = patient(redis.url, history_entries=100)
    async with sharer(world, settings) as writer:
        await fill(writer, serial)
        async with sharer(world, settings) as reader:
            await reader.ask(serial)
            assert reader.counts() == {"hit": 1}
        for _ in range(101):
            await world.issue()
        async with sharer(world, settings) as reader:
            await reader.ask(serial)
            assert reader.counts() == {"unknown": 1}


async def test_a_new_signer_or_a_key_that_was_stopped_makes_them_void(
    world: World, first: Sharer, second: Sharer, signer: KeySigner
) -> None:
    serial, other = await world.issue(), await world.issue()
    await fill(first, serial, other)
    async with world.database.write() as connection:
        await keys.change_state(connection, signer.key_id, KeyState.COMPROMISED, at_ms=world.clock())
    signer.refusal = Refused("compromised", code="key_compromised")
    with pytest.raises(Refused):
        await second.ask(serial)
    assert second.counts() == {"overtaken": 1}
    await world.set_signer(world.issuing, "ocsp-next")
    answer = read(await second.ask(other))
    assert word(answer) == "good"
    assert second.counts() == {"overtaken": 1, "absent": 1}
    assert world.signers["ocsp-next"].signed == 1


async def test_nothing_from_the_future_or_past_its_renewal(world: World, first: Sharer, second: Sharer) -> None:
    serial = await world.issue()
    world.clock.advance(500)
    await fill(first, serial)
    world.clock.advance(-400)
    await second.ask(serial)
    world.clock.advance(400 + 1_800)
    async with sharer(world, second.cache._settings) as third:
        await third.ask(serial)
        assert (second.counts(), third.counts()) == ({"outdated": 1}, {"outdated": 1})


# ---- a Redis that is ill


@pytest.fixture
def own() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.remove()


async def test_killed_and_restarted_empty(world: World, own: RedisServer, signer: KeySigner) -> None:
    async with sharer(world, patient(own.url, failures=1, retry_s=0.05)) as sharing:
        serials = [await world.issue() for _ in range(4)]
        await fill(sharing, serials[0])
        own.kill()
        for serial in serials[1:3]:
            assert word(read(await sharing.ask(serial))) == "good"
        await until(lambda: not sharing.cache.up)
        assert sharing.count("failed") + sharing.count("skipped") == 2
        own.start()
        assert await sharing.cache.connected(60)
        await fill(sharing, serials[3])
        assert (sharing.count("absent"), len(values(own)), signer.signed) == (2, 1, 4)


async def test_frozen_it_is_left_alone_and_found_again(world: World, own: RedisServer, signer: KeySigner) -> None:
    settings = RedisSettings(url=own.url, timeout_ms=50, connect_timeout_ms=200, failures=2, retry_s=0.05)
    async with sharer(world, settings) as sharing:
        serials = [await world.issue() for _ in range(12)]
        own.freeze()
        words = {word(read(await sharing.ask(serial))) for serial in serials[:10]}
        assert words == {"good"}
        assert not sharing.cache.up
        assert sharing.count("skipped") >= 7
        own.thaw()
        assert await sharing.cache.connected(60)
        await sharing.ask(serials[10])
        assert signer.signed == 11


async def test_slow_it_costs_its_time_limit_a_few_times(world: World, own: RedisServer) -> None:
    async with DelayProxy(own.port) as proxy:
        settings = RedisSettings(
            url=f"redis://127.0.0.1:{proxy.port}", timeout_ms=100, connect_timeout_ms=5000, failures=3, retry_s=30
        )
        async with sharer(world, settings) as sharing:
            proxy.delay_s = 0.5
            for _ in range(8):
                assert word(read(await sharing.ask(await world.issue()))) == "good"
            assert 1 <= sharing.count("failed") <= 3
            assert sharing.count("skipped") >= 5


async def test_a_start_without_redis(world: World) -> None:
    settings = RedisSettings(url="redis://127.0.0.1:1", retry_s=0.05)
    async with sharer(world, settings, connect=False) as sharing:
        assert word(read(await sharing.ask(await world.issue()))) == "good"
        assert sharing.counts() == {"skipped": 1}
        assert sharing.written("dropped") == 1


async def test_writes_that_do_not_fit_are_left_out(world: World, first: Sharer, redis: RedisServer) -> None:
    answer = await first.responder.respond(request(world.issuing.cert_id(await world.issue())))
    standing = first.cache.standing()
    assert standing is not None
    for number in range(20_000):  # without giving the writer its turn
        first.cache.put(Question("issuing", number, b"%d" % number, "k", b""), standing, answer)
    assert first.written("dropped") >= 1
    await first.cache.drained()
    await until(lambda: first.written() + first.written("dropped") >= 20_001)
    assert len(cast(list[bytes], redis.client.keys())) == first.written()


# ---- the hint


async def test_a_commit_is_hinted_at(world: World, redis: RedisServer) -> None:
    async with (
        sharer(world, patient(redis.url), hints=True) as here,
        sharer(world, patient(redis.url), hints=True) as there,
    ):
        await until(lambda: there.metrics.hints._value.get() >= 1)  # it listens
        before = there.metrics.hints._value.get()
        await world.issue()
        await until(lambda: there.metrics.hints._value.get() > before)
        assert here.cache.up


# ---- where Redis is


async def test_a_primary_that_sentinels_name(world: World, own: RedisServer, tmp_path: Path, signer: KeySigner) -> None:
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {own.port} 1\n")
    sentinel = RedisServer(str(config), "--sentinel").start()
    try:
        settings = patient(None, sentinels=[f"127.0.0.1:{sentinel.port}"], sentinel_service="main")
        serial = await world.issue()
        async with sharer(world, settings) as one, sharer(world, settings) as other:
            await fill(one, serial)
            await other.ask(serial)
            assert (signer.signed, other.counts(), len(values(own))) == (1, {"hit": 1}, 1)
    finally:
        sentinel.remove()


async def test_a_cluster(world: World, signer: KeySigner) -> None:
    node = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port())).start()
    try:
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await until(lambda: "ok" in str(node.client.execute_command("CLUSTER INFO")["cluster_state"]))
        settings = patient(None, cluster=[f"127.0.0.1:{node.port}"])
        serials = [await world.issue() for _ in range(20)]
        async with sharer(world, settings, hints=True) as one, sharer(world, settings, hints=True) as other:
            await fill(one, *serials)
            await asyncio.gather(*(other.ask(serial) for serial in serials))
            assert (signer.signed, other.counts()) == (20, {"hit": 20})
            before = other.metrics.hints._value.get()
            await until(lambda: other.metrics.hints._value.get() >= 1)
            await world.issue()
            await until(lambda: other.metrics.hints._value.get() > before)
    finally:
        node.remove()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"url": "http://x"}, "redis://"),
        ({"url": "redis://:secret@x"}, "password_file"),
        ({"cluster": ["x"]}, "HOST:PORT"),
        ({"url": "redis://x", "cluster": ["x:1"]}, "only one"),
        ({"prefix": "a b"}, "pattern"),
    ],
)
def test_settings_that_cannot_be(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RedisSettings.model_validate(bad)


async def test_no_answer_is_kept_for_whoever_has_other_settings(
    world: World, first: Sharer, redis: RedisServer
) -> None:
    serial = await world.issue()
    await fill(first, serial)
    async with sharer(world, patient(redis.url), ocsp=OcspSettings(responder_id="key")) as by_key:
        assert read(await by_key.ask(serial)).responder_name is None or by_key.counts() == {"hit": 1}
    async with sharer(world, patient(redis.url), ocsp=OcspSettings(archive_cutoff_days=30)) as cutoff:
        assert len(list(read(await cutoff.ask(serial)).single_extensions)) == 1
        assert cutoff.counts() == {"absent": 1}
