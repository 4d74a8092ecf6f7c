"""Which hardware modules are drained, and how each worker says that they stand."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hsm_orders",
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("drained", sa.Boolean(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_hsm_orders")),
    )
    op.create_table(
        "hsm_reports",
        sa.Column("worker", sa.String(length=96), nullable=False),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.Column("sessions_wanted", sa.Integer(), nullable=False),
        sa.Column("abandoned", sa.Integer(), nullable=False),
        sa.Column("trouble", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("refused_keys", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("worker", "device", name=op.f("pk_hsm_reports")),
    )


def downgrade() -> None:
    for name in ("hsm_reports", "hsm_orders"):
        op.drop_table(name)
