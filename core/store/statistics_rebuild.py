"""Statistics anew from the rows, compared with the counters, and kept for rows that leave the store.

Reads every certificate, every change of status in the feed and every business; for 10,000,000 certificates that is
minutes, not the second that a question takes. Knows SQL that both databases understand; not what is asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store import counters, postgres, tail
from core.store.counted import LAST_DAY, ZONE_MS
from core.store.schema_statistics import statistics_counts
from core.store.statistics import STALE
from core.store.upsert import on_postgres

#: Differences that a check shows.
_SHOWN: Final = 20


def _day(at: str) -> str:
    return f"({at} + {ZONE_MS}) / 86400000"


#: An import says in the feed when a revocation happened, where that was before it.
_HAPPENED: Final = "CASE WHEN f.subject_id IS NULL THEN f.at_ms ELSE CAST(f.subject_id AS BIGINT) END"


def _counted(where: str = "true") -> str:
    """What the rows of certificates under `where` (about c) count for, ungrouped: day, event, segment."""
    segment = "coalesce(c.segment, 0)"
    return f"""
      SELECT {_day("c.issued_at_ms")} AS day, 'issued' AS event, {segment} AS segment FROM certificates AS c
        WHERE {where}
      UNION ALL SELECT {_day("c.not_after_ms")}, 'ends.' || c.state, {segment} FROM certificates AS c WHERE {where}
      UNION ALL SELECT {_day(_HAPPENED)}, f.kind, {segment} FROM feed AS f
        JOIN certificate_serials AS s ON s.authority_id = f.authority_id AND s.serial = f.serial
        JOIN certificates AS c ON c.id = s.id AND c.status_month = s.status_month
        WHERE f.kind IN ('revoked', 'held', 'released') AND {where}
      UNION ALL SELECT {_day("e.at_ms")}, substr('op.' || e.operation, 1, 24), {segment} FROM certificate_events AS e
        JOIN certificate_serials AS s ON s.id = e.certificate_id
        JOIN certificates AS c ON c.id = s.id AND c.status_month = s.status_month WHERE {where}
    """  # noqa: S608 - our own words


def _grouped(where: str = "true") -> str:
    return f"SELECT day, event, segment, count(*) AS count FROM ({_counted(where)}) AS t GROUP BY day, event, segment"  # noqa: S608


def _month(connection: AsyncConnection) -> str:
    """SQL for the month of a day, as core.store.counted.month_of has it."""
    if on_postgres(connection):
        at = f"(DATE '1970-01-01' + least(day, {LAST_DAY}))"
        return f"CAST(extract(year FROM {at}) * 12 + extract(month FROM {at}) - 1 AS INTEGER)"
    at = f"min(day, {LAST_DAY}) * 86400, 'unixepoch'"
    return f"(strftime('%Y', {at}) * 12 + strftime('%m', {at}) - 1)"


def _months(connection: AsyncConnection) -> str:
    """The months' counters as the days' have them."""
    month = _month(connection)
    return (
        f"SELECT -{month} AS day, event, segment, sum(count) AS count FROM statistics_counts WHERE day >= 0"  # noqa: S608
        f" GROUP BY -{month}, event, segment"
    )


_RETIRED: Final = "SELECT day, event, segment, count FROM statistics_retired"
_ADD: Final = """
  INSERT INTO {table} (day, event, segment, count)
  SELECT day, event, segment, sum(count) FROM ({rows}) AS r WHERE true GROUP BY day, event, segment
  ON CONFLICT (day, event, segment) DO UPDATE SET count = {table}.count + excluded.count
"""


async def _patiently(connection: AsyncConnection) -> None:
    if on_postgres(connection):
        await postgres.be_patient(connection)


async def rebuild(connection: AsyncConnection) -> int:
    """Makes all counters anew in the caller's write transaction; returns how many there are. Other writers wait."""
    await _patiently(connection)
    await tail.begin(connection)
    await tail.flush(connection)
    await connection.execute(delete(statistics_counts))
    both = f"{_grouped()} UNION ALL {_RETIRED}"
    await connection.execute(text(_ADD.format(table="statistics_counts", rows=both)))
    await connection.execute(text(_ADD.format(table="statistics_counts", rows=_months(connection))))
    added = (await connection.execute(select(func.count()).select_from(statistics_counts))).scalar_one()
    stale = await counters.current(connection, STALE)
    if stale:
        await counters.take(connection, STALE, -stale)
    return int(added)


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter that is not what the rows say."""

    day: int
    event: str
    segment: int
    counted: int
    rows: int


async def differences(connection: AsyncConnection) -> list[Difference]:
    """The first counters that are not what the rows say; none where all are. In the caller's snapshot."""
    await _patiently(connection)
    statement = f"""
      SELECT day, event, segment, sum(counted) AS counted, sum(rows) AS rows FROM (
        SELECT day, event, segment, count AS counted, 0 AS rows FROM statistics_counts
        UNION ALL SELECT day, event, segment, 0, count FROM ({_months(connection)}) AS m
        UNION ALL SELECT day, event, segment, 0, count FROM ({_grouped()}) AS g
        UNION ALL SELECT day, event, segment, 0, count FROM statistics_retired
      ) AS a GROUP BY day, event, segment HAVING sum(counted) <> sum(rows)
      ORDER BY day, event, segment LIMIT {_SHOWN}
    """  # noqa: S608 - our own words
    return [
        Difference(int(row.day), row.event, int(row.segment), int(row.counted), int(row.rows))
        for row in await connection.execute(text(statement))
    ]


async def retire(connection: AsyncConnection, where: ColumnElement[Any]) -> None:
    """Keeps what the certificates under `where` (a condition on the table's columns) count for: to be called in the
    transaction that removes their rows, before that."""
    await _patiently(connection)
    await tail.flush(connection)
    condition = str(where.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    rows = _grouped(condition.replace("certificates.", "c."))
    await connection.execute(text(_ADD.format(table="statistics_retired", rows=rows.replace(":", "\\:"))))
