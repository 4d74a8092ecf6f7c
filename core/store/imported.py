"""Certificates without a status index of ours, as status sets tell of them: by serial.

The universe of an authority: every imported certificate that ends in a month or later and began before the authority's
cutoff. Knows rows; not keys of status sets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import CertificateState, serial_to_bytes
from core.store import counters, imports
from core.store.schema_certificates import certificate_serials, certificates, of_identity
from core.store.upsert import among

_STREAM_CHUNK: Final = 5_000
_IN_CHUNK: Final = 5_000

#: (serial, state)
Row = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Universe:
    """Which certificates. version: changes whenever certificates are added to the authority's."""

    authority_id: str
    from_month: int
    cutoff_s: int
    version: int


async def universe(connection: AsyncConnection, authority_id: str, from_month: int) -> Universe | None:
    """The universe as it stands; None where nothing was imported, or more is to come."""
    cutoff_s = await imports.cutoff_of(connection, authority_id)
    if cutoff_s is None:
        return None
    version = await counters.current(connection, imports.counter(authority_id))
    return Universe(authority_id, from_month, cutoff_s, version)


def _within(of: Universe) -> Any:
    c = certificates.c
    return (c.status_index < 0) & (c.not_before_ms < of.cutoff_s * 1000)


async def count(connection: AsyncConnection, of: Universe) -> int:
    """How many certificates there are in it."""
    c = certificates.c
    mine = (c.authority_id == of.authority_id) & (c.status_month >= of.from_month)
    return int((await connection.execute(select(func.count()).where(mine, _within(of)))).scalar_one())


async def stream(
    connection: AsyncConnection, of: Universe, *, partitions: int | None = None
) -> AsyncIterator[Sequence[Row]]:
    """All of it, in chunks and in no order; with `partitions` those that are not good alone."""
    c = certificates.c
    statement = select(c.serial, c.state).where(c.authority_id == of.authority_id, _within(of))
    if partitions is None:
        statement = statement.where(c.status_month >= of.from_month)
    else:  # as in core.store.status_sets.stream_places, and for the same reason
        states = or_(c.state == CertificateState.REVOKED.value, c.state == CertificateState.HELD.value)
        found = c.partition.in_(range(partitions))
        statement = statement.where(c.status_month + 0 >= of.from_month, found, states)
    result = await connection.stream(statement)
    async for chunk in result.partitions(_STREAM_CHUNK):
        yield [(int.from_bytes(serial, "big"), state) for serial, state in chunk]


async def states(connection: AsyncConnection, of: Universe, serials: Sequence[int]) -> list[Row]:
    """Those of the serials that are in it, in no order."""
    c, s = certificates.c, certificate_serials.c
    statement = select(c.serial, c.state).join(certificate_serials, of_identity)
    statement = statement.where(s.authority_id == of.authority_id, c.status_month >= of.from_month, _within(of))
    found: list[Row] = []
    for start in range(0, len(serials), _IN_CHUNK):
        these = among(connection, s.serial, [serial_to_bytes(n) for n in serials[start : start + _IN_CHUNK]])
        for serial, state in await connection.execute(statement.where(these)):
            found.append((int.from_bytes(serial, "big"), state))
    return found
