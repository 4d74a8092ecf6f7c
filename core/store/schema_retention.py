"""The table of audit rows that were moved out of the store, and the indexes by which the others are found.

Part of `core.store.schema`, which imports this.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table

from core.store.schema import audit, metadata

#: Rows 1 to `size` of the audit record are in an archive and no longer here (core/store/retention.py). head: the chain
#: hash of the last of them; origin: that of the first; manifest: SM3 of the archive's manifest.
audit_prunings = Table(
    "audit_prunings",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("head", LargeBinary(32), nullable=False),
    Column("origin", LargeBinary(32), nullable=False),
    Column("manifest", LargeBinary(32), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

Index("ix_audit_subject", audit.c.subject, audit.c.seq)
Index("ix_audit_actor", audit.c.actor, audit.c.seq)
#: text_pattern_ops: families of actions are found by how their names begin, whatever the database's collation.
Index("ix_audit_action", audit.c.action, audit.c.seq, postgresql_ops={"action": "text_pattern_ops"})
Index("ix_audit_at_ms", audit.c.at_ms, audit.c.seq)
