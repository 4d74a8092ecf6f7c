"""Authorities whose status sets another key signs, which they have certified for it."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_BEFORE = "purpose IN ('data', 'certificate', 'ocsp', 'audit', 'timestamp', 'seal', 'encrypt')"
_PURPOSES = "purpose IN ('data', 'certificate', 'ocsp', 'audit', 'timestamp', 'seal', 'encrypt', 'status_set')"


def _purposes(condition: str) -> None:
    with op.batch_alter_table("keys") as batch_op:
        batch_op.drop_constraint(op.f("ck_keys_purpose"), type_="check")
        batch_op.create_check_constraint(op.f("ck_keys_purpose"), condition)


def upgrade() -> None:
    _purposes(_PURPOSES)
    with op.batch_alter_table("authorities") as batch_op:
        batch_op.add_column(sa.Column("set_key_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("set_certificate", sa.LargeBinary(), nullable=True))
        batch_op.create_foreign_key(op.f("fk_authorities_set_key_id_keys"), "keys", ["set_key_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("authorities") as batch_op:
        batch_op.drop_constraint(op.f("fk_authorities_set_key_id_keys"), type_="foreignkey")
        batch_op.drop_column("set_certificate")
        batch_op.drop_column("set_key_id")
    _purposes(_BEFORE)
