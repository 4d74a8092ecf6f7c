"""The tables of certificates: who there is, for ever, and what is kept of each until it is retired.

`certificate_serials` has one narrow row for every certificate that was ever issued: it makes a serial unique in its
authority, says in which month the certificate ends, and is what other tables refer to. `certificates` has the rest. On
PostgreSQL that is partitioned by the month of expiry, a year each (core/store/partitions.py), so that a year that need
not be kept any longer goes as a whole; its identities stay, so that no serial is given twice.

`certificates` refers to nothing: with a foreign key, making and dropping a year would lock the other table against
everybody. Its rows are written together with their identity (core/store/certificates.py), which has the references;
`qianyan store check` looks at the rest.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    and_,
    text,
)

from core.store.schema_base import ROW_ID, metadata

#: status_month: year * 12 + month - 1 of notAfter in UTC, as in `certificates`.
certificate_serials = Table(
    "certificate_serials",
    metadata,
    Column("id", ROW_ID, primary_key=True),
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("serial", LargeBinary(20), nullable=False),
    Column("status_month", Integer, nullable=False),
    UniqueConstraint("authority_id", "serial"),
)

#: id, authority_id, serial, status_month: those of the row's identity. With status_index, status_month names the
#: certificate in the status set. pair_id: the other certificate of a pair, which names this one.
certificates = Table(
    "certificates",
    metadata,
    Column("id", ROW_ID, autoincrement=False, nullable=False),
    Column("authority_id", String(32), nullable=False),
    Column("serial", LargeBinary(20), nullable=False),
    Column("usage", String(8), nullable=False),
    Column("profile", String(64), nullable=False),
    Column("pair_id", ROW_ID),
    Column("subject", LargeBinary, nullable=False),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("not_before_ms", BigInteger, nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("status_month", Integer, autoincrement=False, nullable=False),
    Column("status_index", BigInteger, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("revoked_at_ms", BigInteger),
    Column("reason", Integer),
    Column("invalidity_at_ms", BigInteger),
    Column("holder_id", String(32)),
    # What the statistics count it under (core/store/statistics.py).
    Column("segment", Integer),
    PrimaryKeyConstraint("id", "status_month"),
    UniqueConstraint("authority_id", "status_month", "status_index"),
    CheckConstraint("state IN ('good', 'held', 'revoked')", name="state"),
    CheckConstraint("usage IN ('sign', 'encrypt', 'ca', 'ocsp')", name="usage"),
    CheckConstraint("(state = 'good') = (revoked_at_ms IS NULL)", name="revoked_at"),
    postgresql_partition_by="RANGE (status_month)",
)
Index("ix_certificates_crl", certificates.c.authority_id, certificates.c.partition, certificates.c.state)
#: What a CRL says, in the order in which it says it, without a look at the rows: only certificates that are not good.
Index(
    "ix_certificates_listed",
    certificates.c.authority_id,
    certificates.c.partition,
    certificates.c.serial,
    certificates.c.revoked_at_ms,
    certificates.c.reason,
    certificates.c.invalidity_at_ms,
    certificates.c.not_after_ms,
    sqlite_where=certificates.c.revoked_at_ms.is_not(None),
    postgresql_where=certificates.c.revoked_at_ms.is_not(None),
)
Index(
    "ix_certificates_holder",
    certificates.c.holder_id,
    sqlite_where=text("holder_id IS NOT NULL"),
    postgresql_where=text("holder_id IS NOT NULL"),
)
#: Whose key it is, for keys that came with a request; a hash index, because keys are long and only ever compared.
Index(
    "ix_certificates_public_key",
    certificates.c.public_key,
    sqlite_where=text("usage = 'sign'"),
    postgresql_where=text("usage = 'sign'"),
    postgresql_using="hash",
)

#: Joins a certificate's row to its identity; with the month, PostgreSQL looks into that year's partition alone.
of_identity = and_(
    certificates.c.id == certificate_serials.c.id,
    certificates.c.status_month == certificate_serials.c.status_month,
)
