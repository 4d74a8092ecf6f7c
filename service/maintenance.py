"""What a node does by itself, now and then: OCSP signers get a new certificate before the old one ends, the store has
room for the certificates of the years to come, and signed requests that were kept long enough are retired."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge

from core.asn1.x509 import load_certificate
from core.clock import from_datetime, to_datetime
from core.errors import QianyanError
from core.model import KeyPurpose
from core.store import authorities, partitions
from core.store.authorities import Authority
from service import request_retention
from service.node import Node, until_stopped
from service.request_retention import Retired, Wish
from signer.issuance.ocsp_signer import renew_ocsp_signer
from signer.issuance.set_signer import renew_set_signer

_log = structlog.get_logger("qianyan.maintenance")

_EVERY_S: Final = 3600.0
#: Long enough that a month of failures is seen in the log before an answer is lost.
_WITHIN_DAYS: Final = 30
_DAY_MS: Final = 86_400_000


async def renew_ocsp_signers(node: Node) -> list[str]:
    """Renews what ends within 30 days and returns the authorities whose signer has a new certificate.

    One that cannot be renewed is logged and keeps none of the others from it. Raises Unavailable.
    """
    return await _renew(node, "ocsp_signer", lambda authority: authority.ocsp_certificate, renew_ocsp_signer)


async def renew_set_signers(node: Node) -> list[str]:
    """The same for the signers of status sets, of authorities whose key is here."""
    return await _renew(node, "set_signer", lambda authority: authority.set_certificate, renew_set_signer)


async def _renew(
    node: Node,
    role: str,
    certificate_of: Callable[[Authority], bytes | None],
    renew: Callable[..., Awaitable[bytes | None]],
) -> list[str]:
    async with node.database.read() as connection:
        known = await authorities.list_all(connection)
    renewed = []
    for authority in known:
        certificate = certificate_of(authority)
        if authority.key_id is None or certificate is None or _lasts(certificate, authority, node.clock()):
            continue
        try:
            made = await renew(
                node.database,
                node.engine.signer(authority.key_id, KeyPurpose.CERTIFICATE),
                node.clock,
                "system",
                authority_id=authority.id,
                within_days=_WITHIN_DAYS,
                status_index_oid=node.loaded.settings.issuance.status_index_oid,
            )
        except QianyanError as error:
            _log.error(f"{role}_renewal_failed", authority=authority.id, code=error.code, detail=error.detail)
            continue
        if made is not None:
            _log.info(f"{role}_renewed", authority=authority.id)
            renewed.append(authority.id)
    return renewed


def _lasts(certificate: bytes, authority: Authority, now_ms: int) -> bool:
    """Whether a signer's certificate needs no successor: its authority has ended, or ends with it."""
    if authority.certificate is None:
        return True
    end, signer_end = (
        from_datetime(load_certificate(one).not_valid_after_utc) for one in (authority.certificate, certificate)
    )
    return end <= now_ms or signer_end >= end


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


class RequestRetirement:
    """Retires signed requests once a day, where the settings say so."""

    def __init__(self) -> None:
        self._next_ms = 0

    async def retire(self, node: Node) -> Retired | None:
        """What went; None where it is not time, or everything is to be kept."""
        settings = node.loaded.settings.retention
        if settings.requests == "keep" or node.clock() < self._next_ms:
            return None
        directory = None
        if settings.requests == "archive":
            assert settings.requests_archive is not None
            directory = node.loaded.path(settings.requests_archive)
        done = await request_retention.retire(node.database, Wish(settings, "system", directory), node.clock)
        self._next_ms = node.clock() + _DAY_MS
        if done.requests or done.issued:
            _log.info("requests_retired", requests=done.requests, messages=done.messages, issued=done.issued)
        return done


async def note_replication(node: Node) -> None:
    """Warns where there is a standby that nobody waits for: a fail-over to it can lose what was answered."""
    found = await node.database.replication()
    if found is not None and found.standbys and not found.synchronous:
        _log.warning("standbys_not_synchronous", standbys=found.standbys, see="docs/operations.md")


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
    retirement = RequestRetirement()
    jobs: tuple[tuple[Callable[[Node], Awaitable[object]], str], ...] = (
        (renew_ocsp_signers, "ocsp_signer_renewal_failed"),
        (renew_set_signers, "set_signer_renewal_failed"),
        (make_room, "partition_failed"),
        (note_replication, "replication_unknown"),
        (metrics.look, "partition_failed"),
        (retirement.retire, "requests_not_retired"),
    )
    while not stop.is_set():
        for work, failed in jobs:
            try:
                await work(node)
            except QianyanError as error:
                _log.error(failed, code=error.code, detail=error.detail)
            except OSError as error:  # of an archive's directory
                _log.error(failed, code="disk", detail=error.strerror)
        await until_stopped(stop, _EVERY_S)
