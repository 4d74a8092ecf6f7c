"""What the store says of serials, as the check takes it: read by way of the feed, by none of the builder's queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import serial_to_bytes
from core.store import authorities, listed
from crl._reader import Facts

#: Between so many positions of the feed two passes over everything are quicker than a look-up for each change; past the
#: second number they take too much memory.
_TWO_PASSES: Final = (100_000, 3_000_000)
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
    if _TWO_PASSES[0] < feed_seq - after_seq <= _TWO_PASSES[1]:
        authority = await authorities.get(connection, scope[0])
        if authority.partitions == 1:
            await _read_in_two_passes(connection, scope, known, after_seq, feed_seq, fresh_after_seq)
            return known
    async for chunk in listed.facts(connection, *scope, after_seq=after_seq):
        known.fresh += known.facts.add_changes(chunk, feed_seq, fresh_after_seq)
    return known


async def _read_in_two_passes(
    connection: AsyncConnection,
    scope: tuple[str, int],
    known: Known,
    after_seq: int,
    feed_seq: int,
    fresh_after_seq: int,
) -> None:
    """As `read`, of an authority's only partition: states and changes each as they lie, put together in memory."""
    async for states in listed.marked(connection, *scope):
        known.facts.add_states(states)
    async for changes in listed.changed_alone(connection, scope[0], after_seq=after_seq):
        known.fresh += known.facts.add_changes(changes, feed_seq, fresh_after_seq)
    left = known.facts.without_state()  # released since, mostly
    await add_states(connection, scope, known.facts, left, never_issued=False)
    known.facts.drop_without_state()


async def add_states(
    connection: AsyncConnection, scope: tuple[str, int], facts: Facts, serials: list[int], *, never_issued: bool = True
) -> None:
    """Adds what the store says of serials. never_issued: say so of those that the partition has not."""
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
    for serial in left if never_issued else ():
        facts.add(serial, 0, 0, False, _NEVER, 0, 0, None, 1 << 62)
