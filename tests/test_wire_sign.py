"""Signing over HTTP on both front ends: the same answers, limits and accounts; and what the compiled one must add."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from core.clock import system_clock
from core.model import KeyPurpose, KeyState
from core.store import keys, tokens
from core.store.callers import Limits
from core.store.database import open_database
from service.wire import _sign
from signer._native import sm2
from signer.engine.backend import SoftwareBackend
from signer.engine.keyuse import change_key_limits
from signer.engine.settings import EngineSettings
from signer.signing.settings import SigningSettings
from tests.judges import openssl
from tests.sign_world import JSON, OCTETS, Front, Site, open_site, problem
from tests.wire_world import Pipe, answers

D = bytes(range(32))


@pytest.fixture(params=["compiled", "aiohttp"])
def front(request: pytest.FixtureRequest) -> Front:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def site(tmp_path: Path, front: Front) -> AsyncIterator[Site]:
    async with open_site(tmp_path, front) as site:
        yield site


def body(answer: Any) -> Any:
    return json.loads(answer.body)


# ---- what is answered


async def test_signatures_that_another_implementation_accepts(site: Site) -> None:
    message = b"an order"
    digest = site.public.digest(message)
    pipe = site.open()
    pipe.feed(site.sign(digest) + site.octets(digest + D) + site.sign(D))
    first, octets, last = await site.said(pipe, 3)
    openssl.verify(site.public.to_bytes(), message, base64.b64decode(body(first)["signature"]))
    assert octets.fields["content-type"] == "application/octet-stream"
    openssl.verify(site.public.to_bytes(), message, sm2.signature_to_der(octets.body[:64]))
    site.public.verify_digest(D, octets.body[64:])
    site.verify(D, last)
    assert site.is_compiled(pipe) == (site.front == "compiled")


async def test_what_arrives_together_is_answered_apart(site: Site) -> None:
    await site.world.engine.create_key("other", KeyPurpose.DATA, "owner", "test", callers=["*"])
    await site.world.engine.create_key("theirs", KeyPurpose.DATA, "owner", "test", callers=["token:b"])
    token = await site.add_token("b")
    reader = await site.add_token("reader", "read")
    digests = [secrets.token_bytes(32) for _ in range(60)]
    for _ in range(2):  # the second time everybody is known
        asked = [site.sign(digest, token=token if at % 2 else None) for at, digest in enumerate(digests)]
        asked += [
            site.sign(D, key="none"),
            site.sign(D, key="theirs"),
            site.sign(D, token=reader),
            site.sign(D, token="nobody's"),
            site.sign(D, token=""),
            site.request(b'{"key": "k"}', JSON),
            site.sign(D, key="theirs", token=token),
            site.sign(D, key="other"),
        ]
        got = await site.ask(*asked)
        for digest, answer in zip(digests, got[:60], strict=True):
            site.verify(digest, answer)
        assert [problem(answer) for answer in got[60:66]] == [
            (404, "key_unknown"), (403, "key_caller"), (403, "scope"), (401, "unauthenticated"),
            (401, "unauthenticated"), (400, "body"),
        ]  # fmt: skip
        assert [answer.fields.get("www-authenticate") for answer in got[63:65]] == ["Bearer"] * 2
        assert [answer.status for answer in got[66:]] == [200, 200]
        other = sm2.PublicKey.from_bytes(site.world.engine.public_key("other"))
        other.verify_digest(D, sm2.signature_from_der(base64.b64decode(body(got[67])["signature"])))


FORMS: list[tuple[bytes, bool]] = [
    (b'{"key":"k","digest":"%s"}', True),
    (b' {\r\n"digest" : "%s" ,\t"key":"k" } \n', True),
    (b'{"key":"\\u006b","digest":"%s"}', True),
    (b'{"key":"k","items":[{"digest":"%s"}]}', True),
    (b'{"digest":"%s"}', False),
    (b'{"key":"k","digest":"%s"', False),
    (b'{"key":"k","digest":"%s"}x', False),
    (b'{"key":"k","digest":"%s",}', False),
    (b'{"key":"k","digest":"%s","digest":"!"}', False),
    (b'{"key":"k","digest":"A%s"}', False),
    (b'{"key":"","digest":"%s"}', False),
    (b"\xef\xbb\xbf{}%s", False),
]


@pytest.mark.parametrize("digest", [D, b"\xff" * 32, bytes(32)])
async def test_every_way_of_writing_it(tmp_path: Path, digest: bytes) -> None:
    text = base64.b64encode(digest)
    written = [form % text.replace(b"/", way) for form, _ in FORMS for way in (b"/", b"\\/")]
    seen: dict[str, list[Any]] = {}
    for front in ("compiled", "aiohttp"):
        directory = tmp_path / front
        directory.mkdir()
        async with open_site(directory, front) as site:
            got = await site.ask(*(site.request(one, JSON) for one in written))
            good = [(form, way) for form in FORMS for way in (0, 1)]
            for answer, (form, _) in zip(got, good, strict=True):
                assert (answer.status == 200) == form[1], (form, answer)
            for answer in got:
                if answer.status == 200 and "signature" in body(answer):
                    site.verify(digest, answer)
            seen[front] = [(one.status, sorted(one.fields), {**body(one), "request_id": ""}.get("code")) for one in got]
    assert seen["compiled"] == seen["aiohttp"]


def test_the_plain_form_and_nothing_else() -> None:
    text = base64.b64encode(b"\xff" * 32)
    for plain in (b'{"key":"k-1._A","digest":"%s"}', b'\n{ "digest" :"%s", "key": "k-1._A"}'):
        assert _sign.read_body(plain % text) == (b"k-1._A", b"\xff" * 32)
        assert _sign.read_body(plain % text.replace(b"/", b"\\/")) == (b"k-1._A", b"\xff" * 32)
    whole = b'{"key":"k","digest":"%s"}' % text
    for end in range(len(whole)):
        assert _sign.read_body(whole[:end]) is None
    for at in range(len(whole)):
        for octet in b'\x00\x80\\"{}[],:= \xffA':
            changed = whole[:at] + bytes([octet]) + whole[at + 1 :]
            read = _sign.read_body(changed)
            if read is not None:
                document = json.loads(changed)
                assert read == (document["key"].encode(), base64.b64decode(document["digest"], validate=True))
    assert _sign.read_body(b'{"key":"%s","digest":"%s"}' % (b"k" * 64, text)) is not None
    assert _sign.read_body(b'{"key":"%s","digest":"%s"}' % (b"k" * 65, text)) is None
    assert _sign.read_body(b'{"key":"k","digest":"%s"}' % (text[:42] + b"9=")) is None, "bits past the last octet"
    assert _sign.read_path(b"/v1/keys/k-1/sign") == b"k-1"
    for path in (b"/v1/keys/sign", b"/v1/keys//sign", b"/v1/keys/a/b/sign", b"/v1/keys/a%20/sign", b"/v1/keys/a/sig"):
        assert _sign.read_path(path) is None


@pytest.mark.parametrize(
    ("octets", "fields", "status", "code"),
    [
        (b"", [OCTETS], 400, "digest_length"),
        (bytes(33), [OCTETS], 400, "digest_length"),
        (bytes(32 * 201), [OCTETS], 413, "body_size"),
        (bytes(32), ["Content-Type: text/plain"], 400, "content_type"),
        (bytes(32), ["Content-Type: Application/Octet-Stream; x=y"], 200, ""),
        (bytes(32 * 200), [OCTETS], 200, ""),
    ],
)
async def test_octets(tmp_path: Path, front: Front, octets: bytes, fields: list[str], status: int, code: str) -> None:
    async with open_site(tmp_path, front, signing=SigningSettings(max_digests=200)) as site:
        for _ in range(2):
            (answer,) = await site.ask(site.request(octets, *fields, path="/v1/keys/k/sign"))
            assert answer.status == status
            if code:
                assert problem(answer) == (status, code)
            else:
                assert sm2.verify_many(site.public, octets, answer.body) == b"\1" * (len(octets) // 32)


async def test_bodies_past_their_bounds(site: Site) -> None:
    for size in (200_000, 9 << 20):
        pipe = site.open()
        pipe.feed(site.sign(D) + site.request(b" " * size + b"{}", JSON))
        first, second = await site.said(pipe, 2)
        site.verify(D, first)
        assert problem(second) == ((400, "body") if size < 1 << 20 else (413, "body_size"))


async def test_request_ids_and_other_requests_on_the_same_connection(site: Site) -> None:
    pipe = site.open()
    pipe.feed(site.sign(D, "X-Request-Id: mine"))
    assert (await site.said(pipe, 1))[0].fields["x-request-id"] == "mine"
    pipe.feed(site.sign(D, "X-Request-Id: not mine"))
    assert "-" in (await site.said(pipe, 1))[0].fields["x-request-id"]
    pipe.feed(b"GET /v1/sign HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await site.said(pipe, 1))[0].status == 405
    assert not site.is_compiled(pipe)
    pipe.feed(site.sign(D, "Connection: close"))
    (answer,) = await site.said(pipe, 1)
    site.verify(D, answer)
    assert (answer.fields["connection"], answer.fields["server"]) == ("close", "qianyan")


# ---- who may


async def _elsewhere(site: Site, change: Any) -> None:
    """Commits as another process does."""
    database = await open_database(site.world.database.url)
    try:
        async with database.write() as connection:
            await change(connection)
    finally:
        await database.close()


async def test_a_withdrawn_token_is_refused_at_once(site: Site) -> None:
    pipe = site.open()
    for _ in range(3):
        pipe.feed(site.sign(D))
        site.verify(D, (await site.said(pipe, 1))[0])
    await _elsewhere(site, lambda connection: tokens.withdraw(connection, "app", at_ms=system_clock()))
    pipe.feed(site.sign(D) * 3)
    assert [problem(answer) for answer in await site.said(pipe, 3)] == [(401, "unauthenticated")] * 3


async def test_a_token_expires(site: Site) -> None:
    token = await site.add_token("short", expires_at_ms=system_clock() + 1_500)
    pipe = site.open()
    pipe.feed(site.sign(D, token=token) * 2)
    assert [answer.status for answer in await site.said(pipe, 2)] == [200, 200]
    while True:
        pipe.feed(site.sign(D, token=token))
        (answer,) = await site.said(pipe, 1)
        if answer.status != 200:
            break
        await asyncio.sleep(0.05)
    assert problem(answer) == (401, "token_expired")


async def test_guesses_are_slowed(site: Site) -> None:
    got = [problem((await site.ask(site.sign(D, token=f"guess-{number}")))[0]) for number in range(22)]
    assert got[:20] == [(401, "unauthenticated")] * 20
    assert got[20:] == [(429, "guessing")] * 2
    site.verify(D, (await site.ask(site.sign(D)))[0])
    assert site.callers.guesses.failures["unauthenticated"] == 22


@pytest.mark.parametrize("state", [KeyState.FROZEN, KeyState.COMPROMISED])
async def test_a_frozen_key_signs_nothing_more(site: Site, state: KeyState) -> None:
    pipe = site.open()
    pipe.feed(site.sign(D) * 2)
    await site.said(pipe, 2)
    await _elsewhere(site, lambda connection: keys.change_state(connection, "k", state, at_ms=system_clock()))
    pipe.feed(site.sign(D) * 3 + site.octets(D))
    assert [problem(answer) for answer in await site.said(pipe, 4)] == [(422, f"key_{state.value}")] * 4
    await site.world.engine._ledger.record()
    refused = await site.world.audit_rows("sign.refuse")
    assert [(row.actor, row.outcome) for row in refused] == [("token:app", f"key_{state.value}")] * 4


# ---- how much


async def test_a_rate_of_requests(site: Site) -> None:
    await site.limit("app", Limits(requests_per_s=1, requests_burst=3))
    await site.ask(site.sign(D, token=""))
    got = await site.ask(*[site.sign(D)] * 5)
    assert [answer.status for answer in got] == [200] * 3 + [429] * 2
    assert problem(got[-1]) == (429, "caller_rate")
    assert int(got[-1].fields["retry-after"]) >= 1
    account = site.callers.accounts["token:app"]
    assert (account.requests, account.signatures, account.refused["caller_rate"]) == (5, 3, 2)


async def test_a_rate_of_signatures(site: Site) -> None:
    await site.limit("app", Limits(signatures_per_s=1, signatures_burst=4))
    got = await site.ask(*[site.sign(D)] * 3, site.octets(D * 2), site.sign(D))
    assert [answer.status for answer in got] == [200] * 3 + [429, 200]
    assert site.callers.accounts["token:app"].signatures == 4


async def test_requests_under_way(site: Site) -> None:
    await site.limit("app", Limits(concurrent=2))
    for _ in range(3):
        got = await site.ask(*[site.sign(D)] * 4)
        assert sorted(answer.status for answer in got) == [200, 200, 429, 429]
    assert problem(next(one for one in got if one.status == 429)) == (429, "caller_concurrency")
    gate = site.callers.accounts["token:app"].gate
    assert gate is not None
    assert gate._counts.total(gate._place) == 0
    got = await site.ask(site.sign(D), site.sign(D, key="none"))
    assert [answer.status for answer in got] == [200, 404]
    assert gate._counts.total(gate._place) == 0


async def test_a_core_that_fails_keeps_nobody_in_the_gate(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.limit("app", Limits(concurrent=4))
    assert [answer.status for answer in await site.ask(*[site.sign(D)] * 3)] == [200] * 3

    def broken(*_: object) -> bytes:
        raise RuntimeError("the core is broken")

    with monkeypatch.context() as patch:
        patch.setattr(SoftwareBackend, "sign", broken)
        got = await site.ask(*[site.sign(D)] * 3)
        assert {answer.status for answer in got} <= {500, 503}
    gate = site.callers.accounts["token:app"].gate
    assert gate is not None
    assert gate._counts.total(gate._place) == 0
    assert [answer.status for answer in await site.ask(*[site.sign(D)] * 4)] == [200] * 4


async def test_a_quota_is_never_overspent(site: Site) -> None:
    await site.limit("app", Limits(signatures_per_day=100))
    statuses: list[int] = []
    for _ in range(12):
        statuses += [answer.status for answer in await site.ask(*[site.sign(D)] * 10)]
    assert (statuses.count(200), statuses.count(429)) == (100, 20)
    (answer,) = await site.ask(site.octets(D))
    assert problem(answer) == (429, "caller_quota")


async def test_limits_of_the_key(site: Site) -> None:
    await change_key_limits(site.world.database, "k", lambda _: keys.KeyLimits(max_uses=7), "test", system_clock)
    await site.world.engine.refresh()
    got = await site.ask(*[site.sign(D)] * 10)
    assert sorted(answer.status for answer in got) == [200] * 7 + [422] * 3
    assert {problem(answer) for answer in got if answer.status == 422} == {(422, "key_count")}


async def test_a_full_queue(tmp_path: Path, front: Front) -> None:
    registry = CollectorRegistry()
    settings = EngineSettings(max_pending=8, batch_max=8, inline_max=0)
    async with open_site(tmp_path, front, engine=settings, registry=registry) as site:
        await site.ask(site.sign(D), site.sign(D))
        got = await site.ask(*[site.sign(D)] * 12)
        assert [answer.status for answer in got].count(200) == 8
        full = [answer for answer in got if answer.status != 200]
        assert {problem(answer) for answer in full} == {(503, "sign_queue")}
        assert {1 <= int(answer.fields["retry-after"]) <= 3 for answer in full} == {True}
        assert registry.get_sample_value("qianyan_sign_refusals_total", {"code": "sign_queue"}) == 4


# ---- accounts, batches, the end


async def test_every_use_is_reserved_before_and_recorded_after(tmp_path: Path, front: Front) -> None:
    async with open_site(tmp_path, front, engine=EngineSettings(reserve_uses=50)) as site:
        for _ in range(6):
            got = await site.ask(*[site.sign(D)] * 30, site.octets(D * 20))
            assert {answer.status for answer in got} == {200}
            reserved = sum(json.loads(row.detail)["uses"] for row in await site.world.audit_rows("sign.reserve"))
            assert reserved >= site.callers.accounts["token:app"].signatures
        await site.world.engine._ledger.record()
        rows = await site.world.audit_rows("sign.usage")
        assert [(row.actor, row.subject, json.loads(row.detail)["signatures"]) for row in rows] == [
            ("token:app", "k", 300)
        ]


async def test_metrics_and_the_log(site: Site) -> None:
    with capture_logs() as logs:
        await site.ask(site.sign(D, "X-Request-Id: a"), site.octets(D, "X-Request-Id: b"), site.sign(D, token=""))
        await site.ask(site.sign(D, "X-Request-Id: c"))
    assert site.counted("/v1/sign", 200) == 2
    assert site.counted("/v1/sign", 401) == 1
    assert site.counted("/v1/keys/{key}/sign", 200) == 1
    lines = {line["request_id"]: line for line in logs if line["event"] == "request"}
    for name, route in (("a", "/v1/sign"), ("b", "/v1/keys/{key}/sign"), ("c", "/v1/sign")):
        line = lines[name]
        assert (line["caller"], line["route"], line["status"], line["method"]) == ("token:app", route, 200, "POST")
    assert {line["caller"] for line in lines.values()} == {"token:app", None}


@pytest.fixture
async def compiled(tmp_path: Path) -> AsyncIterator[tuple[Site, CollectorRegistry]]:
    registry = CollectorRegistry()
    async with open_site(tmp_path, "compiled", registry=registry) as site:
        await site.ask(site.sign(D))
        await site.ask(site.sign(D))
        yield site, registry


def _batches(registry: CollectorRegistry) -> tuple[float, float]:
    """How many batches there were, and how many signatures in them."""
    name = "qianyan_sign_batch_size"
    return registry.get_sample_value(f"{name}_count") or 0, registry.get_sample_value(f"{name}_sum") or 0


async def test_one_batch_for_a_pass(compiled: tuple[Site, CollectorRegistry]) -> None:
    site, registry = compiled
    before = _batches(registry)
    pipes = [site.open() for _ in range(5)]
    for pipe in pipes:
        pipe.feed(site.sign(D) * 4)
    for pipe in pipes:
        for answer in await site.said(pipe, 4):
            site.verify(D, answer)
        assert site.is_compiled(pipe)
    after = _batches(registry)
    assert (after[0] - before[0], after[1] - before[1]) == (1, 20)


async def test_one_batch_for_many_callers_and_keys(compiled: tuple[Site, CollectorRegistry]) -> None:
    site, registry = compiled
    engine = site.world.engine
    public = {}
    for name in ("one", "two", "three"):
        await engine.create_key(name, KeyPurpose.DATA, "owner", "test", callers=["*"])
        public[name] = sm2.PublicKey.from_bytes(engine.public_key(name))
    callers = [await site.add_token("b"), await site.add_token("c"), None]
    asked = [(key, token) for key in public for token in callers]
    requests = [site.sign(D, key=key, token=token) for key, token in asked]
    requests += [site.octets(D * 2, key="two"), site.sign(D, key="none")]
    while True:  # until the tokens are known and each key has a reservation
        before = _batches(registry)
        got = await site.ask(*requests)
        after = _batches(registry)
        if after[0] - before[0] == 1:
            break
    assert after[1] - before[1] == 11
    for (key, _), answer in zip(asked, got, strict=False):
        public[key].verify_digest(D, sm2.signature_from_der(base64.b64decode(body(answer)["signature"])))
    assert sm2.verify_many(public["two"], D * 2, got[9].body) == b"\1\1"
    assert problem(got[10]) == (404, "key_unknown")


async def test_more_than_a_pass_should_sign_takes_the_next(compiled: tuple[Site, CollectorRegistry]) -> None:
    site, registry = compiled
    before = _batches(registry)
    pipes = [site.open() for _ in range(10)]
    for pipe in pipes:
        pipe.feed(site.sign(D) * 50)
    for pipe in pipes:
        assert {answer.status for answer in await site.said(pipe, 50)} == {200}
    after = _batches(registry)
    assert after[1] - before[1] == 500
    assert 3 <= after[0] - before[0] <= 6
    assert site.hot._gatherer.waiting == 0


async def test_too_many_before_the_turn(tmp_path: Path) -> None:
    async with open_site(
        tmp_path, "compiled", engine=EngineSettings(max_pending=10, batch_max=10, inline_max=10)
    ) as site:
        await site.ask(site.sign(D))
        pipes = [site.open() for _ in range(3)]
        for pipe in pipes:
            pipe.feed(site.sign(D) * 5)
        statuses = [answer.status for pipe in pipes for answer in await site.said(pipe, 5)]
        assert statuses == [200] * 10 + [503] * 5


async def test_a_client_that_hangs_up_harms_nobody(site: Site) -> None:
    await site.ask(site.sign(D))
    gone, stays = site.open(), site.open()
    gone.feed(site.sign(D))
    stays.feed(site.sign(D))
    gone.close()
    site.verify(D, (await site.said(stays, 1))[0])
    while site.drain.under_way:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.001)


async def test_a_drain_answers_what_came_and_closes(site: Site) -> None:
    pipe = site.open()
    pipe.feed(site.sign(D))
    await site.said(pipe, 1)
    pipe.feed(site.sign(D) + site.octets(D))
    await site.wire.finish(0.0)
    assert await site.drain.wait(30) == 0
    deadline = asyncio.get_running_loop().time() + 30
    while not pipe.closed:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)
    got = answers(pipe.written)
    assert got[-1].fields["connection"] == "close"
    assert {answer.status for answer in got} == {200}
    if site.front == "compiled":
        assert len(got) == 2


async def test_answers_keep_their_order_whatever_way_they_went(site: Site) -> None:
    data = json.dumps({"key": "k", "data": base64.b64encode(b"m").decode()}).encode()
    pipe = site.open()
    pipe.feed(site.sign(D) + site.request(data, JSON) + site.sign(D, key="none") + site.octets(D * 400) + site.sign(D))
    got = await site.said(pipe, 5)
    assert [answer.status for answer in got] == [200, 200, 404, 200, 200]
    assert len(got[3].body) == 400 * 64
    site.public.verify(b"m", sm2.signature_from_der(base64.b64decode(body(got[1])["signature"])))
    site.verify(D, got[4])


@pytest.mark.parametrize("way", ["whole", "octets"])
async def test_wherever_a_read_ends(site: Site, way: str) -> None:
    stream = site.sign(D) + site.octets(D * 3) + site.sign(D)
    pipe: Pipe = site.open()
    reads = [stream] if way == "whole" else [stream[at : at + 1] for at in range(len(stream))]
    for read in reads:
        pipe.feed(read)
        await asyncio.sleep(0)
    got = await site.said(pipe, 3)
    assert [len(answer.body) for answer in got][1] == 3 * 64
    site.verify(D, got[0])
    site.verify(D, got[2])
