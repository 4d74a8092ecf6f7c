"""The compiled reader of heads and the one of plain OCSP requests, against readers written the slow way."""

import base64
import os
import random
import re
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from core.asn1 import der
from core.errors import Malformed, TooLarge
from service.wire import _wire
from status import _answers
from status.http import request_from_path
from status.request import parse_request
from tests.status_world import request

PARTIAL, WHOLE, FOREIGN, ODD = range(4)
#: QIANYAN_WIRE_ROUNDS asks for more: millions of inputs take some minutes.
ROUNDS = int(os.environ.get("QIANYAN_WIRE_ROUNDS", "15000"))

LINE = re.compile(rb"([A-Z]{1,23}) ([!-~]+) HTTP/1\.([01])\Z")
FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t -~]*?)[ \t]*\Z")
FOREIGN_NAMES = {
    *(b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"range", b"etag", b"server", b"keep-alive"),
    *(b"max-forwards", b"content-encoding", b"content-location", b"content-range", b"proxy-connection"),
    *(b"http2-settings", b"sec-websocket-key1"),
}
ONCE = {b"host", b"content-length", b"connection", b"if-none-match", b"x-request-id", b"authorization",
        b"content-type", b"user-agent"}  # fmt: skip


def slow_head(data: bytes) -> tuple[int, dict[str, Any] | None]:
    """What a whole head says; only for data that has its empty line."""
    head, _, _ = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    matched = LINE.match(first)
    fields = [FIELD.match(line) for line in lines]
    if matched is None or None in fields or len(fields) > 64:
        return ODD, None
    method, target, minor = matched.groups()
    found: dict[bytes, bytes] = {}
    foreign = method not in (b"GET", b"POST") or minor != b"1" or target[:1] != b"/" or b"?" in target or b"#" in target
    for field in fields:
        assert field is not None
        name, value = field[1].lower(), field[2]
        foreign |= name in FOREIGN_NAMES or (name in ONCE and name in found)
        found[name] = value
    length, connection = found.get(b"content-length"), found.get(b"connection", b"keep-alive").lower()
    foreign |= b"host" not in found or (length is not None) != (method == b"POST")
    foreign |= length is not None and re.fullmatch(rb"[0-9]{1,9}", length) is None
    foreign |= connection not in (b"close", b"keep-alive")
    if foreign:
        return FOREIGN, None
    return WHOLE, {
        "method": method.decode(),
        "target": target,
        "length": len(head) + 4,
        "body": int(length or 0),
        "close": connection == b"close",
        "if_none_match": found.get(b"if-none-match"),
        "request_id": found.get(b"x-request-id"),
        "authorization": found.get(b"authorization"),
        "content_type": found.get(b"content-type"),
    }


