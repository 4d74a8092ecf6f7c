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
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from core.store.schema_base import ROW_ID as _Id
from core.store.schema_base import metadata as metadata
from core.store.schema_callers import caller_days as caller_days
from core.store.schema_callers import caller_limits as caller_limits
from core.store.schema_callers import caller_seen as caller_seen
from core.store.schema_callers import client_certificates as client_certificates
from core.store.schema_callers import idempotency as idempotency
from core.store.schema_callers import tokens as tokens
from core.store.schema_certificates import certificate_serials as certificate_serials
from core.store.schema_certificates import certificates as certificates
from core.store.schema_life_cycle import certificate_events as certificate_events
from core.store.schema_life_cycle import escrowed_keys as escrowed_keys
from core.store.schema_life_cycle import holder_keys as holder_keys
from core.store.schema_life_cycle import holders as holders
from core.store.schema_life_cycle import recoveries as recoveries
from core.store.schema_life_cycle import spare_keys as spare_keys
from core.store.schema_life_cycle import unlocks as unlocks

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
    # Who may use it: ids of callers with a space between, "*" for every one, "" for none.
    Column("callers", Text, nullable=False),
    # Limits, NULL for none: uses a second, uses in all, and when (signer/engine/hours.py says how it is written).
    Column("max_rate", Integer),
    Column("max_uses", BigInteger),
    Column("hours", String(256)),
    CheckConstraint("state IN ('active', 'frozen', 'compromised', 'retired')", name="state"),
    CheckConstraint(
        "purpose IN ('data', 'certificate', 'ocsp', 'audit', 'timestamp', 'seal', 'encrypt', 'status_set')",
        name="purpose",
    ),
    CheckConstraint("(backend = 'sdf') = (device_index IS NOT NULL)", name="device_index"),
)

#: One row a key, apart from `keys` because it changes with its use.
#: reserved: uses that were allotted to processes and not given back: never fewer than were made.
#: recorded: uses that the audit record has counts of. allowance_milli: what the key's rate admits at allowance_at_ms,
#: in thousandths of a use; NULL where its rate was never counted.
key_uses = Table(
    "key_uses",
    metadata,
    Column("key_id", String(64), ForeignKey("keys.id"), primary_key=True),
    Column("reserved", BigInteger, nullable=False),
    Column("recorded", BigInteger, nullable=False),
    Column("allowance_milli", BigInteger),
    Column("allowance_at_ms", BigInteger, nullable=False),
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
    # Who signs the status sets; NULL for the authority's own key.
    Column("set_key_id", String(64), ForeignKey("keys.id")),
    Column("set_certificate", LargeBinary),
)

