"""Where things are published and how far each target has got; the outbox is numbered as the feed is."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.drop_index("ix_outbox_undelivered", table_name="outbox")
    with op.batch_alter_table("outbox") as batch_op:
        batch_op.drop_column("delivered_at_ms")
    op.execute(
        "INSERT INTO counters (name, value) SELECT 'outbox', coalesce(max(id), 0) FROM outbox"
        " WHERE NOT EXISTS (SELECT 1 FROM counters WHERE name = 'outbox')"
    )
    op.create_table(
        "publication_targets",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("identity", sa.String(length=36), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(length=96)),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("loading_to", sa.BigInteger()),
        sa.Column("loading_after", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("trouble", sa.Text()),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_publication_targets")),
    )
    op.create_table(
        "publication_aside",
        sa.Column("id", _ID, nullable=False),
        sa.Column("target", sa.String(length=32), nullable=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("retry", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["target"], ["publication_targets.name"], name=op.f("fk_publication_aside_target_publication_targets")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publication_aside")),
        sa.UniqueConstraint("target", "topic", "reference", name=op.f("uq_publication_aside_target_topic_reference")),
    )
    op.create_index("ix_publication_aside_retry", "publication_aside", ["target", "retry", "id"])


def downgrade() -> None:
    op.drop_index("ix_publication_aside_retry", table_name="publication_aside")
    for name in ("publication_aside", "publication_targets"):
        op.drop_table(name)
    op.execute("DELETE FROM counters WHERE name = 'outbox'")
    with op.batch_alter_table("outbox") as batch_op:
        batch_op.add_column(sa.Column("delivered_at_ms", sa.BigInteger()))
    op.create_index("ix_outbox_undelivered", "outbox", ["delivered_at_ms", "id"])
