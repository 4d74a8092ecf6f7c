"""Where keys are, their certificates, and how GB/T 38629 clients name them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("keys") as batch_op:
        batch_op.add_column(sa.Column("backend", sa.String(length=16), server_default="software", nullable=False))
        batch_op.add_column(sa.Column("device_index", sa.Integer()))
        batch_op.add_column(sa.Column("certificate", sa.LargeBinary()))
        batch_op.add_column(sa.Column("service_index", sa.Integer()))
        batch_op.add_column(sa.Column("service_code", sa.LargeBinary(length=32)))
        batch_op.create_unique_constraint("uq_keys_service_index", ["service_index"])
        batch_op.create_check_constraint(op.f("ck_keys_device_index"), "(backend = 'sdf') = (device_index IS NOT NULL)")


def downgrade() -> None:
    with op.batch_alter_table("keys") as batch_op:
        batch_op.drop_constraint(op.f("ck_keys_device_index"), type_="check")
        batch_op.drop_constraint("uq_keys_service_index", type_="unique")
        for name in ("service_code", "service_index", "certificate", "device_index", "backend"):
            batch_op.drop_column(name)
