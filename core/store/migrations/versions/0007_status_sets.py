"""Status sets and their deltas that were published."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "status_sets",
        sa.Column("authority_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("base_number", sa.BigInteger(), nullable=False),
        sa.Column("this_update_ms", sa.BigInteger(), nullable=False),
        sa.Column("next_update_ms", sa.BigInteger(), nullable=False),
        sa.Column("feed_seq", sa.BigInteger(), nullable=False),
        sa.Column("certificates", sa.BigInteger(), nullable=False),
        sa.Column("revoked", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["authority_id"], ["authorities.id"], name=op.f("fk_status_sets_authority_id_authorities")
        ),
        sa.PrimaryKeyConstraint("authority_id", "number", name=op.f("pk_status_sets")),
    )


def downgrade() -> None:
    op.drop_table("status_sets")
