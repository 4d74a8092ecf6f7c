"""Delta CRLs, where each partition's CRL is, leases of builders, and an index that has what a CRL says."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_LISTED = sa.text("revoked_at_ms IS NOT NULL")


def _scope() -> list[sa.Column[Any]]:
    return [
        sa.Column("authority_id", sa.String(length=32), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
    ]


def _crls(name: str, *more: sa.Column[Any], key: tuple[str, ...], checks: tuple[sa.CheckConstraint, ...] = ()) -> None:
    op.create_table(
        name,
        *_scope(),
        sa.Column("number", sa.BigInteger(), nullable=False),
        *more,
        sa.Column("base_number", sa.BigInteger()),
        sa.Column("this_update_ms", sa.BigInteger(), nullable=False),
        sa.Column("next_update_ms", sa.BigInteger(), nullable=False),
        sa.Column("feed_seq", sa.BigInteger(), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("crl", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["authority_id"], ["authorities.id"], name=op.f("fk_crls_authority_id_authorities")),
        sa.PrimaryKeyConstraint("authority_id", "partition", *key, name=op.f("pk_crls")),
        *checks,
    )


_COLUMNS = "authority_id, partition, number, this_update_ms, next_update_ms, feed_seq, entries, crl"


def _replace() -> None:
    """Puts the rows into the new table: constraints cannot be changed in place everywhere."""
    op.execute("ALTER TABLE crls RENAME TO crls_before")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE crls_before RENAME CONSTRAINT pk_crls TO pk_crls_before")


def upgrade() -> None:
    _replace()
    _crls(
        "crls",
        sa.Column("kind", sa.String(length=5), nullable=False),
        key=("number", "kind"),
        checks=(
            sa.CheckConstraint("kind IN ('full', 'delta')", name=op.f("ck_crls_kind")),
            sa.CheckConstraint("(kind = 'delta') = (base_number IS NOT NULL)", name=op.f("ck_crls_base_number")),
        ),
    )
    op.execute(
        f"INSERT INTO crls ({_COLUMNS}, kind) SELECT {_COLUMNS}, 'full' FROM crls_before WHERE base_number IS NULL"  # noqa: S608
    )
    op.drop_table("crls_before")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE crls ALTER COLUMN crl SET STORAGE EXTERNAL")  # serials do not shrink; trying takes long
    op.create_table(
        "crl_points",
        *_scope(),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["authority_id"], ["authorities.id"], name=op.f("fk_crl_points_authority_id_authorities")
        ),
        sa.PrimaryKeyConstraint("authority_id", "partition", name=op.f("pk_crl_points")),
    )
    op.create_table(
        "crl_leases",
        *_scope(),
        sa.Column("holder", sa.String(length=128), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["authority_id"], ["authorities.id"], name=op.f("fk_crl_leases_authority_id_authorities")
        ),
        sa.PrimaryKeyConstraint("authority_id", "partition", name=op.f("pk_crl_leases")),
    )
    op.create_index(
        "ix_certificates_listed",
        "certificates",
        [
            "authority_id",
            "partition",
            "serial",
            "revoked_at_ms",
            "reason",
            "invalidity_at_ms",
            "not_after_ms",
        ],
        sqlite_where=_LISTED,
        postgresql_where=_LISTED,
    )


def downgrade() -> None:
    op.drop_index("ix_certificates_listed", table_name="certificates")
    op.drop_table("crl_leases")
    op.drop_table("crl_points")
    _replace()
    _crls("crls", key=("number",))
    op.execute(f"INSERT INTO crls ({_COLUMNS}) SELECT {_COLUMNS} FROM crls_before WHERE kind = 'full'")  # noqa: S608
    op.drop_table("crls_before")
