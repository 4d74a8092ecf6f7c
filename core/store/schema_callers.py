"""The tables of callers: their tokens and certificates, limits and counts, and requests that they may repeat."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

from core.store.schema_base import metadata

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
    # From when on it admits nobody; NULL: it does not expire.
    Column("expires_at_ms", BigInteger),
)

#: Client certificates that admit, as a token does. match_digest: SM3 over what has to be equal (core/store/callers.py).
client_certificates = Table(
    "client_certificates",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("matched_by", String(16), nullable=False),
    Column("match_digest", LargeBinary(32), nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    CheckConstraint("matched_by IN ('fingerprint', 'subject')", name="matched_by"),
)
#: Two callers in force are never told by the same certificate; one that was withdrawn may be registered anew.
Index(
    "ix_client_certificates_match",
    client_certificates.c.match_digest,
    unique=True,
    sqlite_where=text("NOT withdrawn"),
    postgresql_where=text("NOT withdrawn"),
)

#: What a caller may ask for at most. place: its number in what the workers of a node count together.
caller_limits = Table(
    "caller_limits",
    metadata,
    Column("caller_id", String(64), primary_key=True),
    Column("place", Integer, nullable=False, unique=True),
    Column("requests_per_s", Integer),
    Column("requests_burst", Integer),
    Column("signatures_per_s", Integer),
    Column("signatures_burst", Integer),
    Column("concurrent", Integer),
    Column("signatures_per_day", BigInteger),
)

#: Signatures taken out of a day's quota by the workers, used or still held. day: days since 1970 in the quota's zone.
caller_days = Table(
    "caller_days",
    metadata,
    Column("caller_id", String(64), nullable=False),
    Column("day", Integer, nullable=False),
    Column("taken", BigInteger, nullable=False),
    PrimaryKeyConstraint("caller_id", "day"),
)

#: When a caller was last admitted, to some minutes.
caller_seen = Table(
    "caller_seen",
    metadata,
    Column("caller_id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
)
