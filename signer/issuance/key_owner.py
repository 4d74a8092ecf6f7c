"""Whose key a public key is: one that was certified for somebody is certified for nobody else, ever.

Two requests with the same new key at the same time wait for each other. Knows the store; not requests.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Refused
from core.model import CertificateState, RevocationReason
from core.store import certificates
from core.store.certificates import CertificateRecord
from core.store.upsert import hold

_FIELD = "csr.public_key"


async def refuse_known_key(
    connection: AsyncConnection, public_key: bytes, holder_id: str | None, subject: bytes, *, final: bool = False
) -> None:
    """Raises Refused where a certificate of this key belongs to somebody else, or was revoked for its compromise.

    Codes "key_of_another", "key_compromised_before". Where either certificate names no holder, its subject (DER) says
    whose it is. final: in the transaction that records the certificate; another one with the same key waits for it.
    """
    if final:
        await hold(connection, "public_key", public_key.hex())
    for known in await certificates.with_public_key(connection, public_key):
        if known.state is CertificateState.REVOKED and known.reason is RevocationReason.KEY_COMPROMISE:
            raise Refused(
                "that key was reported compromised; make a new one", code="key_compromised_before", field=_FIELD
            )
        if not _same_holder(known, holder_id, subject):
            raise Refused("that key is certified for another holder", code="key_of_another", field=_FIELD)


def _same_holder(known: CertificateRecord, holder_id: str | None, subject: bytes) -> bool:
    if known.holder_id is not None and holder_id is not None:
        return known.holder_id == holder_id
    return known.subject == subject
