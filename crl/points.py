"""Settles where a partition's CRL is, once: as its CRLs and certificates say already, else under `public_url`."""

from __future__ import annotations

from core.asn1 import der
from core.asn1.distribution import crl_url
from core.errors import Malformed
from core.store import authorities, crl_points, crls
from core.store.crl_points import CrlPoint
from core.store.database import Database
from crl.view import distribution_points, read_crl


async def settled(database: Database, scope: tuple[str, int], public_url: str) -> CrlPoint:
    """The partition's point, settled now where it was not. Raises Unavailable."""
    async with database.read() as connection:
        found = await crl_points.find(connection, *scope)
        if found is not None:
            return found
        newest = await crls.latest(connection, *scope)
        certificate = await crl_points.any_certificate(connection, *scope)
    url = None if newest is None else read_crl(newest.crl).idp_url
    if url is None and certificate:
        url = _only_uri(distribution_points(certificate))
    async with database.write() as connection:
        return await crl_points.settle(connection, *scope, url or crl_url(public_url, *scope))


async def settle_all(database: Database, authority_id: str, public_url: str) -> None:
    """Settles every partition that an authority has. Raises NotFound; Unavailable."""
    async with database.read() as connection:
        count = (await authorities.get(connection, authority_id)).partitions
    for partition in range(count):
        await settled(database, (authority_id, partition), public_url)


def _only_uri(names: list[bytes] | None) -> str | None:
    if not names or len(names) != 1:
        return None
    try:
        full = der.Reader(names[0]).enter(der.context(0)).enter(der.context(0))
        uri = full.take(0x86).decode("ascii")
        return None if full else uri
    except (Malformed, UnicodeDecodeError):
        return None
