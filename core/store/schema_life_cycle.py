"""The tables of holders and of what becomes of their certificates and encryption keys."""

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
    String,
    Table,
    text,
)

from core.store.schema_base import ROW_ID as _Id
from core.store.schema_base import metadata

#: Encryption keys that the key-management part made, wrapped under its master key, for recovery.
escrowed_keys = Table(
    "escrowed_keys",
    metadata,
    Column("certificate_id", _Id, ForeignKey("certificate_serials.id"), primary_key=True),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    # NULL: the key is in use; else since when it is history: its certificate was revoked, replaced or ran out.
    Column("ended_at_ms", BigInteger),
)
Index(
    "ix_escrowed_keys_in_use",
    escrowed_keys.c.certificate_id,
    sqlite_where=text("ended_at_ms IS NULL"),
    postgresql_where=text("ended_at_ms IS NULL"),
)

#: Encryption keys made in advance, wrapped as those in escrow; a row is deleted by whoever takes its key.
spare_keys = Table(
    "spare_keys",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

#: Keys for what is kept of holders, wrapped under the key-management part's master key. The last one seals.
holder_keys = Table(
    "holder_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("purpose", String(8), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    CheckConstraint("purpose IN ('seal', 'index')", name="purpose"),
)

#: Who certificates are for. number_hash: HMAC-SM3 over kind and number. sealed: SM4-GCM over the personal data.
#: version: counts what was done for the holder, so that of two requests at once one is told of the other.
holders = Table(
    "holders",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("number_hash", LargeBinary(32), nullable=False, unique=True),
    Column("key_id", Integer, ForeignKey("holder_keys.id"), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    CheckConstraint("kind IN ('organisation', 'person', 'device')", name="kind"),
)

#: The business done on certificates, one row an operation. certificate_id: the signing certificate that it made, or was
#: about. previous_id: the signing certificate that this one replaces; one certificate is replaced once.
certificate_events = Table(
    "certificate_events",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("certificate_id", _Id, ForeignKey("certificate_serials.id"), nullable=False),
    Column("previous_id", _Id, ForeignKey("certificate_serials.id"), unique=True),
    Column("holder_id", String(32), ForeignKey("holders.id")),
    Column("operation", String(16), nullable=False),
    Column("ground", String(32)),
    Column("actor", String(128), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
Index("ix_certificate_events_certificate", certificate_events.c.certificate_id)
Index(
    "ix_certificate_events_holder",
    certificate_events.c.holder_id,
    certificate_events.c.id,
    sqlite_where=text("holder_id IS NOT NULL"),
    postgresql_where=text("holder_id IS NOT NULL"),
)

#: Recoveries of an encryption key: asked for by one, approved by two others, then carried out once.
recoveries = Table(
    "recoveries",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("certificate_id", _Id, ForeignKey("certificate_serials.id"), nullable=False),
    Column("judicial", Boolean, nullable=False),
    # The case or order it rests on, by number.
    Column("reference", String(64), nullable=False),
    # Whose key the recovered one is enveloped for: a certificate here, or the public key that an order names.
    Column("recipient_id", _Id, ForeignKey("certificate_serials.id")),
    Column("recipient_key", LargeBinary(65), nullable=False),
    Column("requested_by", String(128), nullable=False),
    Column("first_approver", String(128)),
    Column("second_approver", String(128)),
    Column("state", String(8), nullable=False),
    Column("enveloped_key", LargeBinary),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('asked', 'approved', 'done', 'rejected')", name="state"),
    CheckConstraint("(state = 'done') = (enveloped_key IS NOT NULL)", name="enveloped_key"),
)
Index("ix_recoveries_state", recoveries.c.state, recoveries.c.created_at_ms)

#: Permissions to unlock a medium; the token is computed from the id and is not kept.
unlocks = Table(
    "unlocks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("certificate_id", _Id, ForeignKey("certificate_serials.id"), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("used_at_ms", BigInteger),
)
