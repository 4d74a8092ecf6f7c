"""What the store says of serials, as the check takes it: read by way of the feed, by none of the builder's queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import serial_to_bytes
from core.store import listed
from crl._reader import Facts

_LISTED: Final = 1
_RELEASED: Final = 2
_NEVER, _GOOD, _REVOKED = 0, 1, 2


@dataclass(slots=True)
class Known:
    """Facts of one scope. `fresh`: when each change after `fresh_after_seq` that the CRL reflects was committed."""

    facts: Facts = field(default_factory=Facts)
    fresh: list[int] = field(default_factory=list)


async def read(
    connection: AsyncConnection, scope: tuple[str, int], *, after_seq: int, feed_seq: int, fresh_after_seq: int
) -> Known:
    """Every change of the scope after `after_seq`; those past `feed_seq` make their serials moving ones."""
    known = Known()
    add = known.facts.add
    async for chunk in listed.facts(connection, *scope, after_seq=after_seq):
        for seq, kind, serial, revoked_ms, reason, invalidity_ms, not_after_ms, at_ms in chunk:
            add(
                serial,
                seq,
                _RELEASED if kind == "released" else _LISTED,
                seq > feed_seq,
                _GOOD if revoked_ms is None else _REVOKED,
                0 if revoked_ms is None else revoked_ms // 1000,
                reason or 0,
                None if invalidity_ms is None else invalidity_ms // 1000,
                not_after_ms,
            )
            if fresh_after_seq < seq <= feed_seq:
                known.fresh.append(at_ms)
    return known


async def add_states(connection: AsyncConnection, scope: tuple[str, int], facts: Facts, serials: list[int]) -> None:
    """Adds what the store says of serials that did not change; one that the partition has not was never issued."""
    left = {serial_to_bytes(serial) for serial in serials}
    for serial, revoked_ms, reason, invalidity_ms, not_after_ms in await listed.states(connection, *scope, serials):
        left.discard(bytes(serial))
        facts.add(
            bytes(serial),
            0,
            0,
            False,
            _GOOD if revoked_ms is None else _REVOKED,
            0 if revoked_ms is None else revoked_ms // 1000,
            reason or 0,
            None if invalidity_ms is None else invalidity_ms // 1000,
            not_after_ms,
        )
    for serial in left:
        facts.add(serial, 0, 0, False, _NEVER, 0, 0, None, 1 << 62)
