"""Statistics for people and machines: a question from text, an answer as JSON or CSV, `GET /v1/statistics`.

Knows words and media types; not SQL (core.store.statistics).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from aiohttp import web

from core.clock import Clock, rfc3339
from core.errors import Malformed
from core.http import json_response, require
from core.store import statistics
from core.store.database import Database
from core.store.statistics import DIMENSIONS, PERIODS, Answer, Question

#: What a token needs to read statistics.
SCOPE: Final = "statistics"
_EPOCH: Final = date(1970, 1, 1)
#: Without `from`: everything.
_FIRST: Final = date(1990, 1, 1)
_REPORTS: Final = ("business", "states")
_TEXT_MAX: Final = 260
#: With what spreadsheets let a formula begin: in Chinese editions full-width signs as well.
_FORMULA: Final = frozenset("=+-@\t\r\n＝＋－＠")


def _wrong(field: str, why: str) -> Malformed:
    return Malformed(f"{field}: {why}", code="query", field=field)


def _day(value: str | None, default: int, field: str) -> int:
    if value is None:
        return default
    try:
        return (date.fromisoformat(value) - _EPOCH).days
    except ValueError as error:
        raise _wrong(field, "a day is written 2026-11-20") from error


def read_question(asked: Mapping[str, str], now_ms: int) -> Question:
    """The question in a query's members. from, until: days, `until` not included; by: dimensions with "," between;
    period; and a value for any dimension. Raises Malformed (code "query") naming the member."""
    tomorrow = statistics.day_of(now_ms) + 1
    since = _day(asked.get("from"), (_FIRST - _EPOCH).days, "from")
    until = _day(asked.get("until"), tomorrow, "until")
    if since >= until:
        raise _wrong("until", "it has to be after from")
    by = tuple(dict.fromkeys(name for name in asked.get("by", "").split(",") if name))
    for name in by:
        if name not in DIMENSIONS:
            raise _wrong("by", f"not one of {', '.join(DIMENSIONS)}")
    period = asked.get("period")
    if period is not None and period not in PERIODS:
        raise _wrong("period", f"not one of {', '.join(PERIODS)}")
    only = tuple((name, asked[name]) for name in DIMENSIONS if name in asked)
    for name, value in only:
        if len(value) > _TEXT_MAX or "\x00" in value:
            raise _wrong(name, "too long, or not text")
    for name in asked:
        if name not in ("from", "until", "by", "period", "format", "report", *DIMENSIONS):
            raise _wrong(name[:64], "the query has a member that is not known")
    return Question(since, until, by, period, only)


def as_json(question: Question, answer: Answer, now_ms: int) -> dict[str, Any]:
    """The answer's JSON."""

    def day(number: int) -> str:
        return date.fromordinal(_EPOCH.toordinal() + number).isoformat()

    return {
        "at": rfc3339(now_ms),
        "from": day(question.since),
        "until": day(question.until),
        "by": list(question.by),
        "period": question.period,
        "business": answer.business,
        "states": answer.states,
    }


def columns(question: Question, rows: Sequence[Mapping[str, Any]], report: str) -> tuple[list[str], list[list[Any]]]:
    """One of the two reports as a table: its head and its rows; operations are columns of their own."""
    if report == "states":
        head = [*question.by, "good", "held", "revoked", "expired"]
        return head, [[row[name] for name in head] for row in rows]
    operations = sorted({name for row in rows for name in row["operations"]})
    plain = [*question.by, *(["period"] if question.period else []), "issued", "revoked", "held", "released"]
    table = [[row[n] for n in plain] + [row["operations"].get(n, 0) for n in operations] for row in rows]
    return plain + [f"op_{name}" for name in operations], table


def _harmless(cell: Any) -> Any:
    """A cell that a spreadsheet does not take for a formula: values come from certificates' subjects."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in _FORMULA else cell


def as_csv(question: Question, answer: Answer, report: str) -> str:
    """One of the two reports as RFC 4180 CSV."""
    head, rows = columns(question, answer.states if report == "states" else answer.business, report)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(head)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return out.getvalue()


class StatisticsRoutes:
    """GET /v1/statistics, for scope `statistics`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def private(self) -> list[web.RouteDef]:
        """The route of the private listener."""
        return [web.get("/v1/statistics", self.show)]

    async def show(self, request: web.Request) -> web.Response:
        """?from&until&by&period&<dimension>&format=json|csv&report=business|states."""
        require(request, SCOPE)
        now_ms = self._clock()
        question = read_question(request.query, now_ms)
        form, report = request.query.get("format", "json"), request.query.get("report", "business")
        if form not in ("json", "csv") or report not in _REPORTS:
            raise _wrong("format", "format is json or csv, report is business or states")
        async with self._database.read() as connection:
            answer = await statistics.ask(connection, question, now_ms=now_ms)
        if form == "json":
            return json_response(as_json(question, answer, now_ms))
        name = f"statistics-{report}-{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%d}.csv"
        return web.Response(
            text=as_csv(question, answer, report),
            content_type="text/csv",
            charset="utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
