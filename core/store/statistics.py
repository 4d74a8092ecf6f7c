"""Statistics: counters by day and heading, written in the transaction of what they count.

A heading ("segment") is a combination of authority, usage, profile, RA, region and customer; a certificate's row names
its own. What is counted is in core.store.schema_statistics. Whether a certificate has expired is not counted: it is a
function of the day, because certificates in force are counted on the day on which they end. Owns the headings, what is
counted when, and the questions; core.store.statistics_rebuild compares with the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import func, literal_column, select, tuple_
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Refused, Unavailable
from core.store import counters, tail
from core.store.counted import ZONE_MS, day_of, first_day, month_of
from core.store.schema_statistics import statistics_counts, statistics_segments
from core.store.upsert import on_postgres, upsert

__all__ = ["DIMENSIONS", "PERIODS", "Question", "Segment", "ask", "day_of", "note_change", "note_new", "segments"]

#: Present, with the value 1, while rows of before the statistics are not counted yet.
STALE: Final = "statistics_stale"
DIMENSIONS: Final = ("authority", "usage", "profile", "ra", "province", "region", "customer")
PERIODS: Final = ("day", "month", "year")
#: What one question answers at most; more is a question for several.
MOST_ROWS: Final = 20_000
#: Sums that it is made of, each event and day or month of a row one.
_MOST_READ: Final = 500_000
_CACHED: Final = 100_000
_IN_CHUNK: Final = 500
_EPOCH: Final = date(1970, 1, 1).toordinal()
_HAPPENED: Final = ("issued", "revoked", "held", "released")


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A heading; "" for what is not known. region: from the larger to the smaller, with "/" between."""

    authority_id: str
    usage: str
    profile: str
    ra: str = ""
    region: str = ""
    customer: str = ""


_NAMES: Final = tuple(one.name for one in fields(Segment))
_COLUMNS: Final = tuple(statistics_segments.c[name] for name in _NAMES)
_LENGTHS: Final = {"ra": 64, "region": 260, "customer": 128}
#: Numbers of headings that were read, never of those that this transaction made: it may not be committed.
_known: WeakKeyDictionary[Engine, dict[Segment, int]] = WeakKeyDictionary()


async def segments(connection: AsyncConnection, wanted: Sequence[Segment]) -> list[int]:
    """The headings' numbers, in order; new ones are made in the caller's transaction."""
    wanted = [Segment(*(getattr(one, name)[: _LENGTHS.get(name, 64)] for name in _NAMES)) for one in wanted]
    assert connection.sync_connection is not None
    cache = _known.setdefault(connection.sync_connection.engine, {})
    missing = sorted({one for one in wanted if one not in cache})
    if not missing:
        return [cache[one] for one in wanted]
    found = await _read(connection, missing)
    made = [one for one in missing if one not in found]
    if len(cache) + len(found) > _CACHED:
        cache.clear()
    if not tail.of(connection).counted.made:
        cache.update(found)
    if made:
        tail.of(connection).counted.made = True
        rows = [{name: getattr(one, name) for name in _NAMES} for one in made]
        for start in range(0, len(rows), _IN_CHUNK):
            statement = upsert(connection, statistics_segments).values(rows[start : start + _IN_CHUNK])
            await connection.execute(statement.on_conflict_do_nothing())
        found |= await _read(connection, made)
    return [cache[one] if one in cache else found[one] for one in wanted]


async def _read(connection: AsyncConnection, wanted: Sequence[Segment]) -> dict[Segment, int]:
    found = {}
    for start in range(0, len(wanted), _IN_CHUNK):
        these = [tuple(getattr(one, name) for name in _NAMES) for one in wanted[start : start + _IN_CHUNK]]
        statement = select(statistics_segments.c.id, *_COLUMNS).where(tuple_(*_COLUMNS).in_(these))
        for row in await connection.execute(statement):
            found[Segment(*row[1:])] = int(row.id)
    return found


class Issued(Protocol):
    """What is counted of a new certificate: core.store.certificates.NewCertificate has it."""

    @property
    def authority_id(self) -> str: ...

    @property
    def usage(self) -> str: ...

    @property
    def profile(self) -> str: ...

    @property
    def ra(self) -> str: ...

    @property
    def region(self) -> str: ...

    @property
    def customer(self) -> str: ...

    @property
    def not_after_ms(self) -> int: ...

    @property
    def issued_at_ms(self) -> int | None: ...


