"""Registration authorities, their people, signed requests and their evidence."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0018"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _authorities() -> None:
    op.create_table(
        "ras",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("profiles", sa.Text(), nullable=False),
        sa.Column("regions", sa.Text(), nullable=False),
        sa.Column("customers", sa.Text(), nullable=False),
        sa.Column("unassigned", sa.Boolean(), nullable=False),
        sa.Column("callers", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('active', 'withdrawn')", name=op.f("ck_ras_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ras")),
    )
    op.create_table(
        "ra_people",
        sa.Column("ra_id", sa.String(length=32), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('active', 'withdrawn')", name=op.f("ck_ra_people_state")),
        sa.ForeignKeyConstraint(["ra_id"], ["ras.id"], name=op.f("fk_ra_people_ra_id_ras")),
        sa.PrimaryKeyConstraint("ra_id", "id", name=op.f("pk_ra_people")),
    )


def _certificates() -> None:
    op.create_table(
        "ra_certificates",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("ra_id", sa.String(length=32), nullable=False),
        sa.Column("person_id", sa.String(length=32), nullable=False),
        sa.Column("name_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("authority_id", sa.String(length=32), nullable=True),
        sa.Column("serial", sa.LargeBinary(length=20), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(length=65), nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False),
        sa.Column("not_after_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=9), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('active', 'withdrawn')", name=op.f("ck_ra_certificates_state")),
        sa.ForeignKeyConstraint(
            ["authority_id"], ["authorities.id"], name=op.f("fk_ra_certificates_authority_id_authorities")
        ),
        sa.ForeignKeyConstraint(
            ["ra_id", "person_id"], ["ra_people.ra_id", "ra_people.id"], name="fk_ra_certificates_person_ra_people"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ra_certificates")),
    )
    op.create_index("ix_ra_certificates_name", "ra_certificates", ["name_digest"], unique=True)
    op.create_index("ix_ra_certificates_person", "ra_certificates", ["ra_id", "person_id"], unique=False)
    op.create_index("ix_ra_certificates_public_key", "ra_certificates", ["public_key"], unique=False)


def _requests() -> None:
    op.create_table(
        "ra_requests",
        sa.Column("ra_id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("entry_signer", sa.LargeBinary(length=32), nullable=False),
        sa.Column("entered_by", sa.String(length=32), nullable=False),
        sa.Column("entered_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("first_approver", sa.String(length=32), nullable=True),
        sa.Column("first_signer", sa.LargeBinary(length=32), nullable=True),
        sa.Column("decided_by", sa.String(length=32), nullable=True),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.LargeBinary(), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("(state = 'entered') = (decided_at_ms IS NULL)", name=op.f("ck_ra_requests_decided_at")),
        sa.CheckConstraint("state IN ('entered', 'done', 'rejected')", name=op.f("ck_ra_requests_state")),
        sa.ForeignKeyConstraint(["ra_id"], ["ras.id"], name=op.f("fk_ra_requests_ra_id_ras")),
        sa.PrimaryKeyConstraint("ra_id", "request_id", name=op.f("pk_ra_requests")),
    )
    op.create_index(
        "ix_ra_requests_entered",
        "ra_requests",
        ["ra_id", "entered_at_ms", "request_id"],
        unique=False,
        sqlite_where=sa.text("state = 'entered'"),
        postgresql_where=sa.text("state = 'entered'"),
    )
    op.create_index("ix_ra_requests_time", "ra_requests", ["ra_id", "entered_at_ms", "request_id"], unique=False)


def _evidence() -> None:
    op.create_table(
        "ra_evidence",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("ra_id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("step", sa.String(length=8), nullable=False),
        sa.Column("people", sa.String(length=65), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("step IN ('enter', 'both', 'approve', 'reject')", name=op.f("ck_ra_evidence_step")),
        sa.ForeignKeyConstraint(
            ["ra_id", "request_id"],
            ["ra_requests.ra_id", "ra_requests.request_id"],
            name="fk_ra_evidence_request_ra_requests",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ra_evidence")),
    )
    op.create_index("ix_ra_evidence_request", "ra_evidence", ["ra_id", "request_id"], unique=False)
    op.create_table(
        "ra_issued",
        sa.Column("authority_id", sa.String(length=32), nullable=False),
        sa.Column("serial", sa.LargeBinary(length=20), nullable=False),
        sa.Column("ra_id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("profile", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=6), nullable=True),
        sa.Column("customer", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("authority_id", "serial", name=op.f("pk_ra_issued")),
    )


def upgrade() -> None:
    _authorities()
    _certificates()
    _requests()
    _evidence()


def downgrade() -> None:
    for table in ("ra_issued", "ra_evidence", "ra_requests", "ra_certificates", "ra_people", "ras"):
        op.drop_table(table)
