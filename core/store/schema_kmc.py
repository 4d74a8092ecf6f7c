"""Tables of key management beyond one installation: authorities that are served, keys asked for elsewhere, master keys.

Part of `core.store.schema`, which imports this.
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
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from core.store.schema import certificates, metadata

_Id = BigInteger().with_variant(Integer, "sqlite")

#: Certification authorities that may ask for keys here, each by the certificate that verifies its messages.
kmc_authorities = Table(
    "kmc_authorities",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
)

#: What was answered to them, by task number (hexadecimal), so that a task that is sent again gets the same keys.
#: answer: the DER of the list of answers, without time and signature.
kmc_tasks = Table(
    "kmc_tasks",
    metadata,
    Column("authority_id", String(32), ForeignKey("kmc_authorities.id"), nullable=False),
    Column("task", String(40), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("authority_id", "task"),
)
Index("ix_kmc_tasks_created_at_ms", kmc_tasks.c.created_at_ms)

#: Keys that were made for them: in use until ended_at_ms, history from then on. number: the certificate's, hexadecimal.
kmc_served_keys = Table(
    "kmc_served_keys",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("authority_id", String(32), ForeignKey("kmc_authorities.id"), nullable=False),
    Column("number", String(40), nullable=False),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("ended_at_ms", BigInteger),
    UniqueConstraint("authority_id", "number"),
)
Index("ix_kmc_served_keys_ended_at_ms", kmc_served_keys.c.ended_at_ms, kmc_served_keys.c.not_after_ms)

#: Keys that an authority of ours asked another key-management centre for (core/store/kmc_external.py).
#: recipient: the signing key that it is enveloped for. sent: how often it was asked for. revocation: the number of the
#: task that ends it.
kmc_asked_keys = Table(
    "kmc_asked_keys",
    metadata,
    Column("task", String(40), primary_key=True),
    Column("centre", String(32), nullable=False),
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("number", String(40), nullable=False),
    Column("recipient", LargeBinary(65), nullable=False),
    Column("not_before_ms", BigInteger, nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("sent", Integer, nullable=False),
    Column("public_key", LargeBinary(65), unique=True),
    Column("enveloped", LargeBinary),
    Column("revocation", String(40)),
    Column("trouble", Text),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    UniqueConstraint("authority_id", "number"),
    CheckConstraint("state IN ('asked', 'answered', 'used', 'ending', 'ended', 'refused')", name="state"),
)
Index("ix_kmc_asked_keys_recipient", kmc_asked_keys.c.recipient)
Index("ix_kmc_asked_keys_state", kmc_asked_keys.c.state, kmc_asked_keys.c.created_at_ms)

#: Which certificates have a key of another centre; a renewal that keeps its key adds one.
kmc_asked_certificates = Table(
    "kmc_asked_certificates",
    metadata,
    Column("certificate_id", certificates.c.id.type, primary_key=True, autoincrement=False),
    Column("task", String(40), ForeignKey("kmc_asked_keys.task"), nullable=False),
    Column("ended_at_ms", BigInteger),
)
Index("ix_kmc_asked_certificates_task", kmc_asked_certificates.c.task)

#: Master keys in hardware modules, each wrapped there under the key-encryption key at kek_index. The last one wraps.
#: check_plain, check_cipher: a random block and what the key makes of it, so that a wrong key shows.
kmc_master_keys = Table(
    "kmc_master_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("kek_index", Integer, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("check_plain", LargeBinary, nullable=False),
    Column("check_cipher", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
