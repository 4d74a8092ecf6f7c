"""Callers by certificate, what each may ask for at most, and tokens that expire."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("tokens") as batch_op:
        batch_op.add_column(sa.Column("expires_at_ms", sa.BigInteger()))
    op.create_table(
        "client_certificates",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("matched_by", sa.String(length=16), nullable=False),
        sa.Column("match_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.CheckConstraint("matched_by IN ('fingerprint', 'subject')", name=op.f("ck_client_certificates_matched_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client_certificates")),
    )
    op.create_index(
        "ix_client_certificates_match",
        "client_certificates",
        ["match_digest"],
        unique=True,
        sqlite_where=sa.text("NOT withdrawn"),
        postgresql_where=sa.text("NOT withdrawn"),
    )
    op.create_table(
        "caller_limits",
        sa.Column("caller_id", sa.String(length=64), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("requests_per_s", sa.Integer()),
        sa.Column("requests_burst", sa.Integer()),
        sa.Column("signatures_per_s", sa.Integer()),
        sa.Column("signatures_burst", sa.Integer()),
        sa.Column("concurrent", sa.Integer()),
        sa.Column("signatures_per_day", sa.BigInteger()),
        sa.PrimaryKeyConstraint("caller_id", name=op.f("pk_caller_limits")),
        sa.UniqueConstraint("place", name=op.f("uq_caller_limits_place")),
    )
    op.create_table(
        "caller_days",
        sa.Column("caller_id", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("taken", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("caller_id", "day", name=op.f("pk_caller_days")),
    )
    op.create_table(
        "caller_seen",
        sa.Column("caller_id", sa.String(length=64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("caller_id", name=op.f("pk_caller_seen")),
    )


def downgrade() -> None:
    for name in ("caller_seen", "caller_days", "caller_limits"):
        op.drop_table(name)
    op.drop_index("ix_client_certificates_match", table_name="client_certificates")
    op.drop_table("client_certificates")
    with op.batch_alter_table("tokens") as batch_op:
        batch_op.drop_column("expires_at_ms")
