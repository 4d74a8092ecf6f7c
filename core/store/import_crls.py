"""What imported CRLs leave in the store beside revocations: up to which number and moment each scope was told of, and
what is revoked or on hold here that a newer CRL does not list. A scope is a partition, or all of them.

Knows counters and rows; not DER.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import CertificateState
from core.store import authorities, counters, crl_points, restored
from core.store.schema_certificates import certificates as table

_ALL: Final = "all"
#: Rows that one statement brings.
_PAGE: Final = 20_000


def _number(authority_id: str) -> str:
    """The counter of the highest number of CRLs that were of all partitions: partitions made later start above it."""
    return f"import-crl/{authority_id}"


def _seen(authority_id: str, scope: int | str) -> str:
    """The counter of the last thisUpdate, in ms, of the scope's imported CRLs."""
    return f"import-seen/{authority_id}/{scope}"


async def newest_ms(connection: AsyncConnection, authority_id: str, partitions: Sequence[int]) -> int:
    """thisUpdate of the newest imported CRL that tells of one of these partitions, in ms since 1970; 0: none does."""
    scopes: list[int | str] = [_ALL, *partitions]
    return max([await counters.current(connection, _seen(authority_id, scope)) for scope in scopes])


async def note(
    connection: AsyncConnection, authority_id: str, partitions: Sequence[int] | None, number: int, this_update_ms: int
) -> None:
    """Has CRLs of these partitions go on above `number`; None: of all, those made later too."""
    if partitions is None:
        partitions = range((await authorities.get(connection, authority_id)).partitions)
        await restored.raise_floor(connection, _number(authority_id), number)
        await restored.raise_floor(connection, _seen(authority_id, _ALL), this_update_ms)
    else:
        for partition in partitions:
            await restored.raise_floor(connection, _seen(authority_id, partition), this_update_ms)
    for partition in partitions:
        await restored.raise_floor(connection, restored.crl_floor(authority_id, partition), number)


async def opened(connection: AsyncConnection, authority_id: str, partition: int) -> None:
    """A partition that was made just now: its CRLs, too, go on above the imported ones of everything."""
    number = await counters.current(connection, _number(authority_id))
    await restored.raise_floor(connection, restored.crl_floor(authority_id, partition), number)


async def untold(connection: AsyncConnection, authority_id: str, now_ms: int) -> list[str]:
    """Addresses that unexpired imported certificates name, and whose revocations no imported CRL told of."""
    if await counters.current(connection, _seen(authority_id, _ALL)):
        return []
    found = []
    c = table.c
    for point in await crl_points.list_all(connection, authority_id):
        if point.open or await counters.current(connection, _seen(authority_id, point.partition)):
            continue
        mine = (c.authority_id == authority_id) & (c.partition == point.partition) & (c.status_index < 0)
        standing = select(c.id).where(mine, c.certificate != b"", c.not_after_ms > now_ms).limit(1)
        if (await connection.execute(standing)).first() is not None:
            found.append(point.url)
    return found


async def ended(
    connection: AsyncConnection,
    authority_id: str,
    partitions: Sequence[int],
    until_ms: int,
    authorities_only: bool | None,
) -> AsyncIterator[tuple[int, CertificateState, bool]]:
    """Imported certificates that were revoked or on hold at `until_ms` and had not expired: serial, state, whether the
    certificate itself is known (else it may have expired). authorities_only: only those of authorities, or no such."""
    c = table.c
    mine = [c.authority_id == authority_id, c.state != CertificateState.GOOD.value, c.status_index < 0]
    mine += [c.not_after_ms > until_ms, c.revoked_at_ms <= until_ms]
    if authorities_only is not None:
        mine.append(c.usage == "ca" if authorities_only else c.usage != "ca")
    for partition in partitions:
        last = b""
        while True:
            statement = select(c.serial, c.state, c.certificate != b"").where(*mine, c.partition == partition)
            page = (await connection.execute(statement.where(c.serial > last).order_by(c.serial).limit(_PAGE))).all()
            for serial, state, known in page:
                yield int.from_bytes(serial, "big"), CertificateState(state), bool(known)
            if len(page) < _PAGE:
                break
            last = page[-1][0]
