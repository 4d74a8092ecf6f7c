"""What CRLs list, read for millions of rows: in the form that the compiled entry store takes, not as objects.

Three ways to ask, all in the caller's snapshot: everything that is listed (`load`), what changed since a feed position
as it stands now (`changes`), and, for the check, the changes themselves with the state beside them (`facts`), by way of
the feed and not of the index that `load` reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol

import asyncpg
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import serial_to_bytes
from core.store.postgres import driver
from core.store.schema import certificates
from core.store.schema import feed as feed_table
from core.store.tail import NO_TIME_LIMIT
from core.store.upsert import among, on_postgres

#: Rows that are taken from SQLite at a time: about a millisecond's work for who takes them in.
_AT_ONCE: Final = 10_000
_STREAM_CHUNK: Final = 2_000
_IN_CHUNK: Final = 5_000
#: How long a COPY may be without an answer.
_COPY_TIMEOUT_S: Final = 600

#: (serial, big-endian and minimal; revocation time in s * 16 + reason, None where not listed; end of the certificate
#: in s, rounded up; invalidity date in s or None)
ListedRow = tuple[bytes, int | None, int, int | None]

_STAMP: Final = "revoked_at_ms / 1000 * 16 + reason"
_END: Final = "(not_after_ms + 999) / 1000"
_LISTED: Final = (
    f"SELECT serial, {_STAMP}, {_END}, invalidity_at_ms / 1000 FROM certificates"  # noqa: S608 - our own words
    " WHERE authority_id = {authority} AND partition = {partition} AND revoked_at_ms IS NOT NULL"
    " AND not_after_ms >= {from_ms} ORDER BY serial"
)


class Loads(Protocol):
    """What takes everything that is listed, in ascending order of the serials' octets."""

    def load_rows(self, rows: list[ListedRow]) -> None:
        """Some rows."""

    def load_copy(self, piece: bytes) -> None:
        """Some of what PostgreSQL's binary COPY sends."""


async def load(
    connection: AsyncConnection, authority_id: str, partition: int, into: Loads, *, expired_after_ms: int
) -> None:
    """Gives `into` every revoked and held certificate of a partition whose notAfter is at or past `expired_after_ms`.

    Raises ValueError where `into` does; SQLAlchemy's OperationalError.
    """
    if not on_postgres(connection):
        statement = _LISTED.format(authority="?", partition="?", from_ms="?")
        raw = await connection.get_raw_connection()
        under: Any = raw.driver_connection
        async with under.execute(statement, (authority_id, partition, expired_after_ms)) as cursor:
            while rows := await cursor.fetchmany(_AT_ONCE):
                into.load_rows(rows)
        return
    await connection.execute(NO_TIME_LIMIT)
    driven = await driver(connection)

    wrong: list[ValueError] = []

    async def take(piece: bytearray) -> None:
        if not wrong:
            try:
                into.load_copy(bytes(piece))
            except ValueError as error:  # raised here, it would leave the connection waiting for the rest
                wrong.append(error)

    try:
        await driven.copy_from_query(
            _LISTED.format(authority="$1", partition="$2", from_ms="$3"),
            authority_id,
            partition,
            expired_after_ms,
            output=take,
            format="binary",
            timeout=_COPY_TIMEOUT_S,
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        lost = driven.is_closed() or isinstance(error, OSError)
        raise OperationalError("COPY", None, error, hide_parameters=True, connection_invalidated=lost) from error
    if wrong:
        raise wrong[0]


_CHANGES: Final = text(f"""
SELECT c.serial, {_STAMP} AS stamp, {_END} AS ends, c.invalidity_at_ms / 1000 AS invalidity, max(f.at_ms) AS changed
FROM feed AS f JOIN certificates AS c ON c.authority_id = f.authority_id AND c.serial = f.serial
WHERE f.seq > :after AND f.kind IN ('revoked', 'held', 'released')
  AND f.authority_id = :authority AND c.partition = :partition
GROUP BY c.id
""")  # noqa: S608 - our own words


async def changes(
    connection: AsyncConnection, authority_id: str, partition: int, *, after_seq: int
) -> list[tuple[ListedRow, int]]:
    """Each certificate of a partition that was revoked, held or released after `after_seq`: (as it stands in this
    snapshot, when it changed last in milliseconds)."""
    parameters = {"after": after_seq, "authority": authority_id, "partition": partition}
    rows = await connection.stream(_CHANGES, parameters)
    found: list[tuple[ListedRow, int]] = []
    async for chunk in rows.partitions(_STREAM_CHUNK):
        found += [((bytes(row[0]), row[1], row[2], row[3]), row[4]) for row in chunk]
    return found


#: (feed position, kind, serial, revocation time in ms, reason, invalidity date in ms, end in ms, time of change in ms)
FactRow = tuple[int, str, bytes, int | None, int | None, int | None, int, int]


async def facts(
    connection: AsyncConnection, authority_id: str, partition: int, *, after_seq: int
) -> AsyncIterator[Sequence[FactRow]]:
    """Every revocation, hold and release of a partition after `after_seq`, each with the certificate's state now."""
    c, f = certificates.c, feed_table.c
    statement = (
        select(f.seq, f.kind, c.serial, c.revoked_at_ms, c.reason, c.invalidity_at_ms, c.not_after_ms, f.at_ms)
        .join(certificates, (f.authority_id == c.authority_id) & (f.serial == c.serial))
        .where(f.seq > after_seq, f.kind.in_(("revoked", "held", "released")))
        .where(f.authority_id == authority_id, c.partition == partition)
    )
    result = await connection.stream(statement)
    async for chunk in result.partitions(_STREAM_CHUNK):
        yield [tuple(row) for row in chunk]


#: (serial, revocation time in ms, reason, invalidity date in ms, end in ms)
StateRow = tuple[bytes, int | None, int | None, int | None, int]


async def states(
    connection: AsyncConnection, authority_id: str, partition: int, serials: Sequence[int]
) -> list[StateRow]:
    """The state of those serials that the partition has, in no order."""
    c = certificates.c
    found: list[StateRow] = []
    for start in range(0, len(serials), _IN_CHUNK):
        these = among(connection, c.serial, [serial_to_bytes(s) for s in serials[start : start + _IN_CHUNK]])
        statement = select(c.serial, c.revoked_at_ms, c.reason, c.invalidity_at_ms, c.not_after_ms)
        rows = await connection.execute(
            statement.where(c.authority_id == authority_id, c.partition == partition, these)
        )
        found += [tuple(row) for row in rows]
    return found
