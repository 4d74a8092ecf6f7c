"""What a node does by itself, now and then: OCSP signers get a new certificate before the old one ends, and the store
has room for the certificates of the years to come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from core.clock import to_datetime
from core.errors import QianyanError
from core.model import KeyPurpose
from core.store import authorities, partitions
from service.node import Node, until_stopped
from signer.issuance.ocsp_signer import renew_ocsp_signer

_log = structlog.get_logger("qianyan.maintenance")

_EVERY_S: Final = 3600.0
#: Long enough that a month of failures is seen in the log before an answer is lost.
_WITHIN_DAYS: Final = 30


async def renew_ocsp_signers(node: Node) -> list[str]:
    """Renews what ends within 30 days and returns the authorities whose signer has a new certificate."""
    async with node.database.read() as connection:
        known = await authorities.list_all(connection)
    renewed = []
    for authority in known:
        if authority.ocsp_certificate is None or authority.key_id is None:
            continue
        signer = node.engine.signer(authority.key_id, KeyPurpose.CERTIFICATE)
        settings = node.loaded.settings.issuance
        made = await renew_ocsp_signer(
            node.database,
            signer,
            node.clock,
            "system",
            authority_id=authority.id,
            within_days=_WITHIN_DAYS,
            status_index_oid=settings.status_index_oid,
        )
        if made is not None:
            _log.info("ocsp_signer_renewed", authority=authority.id)
            renewed.append(authority.id)
    return renewed


async def make_room(node: Node) -> list[int]:
    """Makes the store's partitions for this year and the next ones, and returns the years that it made."""
    if not node.database.on_postgres:
        return []
    this_year = to_datetime(node.clock()).year
    ahead = node.database.target.settings.partitions_ahead_years
    async with node.database.write() as connection:
        made = await partitions.make_ahead(connection, this_year, ahead)
    for year in made:
        _log.info("partition_made", year=year)
    return made


class RoomMetrics:
    """How far ahead there is room, on PostgreSQL: what the alert asks about."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.years_ahead = Gauge(
            "qianyan_store_partition_years_ahead",
            "Years after this one that the store has room for certificates in; -1: not even for this one",
            registry=registry,
        )

    async def look(self, node: Node) -> None:
        """Sets it; as far as is asked for, where the store needs no partitions."""
        if not node.database.on_postgres:
            self.years_ahead.set(node.database.target.settings.partitions_ahead_years)
            return
        async with node.database.read() as connection:
            self.years_ahead.set(await partitions.ahead(connection, to_datetime(node.clock()).year))


async def run(node: Node, stop: asyncio.Event) -> None:
    """Looks every hour until `stop`; a failure is logged and tried again."""
    metrics = RoomMetrics(node.registry)
    jobs: tuple[tuple[Callable[[Node], Awaitable[object]], str], ...] = (
        (renew_ocsp_signers, "ocsp_signer_renewal_failed"),
        (make_room, "partition_failed"),
        (metrics.look, "partition_failed"),
    )
    while not stop.is_set():
        for work, failed in jobs:
            try:
                await work(node)
            except QianyanError as error:
                _log.error(failed, code=error.code, detail=error.detail)
        await until_stopped(stop, _EVERY_S)
