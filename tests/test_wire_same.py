"""The compiled connections say what aiohttp says: thousands of streams, whole, cut, mutated, and split anywhere.

aiohttp is fed octet by octet on both sides: it forgets whole requests that came in one read with octets that are not a
request, and what a server answers must not depend on where a read ends.
"""

import asyncio
import base64
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.x509 import ocsp
from structlog.testing import capture_logs

from status.settings import OcspSettings
from tests.status_world import request
from tests.wire_world import Answered, Pair, Pipe, Wired, answers, get, open_pair, post

#: On each of two transports; QIANYAN_WIRE_STREAMS asks for more.
STREAMS = int(os.environ.get("QIANYAN_WIRE_STREAMS", "400"))


@pytest.fixture(params=["pipe", "own"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    with capture_logs():  # what clients do to us is logged, with tracebacks
        async with open_pair(tmp_path, OcspSettings(max_request_bytes=600), transport=request.param) as pair:
            yield pair


def _comparable(answer: Answered) -> Any:
    """What must be the same: all but the date, the request id that is made up, and the signature's random part."""
    fields = {name: value for name, value in answer.fields.items() if name != "date"}
    if "-" in fields.get("x-request-id", ""):
        fields["x-request-id"] = "made"
    body: Any = answer.body
    if answer.status == 400 and fields["content-type"].startswith("text/plain"):
        body = b""  # aiohttp quotes the read in which it stopped
        del fields["content-length"]
    elif b'"request_id":' in body:
        body = body.partition(b'"request_id":')[0]
        del fields["content-length"]
    elif fields.get("content-type") == "application/ocsp-response" and len(body) > 5:
        read = ocsp.load_der_ocsp_response(body)
        if read.extensions or fields.get("cache-control") == "no-store":  # signed for each who asks
            body = read.tbs_response_bytes, read.certificates
            del fields["content-length"]
    return answer.status, fields, body


def _seen(pipe: Pipe | Wired) -> tuple[list[Any], bool]:
    return [_comparable(answer) for answer in answers(pipe.written)], pipe.closed


class Streams:
    """Makes streams of requests, some of them not plain."""

    def __init__(self, pair: Pair, known: list[bytes], seed: int) -> None:
        self._random = random.Random(seed)
        self._known = known

    def _octets(self) -> bytes:
        pick = self._random
        if pick.random() < 0.1:
            return pick.choice([b"", b"\x30\x03abc", bytes(601), pick.choice(self._known)[:-1]])
        return pick.choice(self._known)

    def _get(self) -> bytes:
        text = base64.b64encode(self._octets()).decode()
        ways = [text, quote(text, safe=""), quote(text), text.rstrip("="), text + "%zz", text + "!"]
        tail = self._random.choice(ways)
        return get(f"/ocsp/{tail}", *self._fields())

    def _fields(self) -> list[str]:
        odd = ["Expect: 100-continue", "Range: bytes=0-1", "TE: trailers", "X-Long: " + "a" * 3000, "x~!: y", "A:"]
        plain = [
            "Accept: */*",
            "User-Agent: a b",
            "If-None-Match: *",
            'If-None-Match: W/"x"',
            "X-Request-Id: mine",
            "X-Request-Id: a b",
            "X-Request-Id:",
            "Connection: keep-alive",
            "Content-Type: application/ocsp-request",
            "Cookie: a=b",
            "Authorization: Bearer x",
            "\tX: y",
        ]
        pick = self._random
        fields = pick.sample(plain, pick.randrange(4))
        fields = [field for field in fields if not field.startswith("\t") or pick.random() < 0.1]
        return fields + ([pick.choice(odd)] if pick.random() < 0.1 else [])

    def _strange(self) -> bytes:
        body = self._octets()
        size = len(body)
        head = "POST /ocsp HTTP/1.1\r\nHost: a\r\n"
        return self._random.choice(
            [
                f"{head}Content-Length: {size}\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}Content-Length: {size}\r\nContent-Length: {size + 1}\r\n\r\n".encode() + body,
                f"{head}Content-Length: +{size}\r\n\r\n".encode() + body,
                f"{head}Content-Length: -1\r\n\r\n".encode() + body,
                f"{head}Content-Length: {size} \r\n\r\n".encode() + body,
                f"{head}Content-Length : {size}\r\n\r\n".encode() + body,
                f"{head}Content-Length: {size}, {size}\r\n\r\n".encode() + body,
                f"{head}Content-Length: 0{size}\r\n\r\n".encode() + body,
                f"{head}Content-Length: 99999999999999999999999\r\n\r\n".encode() + body,
                f"{head}Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body,
                f"{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n".encode() + body + b"\r\n0\r\n\r\n",
                f"{head}Transfer-Encoding: identity\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}X: a\r\n b\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}X: a\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}X: a\0b\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}X\0: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}X: \x80é\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}Host: b\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}Content-Encoding: gzip\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}Connection: close\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}Connection: Keep-Alive, X\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"{head}Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"POST /ocsp HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"POST /ocsp HTTP/1.0\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"POST /ocsp HTTP/1.2\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"POST  /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"POST http://a/ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"POST /ocsp?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"POST /ocsp/ HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"post /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                f"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + body,
                b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET /ocsp/ HTTP/1.1\r\nHost: a\r\n\r\n",
                b"PUT /ocsp HTTP/1.1\r\nHost: a\r\n\r\n",
                b"\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01",
            ]
        )

    def make(self) -> bytes:
        """One to four requests, in one of three streams with an octet changed, gone or twice."""
        pick = self._random
        parts = []
        for _ in range(pick.randrange(1, 5)):
            kind = pick.random()
            if kind < 0.35:
                parts.append(post(self._octets(), *self._fields()))
            else:
                parts.append(self._get() if kind < 0.65 else self._strange())
        whole = bytearray(b"".join(parts))
        if pick.random() < 0.34:
            for _ in range(pick.randrange(1, 4)):
                at = pick.randrange(len(whole))
                change = pick.randrange(3)
                if change == 0:
                    whole[at] = pick.choice(b"\r\n\0 :/AaZz09%\x7f\x80\xff")
                elif change == 1:
                    del whole[at : at + pick.randrange(1, 4)]
                else:
                    whole[at:at] = whole[at : at + pick.randrange(1, 20)]
                if not whole:
                    break
        return bytes(whole)

    def split(self, whole: bytes) -> list[bytes]:
        """The same, in reads."""
        pick = self._random
        if pick.random() < 0.3:
            return [whole]
        cuts = sorted(pick.randrange(len(whole) + 1) for _ in range(pick.randrange(1, 8)))
        return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


async def _known(pair: Pair) -> list[bytes]:
    """Requests of every kind, asked once, so that no answer waits for the store or for a signature."""
    world = pair.world
    good, revoked = await world.issue(), await world.issue()
    await world.revoke(revoked)
    cert_id = world.issuing.cert_id
    plain = [request(cert_id(good)), request(cert_id(revoked)), request(cert_id(good, "sha1"))]
    live = [request(cert_id(good), nonce=b"n" * 16), request(cert_id(revoked, "sha256"), nonce=b"m" * 32)]
    for octets in plain + live:
        pipe = pair.wire()
        pipe.feed(post(octets) + post(octets))
        while len(answers(pipe.written)) < 2:
            await pair.settled()
        pipe.close()
    foreign = bytearray(plain[0])
    foreign[60] ^= 1
    return [*plain, *plain, *live, bytes(foreign)]


@pytest.mark.parametrize(("pair", "seed"), [("pipe", 1), ("own", 2)], indirect=["pair"])
async def test_same_answers_and_same_end(pair: Pair, seed: int) -> None:
    streams = Streams(pair, await _known(pair), seed)
    fast = closed = 0
    for number in range(STREAMS):
        whole = streams.make()
        reads = streams.split(whole)
        wire, plain = pair.wire(), pair.plain()
        for read in reads:
            wire.feed(read)
            await asyncio.sleep(0)
        plain.feed(whole)
        await pair.settled(0.03)
        if _seen(wire) != _seen(plain):
            await pair.settled(3)
        same = _seen(wire) == _seen(plain)
        assert same, (seed, number, reads, _seen(wire), _seen(plain))
        fast += type(wire.protocol).__name__ == "Connection" and isinstance(wire.protocol, type(pair.server.factory()))
        closed += wire.closed
        wire.close()
        plain.close()
        await asyncio.sleep(0)
    assert fast > STREAMS // 10, "the streams do not show the compiled side"
    assert closed > STREAMS // 50


async def test_every_split_of_two_requests(pair: Pair) -> None:
    known = await _known(pair)
    whole = post(known[0], "X-Request-Id: one") + get("/healthz", "X-Request-Id: two")
    for at in range(1, len(whole)):
        wire = pair.wire()
        wire.feed(whole[:at])
        wire.feed(whole[at:])
        await pair.settled()
        said = answers(wire.written)
        assert [(one.status, one.fields["x-request-id"]) for one in said] == [(200, "one"), (200, "two")], at
        wire.close()


async def test_a_length_is_never_read_twice(pair: Pair) -> None:
    """What one side takes for a body the other must not take for a request (request smuggling)."""
    known = await _known(pair)
    inner = get("/healthz", "X-Request-Id: smuggled")
    for fields in (
        [f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked"],
        [f"Content-Length: {len(inner)}", "Content-Length: 0"],
        ["Content-Length: 0", f"Content-Length: {len(inner)}"],
        [f"Content-Length: +{len(inner)}"],
        [f"Content-Length : {len(inner)}"],
        ["Content-Length: 0x10"],
        [f"Content-Length:\x0b{len(inner)}"],
        [f"Content-Length: {len(inner)}", "Transfer-Encoding: xchunked"],
        [f"X: y\r\n Content-Length: {len(inner)}"],
        [f"X: y\rContent-Length: {len(inner)}"],
    ):
        head = "POST /ocsp HTTP/1.1\r\nHost: a\r\n" + "".join(f"{field}\r\n" for field in fields) + "\r\n"
        for at in range(1, len(head), 7):
            wire, plain = pair.wire(), pair.plain()
            stream = post(known[0]) + head.encode() + inner
            wire.feed(stream[: at + len(post(known[0]))])
            wire.feed(stream[at + len(post(known[0])) :])
            plain.feed(stream)
            await pair.settled(0.02)
            if _seen(wire) != _seen(plain):
                await pair.settled(3)
            assert _seen(wire) == _seen(plain), fields
            wire.close()
            plain.close()
