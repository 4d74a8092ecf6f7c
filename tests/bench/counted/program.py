"""What is counted: run by the interpreter under callgrind, with the compiled modules as they are built.

Each operation is a fixed number of calls with fixed inputs; what is collected is what its C function executes.
Imports nothing but the compiled modules and the standard library: starting takes the most of the time.
"""

import base64
import struct
import sys

sys.path.insert(0, sys.argv[1])

from types import SimpleNamespace

from crl._entries import Entries
from qianyan_status._lookup import Table
from qianyan_status._speed import FastIndex
from service.wire._wire import parse_head
from signer._native import cpu, sm2, sm3
from status._answers import AnswerTable, Entry, finish, read_plain, response_data

CALLS = 8
LOOKUPS = 20_000
ENTRIES = 10_000
BLOCKS = 1_000
ANSWERS = 256
HEAD = (
    b"POST /ocsp HTTP/1.1\r\nHost: status.example.cn\r\nUser-Agent: relying/1.0\r\nAccept: */*\r\n"
    b"Content-Type: application/ocsp-request\r\nContent-Length: 84\r\nConnection: keep-alive\r\n\r\n"
)

key = sm2.PrivateKey.from_bytes(bytes(range(1, 33)))
public = sm2.PublicKey.from_bytes(key.public_key.to_bytes())
cpu.backends()  # the mark from which on callgrind counts: modules test themselves when they are imported
digests = [bytes([number]) * 32 for number in range(CALLS)]
signatures = [key.sign_digest(digest) for digest in digests]
for digest, signature in zip(digests, signatures, strict=True):
    public.verify_digest(digest, signature)
for _ in range(CALLS):
    sm3.sm3(bytes(64 * BLOCKS - 9))
    parse_head(HEAD)
# An OCSP request as clients send it: one CertID under SM3, a nonce of 32 octets; the same without the nonce.
NOW_MS = 1_800_000_000_000


def tlv(tag, *parts):
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < 128 else bytes([0x81, len(body)])
    return bytes([tag]) + length + body


SM3 = bytes.fromhex("300c06082a811ccf550183110500")
CERT_ID = tlv(0x30, SM3, tlv(4, bytes(32)), tlv(4, bytes(32)), tlv(2, b"\x51" + bytes(15)))
NONCE = tlv(0x30, bytes.fromhex("06092b0601050507300102"), tlv(4, tlv(4, bytes(32))))


def asked(nonce):
    requests = tlv(0x30, tlv(0x30, CERT_ID))
    return tlv(0x30, tlv(0x30, requests, tlv(0xA2, tlv(0x30, nonce)) if nonce else b""))


table = AnswerTable(
    max_bytes=1 << 20, max_request_bytes=4096, max_age_s=60, check_every_s=1e9, check=lambda: NOW_MS,
    miss=lambda *_: None, odd_path=lambda _: None, matches=lambda *_: False, soon=lambda _: None,
)  # fmt: skip
plain = asked(b"")
table.put(plain, Entry(bytes(900), 1, NOW_MS, NOW_MS + 3_600_000, b'"0"', b"x" * 29, b"x" * 29))
target = b"/ocsp/" + base64.b64encode(plain).replace(b"/", b"%2F").replace(b"+", b"%2B")
post = SimpleNamespace(body=plain, method="POST")
get = SimpleNamespace(target=target, method="GET", if_none_match=None)
for answer in (table.post(post), table.get(get), read_plain(asked(NONCE))):
    assert answer, "what is counted is the way that answers"
data = [response_data(bytes(36), b"\x18\x0f20270101000000Z", CERT_ID, b"\x80\0", b"", b"", bytes(32))] * ANSWERS
for _ in range(CALLS):
    table.post(post)
    table.get(get)
    read_plain(asked(NONCE))
finish(data, bytes(range(1, 65)) * ANSWERS, bytes(700))  # so many that where memory lies makes no difference
rows = [
    ((1 << 126 | number * 0x9E37_79B9).to_bytes(16, "big"), 27_000_000_000 + 4, 1_900_000_000, None)
    for number in range(ENTRIES)
]
entries = Entries()
entries.load_rows(rows)
entries.draft(b"", b"", b"", [], 0)
index = FastIndex(Table(((24_000, 0, 1_000_000),), bytes(125_000), bytes(125_000), 2_000_000_000))
asked = b"".join(struct.pack("<IIq", 24_000, number * 37 % 1_000_000, 1_800_000_000) for number in range(LOOKUPS))
index.find_many(asked, False)
print(cpu.backend())
