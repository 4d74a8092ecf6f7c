"""Holders, the business done on certificates, key management's stores, recoveries and unlocks."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _partial_index(name: str, table: str, columns: list[str], where: str, using: str = "btree") -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition, postgresql_using=using)


def _holders() -> None:
    op.create_table(
        "holder_keys",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("purpose", sa.String(length=8), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("purpose IN ('seal', 'index')", name=op.f("ck_holder_keys_purpose")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holder_keys")),
    )
    op.create_table(
        "holders",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("number_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('organisation', 'person', 'device')", name=op.f("ck_holders_kind")),
        sa.ForeignKeyConstraint(["key_id"], ["holder_keys.id"], name=op.f("fk_holders_key_id_holder_keys")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holders")),
        sa.UniqueConstraint("number_hash", name=op.f("uq_holders_number_hash")),
    )


def _certificates() -> None:
    with op.batch_alter_table("certificates") as batch_op:
        batch_op.add_column(sa.Column("holder_id", sa.String(length=32)))
        batch_op.create_foreign_key(op.f("fk_certificates_holder_id_holders"), "holders", ["holder_id"], ["id"])
    _partial_index("ix_certificates_holder", "certificates", ["holder_id"], "holder_id IS NOT NULL")
    _partial_index("ix_certificates_public_key", "certificates", ["public_key"], "usage = 'sign'", "hash")
    op.create_table(
        "certificate_events",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("certificate_id", _BIG_ID, nullable=False),
        sa.Column("previous_id", _BIG_ID),
        sa.Column("holder_id", sa.String(length=32)),
        sa.Column("operation", sa.String(length=16), nullable=False),
        sa.Column("ground", sa.String(length=32)),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["certificate_id"], ["certificates.id"], name=op.f("fk_certificate_events_certificate_id_certificates")
        ),
        sa.ForeignKeyConstraint(
            ["previous_id"], ["certificates.id"], name=op.f("fk_certificate_events_previous_id_certificates")
        ),
        sa.ForeignKeyConstraint(["holder_id"], ["holders.id"], name=op.f("fk_certificate_events_holder_id_holders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificate_events")),
        sa.UniqueConstraint("previous_id", name=op.f("uq_certificate_events_previous_id")),
    )
    op.create_index("ix_certificate_events_certificate", "certificate_events", ["certificate_id"])
    _partial_index("ix_certificate_events_holder", "certificate_events", ["holder_id", "id"], "holder_id IS NOT NULL")


def _key_management() -> None:
    with op.batch_alter_table("escrowed_keys") as batch_op:
        batch_op.add_column(sa.Column("ended_at_ms", sa.BigInteger()))
    op.execute(
        "UPDATE escrowed_keys SET ended_at_ms = (SELECT revoked_at_ms FROM certificates"
        " WHERE certificates.id = escrowed_keys.certificate_id AND certificates.state = 'revoked')"
    )
    _partial_index("ix_escrowed_keys_in_use", "escrowed_keys", ["certificate_id"], "ended_at_ms IS NULL")
    op.create_table(
        "spare_keys",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("public_key", sa.LargeBinary(length=65), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spare_keys")),
    )
    op.create_table(
        "recoveries",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("certificate_id", _BIG_ID, nullable=False),
        sa.Column("judicial", sa.Boolean(), nullable=False),
        sa.Column("reference", sa.String(length=64), nullable=False),
        sa.Column("recipient_id", _BIG_ID),
        sa.Column("recipient_key", sa.LargeBinary(length=65), nullable=False),
        sa.Column("requested_by", sa.String(length=128), nullable=False),
        sa.Column("first_approver", sa.String(length=128)),
        sa.Column("second_approver", sa.String(length=128)),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("enveloped_key", sa.LargeBinary()),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('asked', 'approved', 'done', 'rejected')", name=op.f("ck_recoveries_state")),
        sa.CheckConstraint("(state = 'done') = (enveloped_key IS NOT NULL)", name=op.f("ck_recoveries_enveloped_key")),
        sa.ForeignKeyConstraint(
            ["certificate_id"], ["certificates.id"], name=op.f("fk_recoveries_certificate_id_certificates")
        ),
        sa.ForeignKeyConstraint(
            ["recipient_id"], ["certificates.id"], name=op.f("fk_recoveries_recipient_id_certificates")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recoveries")),
    )
    op.create_index("ix_recoveries_state", "recoveries", ["state", "created_at_ms"])


def upgrade() -> None:
    _holders()
    _certificates()
    _key_management()
    op.create_table(
        "unlocks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("certificate_id", _BIG_ID, nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger()),
        sa.ForeignKeyConstraint(
            ["certificate_id"], ["certificates.id"], name=op.f("fk_unlocks_certificate_id_certificates")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_unlocks")),
    )


def downgrade() -> None:
    for name in ("unlocks", "recoveries", "spare_keys"):
        op.drop_table(name)
    op.drop_index("ix_escrowed_keys_in_use", table_name="escrowed_keys")
    with op.batch_alter_table("escrowed_keys") as batch_op:
        batch_op.drop_column("ended_at_ms")
    op.drop_table("certificate_events")
    op.drop_index("ix_certificates_public_key", table_name="certificates")
    op.drop_index("ix_certificates_holder", table_name="certificates")
    with op.batch_alter_table("certificates") as batch_op:
        batch_op.drop_constraint(op.f("fk_certificates_holder_id_holders"), type_="foreignkey")
        batch_op.drop_column("holder_id")
    op.drop_table("holders")
    op.drop_table("holder_keys")
