"""A checkpoint of the audit record: how long it is, its Merkle root, its chain's head, and a signature over that.

Whoever keeps one can later show that a row was there, that only rows were added since, and that none were cut off.
Pure: bytes in, bytes out; the store and the key are elsewhere.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final, Self

from core.clock import rfc3339
from core.errors import Malformed, Refused
from core.merkle import HASH_BYTES
from core.ports import SignatureVerifier

_TITLE: Final = "qianyan audit checkpoint v1"
_LINES: Final = 8
_MOST_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`origin`: the hash of the record's first row, which no other record has. `size` rows have Merkle root `root`;
    the last of them has chain hash `head`. `public_key` (65 bytes) made `signature` (DER) over `signed_bytes()`."""

    origin: bytes
    size: int
    root: bytes
    head: bytes
    at_ms: int
    public_key: bytes
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """Six lines of text: title, origin, size, root, head, time."""
        at = f"{self.at_ms} {rfc3339(self.at_ms)}"
        lines = (_TITLE, self.origin.hex(), str(self.size), self.root.hex(), self.head.hex(), at)
        return ("\n".join(lines) + "\n").encode("ascii")

    def encode(self) -> bytes:
        """The signed lines, then the public key and the signature, both in base64, a line each."""
        tail = (base64.b64encode(self.public_key), base64.b64encode(self.signature), b"")
        return self.signed_bytes() + b"\n".join(tail)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads exactly what `encode` writes. Raises Malformed (code "checkpoint")."""
        try:
            if len(data) > _MOST_BYTES:
                raise ValueError("too long")
            lines = data.decode("ascii").split("\n")
            if len(lines) != _LINES + 1 or lines[0] != _TITLE:
                raise ValueError("other lines")
            made = cls(
                origin=bytes.fromhex(lines[1]),
                size=int(lines[2]),
                root=bytes.fromhex(lines[3]),
                head=bytes.fromhex(lines[4]),
                at_ms=int(lines[5].split(" ")[0]),
                public_key=base64.b64decode(lines[6], validate=True),
                signature=base64.b64decode(lines[7], validate=True),
            )
            if made.size < 1 or {len(made.origin), len(made.root), len(made.head)} != {HASH_BYTES}:
                raise ValueError("other values")
            if made.encode() != data:
                raise ValueError("not as it is written")
        except (ValueError, OverflowError, OSError) as error:
            raise Malformed("this is no audit checkpoint", code="checkpoint") from error
        return made

    def check(self, verify: SignatureVerifier, public_key: bytes) -> None:
        """Returns where it is signed by `public_key` (65 bytes). Raises Refused (code "signature")."""
        if public_key != self.public_key:
            raise Refused("the checkpoint is signed by another key", code="signature")
        verify(public_key, self.signed_bytes(), self.signature)
