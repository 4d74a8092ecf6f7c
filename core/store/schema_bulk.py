"""Tables of bulk issuance: which files of requests were worked on, how far, and what came of each line.

Part of `core.store.schema`, which imports this.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, PrimaryKeyConstraint, String, Table

from core.store.schema import metadata

#: One row a file and authority. id: SM3 over both. lines, octets: how much of the file is done, from its beginning.
bulk_runs = Table(
    "bulk_runs",
    metadata,
    Column("id", LargeBinary(32), primary_key=True),
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("octets", BigInteger, nullable=False),
    Column("holders", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    # NULL while lines are left.
    Column("ended_at_ms", BigInteger),
)

#: What came of the lines of one transaction: compressed, as core.store.bulk_runs says.
bulk_chunks = Table(
    "bulk_chunks",
    metadata,
    Column("run_id", LargeBinary(32), ForeignKey("bulk_runs.id"), nullable=False),
    Column("first_line", BigInteger, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("results", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run_id", "first_line"),
)
