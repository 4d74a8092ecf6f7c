"""The tables, as SQLAlchemy Core has them. Migrations under `migrations/` make them; a test holds the two equal.

Owns names and constraints; no queries.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: SQLite's rowid alias must be declared INTEGER; PostgreSQL wants BIGINT.
_Id = BigInteger().with_variant(Integer, "sqlite")

#: Named counters that only grow: `feed` (last sequence), `audit` (last sequence), `last_time_ms`.
#: A row that is updated is locked until commit, so numbers taken from it have no gaps and commit in order;
#: a database sequence would have both faults.
counters = Table(
    "counters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("purpose", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    # Where the private key is: "software" (a file of the key store) or "sdf" (a device, by its key index).
    Column("backend", String(16), nullable=False, server_default="software"),
    Column("device_index", Integer),
    # The certificate of an application's key, DER, where it has one.
    Column("certificate", LargeBinary),
    # GB/T 38629: the key's index towards clients, and the digest of its authorisation code (keyValue).
    Column("service_index", Integer, unique=True),
    Column("service_code", LargeBinary(32)),
    CheckConstraint("state IN ('active', 'frozen', 'compromised', 'retired')", name="state"),
    CheckConstraint("purpose IN ('data', 'certificate', 'ocsp')", name="purpose"),
    CheckConstraint("(backend = 'sdf') = (device_index IS NOT NULL)", name="device_index"),
)

#: certificate NULL: an authority that waits for its certificate from outside (R-13).
#: key_id NULL: an authority whose key is elsewhere (an external root).
authorities = Table(
    "authorities",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("parent_id", String(32), ForeignKey("authorities.id")),
    Column("key_id", String(64), ForeignKey("keys.id")),
    Column("subject", LargeBinary, nullable=False),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("certificate", LargeBinary),
    Column("ocsp_key_id", String(64), ForeignKey("keys.id")),
    Column("ocsp_certificate", LargeBinary),
    Column("partitions", Integer, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

#: status_month: year * 12 + month - 1 of notAfter in UTC; with status_index it names the certificate in the status set.
certificates = Table(
    "certificates",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("serial", LargeBinary(20), nullable=False),
    Column("usage", String(8), nullable=False),
    Column("profile", String(64), nullable=False),
    Column("pair_id", _Id, ForeignKey("certificates.id")),
    Column("subject", LargeBinary, nullable=False),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("not_before_ms", BigInteger, nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("status_month", Integer, nullable=False),
    Column("status_index", BigInteger, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("revoked_at_ms", BigInteger),
    Column("reason", Integer),
    Column("invalidity_at_ms", BigInteger),
    Column("changed_seq", BigInteger, nullable=False),
    UniqueConstraint("authority_id", "serial"),
    UniqueConstraint("authority_id", "status_month", "status_index"),
    CheckConstraint("state IN ('good', 'held', 'revoked')", name="state"),
    CheckConstraint("usage IN ('sign', 'encrypt', 'ca', 'ocsp')", name="usage"),
    CheckConstraint("(state = 'good') = (revoked_at_ms IS NULL)", name="revoked_at"),
)
Index("ix_certificates_crl", certificates.c.authority_id, certificates.c.partition, certificates.c.state)
Index("ix_certificates_pair", certificates.c.pair_id)

status_indexes = Table(
    "status_indexes",
    metadata,
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("month", Integer, nullable=False),
    Column("next_index", BigInteger, nullable=False),
    PrimaryKeyConstraint("authority_id", "month"),
)

#: Encryption keys that the key-management part made, wrapped under its master key, for recovery (R-16).
escrowed_keys = Table(
    "escrowed_keys",
    metadata,
    Column("certificate_id", _Id, ForeignKey("certificates.id"), primary_key=True),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

#: The change feed: append-only, gap-free, in commit order. Caches, CRLs and publication follow it.
feed = Table(
    "feed",
    metadata,
    Column("seq", _Id, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("authority_id", String(32)),
    Column("serial", LargeBinary(20)),
    Column("subject_id", String(64)),
    Column("at_ms", BigInteger, nullable=False),
)

crls = Table(
    "crls",
    metadata,
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("base_number", BigInteger),
    Column("this_update_ms", BigInteger, nullable=False),
    Column("next_update_ms", BigInteger, nullable=False),
    Column("feed_seq", BigInteger, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("crl", LargeBinary, nullable=False),
    PrimaryKeyConstraint("authority_id", "partition", "number"),
)

#: Append-only and hash-chained (core/audit.py): hash = SM3 over the row and the hash before it.
audit = Table(
    "audit",
    metadata,
    Column("seq", _Id, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("topic", String(32), nullable=False),
    Column("reference", String(128), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("delivered_at_ms", BigInteger),
)
Index("ix_outbox_undelivered", outbox.c.delivered_at_ms, outbox.c.id)

idempotency = Table(
    "idempotency",
    metadata,
    Column("caller", String(64), nullable=False),
    Column("key", String(128), nullable=False),
    Column("request_digest", LargeBinary(32), nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("caller", "key"),
)

#: Bearer tokens, as the SM3 of the token; the token itself is shown once and not kept.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
)
