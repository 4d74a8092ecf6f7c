"""What is counted: run by the interpreter under callgrind, with the compiled modules as they are built.

Each operation is a fixed number of calls with fixed inputs; what is collected is what its C function executes.
Imports nothing but the compiled modules and the standard library: starting takes the most of the time.
"""

import struct
import sys

sys.path.insert(0, sys.argv[1])

from crl._entries import Entries
from qianyan_status._lookup import Table
from qianyan_status._speed import FastIndex
from service.wire._wire import parse_head
from signer._native import cpu, sm2, sm3

CALLS = 8
LOOKUPS = 20_000
ENTRIES = 10_000
BLOCKS = 1_000
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
