"""Many certificates by their identities, however many there are.

On PostgreSQL each identity is looked up in its own partition, one after the other. Written as a plain join, the planner
would take a look-up to cost one in every partition, and would soon rather read all of them. Knows how to join; not what
is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Select, literal_column, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.schema_certificates import certificate_serials, certificates, of_identity
from core.store.upsert import on_postgres


def rows_of(
    connection: AsyncConnection,
    columns: Sequence[Column[Any]],
    *where: ColumnElement[bool],
    before: FromClause | None = None,
    on: ColumnElement[bool] | None = None,
    share: bool = False,
) -> Select[Any]:
    """Those columns of the certificates whose identities are so, by the columns' names.

    before, on: what the identities are joined to first, and by what; its columns may be among `columns`. where: on
    identities, what is before them, and on PostgreSQL not on certificates. share: nobody changes the rows until the
    transaction ends.
    """
    origin: FromClause = certificate_serials
    if before is not None:
        assert on is not None
        origin = before.join(certificate_serials, on)
    if not on_postgres(connection):
        return select(*columns).select_from(origin.join(certificates, of_identity)).where(*where)
    ours = [column for column in columns if column.table is certificates]
    one = select(*ours).where(of_identity).correlate(certificate_serials).limit(literal_column("1"))
    if share:
        one = one.with_for_update(read=True)
    found = one.lateral("found")
    given = [found.c[c.name] if c.table is certificates else c for c in columns]
    return select(*given).select_from(origin.join(found, true())).where(*where)
