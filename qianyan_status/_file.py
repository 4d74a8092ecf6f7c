"""The two files, taken apart: StatusSet and StatusDelta as docs/status-set.md has them.

Knows form only: not signatures, clocks or what a status means.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from qianyan_status import _der
from qianyan_status._codec import decode, read_varint
from qianyan_status._der import Reader
from qianyan_status._errors import StatusSetError
from qianyan_status._sm3 import sm3

#: 2.25.160735196.1 (a set), .2 (a delta) and .3 (the purpose of a delegated signer), DER.
TYPE_SET: Final = bytes.fromhex("060669ccd2bf5c01")
TYPE_DELTA: Final = bytes.fromhex("060669ccd2bf5c02")
PURPOSE_SIGNER: Final = bytes.fromhex("060669ccd2bf5c03")

#: SM2 with SM3, parameters absent; nothing else is read.
SM3_WITH_SM2: Final = bytes.fromhex("300a06082a811ccf55018375")
VERSION: Final = 1
MAX_FILE_BYTES: Final = 256 << 20
#: Most positions in a set: the bitmaps take a quarter of an octet for each.
MAX_POSITIONS: Final = 1 << 28
#: What a record can ask about.
MAX_INDEX: Final = 1 << 32
MAX_MONTHS: Final = 1_200
_MAX_BITS: Final = 56

Space = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Signed:
    """The outer structure; `signer`: the delegated signer's certificate where there is one."""

    tbs: bytes
    signature: bytes
    signer: bytes | None


@dataclass(frozen=True, slots=True)
class Imports:
    """The hash space: certificates without a status index whose notBefore is before `cutoff`. Keys ascending."""

    cutoff: int
    count: int
    bits: int
    salt: bytes
    revoked: Sequence[int]
    held: Sequence[int]

    def key(self, serial: bytes) -> int:
        """The first `bits` bits of SM3(salt ‖ serial); `serial`: the contents of the serialNumber INTEGER."""
        return int.from_bytes(sm3(self.salt + serial), "big") >> (256 - self.bits)


@dataclass(frozen=True, slots=True)
class Header:
    """What both files begin with. Times in seconds since 1970."""

    authority_key_id: bytes
    number: int
    position: int
    this_update: int
    next_update: int
    state_digest: bytes


@dataclass(frozen=True, slots=True)
class SetFile:
    """A whole set. `revoked`, `held`: positions on the line of `spaces`, ascending."""

    header: Header
    issuer_digest: bytes
    index_extension: bytes
    spaces: tuple[Space, ...]
    revoked: Sequence[int]
    held: Sequence[int]
    imports: Imports | None


@dataclass(frozen=True, slots=True)
class DeltaFile:
    """A delta. `growth`: (month, by how much its next index grew); payloads still encoded: what space they are of is
    known only with the set."""

    header: Header
    base_number: int
    base_position: int
    base_digest: bytes
    growth: tuple[tuple[int, int], ...]
    revoked: bytes
    held: bytes
    import_revoked: bytes
    import_held: bytes


def wrong(why: str) -> StatusSetError:
    """The error for DER that is not a status set."""
    return StatusSetError(f"not a status set: {why}", code="format")


def split(encoded: bytes) -> Signed:
    """Takes the outer structure apart."""
    if len(encoded) > MAX_FILE_BYTES:
        raise StatusSetError(f"longer than {MAX_FILE_BYTES} bytes", code="size")
    tbs, algorithm, signature, signer = _der.split_signed(encoded)
    if algorithm != SM3_WITH_SM2:
        raise wrong("the algorithm is not SM2 with SM3")
    return Signed(tbs, signature, signer)


def _octets(body: Reader, least: int, most: int) -> bytes:
    octets = body.take(_der.OCTET_STRING)
    if not least <= len(octets) <= most:
        raise wrong("an octet string of a wrong length")
    return octets


def _header(body: Reader, kind: bytes) -> Header:
    if body.whole(_der.OBJECT_IDENTIFIER) != kind:
        raise wrong("it is of another type")
    if body.integer() != VERSION:
        raise StatusSetError("a version that this reader does not know", code="version")
    header = Header(
        authority_key_id=_octets(body, 1, 64),
        number=body.integer(),
        position=body.integer(),
        this_update=body.time(),
        next_update=body.time(),
        state_digest=_octets(body, 32, 32),
    )
    if header.next_update <= header.this_update:
        raise wrong("nextUpdate is not after thisUpdate")
    return header


def line_length(spaces: Sequence[Space]) -> int:
    """How many positions the spaces have, end to end."""
    return sum(following - first for _, first, following in spaces)


def check_spaces(spaces: Sequence[Space]) -> None:
    """Raises where the spaces are past a bound of this reader."""
    if spaces and spaces[-1][0] - spaces[0][0] >= MAX_MONTHS:
        raise wrong("the months lie too far apart")
    if line_length(spaces) > MAX_POSITIONS or any(space[2] > MAX_INDEX for space in spaces):
        raise StatusSetError(f"more than {MAX_POSITIONS} positions", code="size")


