"""From which index on a month's certificates are all known."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("status_indexes") as batch_op:
        batch_op.add_column(sa.Column("first_index", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("status_indexes") as batch_op:
        batch_op.drop_column("first_index")
