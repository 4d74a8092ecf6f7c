"""The tables of registration authorities, their people, and the requests that these sign.

Owns names and constraints; no queries. Lists of ids are text with a space between, "*" for every one.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

from core.store.schema import metadata

_Id = BigInteger().with_variant(Integer, "sqlite")

#: version: grows with every change of the authority, its people or their certificates; whoever judges a request by
#: what is in memory compares it under the row's lock. callers: who may read the authority's requests.
ras = Table(
    "ras",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("state", String(9), nullable=False),
    Column("profiles", Text, nullable=False),
    Column("regions", Text, nullable=False),
    Column("customers", Text, nullable=False),
    # Whether it may act on certificates that no registration authority asked for: imported ones, for example.
    Column("unassigned", Boolean, nullable=False),
    Column("callers", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('active', 'withdrawn')", name="state"),
)

#: sealed: the person's name (signer.holders.vault).
ra_people = Table(
    "ra_people",
    metadata,
    Column("ra_id", String(32), ForeignKey("ras.id"), nullable=False),
    Column("id", String(32), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("roles", Text, nullable=False),
    Column("state", String(9), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("ra_id", "id"),
    CheckConstraint("state IN ('active', 'withdrawn')", name="state"),
)

#: name_digest: SM3 over issuer and serial, by which a signature names its certificate.
#: authority_id: of ours, whose status is in `certificates`; NULL for one issued elsewhere.
ra_certificates = Table(
    "ra_certificates",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("ra_id", String(32), nullable=False),
    Column("person_id", String(32), nullable=False),
    Column("name_digest", LargeBinary(32), nullable=False),
    Column("authority_id", String(32), ForeignKey("authorities.id")),
    Column("serial", LargeBinary(20), nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("public_key", LargeBinary(65), nullable=False),
    Column("not_before_ms", BigInteger, nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
    Column("state", String(9), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["ra_id", "person_id"], ["ra_people.ra_id", "ra_people.id"], name="fk_ra_certificates_person_ra_people"
    ),
    CheckConstraint("state IN ('active', 'withdrawn')", name="state"),
)
Index("ix_ra_certificates_name", ra_certificates.c.name_digest, unique=True)
Index("ix_ra_certificates_public_key", ra_certificates.c.public_key)
Index("ix_ra_certificates_person", ra_certificates.c.ra_id, ra_certificates.c.person_id)

#: One row a signed request; its id is unique within the authority. digest: SM3 of the signed content.
#: entry_signer: name_digest of the certificate under which it was entered. first_approver: of a request that needs two.
#: result: the answer's, as JSON. reason: sealed.
ra_requests = Table(
    "ra_requests",
    metadata,
    Column("ra_id", String(32), ForeignKey("ras.id"), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(8), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("entry_signer", LargeBinary(32), nullable=False),
    Column("entered_by", String(32), nullable=False),
    Column("entered_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("first_approver", String(32)),
    Column("first_signer", LargeBinary(32)),
    Column("decided_by", String(32)),
    Column("decided_at_ms", BigInteger),
    Column("reason", LargeBinary),
    Column("result", LargeBinary),
    PrimaryKeyConstraint("ra_id", "request_id"),
    CheckConstraint("state IN ('entered', 'done', 'rejected')", name="state"),
    CheckConstraint("(state = 'entered') = (decided_at_ms IS NULL)", name="decided_at"),
)
Index("ix_ra_requests_time", ra_requests.c.ra_id, ra_requests.c.entered_at_ms, ra_requests.c.request_id)
#: What waits for an approval is little, whatever was done before.
Index(
    "ix_ra_requests_entered",
    ra_requests.c.ra_id,
    ra_requests.c.entered_at_ms,
    ra_requests.c.request_id,
    sqlite_where=text("state = 'entered'"),
    postgresql_where=text("state = 'entered'"),
)

#: The messages that were signed, sealed, in the order in which they came. step: enter, both, approve or reject.
ra_evidence = Table(
    "ra_evidence",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("ra_id", String(32), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("step", String(8), nullable=False),
    Column("people", String(65), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["ra_id", "request_id"],
        ["ra_requests.ra_id", "ra_requests.request_id"],
        name="fk_ra_evidence_request_ra_requests",
    ),
    CheckConstraint("step IN ('enter', 'both', 'approve', 'reject')", name="step"),
)
Index("ix_ra_evidence_request", ra_evidence.c.ra_id, ra_evidence.c.request_id)

#: Which authority's request each certificate comes from, and for which region and customer. Written with each
#: certificate and never changed; what it names is in the same transaction, so that no references are watched.
ra_issued = Table(
    "ra_issued",
    metadata,
    Column("authority_id", String(32), nullable=False),
    Column("serial", LargeBinary(20), nullable=False),
    Column("ra_id", String(32), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("profile", String(64), nullable=False),
    Column("region", String(6)),
    Column("customer", String(64)),
    PrimaryKeyConstraint("authority_id", "serial"),
)
