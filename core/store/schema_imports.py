"""Tables of imports: what was read from where, how far, and what the imported certificates of an authority are.

Part of `core.store.schema`, which imports this.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, LargeBinary, String, Table

from core.store.schema import metadata

#: One row an import. digest: SM3 over what is read, so that it is gone on with only in the same input.
#: position: items that are done; report_bytes: how long their report is.
imports = Table(
    "imports",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("report_bytes", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("known", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('running', 'done')", name="state"),
)

#: Authorities that issued certificates elsewhere. certificate: theirs, DER, which they are given in `authorities` when
#: the import is finished: until then no status of theirs is served. cutoff_s: NULL while more certificates are to come;
#: else every certificate of the authority without a status index and with a notBefore before it is in the store.
import_authorities = Table(
    "import_authorities",
    metadata,
    Column("authority_id", String(32), ForeignKey("authorities.id"), primary_key=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("cutoff_s", BigInteger),
    Column("changed_at_ms", BigInteger, nullable=False),
)