def _numbers(octets: bytes, group: int) -> list[tuple[int, ...]]:
    values = []
    at = 0
    while at < len(octets):
        row = []
        for _ in range(group):
            value, at = read_varint(octets, at)
            row.append(value)
        values.append(tuple(row))
    return values


def _spaces(octets: bytes) -> tuple[Space, ...]:
    month, found = 0, []
    for step, first, count in _numbers(octets, 3):
        if step == 0 or count == 0:
            raise wrong("a month that comes twice or an empty space")
        month += step
        found.append((month, first, first + count))
    check_spaces(found)
    return tuple(found)


def _growth(octets: bytes) -> tuple[tuple[int, int], ...]:
    month, found = 0, []
    for step, count in _numbers(octets, 2):
        if step == 0 or count == 0:
            raise wrong("a month that comes twice or does not grow")
        month += step
        found.append((month, count))
    return tuple(found)


def _imports(body: Reader) -> Imports:
    cutoff, count, bits, salt = body.time(), body.integer(), body.integer(), _octets(body, 8, 32)
    if not 17 <= bits <= _MAX_BITS:
        raise wrong("hash keys of a length that is not allowed")
    revoked = decode(body.take(_der.OCTET_STRING), 1 << bits, whole=True)
    held = decode(body.take(_der.OCTET_STRING), 1 << bits, whole=True)
    body.finish()
    check_disjoint(revoked, held)
    if len(revoked) + len(held) > count:
        raise wrong("more imported certificates are revoked than there are")
    return Imports(cutoff, count, bits, salt, revoked, held)


def check_disjoint(revoked: Sequence[int], held: Sequence[int]) -> None:
    """Raises where a key is both revoked and on hold."""
    if held and not set(held).isdisjoint(revoked):
        raise wrong("a key is both revoked and on hold")


def read_header(tbs: bytes) -> Header:
    """The header of either file, and nothing of what follows: what a delegated signature is judged by."""
    outer = Reader(tbs)
    body = outer.enter()
    outer.finish()
    kind = Reader(tbs).enter().whole(_der.OBJECT_IDENTIFIER)
    return _header(body, TYPE_DELTA if kind == TYPE_DELTA else TYPE_SET)


def read_set(tbs: bytes) -> SetFile:
    """Reads a set's to-be-signed part, its state digest included. Raises StatusSetError."""
    outer = Reader(tbs)
    body = outer.enter()
    outer.finish()
    header = _header(body, TYPE_SET)
    issuer_digest = _octets(body, 32, 32)
    extension = body.whole(_der.OBJECT_IDENTIFIER)
    spaces = _spaces(body.take(_der.OCTET_STRING))
    size = line_length(spaces)
    revoked, held = decode(body.take(_der.OCTET_STRING), size), decode(body.take(_der.OCTET_STRING), size)
    check_disjoint(revoked, held)
    imports = _imports(body.enter()) if body.peek() == _der.SEQUENCE else None
    body.finish()
    if state_digest(spaces, revoked, held, imports) != header.state_digest:
        raise StatusSetError("the state is not the one that stateDigest says", code="digest")
    return SetFile(header, issuer_digest, extension, spaces, revoked, held, imports)


def read_delta(tbs: bytes) -> DeltaFile:
    """Reads a delta's to-be-signed part. Raises StatusSetError."""
    outer = Reader(tbs)
    body = outer.enter()
    outer.finish()
    header = _header(body, TYPE_DELTA)
    base_number, base_position, base_digest = body.integer(), body.integer(), _octets(body, 32, 32)
    growth = _growth(body.take(_der.OCTET_STRING))
    revoked, held = body.take(_der.OCTET_STRING), body.take(_der.OCTET_STRING)
    import_revoked = import_held = b""
    if body.peek() == _der.SEQUENCE:
        inner = body.enter()
        import_revoked, import_held = inner.take(_der.OCTET_STRING), inner.take(_der.OCTET_STRING)
        inner.finish()
        if not import_revoked and not import_held:
            raise wrong("an empty change of the imports")
    body.finish()
    return DeltaFile(
        header, base_number, base_position, base_digest, growth, revoked, held, import_revoked, import_held
    )


def _keys(keys: Sequence[int]) -> bytes:
    return struct.pack(">Q", len(keys)) + struct.pack(f">{len(keys)}Q", *keys)


def state_digest(
    spaces: Sequence[Space], revoked: Sequence[int], held: Sequence[int], imports: Imports | None
) -> bytes:
    """SM3 over the state, expanded: every number big-endian and of fixed width."""
    parts = [struct.pack(">I", len(spaces))]
    parts += [struct.pack(">IQQ", *space) for space in spaces]
    parts += [_keys(revoked), _keys(held), bytes((imports is not None,))]
    if imports is not None:
        parts.append(struct.pack(">QQBB", imports.cutoff, imports.count, imports.bits, len(imports.salt)))
        parts += [imports.salt, _keys(imports.revoked), _keys(imports.held)]
    return sm3(b"".join(parts))
