"""The two files as DER: StatusSet and StatusDelta (docs/status-set.md). Knows values and bytes; not the store or keys.

The state that is written is a `SetState`: spaces and keys as they stand in the store at one feed position.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes

from core import oids
from core.asn1 import der
from core.asn1.x509 import SM3_WITH_SM2
from core.clock import to_datetime
from status.set.codec import encode, encode_whole, varint
from status.set.hashing import HashSpace

TYPE_SET: Final = f"{oids.STATUS_INDEX_DEFAULT}.1"
TYPE_DELTA: Final = f"{oids.STATUS_INDEX_DEFAULT}.2"
#: Extended key usage of a delegated signer of status sets.
PURPOSE_SIGNER: Final = f"{oids.STATUS_INDEX_DEFAULT}.3"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class MonthState:
    """The certificates that end in one month. `following`: the next index to be given; keys are indexes, ascending."""

    month: int
    first: int
    following: int
    revoked: Sequence[int]
    held: Sequence[int]


@dataclass(frozen=True, slots=True)
class SetState:
    """Everything that a set says of certificates. `months` ascending, none of them empty."""

    months: tuple[MonthState, ...]
    imports: HashSpace | None = None

    @property
    def size(self) -> int:
        """How many indexes were given."""
        return sum(month.following - month.first for month in self.months)

    @property
    def revoked(self) -> list[int]:
        """Positions of the revoked on the line that the months make end to end."""
        return self._line("revoked")

    @property
    def held(self) -> list[int]:
        """Positions of those on hold."""
        return self._line("held")

    def _line(self, name: str) -> list[int]:
        offset, found = 0, []
        for month in self.months:
            shift = offset - month.first
            found += [key + shift for key in getattr(month, name)]
            offset += month.following - month.first
        return found


@dataclass(frozen=True, slots=True)
class Heading:
    """What both files begin with. Times in milliseconds since 1970, cut to whole seconds."""

    authority_key_id: bytes
    number: int
    position: int
    this_update_ms: int
    next_update_ms: int


@dataclass(frozen=True, slots=True)
class Base:
    """The set that a delta is of: what it says of itself, and SM3 of the whole file."""

    number: int
    position: int
    digest: bytes
    state: SetState


def sm3(data: bytes) -> bytes:
    """SM3 of public data."""
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


def _keys(keys: Sequence[int]) -> bytes:
    return struct.pack(">Q", len(keys)) + struct.pack(f">{len(keys)}Q", *keys)


def state_digest(state: SetState) -> bytes:
    """SM3 over the state, expanded (docs/status-set.md, "State digest")."""
    parts = [struct.pack(">I", len(state.months))]
    parts += [struct.pack(">IQQ", month.month, month.first, month.following) for month in state.months]
    parts += [_keys(state.revoked), _keys(state.held)]
    imports = state.imports
    if imports is None:
        parts.append(b"\x00")
    else:
        parts.append(b"\x01")
        parts.append(struct.pack(">QQBB", imports.cutoff_s, imports.count, imports.bits, len(imports.salt)))
        parts += [imports.salt, _keys(imports.revoked), _keys(imports.held)]
    return sm3(b"".join(parts))


def _heading(kind: str, heading: Heading, digest: bytes) -> bytes:
    return b"".join(
        (
            der.oid(kind),
            der.integer(_VERSION),
            der.octet_string(heading.authority_key_id),
            der.integer(heading.number),
            der.integer(heading.position),
            der.generalized_time(to_datetime(heading.this_update_ms)),
            der.generalized_time(to_datetime(heading.next_update_ms)),
            der.octet_string(digest),
        )
    )


def _imports(imports: HashSpace | None) -> bytes:
    if imports is None:
        return b""
    return der.sequence(
        der.generalized_time(to_datetime(imports.cutoff_s * 1000)),
        der.integer(imports.count),
        der.integer(imports.bits),
        der.octet_string(imports.salt),
        der.octet_string(encode_whole(imports.revoked, imports.bits)),
        der.octet_string(encode_whole(imports.held, imports.bits)),
    )


def set_tbs(heading: Heading, issuer_spki: bytes, index_oid: str, state: SetState) -> bytes:
    """The to-be-signed part of a set. `issuer_spki`: the authority's SubjectPublicKeyInfo, DER."""
    spaces, month_before = bytearray(), 0
    for month in state.months:
        spaces += varint(month.month - month_before) + varint(month.first) + varint(month.following - month.first)
        month_before = month.month
    return der.sequence(
        _heading(TYPE_SET, heading, state_digest(state)),
        der.octet_string(sm3(issuer_spki)),
        der.oid(index_oid),
        der.octet_string(bytes(spaces)),
        der.octet_string(encode(state.revoked, state.size)),
        der.octet_string(encode(state.held, state.size)),
        _imports(state.imports),
    )


def _growth(before: SetState, after: SetState) -> bytes:
    ends = {month.month: month.following for month in before.months}
    out, month_before = bytearray(), 0
    for month in after.months:
        grown = month.following - ends.pop(month.month, 0)
        if grown < 0:
            raise ValueError("a space does not shrink")
        if grown:
            out += varint(month.month - month_before) + varint(grown)
            month_before = month.month
    if ends:
        raise ValueError("a month is dropped with a new set only")
    return bytes(out)


def _moved(state: SetState, name: str, after: SetState) -> list[int]:
    """Positions of the keys of `state` on the line of `after`."""
    starts, offset = {}, 0
    for month in after.months:
        starts[month.month] = offset - month.first
        offset += month.following - month.first
    return [key + starts[month.month] for month in state.months for key in getattr(month, name)]


def _toggles(before: Sequence[int], after: Sequence[int]) -> list[int]:
    return sorted(set(before).symmetric_difference(after))


def delta_tbs(heading: Heading, base: Base, state: SetState) -> bytes:
    """The to-be-signed part of a delta from `base` to `state`, which has all of its months and the same hash space."""
    before, imports = base.state.imports, b""
    if (before is None) != (state.imports is None):
        raise ValueError("imports come and go with a new set only")
    if before is not None and state.imports is not None:
        if (before.bits, before.salt, before.count) != (state.imports.bits, state.imports.salt, state.imports.count):
            raise ValueError("the hash space changes with a new set only")
        changes = [
            encode_whole(_toggles(old, new), before.bits)
            for old, new in ((before.revoked, state.imports.revoked), (before.held, state.imports.held))
        ]
        imports = der.sequence(*map(der.octet_string, changes)) if any(changes) else b""
    toggled = [
        encode(_toggles(_moved(base.state, name, state), getattr(state, name)), state.size)
        for name in ("revoked", "held")
    ]
    return der.sequence(
        _heading(TYPE_DELTA, heading, state_digest(state)),
        der.integer(base.number),
        der.integer(base.position),
        der.octet_string(base.digest),
        der.octet_string(_growth(base.state, state)),
        *map(der.octet_string, toggled),
        imports,
    )


def join(tbs: bytes, signature: bytes, signer: bytes | None = None) -> bytes:
    """The signed file. `signer`: the delegated signer's certificate, where it is not the authority that signed."""
    certificate = b"" if signer is None else der.tlv(der.context(0), signer)
    return der.sequence(tbs, SM3_WITH_SM2, der.bit_string(signature), certificate)
