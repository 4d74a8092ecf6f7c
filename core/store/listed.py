"""What CRLs list, read for millions of rows: in the form that the compiled entry store takes, not as objects.

Three ways to ask, all in the caller's snapshot: everything that is listed (`load`), what changed since a feed position
as it stands now (`changes`), and, for the check, the changes themselves with the state beside them (`facts`), by way of
the feed and not of the index that `load` reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol, cast

import asyncpg
from sqlalchemy import ClauseElement, Executable, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import serial_to_bytes
from core.store.identified import rows_of
from core.store.postgres import driver
from core.store.schema_certificates import certificate_serials, certificates
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


async def _on_sqlite(connection: AsyncConnection, statement: str, parameters: Sequence[object]) -> Any:
    """The driver's own cursor, in the caller's transaction: for a million rows SQLAlchemy takes longer than SQLite."""
    raw = await connection.get_raw_connection()
    under: Any = raw.driver_connection
    return under.execute(statement, parameters)


async def _chunks(connection: AsyncConnection, statement: ClauseElement) -> AsyncIterator[Sequence[Any]]:
    """The rows of a statement, many at a time; on SQLite as the driver has them."""
    if on_postgres(connection):
        result = await connection.stream(cast(Executable, statement))
        async for chunk in result.partitions(_STREAM_CHUNK):
            yield [tuple(row) for row in chunk]
        return
    compiled: Any = statement.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    parameters = [compiled.params[name] for name in compiled.positiontup]
    async with await _on_sqlite(connection, str(compiled), parameters) as cursor:
        while rows := await cursor.fetchmany(_AT_ONCE):
            yield rows


async def load(
    connection: AsyncConnection, authority_id: str, partition: int, into: Loads, *, expired_after_ms: int
) -> None:
    """Gives `into` every revoked and held certificate of a partition whose notAfter is at or past `expired_after_ms`.

    Raises ValueError where `into` does; SQLAlchemy's OperationalError.
    """
    if not on_postgres(connection):
        statement = _LISTED.format(authority="?", partition="?", from_ms="?")
        async with await _on_sqlite(connection, statement, (authority_id, partition, expired_after_ms)) as cursor:
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


#: CROSS JOIN: SQLite then begins with the feed. Left to choose, it reads every certificate for a few changes; and so
#: would PostgreSQL, see core.store.identified.
_FROM: Final = {
    "sqlite": "feed AS f CROSS JOIN certificate_serials AS s CROSS JOIN certificates AS c",
    "postgresql": "feed AS f CROSS JOIN certificate_serials AS s CROSS JOIN LATERAL"
    " (SELECT * FROM certificates WHERE id = s.id AND status_month = s.status_month LIMIT 1) AS c",
}
_CHANGED: Final = """
FROM {tables}
WHERE s.authority_id = f.authority_id AND s.serial = f.serial AND c.id = s.id AND c.status_month = s.status_month
  AND f.seq > :after AND f.kind IN ('revoked', 'held', 'released')
  AND f.authority_id = :authority AND c.partition = :partition
"""
_CHANGES: Final = {
    name: text(
        f"SELECT c.serial, {_STAMP} AS stamp, {_END} AS ends, c.invalidity_at_ms / 1000 AS invalidity,"
        f" max(f.at_ms) AS changed {_CHANGED.format(tables=tables)}"
        " GROUP BY c.id, c.status_month, c.serial, c.revoked_at_ms, c.reason, c.not_after_ms, c.invalidity_at_ms"
    )
    for name, tables in _FROM.items()
}


async def changes(
    connection: AsyncConnection, authority_id: str, partition: int, *, after_seq: int
) -> list[tuple[ListedRow, int]]:
    """Each certificate of a partition that was revoked, held or released after `after_seq`: (as it stands in this
    snapshot, when it changed last in milliseconds)."""
    parameters = {"after": after_seq, "authority": authority_id, "partition": partition}
    found: list[tuple[ListedRow, int]] = []
    async for chunk in _chunks(connection, _CHANGES[connection.dialect.name].bindparams(**parameters)):
        found += [((bytes(row[0]), row[1], row[2], row[3]), row[4]) for row in chunk]
    return found


#: (feed position, kind, serial, revocation time in ms, reason, invalidity date in ms, end in ms, time of change in ms)
FactRow = tuple[int, str, bytes, int | None, int | None, int | None, int, int]


_FACTS: Final = {
    name: text(
        "SELECT f.seq, f.kind, c.serial, c.revoked_at_ms, c.reason, c.invalidity_at_ms, c.not_after_ms, f.at_ms"
        f" {_CHANGED.format(tables=tables)}"
    )
    for name, tables in _FROM.items()
}


async def facts(
    connection: AsyncConnection, authority_id: str, partition: int, *, after_seq: int
) -> AsyncIterator[Sequence[FactRow]]:
    """Every revocation, hold and release of a partition after `after_seq`, each with the certificate's state now."""
    statement = _FACTS[connection.dialect.name].bindparams(after=after_seq, authority=authority_id, partition=partition)
    async for chunk in _chunks(connection, statement):
        yield chunk


_CHANGED_ALONE: Final = text(
    "SELECT seq, kind, serial, at_ms FROM feed"
    " WHERE seq > :after AND kind IN ('revoked', 'held', 'released') AND authority_id = :authority"
)
_MARKED: Final = text(
    "SELECT serial, revoked_at_ms, reason, invalidity_at_ms, not_after_ms FROM certificates"
    " WHERE authority_id = :authority AND partition = :partition AND state IN ('revoked', 'held')"
)


async def changed_alone(
    connection: AsyncConnection, authority_id: str, *, after_seq: int
) -> AsyncIterator[Sequence[tuple[int, str, bytes, int]]]:
    """Every revocation, hold and release of an authority after `after_seq`: (feed position, kind, serial, time in ms).

    With `marked` it says what `facts` says of an authority's only partition: two passes in the order in which the rows
    lie, where `facts` looks each certificate up.
    """
    async for chunk in _chunks(connection, _CHANGED_ALONE.bindparams(after=after_seq, authority=authority_id)):
        yield chunk


async def marked(
    connection: AsyncConnection, authority_id: str, partition: int
) -> AsyncIterator[Sequence[tuple[bytes, int, int, int | None, int]]]:
    """The state of every certificate of a partition that is revoked or held now, as `states`: not by the index that
    `load` reads."""
    async for chunk in _chunks(connection, _MARKED.bindparams(authority=authority_id, partition=partition)):
        yield chunk


#: (serial, revocation time in ms, reason, invalidity date in ms, end in ms)
StateRow = tuple[bytes, int | None, int | None, int | None, int]


async def states(
    connection: AsyncConnection, authority_id: str, partition: int, serials: Sequence[int]
) -> list[StateRow]:
    """The state of those serials that the partition has, in no order."""
    c, s = certificates.c, certificate_serials.c
    found: list[StateRow] = []
    for start in range(0, len(serials), _IN_CHUNK):
        these = among(connection, s.serial, [serial_to_bytes(one) for one in serials[start : start + _IN_CHUNK]])
        columns = (c.serial, c.revoked_at_ms, c.reason, c.invalidity_at_ms, c.not_after_ms, c.partition)
        rows = await connection.execute(rows_of(connection, columns, s.authority_id == authority_id, these))
        found += [tuple(row[:-1]) for row in rows if row.partition == partition]
    return found
