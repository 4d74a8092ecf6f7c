"""Imports from other authorities, and statistics by day."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def _imports() -> None:
    op.create_table(
        "imports",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("authority_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("report_bytes", sa.BigInteger(), nullable=False),
        sa.Column("accepted", sa.BigInteger(), nullable=False),
        sa.Column("known", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('running', 'done')", name=op.f("ck_imports_state")),
        sa.ForeignKeyConstraint(["authority_id"], ["authorities.id"], name=op.f("fk_imports_authority_id_authorities")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_table(
        "import_authorities",
        sa.Column("authority_id", sa.String(32), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("cutoff_s", sa.BigInteger()),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["authority_id"], ["authorities.id"], name=op.f("fk_import_authorities_authority_id_authorities")
        ),
        sa.PrimaryKeyConstraint("authority_id", name=op.f("pk_import_authorities")),
    )


def _counts(name: str) -> None:
    op.create_table(
        name,
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("event", sa.String(24), nullable=False),
        sa.Column("segment", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "event", "segment", name=op.f(f"pk_{name}")),
    )


def _place() -> None:
    """Gives what is there the heading that is known of it; on PostgreSQL 0015 does, which writes every row anew."""
    if op.get_bind().dialect.name == "postgresql":
        return
    op.execute(
        "INSERT INTO statistics_segments (authority_id, usage, profile, ra, region, customer)"
        " SELECT DISTINCT authority_id, usage, profile, '', '', '' FROM certificates"
    )
    op.execute(
        "UPDATE certificates SET segment = (SELECT id FROM statistics_segments AS s WHERE"
        " s.authority_id = certificates.authority_id AND s.usage = certificates.usage AND"
        " s.profile = certificates.profile)"
    )


def _statistics() -> None:
    op.create_table(
        "statistics_segments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("authority_id", sa.String(32), nullable=False),
        sa.Column("usage", sa.String(8), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("ra", sa.String(64), nullable=False),
        sa.Column("region", sa.String(260), nullable=False),
        sa.Column("customer", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statistics_segments")),
        sa.UniqueConstraint(
            "authority_id", "usage", "profile", "ra", "region", "customer", name="uq_statistics_segments_all"
        ),
    )
    _counts("statistics_counts")
    _counts("statistics_retired")
    op.add_column("certificates", sa.Column("segment", sa.Integer(), nullable=True))
    _place()
    # What is there was never counted: `qianyan stats rebuild` does that, and until then statistics are refused.
    op.execute(
        "INSERT INTO counters (name, value) SELECT 'statistics_stale', 1 WHERE EXISTS (SELECT 1 FROM certificates)"
    )


def upgrade() -> None:
    _imports()
    _statistics()


def downgrade() -> None:
    op.execute("DELETE FROM counters WHERE name = 'statistics_stale'")
    with op.batch_alter_table("certificates") as batch_op:
        batch_op.drop_column("segment")
    for name in ("statistics_retired", "statistics_counts", "statistics_segments", "import_authorities", "imports"):
        op.drop_table(name)
