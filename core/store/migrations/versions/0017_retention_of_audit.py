"""Audit rows that were moved to archives, and indexes by which the others are found."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_prunings",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("head", sa.LargeBinary(32), nullable=False),
        sa.Column("origin", sa.LargeBinary(32), nullable=False),
        sa.Column("manifest", sa.LargeBinary(32), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_audit_prunings")),
    )
    # On PostgreSQL `qianyan store upgrade` has made them, beside those who write (core/store/upgrading.py).
    op.create_index("ix_audit_subject", "audit", ["subject", "seq"], if_not_exists=True)
    op.create_index("ix_audit_actor", "audit", ["actor", "seq"], if_not_exists=True)
    by_prefix = {"action": "text_pattern_ops"}
    op.create_index("ix_audit_action", "audit", ["action", "seq"], if_not_exists=True, postgresql_ops=by_prefix)
    op.create_index("ix_audit_at_ms", "audit", ["at_ms", "seq"], if_not_exists=True)


def downgrade() -> None:
    for name in ("ix_audit_at_ms", "ix_audit_action", "ix_audit_actor", "ix_audit_subject"):
        op.drop_index(name, table_name="audit")
    op.drop_table("audit_prunings")