PIECES = [
    *(b"GET ", b"POST ", b"PUT ", b"/ocsp", b"/ocsp/",
      b"http://a/", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n", b"\n"),
    *(b"Host: a\r\n", b"host:\tb \r\n", b"Content-Length: 5\r\n", b"content-length:007 \r\n",
      b"Content-Length: +5\r\n"),
    *(b"Connection: Close\r\n", b"Connection: keep-alive\r\n", b"Connection: x\r\n", b"TE: x\r\n", b"X: y z\r\n"),
    *(b"If-None-Match: \"x\"\r\n", b"X-Request-Id: 1\r\n", b"Authorization: Bearer x\r\n",
      b"\r\n\r\n", b": a\r\n", b" b\r\n"),
    *(b"User-Agent: \x80\r\n", b"A: \0\r\n", b"?", b"#", b"\r", b"\t", b"Expect: 100-continue\r\n", b"\r\n\r\nrest"),
]  # fmt: skip
GOOD = b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Request-Id: q\r\nConnection: close\r\n\r\n12345"


def some_heads(pick: random.Random) -> bytes:
    if pick.random() < 0.5:
        return b"".join(pick.choice(PIECES) for _ in range(pick.randrange(1, 12)))
    whole = bytearray(GOOD)
    for _ in range(pick.randrange(1, 3)):
        at = pick.randrange(len(whole))
        whole[at : at + pick.randrange(3)] = pick.choice([b"", pick.choice(PIECES), bytes([pick.randrange(256)])])
    return bytes(whole)


def test_heads_as_the_slow_reader_has_them() -> None:
    pick = random.Random(11)
    seen = set()
    for _ in range(ROUNDS):
        data = some_heads(pick)
        verdict, fields = _wire.parse_head(data)
        seen.add(verdict)
        if verdict == PARTIAL:
            assert b"\r\n\r\n" not in data
        elif b"\r\n\r\n" in data or verdict != ODD:
            assert (verdict, fields) == slow_head(data), data
    assert seen == {PARTIAL, WHOLE, FOREIGN, ODD}


def test_a_verdict_never_changes_with_more_octets() -> None:
    """PARTIAL may become anything; all else stays what it is, whatever follows."""
    pick = random.Random(12)
    for _ in range(2_000):
        data = some_heads(pick)
        before: Any = (PARTIAL, None)
        for end in range(len(data) + 1):
            now = _wire.parse_head(data[:end])
            assert before[0] == PARTIAL or now == before, data
            before = now


def test_the_limits_of_a_head() -> None:
    start = b"GET /ocsp/a HTTP/1.1\r\nHost: a\r\n"
    fits = start + b"A: b\r\n" * 63 + b"\r\n"
    assert _wire.parse_head(fits)[0] == WHOLE
    assert _wire.parse_head(start + b"A: b\r\n" * 64 + b"\r\n")[0] == ODD
    assert _wire.parse_head(fits, max_fields=20)[0] == ODD
    assert _wire.parse_head(fits, max_bytes=len(fits) + 1)[0] == WHOLE
    assert _wire.parse_head(fits, max_bytes=len(fits) - 1)[0] == ODD
    assert _wire.parse_head(b"GET /" + b"a" * 9_000)[0] == ODD
    assert _wire.parse_head(b"GET /" + b"a" * 7_000)[0] == PARTIAL


# ---- plain OCSP requests


def slow_plain(octets: bytes) -> Any:
    try:
        asked = parse_request(octets, max_bytes=10_000, max_requests=1)
    except (Malformed, TooLarge):
        return None
    one = asked.cert_ids[0]
    return one.issuer, one.raw, one.serial, asked.nonce


CERT_ID = der.sequence(
    der.sequence(der.oid("1.2.156.10197.1.401"), der.null()),
    der.octet_string(bytes(32)),
    der.octet_string(bytes(range(32))),
    der.integer(0x1234567890ABCDEF),
)
REQUESTS = [
    request(CERT_ID),
    request(CERT_ID, nonce=b"n"),
    request(CERT_ID, nonce=bytes(128)),
    request(CERT_ID, CERT_ID),
]


def test_plain_requests_as_the_slow_reader_has_them() -> None:
    pick = random.Random(13)
    read = 0
    for _ in range(ROUNDS):
        whole = bytearray(pick.choice(REQUESTS))
        for _ in range(pick.randrange(3)):
            at = pick.randrange(len(whole))
            whole[at : at + pick.randrange(3)] = bytes(pick.randrange(256) for _ in range(pick.randrange(3)))
            if not whole:
                break
        octets = bytes(whole)
        fast = _answers.read_plain(octets)
        if fast is not None:
            read += 1
            slow = slow_plain(octets)
            if slow is None:  # the algorithm inside is not looked at: no issuer is known by such octets
                issuer = der.Reader(fast[0])
                assert issuer.take_tlv(der.SEQUENCE) != CERT_ID[2:16]
            else:
                assert slow == (fast[0], fast[1], int.from_bytes(fast[2], "big"), fast[3])
    assert read > ROUNDS // 10
    assert [_answers.read_plain(one) is not None for one in REQUESTS] == [True, True, True, False]


@given(st.binary(max_size=200))
def test_no_octets_hurt(octets: bytes) -> None:
    fast = _answers.read_plain(octets)
    assert fast is None or slow_plain(octets) is not None or len(fast[0]) > 0
    _wire.parse_head(octets)


@given(st.binary(min_size=1, max_size=300), st.booleans(), st.booleans())
def test_paths_decode_alike(octets: bytes, quoted: bool, bare: bool) -> None:
    text = base64.b64encode(octets).decode()
    text = text.rstrip("=") if bare else text
    target = "/ocsp/" + (quote(text, safe="") if quoted else text)
    assert _answers.decode_path(target.encode()) == octets == request_from_path(target, 10_000)


@given(st.text(alphabet="AZaz09+/=%2Bb5 !-_", max_size=40))
def test_what_decodes_decodes_alike(tail: str) -> None:
    fast = _answers.decode_path(f"/ocsp/{tail}".encode())
    if fast is not None:
        assert fast == request_from_path(f"/ocsp/{tail}", 10_000)
