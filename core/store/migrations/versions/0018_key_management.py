"""Authorities that key management serves, keys asked for elsewhere, master keys in hardware modules."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0013"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _served() -> None:
    op.create_table(
        "kmc_authorities",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kmc_authorities")),
    )
    authority = op.f("fk_kmc_tasks_authority_id_kmc_authorities")
    op.create_table(
        "kmc_tasks",
        sa.Column("authority_id", sa.String(32), nullable=False),
        sa.Column("task", sa.String(40), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["authority_id"], ["kmc_authorities.id"], name=authority),
        sa.PrimaryKeyConstraint("authority_id", "task", name=op.f("pk_kmc_tasks")),
    )
    op.create_index("ix_kmc_tasks_created_at_ms", "kmc_tasks", ["created_at_ms"])
    authority = op.f("fk_kmc_served_keys_authority_id_kmc_authorities")
    op.create_table(
        "kmc_served_keys",
        sa.Column("id", _ID, nullable=False),
        sa.Column("authority_id", sa.String(32), nullable=False),
        sa.Column("number", sa.String(40), nullable=False),
        sa.Column("public_key", sa.LargeBinary(65), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("not_after_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["authority_id"], ["kmc_authorities.id"], name=authority),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kmc_served_keys")),
        sa.UniqueConstraint("authority_id", "number", name=op.f("uq_kmc_served_keys_authority_id_number")),
    )
    op.create_index("ix_kmc_served_keys_ended_at_ms", "kmc_served_keys", ["ended_at_ms", "not_after_ms"])


def _asked() -> None:
    authority = op.f("fk_kmc_asked_keys_authority_id_authorities")
    states = "state IN ('asked', 'answered', 'used', 'ending', 'ended', 'refused')"
    op.create_table(
        "kmc_asked_keys",
        sa.Column("task", sa.String(40), nullable=False),
        sa.Column("centre", sa.String(32), nullable=False),
        sa.Column("authority_id", sa.String(32), nullable=False),
        sa.Column("number", sa.String(40), nullable=False),
        sa.Column("recipient", sa.LargeBinary(65), nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False),
        sa.Column("not_after_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(65), nullable=True),
        sa.Column("enveloped", sa.LargeBinary(), nullable=True),
        sa.Column("revocation", sa.String(40), nullable=True),
        sa.Column("trouble", sa.Text(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(states, name=op.f("ck_kmc_asked_keys_state")),
        sa.ForeignKeyConstraint(["authority_id"], ["authorities.id"], name=authority),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_kmc_asked_keys")),
        sa.UniqueConstraint("public_key", name=op.f("uq_kmc_asked_keys_public_key")),
        sa.UniqueConstraint("authority_id", "number", name=op.f("uq_kmc_asked_keys_authority_id_number")),
    )
    op.create_index("ix_kmc_asked_keys_recipient", "kmc_asked_keys", ["recipient"])
    op.create_index("ix_kmc_asked_keys_state", "kmc_asked_keys", ["state", "created_at_ms"])
    task = op.f("fk_kmc_asked_certificates_task_kmc_asked_keys")
    op.create_table(
        "kmc_asked_certificates",
        sa.Column("certificate_id", _ID, autoincrement=False, nullable=False),
        sa.Column("task", sa.String(40), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["task"], ["kmc_asked_keys.task"], name=task),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_kmc_asked_certificates")),
    )
    op.create_index("ix_kmc_asked_certificates_task", "kmc_asked_certificates", ["task"])


def upgrade() -> None:
    _served()
    _asked()
    op.create_table(
        "kmc_master_keys",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kek_index", sa.Integer(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("check_plain", sa.LargeBinary(), nullable=False),
        sa.Column("check_cipher", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kmc_master_keys")),
    )


def downgrade() -> None:
    for name in (
        "kmc_master_keys",
        "kmc_asked_certificates",
        "kmc_asked_keys",
        "kmc_served_keys",
        "kmc_tasks",
        "kmc_authorities",
    ):
        op.drop_table(name)
