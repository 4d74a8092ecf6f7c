"""What keys may be used for, by whom and how much; and how much they were used.

Keys that are there already may be used as before: by every caller, without a limit.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_PURPOSES = "purpose IN ('data', 'certificate', 'ocsp', 'audit', 'timestamp', 'seal', 'encrypt')"
_PURPOSES_BEFORE = "purpose IN ('data', 'certificate', 'ocsp')"


def upgrade() -> None:
    with op.batch_alter_table("keys") as batch_op:
        batch_op.drop_constraint(op.f("ck_keys_purpose"), type_="check")
        batch_op.create_check_constraint(op.f("ck_keys_purpose"), _PURPOSES)
        batch_op.add_column(sa.Column("callers", sa.Text(), server_default="*", nullable=False))
        batch_op.add_column(sa.Column("max_rate", sa.Integer()))
        batch_op.add_column(sa.Column("max_uses", sa.BigInteger()))
        batch_op.add_column(sa.Column("hours", sa.String(length=256)))
    with op.batch_alter_table("keys") as batch_op:
        batch_op.alter_column("callers", server_default=None)  # from here on whoever adds a key names its callers
    op.create_table(
        "key_uses",
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("recorded", sa.BigInteger(), nullable=False),
        sa.Column("allowance_milli", sa.BigInteger(), nullable=True),
        sa.Column("allowance_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_key_uses_key_id_keys")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_uses")),
    )
    op.execute(
        "INSERT INTO key_uses (key_id, reserved, recorded, allowance_milli, allowance_at_ms)"
        " SELECT id, 0, 0, NULL, 0 FROM keys"
    )


def downgrade() -> None:
    op.drop_table("key_uses")
    with op.batch_alter_table("keys") as batch_op:
        for name in ("hours", "max_uses", "max_rate", "callers"):
            batch_op.drop_column(name)
        batch_op.drop_constraint(op.f("ck_keys_purpose"), type_="check")
        batch_op.create_check_constraint(op.f("ck_keys_purpose"), _PURPOSES_BEFORE)
