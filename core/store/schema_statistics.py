"""Tables of the statistics: what is counted, under which heading, on which day (core/store/statistics.py).

Part of `core.store.schema`, which imports this.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, String, Table, UniqueConstraint

from core.store.schema import metadata

#: The headings: each combination that certificates have been issued under. "" for what is not known.
statistics_segments = Table(
    "statistics_segments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("authority_id", String(32), nullable=False),
    Column("usage", String(8), nullable=False),
    Column("profile", String(64), nullable=False),
    Column("ra", String(64), nullable=False),
    Column("region", String(260), nullable=False),
    Column("customer", String(128), nullable=False),
    UniqueConstraint("authority_id", "usage", "profile", "ra", "region", "customer", name="uq_statistics_segments_all"),
)


def _counts(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("day", Integer, nullable=False, autoincrement=False),
        Column("event", String(24), nullable=False),
        Column("segment", Integer, nullable=False, autoincrement=False),
        Column("count", BigInteger, nullable=False),
        PrimaryKeyConstraint("day", "event", "segment"),
    )


#: day: days since 1970 at China Standard Time; or, below 0, a month (year * 12 + month - 1), with the sum of its days,
#: so that years are read by their months. event: "issued", "revoked", "held", "released" and "op.OPERATION" on the
#: day on which it happened; "good", "held" and "revoked" with "ends." before it: certificates that are so, on the day
#: on which they end.
statistics_counts = _counts("statistics_counts")

#: The share of `statistics_counts` whose certificates are no longer in the store.
statistics_retired = _counts("statistics_retired")
