"""Certificates by year of expiry on PostgreSQL, with a narrow table of all that were ever issued.

On PostgreSQL every row is written anew (core/store/upgrade_years.py); `qianyan store upgrade` has done most of it
before it comes here.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

from core.store import upgrade_years

revision = "0015"
down_revision = "0017"
branch_labels = None
depends_on = None

_BIG_ID: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _identities() -> None:
    """One row for each certificate, under the id that it has."""
    op.create_table(
        "certificate_serials",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("authority_id", sa.String(length=32), nullable=False),
        sa.Column("serial", sa.LargeBinary(length=20), nullable=False),
        sa.Column("status_month", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["authority_id"], ["authorities.id"], name=op.f("fk_certificate_serials_authority_id_authorities")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificate_serials")),
        sa.UniqueConstraint("authority_id", "serial", name=op.f("uq_certificate_serials_authority_id_serial")),
    )
    op.execute(
        "INSERT INTO certificate_serials (id, authority_id, serial, status_month)"
        " SELECT id, authority_id, serial, status_month FROM certificates ORDER BY id"
    )


def _refer_to(table: str, before: str) -> None:
    for name in dict.fromkeys(name for name, _ in upgrade_years.REFERRING):
        with op.batch_alter_table(name) as batch_op:
            for column in (column for of, column in upgrade_years.REFERRING if of == name):
                batch_op.drop_constraint(op.f(f"fk_{name}_{column}_{before}"), type_="foreignkey")
                batch_op.create_foreign_key(op.f(f"fk_{name}_{column}_{table}"), table, [column], ["id"])


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        upgrade_years.whole(op.get_bind())
        return
    _identities()
    _refer_to("certificate_serials", "certificates")
    with op.batch_alter_table("certificates") as batch_op:
        references = (("authority_id", "authorities"), ("pair_id", "certificates"), ("holder_id", "holders"))
        for column, table in references:
            batch_op.drop_constraint(op.f(f"fk_certificates_{column}_{table}"), type_="foreignkey")
        batch_op.drop_constraint(op.f("uq_certificates_authority_id_serial"), type_="unique")
        batch_op.drop_index("ix_certificates_pair")
        batch_op.drop_column("changed_seq")
        batch_op.drop_constraint(op.f("pk_certificates"), type_="primary")
        batch_op.create_primary_key(op.f("pk_certificates"), ["id", "status_month"])


def downgrade() -> None:
    raise NotImplementedError("years that were retired are gone: restore the backup from before the upgrade")
