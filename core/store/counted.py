"""What a transaction adds to the statistics, kept until its end, when core.store.tail writes it with the rest.

Knows segments by number and days; not what they mean (core.store.statistics). Written after the counters were locked,
so that transactions that count under the same heading never wait for each other before that, nor in a ring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.schema_certificates import certificate_serials, certificates, of_identity

_DAY_MS: Final = 86_400_000
#: Days are those of China Standard Time, which knows no summer time.
ZONE_MS: Final = 8 * 3_600_000
_IN_CHUNK: Final = 5_000
_EPOCH: Final = date(1970, 1, 1).toordinal()
#: What never ends (99991231235959Z, RFC 5280 §4.1.2.5) ends in the month of the last day that there is.
LAST_DAY: Final = date.max.toordinal() - _EPOCH

#: (day, event, segment)
Heading = tuple[int, str, int]


def day_of(at_ms: int) -> int:
    """Days since 1970-01-01 at China Standard Time."""
    return (at_ms + ZONE_MS) // _DAY_MS


@lru_cache(4_096)
def month_of(day: int) -> int:
    """year * 12 + month - 1 of a day. A month's counters stand beside its days' with that, negative, as their day."""
    at = date.fromordinal(_EPOCH + min(day, LAST_DAY))
    return at.year * 12 + at.month - 1


def first_day(month: int) -> int:
    """The first day of a month."""
    return date(month // 12, month % 12 + 1, 1).toordinal() - _EPOCH


@dataclass(slots=True)
class Counted:
    """`segments`: of certificates, by row id, where this transaction knows them. `operations`: (row id, operation,
    time in ms) still to be counted under the segments of their certificates. `made`: this transaction made headings."""

    counts: Counter[Heading] = field(default_factory=Counter)
    operations: list[tuple[int, str, int]] = field(default_factory=list)
    segments: dict[int, int | None] = field(default_factory=dict)
    made: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing is to be counted."""
        return not (self.counts or self.operations)

    def add(self, at_ms: int, event: str, segment: int, count: int = 1) -> None:
        """Counts something on the day of `at_ms`."""
        self.counts[day_of(at_ms), event, segment] += count

    def take(self) -> Counted:
        """What is pending, which is then no longer pending here; known segments stay."""
        taken = Counted(self.counts, self.operations, self.segments)
        self.counts, self.operations = Counter(), []
        return taken


async def rows(connection: AsyncConnection, counted: Counted) -> list[dict[str, Any]]:
    """The counts to write, in one order for all. Operations on certificates without a segment count under 0."""
    counts = counted.counts
    if counted.operations:
        missing = {identity for identity, _, _ in counted.operations if identity not in counted.segments}
        counted.segments.update(await _segments(connection, missing))
        for identity, operation, at_ms in counted.operations:
            counts[day_of(at_ms), f"op.{operation}"[:24], counted.segments.get(identity) or 0] += 1
    months: Counter[Heading] = Counter()
    for (day, event, segment), count in counts.items():
        months[-month_of(day), event, segment] += count
    return [
        {"day": period, "event": event, "segment": segment, "count": count}
        for (period, event, segment), count in sorted([*months.items(), *counts.items()])
        if count
    ]


async def _segments(connection: AsyncConnection, identities: Iterable[int]) -> dict[int, int | None]:
    c, s = certificates.c, certificate_serials.c
    wanted = sorted(identities)
    found: dict[int, int | None] = {}
    for start in range(0, len(wanted), _IN_CHUNK):
        these = s.id.in_(wanted[start : start + _IN_CHUNK])
        statement = select(c.id, c.segment).join(certificate_serials, of_identity).where(these)
        for row in await connection.execute(statement):
            found[int(row.id)] = row.segment
    return found


#: One row; on PostgreSQL core.store.tail has it in its one statement.
ADD: Final = text(
    "INSERT INTO statistics_counts (day, event, segment, count) VALUES (:day, :event, :segment, :count)"
    " ON CONFLICT (day, event, segment) DO UPDATE SET count = statistics_counts.count + excluded.count"
)