status_indexes = Table(
    "status_indexes",
    metadata,
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("month", Integer, nullable=False),
    Column("next_index", BigInteger, nullable=False),
    # What is below was given by a store that was lost in part: a status set says nothing of it.
    Column("first_index", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("authority_id", "month"),
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

#: A full CRL and the delta made with it have the same number (RFC 5280 section 5.2.4), so `kind` is part of the key.
#: base_number: of a delta, the number of the full CRL that it is for.
crls = Table(
    "crls",
    metadata,
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("kind", String(5), nullable=False),
    Column("base_number", BigInteger),
    Column("this_update_ms", BigInteger, nullable=False),
    Column("next_update_ms", BigInteger, nullable=False),
    Column("feed_seq", BigInteger, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("crl", LargeBinary, nullable=False),
    PrimaryKeyConstraint("authority_id", "partition", "number", "kind"),
    CheckConstraint("kind IN ('full', 'delta')", name="kind"),
    CheckConstraint("(kind = 'delta') = (base_number IS NOT NULL)", name="base_number"),
)

#: Where the CRL of a partition is, as its certificates say: fixed with the partition, whatever the settings say later.
#: open: whether new certificates go there.
crl_points = Table(
    "crl_points",
    metadata,
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("url", Text, nullable=False),
    Column("open", Boolean, nullable=False),
    PrimaryKeyConstraint("authority_id", "partition"),
)

#: One builder at a time for each scope (core/store/leases.py); partition -1: the status set.
#: holder: who has it, or had it last.
crl_leases = Table(
    "crl_leases",
    metadata,
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("holder", String(128), nullable=False),
    Column("held", Boolean, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    PrimaryKeyConstraint("authority_id", "partition"),
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

#: The Merkle tree over the audit record, in full tiles of 256 hashes (core/store/audit_tree.py).
audit_tiles = Table(
    "audit_tiles",
    metadata,
    Column("level", Integer, nullable=False),
    Column("tile", BigInteger, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
    PrimaryKeyConstraint("level", "tile"),
)

#: Signed statements of how long the audit record is and what its root is (core/checkpoint.py).
audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("checkpoint", LargeBinary, nullable=False),
)

#: What is to be published elsewhere: numbered as the feed is, gap-free and in commit order (core/store/outbox.py).
outbox = Table(
    "outbox",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("topic", String(32), nullable=False),
    Column("reference", String(128), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)

#: Where things are published, and how far each has got (core/store/publication.py).
#: identity: what the target is marked with, so that one that was emptied or belongs to another store is known.
#: holder, epoch, beat: the lease; epoch fences every write of the one who holds it.
#: loading_to: where the outbox stood when a load of everything began, until that ends; loading_after: the last
#: certificate that it has done.
publication_targets = Table(
    "publication_targets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("identity", String(36), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("holder", String(96)),
    Column("epoch", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("loading_to", BigInteger),
    Column("loading_after", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    Column("trouble", Text),
)

#: What a target refused, with its reason, and what an operator wants delivered once more (retry).
publication_aside = Table(
    "publication_aside",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("target", String(32), ForeignKey("publication_targets.name"), nullable=False),
    Column("topic", String(32), nullable=False),
    Column("reference", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("retry", Boolean, nullable=False),
    UniqueConstraint("target", "topic", "reference"),
)
Index("ix_publication_aside_retry", publication_aside.c.target, publication_aside.c.retry, publication_aside.c.id)

#: Status sets and their deltas that were published. base_number: its own number for a set.
status_sets = Table(
    "status_sets",
    metadata,
    Column("authority_id", String(32), ForeignKey("authorities.id"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("base_number", BigInteger, nullable=False),
    Column("this_update_ms", BigInteger, nullable=False),
    Column("next_update_ms", BigInteger, nullable=False),
    Column("feed_seq", BigInteger, nullable=False),
    Column("certificates", BigInteger, nullable=False),
    Column("revoked", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("authority_id", "number"),
)

#: Random values that the nodes of one store share and nothing outside it has (core/store/secrets.py).
secrets = Table(
    "secrets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

#: How operators want hardware modules, by the name in the settings; a device without a row is wanted in service.
hsm_orders = Table(
    "hsm_orders",
    metadata,
    Column("device", String(32), primary_key=True),
    Column("drained", Boolean, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

#: How each worker says that its modules stand (core/store/hsm.py). One that has ended without a word leaves old rows.
hsm_reports = Table(
    "hsm_reports",
    metadata,
    Column("worker", String(96), nullable=False),
    Column("device", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("sessions", Integer, nullable=False),
    Column("sessions_wanted", Integer, nullable=False),
    Column("abandoned", Integer, nullable=False),
    Column("trouble", Text),
    Column("reason", Text),
    Column("refused_keys", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("worker", "device"),
)

from core.store import schema_bulk as _schema_bulk  # noqa: E402, F401
from core.store import schema_imports as _schema_imports  # noqa: E402, F401
from core.store import schema_kmc as _schema_kmc  # noqa: E402, F401 - its tables are part of the metadata
from core.store import schema_registration as _schema_registration  # noqa: E402, F401 - its tables are part of the metadata
from core.store import schema_retention as _schema_retention  # noqa: E402, F401
from core.store import schema_statistics as _schema_statistics  # noqa: E402, F401
