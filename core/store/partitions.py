"""The years of `certificates`: which there are, and that one is there before a certificate that ends in it is recorded.

On PostgreSQL a partition holds the certificates that end in one year (UTC); on SQLite there is one table and nothing to
do. There is no default partition: rows that strayed into it would have to be moved before their own could be made, and
with it PostgreSQL cannot detach a year while others work. Maintenance makes years ahead (`make_ahead`); a certificate
that ends in another one has it made in its own transaction (`ensure`), whatever the cause. Making one locks neither
those who read nor those who write: an empty table is made and attached, and `certificates` refers to no other table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Integer, func, literal_column, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Unavailable
from core.store import tail
from core.store.schema_certificates import certificates
from core.store.upsert import on_postgres

OPTION: Final = "qianyan_partitions"
#: Name of the counter that says from which year on certificates are kept; what ended before it was retired.
KEPT_FROM: Final = "certificates_kept_from"
_NAME: Final = re.compile(r"certificates_([0-9]{4,5})")
_MONTHS: Final = 12
#: SQLSTATE check_violation, which is also what a row gets that has no partition.
_NO_PARTITION: Final = "23514"

#: A partition that is being detached is none any more.
_ATTACHED: Final = text("""
SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'certificates'::regclass AND NOT coalesce((to_jsonb(i) ->> 'inhdetachpending')::boolean, false)
""")


_UNCOUNTED: Final = text("""
SELECT NOT EXISTS (SELECT 1 FROM pg_stat_user_tables WHERE relid = 'certificates'::regclass
  AND last_analyze > now() - interval '1 day')
""")


@dataclass(slots=True)
class Known:
    """The years whose partitions this process has seen committed. Only ever a hint: a row without a partition fails."""

    years: set[int] = field(default_factory=set)


def options() -> dict[str, Any]:
    """Execution options that let a database's connections share what they know."""
    return {OPTION: Known()}


def year_of(status_month: int) -> int:
    """The year of a month that is counted as year * 12 + month - 1."""
    return status_month // _MONTHS


def table_name(year: int) -> str:
    """The partition's name."""
    return f"certificates_{year:04d}"


def year_named(name: str) -> int | None:
    """The year of a partition's name; None for any other name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


async def attached(connection: AsyncConnection) -> set[int]:
    """The years that have a partition (PostgreSQL)."""
    names = (await connection.execute(_ATTACHED)).scalars()
    return {year for year in map(year_named, names) if year is not None}


def _known(connection: AsyncConnection) -> Known:
    assert connection.sync_connection is not None
    found = connection.sync_connection.get_execution_options().get(OPTION)
    return found if isinstance(found, Known) else Known()


@dataclass(frozen=True, slots=True)
class Year:
    """The certificates that end in a year. `rows`: exact on SQLite, PostgreSQL's estimate there. `size`: bytes with
    indexes, None on SQLite. `attached`: whether they are answered about; where not, `retire` has not finished."""

    year: int
    rows: int
    size: int | None
    attached: bool


_YEARS: Final = text(r"""
SELECT c.relname, greatest(c.reltuples, 0)::bigint AS rows, pg_total_relation_size(c.oid) AS size,
  i.inhrelid IS NOT NULL AND NOT coalesce((to_jsonb(i) ->> 'inhdetachpending')::boolean, false) AS attached
FROM pg_class AS c LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
WHERE c.relkind = 'r' AND c.relname ~ '^certificates_[0-9]{4,5}$'
  AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'certificates'::regclass)
""")


async def years(connection: AsyncConnection) -> list[Year]:
    """Every year that there is something of, the earliest first."""
    if not on_postgres(connection):
        year = literal_column("status_month / 12", Integer)
        counted = select(year, func.count()).select_from(certificates).group_by(year).order_by(year)
        return [Year(int(number), int(count), None, True) for number, count in await connection.execute(counted)]
    found = [
        Year(named, int(row.rows), int(row.size), bool(row.attached))
        for row in await connection.execute(_YEARS)
        if (named := year_named(row.relname)) is not None
    ]
    return sorted(found, key=lambda one: one.year)


async def ensure(connection: AsyncConnection, status_months: Iterable[int]) -> None:
    """Has a partition for each of those months' years before rows are written; in the caller's transaction."""
    if not on_postgres(connection):
        return
    known = _known(connection)
    wanted = {year_of(month) for month in status_months}
    if wanted <= known.years:
        return
    there = await attached(connection)
    if wanted <= there:
        known.years |= there
    else:
        await make(connection, wanted)  # and not remembered yet: it may be rolled back


async def make(connection: AsyncConnection, years: Iterable[int]) -> list[int]:
    """Makes the partitions of those years that are missing, and returns which; whoever comes meanwhile waits."""
    # The lock that attaching takes: what is there now stays as it is, and this session is told of what others made.
    await connection.exec_driver_sql("LOCK TABLE certificates IN SHARE UPDATE EXCLUSIVE MODE")
    there = await attached(connection)
    made = sorted(set(years) - there)
    for year in made:
        name, first = table_name(year), year * _MONTHS
        like = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE"
        await connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE certificates {like})")
        bounds = f"FOR VALUES FROM ({first}) TO ({first + _MONTHS})"
        await connection.exec_driver_sql(f"ALTER TABLE certificates ATTACH PARTITION {name} {bounds}")
    return made


async def make_ahead(connection: AsyncConnection, this_year: int, ahead: int) -> list[int]:
    """Has partitions for this year and `ahead` more, and statistics over all of them for the planner, which PostgreSQL
    keeps of each by itself, and of the whole only when told. Returns the years made."""
    if not on_postgres(connection):
        return []
    made = await make(connection, range(this_year, this_year + ahead + 1))
    if made or (await connection.execute(_UNCOUNTED)).scalar_one():
        await connection.execute(tail.NO_TIME_LIMIT)
        await connection.exec_driver_sql("ANALYZE certificates")
    return made


async def ahead(connection: AsyncConnection, this_year: int) -> int:
    """For how many years after this one there is room, without a gap; -1 where there is none for this one."""
    there = await attached(connection)
    year = this_year
    while year in there:
        year += 1
    return year - this_year - 1


def lacking(connection: AsyncConnection, error: IntegrityError) -> Unavailable | None:
    """What to raise where a row was refused because its partition went away meanwhile; None for any other refusal."""
    if not on_postgres(connection) or getattr(error.orig, "sqlstate", None) != _NO_PARTITION:
        return None
    _known(connection).years.clear()
    return Unavailable("the partition of the certificate's year is not there", code="store_partition", retry_after_s=1)