async def note_new(
    connection: AsyncConnection, new: Sequence[Issued], *, at_ms: int, identities: Sequence[int] = ()
) -> list[int]:
    """Counts new certificates and returns their headings' numbers. identities: their row ids, where known already."""
    wanted = [Segment(one.authority_id, one.usage, one.profile, one.ra, one.region, one.customer) for one in new]
    found = await segments(connection, wanted)
    counted = tail.of(connection).counted
    for one, segment in zip(new, found, strict=True):
        counted.add(at_ms if one.issued_at_ms is None else one.issued_at_ms, "issued", segment)
        counted.add(one.not_after_ms, "ends.good", segment)
    counted.segments.update(zip(identities, found, strict=False))
    return found


def remember(connection: AsyncConnection, certificate_id: int, segment: int | None) -> None:
    """What heading a certificate has, for operations of this transaction."""
    tail.of(connection).counted.segments[certificate_id] = segment


def note_change(
    connection: AsyncConnection, segment: int | None, *, kind: str, before: str, after: str, ends_ms: int, at_ms: int
) -> None:
    """Counts a change of status. kind: the feed's word for it; before, after: the states; at_ms: when it happened."""
    counted = tail.of(connection).counted
    counted.add(at_ms, kind, segment or 0)
    counted.add(ends_ms, f"ends.{before}", segment or 0, -1)
    counted.add(ends_ms, f"ends.{after}", segment or 0)


def note_operation(connection: AsyncConnection, certificate_id: int, operation: str, at_ms: int) -> None:
    """Counts a business done on a certificate, under its heading."""
    tail.of(connection).counted.operations.append((certificate_id, operation, at_ms))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. since, until: days (see `day_of`), `until` not included. by: of DIMENSIONS. period: of PERIODS, or
    None for all days together. only: (dimension, value); a region includes those within it."""

    since: int
    until: int
    by: tuple[str, ...] = ()
    period: str | None = None
    only: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`business`: what happened in the time asked for, a row a heading and period: the dimensions, the period,
    "issued", "revoked", "held", "released", and "operations" by name. `states`: how all certificates stand on `today`,
    a row a heading: "good", "held", "revoked", "expired"."""

    today: int
    business: list[dict[str, Any]]
    states: list[dict[str, Any]]


async def ask(connection: AsyncConnection, question: Question, *, now_ms: int) -> Answer:
    """Answers from the counters. Raises Unavailable (code "statistics_stale"): not counted yet; Refused (code
    "statistics_rows"): too much for one answer."""
    if await counters.current(connection, STALE):
        raise Unavailable(
            "certificates of before an upgrade are not counted yet; run 'qianyan stats rebuild' once",
            code="statistics_stale",
        )
    today = day_of(now_ms)
    return Answer(today, await _business(connection, question), await _states(connection, question, today))


def _dimension(connection: AsyncConnection, name: str) -> Any:
    g = statistics_segments.c
    if name != "province":
        return g["authority_id" if name == "authority" else name]
    if on_postgres(connection):
        return func.split_part(g.region, "/", 1)
    return func.substr(g.region, 1, func.instr(g.region.op("||")("/"), "/") - 1)


def _whole_months(since: int, until: int) -> tuple[int, int]:
    """The first month that lies in the days wholly, and the one after the last; the same where none does."""
    first = month_of(since) + (first_day(month_of(since)) < since)
    return first, max(first, month_of(until))


def _within(since: int, until: int, *, by_day: bool) -> Any:
    """The counters of those days: of whole months where `by_day` does not forbid it, of single days at the ends."""
    day = statistics_counts.c.day
    first, after = _whole_months(since, until)
    if by_day or first == after:
        return (day >= since) & (day < until)
    months = (day <= -first) & (day > -after)
    return months | ((day >= since) & (day < first_day(first))) | ((day >= first_day(after)) & (day < until))


