"""One builder at a time for each scope: a lease with a fencing number, which every publication names.

Nobody's clock is believed. Who wants a lease that another holds has to see its `beat` unchanged for the lease's whole
life, by a watch of its own; it takes the lease only if it is still unchanged in that transaction. A holder that was
passed over cannot publish any more: `require` says so in the publishing transaction itself.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store.schema import crl_leases
from core.store.upsert import upsert

#: What stands for a partition where the authority's status set is what is built.
STATUS_SET: Final = -1


@dataclass(frozen=True, slots=True)
class Lease:
    """A row; `partition`: the CRL's, or STATUS_SET.

    held: False where `holder` was the last one. `epoch` rises with every holder, `beat` while one lives.
    """

    authority_id: str
    partition: int
    holder: str
    held: bool
    epoch: int
    beat: int


_COLUMNS = [crl_leases.c[field.name] for field in fields(Lease)]


def _mine(lease: Lease) -> ColumnElement[bool]:
    c = crl_leases.c
    return (c.authority_id == lease.authority_id) & (c.partition == lease.partition) & (c.epoch == lease.epoch)


async def get(connection: AsyncConnection, authority_id: str, partition: int) -> Lease | None:
    """The lease of a scope; None where nobody ever had it."""
    c = crl_leases.c
    statement = select(*_COLUMNS).where(c.authority_id == authority_id, c.partition == partition)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else Lease(*row)


async def list_all(connection: AsyncConnection) -> list[Lease]:
    """Every lease."""
    return [Lease(*row) for row in await connection.execute(select(*_COLUMNS))]


async def acquire(
    connection: AsyncConnection, authority_id: str, partition: int, holder: str, *, over: Lease | None = None
) -> Lease | None:
    """The lease where nobody has it, or where it is exactly as `over` says; None where another has it."""
    free = {"authority_id": authority_id, "partition": partition, "holder": "", "held": False, "epoch": 0, "beat": 0}
    await connection.execute(upsert(connection, crl_leases).values(**free).on_conflict_do_nothing())
    c = crl_leases.c
    takeable: ColumnElement[bool] = c.held.is_(False)
    if over is not None:
        takeable |= (c.epoch == over.epoch) & (c.beat == over.beat)
    statement = (
        update(crl_leases)
        .where(c.authority_id == authority_id, c.partition == partition, takeable)
        .values(holder=holder, held=True, epoch=c.epoch + 1, beat=0)
        .returning(*_COLUMNS)
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else Lease(*row)


async def renew(connection: AsyncConnection, lease: Lease) -> None:
    """Says that the holder lives. Raises Conflict (code "lease_lost")."""
    statement = update(crl_leases).where(_mine(lease), crl_leases.c.held).values(beat=crl_leases.c.beat + 1)
    _one((await connection.execute(statement)).rowcount)


async def require(connection: AsyncConnection, lease: Lease) -> None:
    """Gives the lease back in the transaction that it was for. Raises Conflict (code "lease_lost") if taken."""
    statement = update(crl_leases).where(_mine(lease), crl_leases.c.held).values(held=False)
    _one((await connection.execute(statement)).rowcount)


async def release(connection: AsyncConnection, lease: Lease) -> None:
    """Gives the lease back; nothing where it is another's already."""
    await connection.execute(update(crl_leases).where(_mine(lease)).values(held=False))


def _one(rows: int) -> None:
    if rows != 1:
        raise Conflict("another builder has taken over", code="lease_lost")
