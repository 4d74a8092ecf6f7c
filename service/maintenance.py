"""What a node does by itself, now and then: OCSP signers get a new certificate before the old one ends."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from core.errors import QianyanError
from core.model import KeyPurpose
from core.store import authorities
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


async def run(node: Node, stop: asyncio.Event) -> None:
    """Looks every hour until `stop`; a failure is logged and tried again."""
    while not stop.is_set():
        try:
            await renew_ocsp_signers(node)
        except QianyanError as error:
            _log.error("ocsp_signer_renewal_failed", code=error.code, detail=error.detail)
        await until_stopped(stop, _EVERY_S)