def _named(period: str, counter: int) -> str:
    """A period in words: of a counter's day, or month where it is negative."""
    if period == "day":
        return date.fromordinal(_EPOCH + counter).isoformat()
    month = -counter if counter < 0 else month_of(counter)
    return f"{month // 12:04}-{month % 12 + 1:02}" if period == "month" else f"{month // 12:04}"


def _asked(connection: AsyncConnection, question: Question, statement: Any) -> Any:
    for name, value in question.only:
        column = _dimension(connection, name)
        same = column == value
        if name == "region":
            same = same | column.startswith(f"{value}/", autoescape=True)
        statement = statement.where(same)
    return statement.limit(_MOST_READ + 1)


async def _grouped(connection: AsyncConnection, question: Question, inner: Any, keys: Sequence[str]) -> list[Any]:
    """Sums of `inner` (columns: segment, `keys`, n) by the dimensions asked for and `keys`."""
    counted = inner.group_by(statistics_counts.c.segment, *(literal_column(key) for key in keys)).subquery("counted")
    dimensions = [_dimension(connection, name).label(f"d_{name}") for name in question.by]
    grouping = [*dimensions, *(counted.c[key] for key in keys)]
    statement = (
        select(*grouping, func.sum(counted.c.n).label("n"))
        .select_from(counted)
        .join(statistics_segments, statistics_segments.c.id == counted.c.segment, isouter=True)
        .group_by(*grouping)
        .order_by(*grouping)
    )
    found = list((await connection.execute(_asked(connection, question, statement))).all())
    if len(found) > _MOST_READ:
        raise _too_many()
    return found


def _too_many() -> Refused:
    return Refused(
        f"that is more than {MOST_ROWS} rows; ask for fewer dimensions or a shorter time", code="statistics_rows"
    )


def _bounded(rows: dict[tuple[Any, ...], dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in the order of their headings. Raises Refused where they are too many."""
    if len(rows) > MOST_ROWS:
        raise _too_many()
    return [rows[heading] for heading in sorted(rows, key=lambda heading: [part or "" for part in heading])]


async def _business(connection: AsyncConnection, question: Question) -> list[dict[str, Any]]:
    c = statistics_counts.c
    period = question.period
    columns = [c.segment, *([] if period is None else [c.day]), c.event, func.sum(c.count).label("n")]
    within = _within(question.since, question.until, by_day=period == "day")
    inner = select(*columns).where(within, c.event.not_like("ends.%"))
    keys = (["day"] if period is not None else []) + ["event"]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in await _grouped(connection, question, inner, keys):
        *heading, event, count = row
        if period is not None:
            heading[-1] = _named(period, heading[-1])
        found = rows.setdefault(tuple(heading), _new_row(question, heading))
        if event.startswith("op."):
            found["operations"][event[3:]] = found["operations"].get(event[3:], 0) + int(count)
        else:
            found[event] += int(count)
    return _bounded(rows)


def _new_row(question: Question, heading: Sequence[Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: value or "" for name, value in zip(question.by, heading, strict=False)}
    if question.period is not None:
        row["period"] = heading[-1]
    return row | dict.fromkeys(_HAPPENED, 0) | {"operations": {}}


async def _states(connection: AsyncConnection, question: Question, today: int) -> list[dict[str, Any]]:
    c = statistics_counts.c
    month = month_of(today)
    # Of this month its days; of every other one its sum.
    days = (c.day >= first_day(month)) & (c.day < first_day(month + 1))
    over = (((c.day >= 0) & (c.day < today)) | (c.day > -month) & (c.day < 0)).label("over")
    within = days | (c.day < -month) | ((c.day > -month) & (c.day < 0))
    inner = select(c.segment, c.event, over, func.sum(c.count).label("n")).where(within, c.event.like("ends.%"))
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in await _grouped(connection, question, inner, ["event", "over"]):
        *heading, event, ended, count = row
        new = {name: value or "" for name, value in zip(question.by, heading, strict=True)}
        found = rows.setdefault(tuple(heading), new | dict.fromkeys(("good", "held", "revoked", "expired"), 0))
        state = event.removeprefix("ends.")
        found["expired" if ended and state != "revoked" else state] += int(count)
    return _bounded(rows)


def first_ms(day: int) -> int:
    """When a day begins."""
    return day * 86_400_000 - ZONE_MS
