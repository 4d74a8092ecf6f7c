"""Where each partition's CRL is, and which partitions take new certificates.

A partition's address is written once and never changes: it stands in its certificates (CRLDP) and in its CRLs (IDP),
byte for byte the same, whatever `public_url` becomes later. A partition is opened at any time and never goes away; one
that is closed takes no new certificates, and its CRL goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.distribution import crl_url
from core.errors import Refused
from core.store import authorities, feed
from core.store.authorities import Authority
from core.store.schema import authorities as authorities_table
from core.store.schema import certificates, crl_points
from core.store.upsert import upsert

#: How many partitions an authority may have.
MOST = 65_536


@dataclass(frozen=True, slots=True)
class CrlPoint:
    """Where the full CRL of a partition is. `open`: whether new certificates go there."""

    partition: int
    url: str
    open: bool


async def find(connection: AsyncConnection, authority_id: str, partition: int) -> CrlPoint | None:
    """The point of a partition; None where it was not settled yet."""
    c = crl_points.c
    statement = select(c.partition, c.url, c.open).where(c.authority_id == authority_id, c.partition == partition)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else CrlPoint(*row)


async def list_all(connection: AsyncConnection, authority_id: str) -> list[CrlPoint]:
    """The points that are settled, by partition."""
    c = crl_points.c
    statement = select(c.partition, c.url, c.open).where(c.authority_id == authority_id).order_by(c.partition)
    return [CrlPoint(*row) for row in await connection.execute(statement)]


async def settle(connection: AsyncConnection, authority_id: str, partition: int, url: str) -> CrlPoint:
    """Writes where a partition's CRL is, unless that is settled already; returns what is settled."""
    row = {"authority_id": authority_id, "partition": partition, "url": url, "open": True}
    await connection.execute(upsert(connection, crl_points).values(**row).on_conflict_do_nothing())
    found = await find(connection, authority_id, partition)
    assert found is not None
    return found


async def choose(connection: AsyncConnection, authority: Authority, serial: int, public_url: str) -> CrlPoint:
    """The point of a new certificate: by its serial, among the partitions that are open.

    One that is not settled yet is settled under `public_url`. To be called in the transaction that gives the serial.
    """
    points = await load(connection, authority)
    return await points.choose(connection, serial, public_url)


@dataclass(frozen=True, slots=True)
class Points:
    """An authority's points as a transaction found them, to choose among for many certificates.

    settled: by partition. opened: the partitions that take new certificates, settled or not.
    """

    authority_id: str
    settled: dict[int, CrlPoint]
    opened: Sequence[int]

    async def choose(self, connection: AsyncConnection, serial: int, public_url: str) -> CrlPoint:
        """As `choose`, in the same transaction; no statement where the point is settled."""
        partition = self.opened[serial % len(self.opened)]
        if partition not in self.settled:
            url = crl_url(public_url, self.authority_id, partition)
            self.settled[partition] = await settle(connection, self.authority_id, partition, url)
        return self.settled[partition]


async def load(connection: AsyncConnection, authority: Authority) -> Points:
    """The points of an authority."""
    settled = {point.partition: point for point in await list_all(connection, authority.id)}
    opened = [p for p in range(authority.partitions) if p not in settled or settled[p].open]
    return Points(authority.id, settled, opened)


async def open_first(
    connection: AsyncConnection, authority_id: str, count: int, public_url: str, *, at_ms: int
) -> list[CrlPoint]:
    """Has new certificates go to the partitions 0 to `count` - 1; opens new ones as needed, closes the others.

    Certificates stay in the partition that they were issued in. Raises NotFound; Refused (code "partitions").
    """
    if not 1 <= count <= MOST:
        raise Refused(f"an authority has 1 to {MOST} open partitions", code="partitions", field="count")
    authority = await authorities.get(connection, authority_id)
    for partition in range(max(count, authority.partitions)):
        await settle(connection, authority_id, partition, crl_url(public_url, authority_id, partition))
    c = crl_points.c
    opened = case((c.partition < count, True), else_=False)
    await connection.execute(update(crl_points).where(c.authority_id == authority_id).values(open=opened))
    if count > authority.partitions:
        a = authorities_table.c
        await connection.execute(update(authorities_table).where(a.id == authority_id).values(partitions=count))
    await feed.append(connection, [feed.FeedChange("authority", authority_id)], at_ms=at_ms)
    return await list_all(connection, authority_id)


async def any_certificate(connection: AsyncConnection, authority_id: str, partition: int) -> bytes | None:
    """Some certificate of a partition, DER; None where it has none."""
    c = certificates.c
    statement = select(c.certificate).where(c.authority_id == authority_id, c.partition == partition).limit(1)
    found = (await connection.execute(statement)).scalar_one_or_none()
    return None if found is None else bytes(found)
