"""Whose key a public key is: one that was certified for somebody is certified for nobody else, ever.

Two requests with the same new key at the same time wait for each other. Knows the store; not requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Refused
from core.model import CertificateState, RevocationReason
from core.store import certificates
from core.store.certificates import CertificateRecord
from core.store.upsert import hold_many

_FIELD = "csr.public_key"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants a key certified. `subject`: DER Name."""

    public_key: bytes
    holder_id: str | None
    subject: bytes


async def known_keys(
    connection: AsyncConnection, claims: Sequence[Claim], *, final: bool = False
) -> list[Refused | None]:
    """For each claim, in order, the refusal where a certificate of its key belongs to somebody else, or was revoked for
    the key's compromise.

    Codes "key_of_another", "key_compromised_before". Where either certificate names no holder, its subject (DER) says
    whose it is. final: in the transaction that records the certificates; another one with the same key waits for it.
    """
    if not claims:
        return []
    if final:
        await hold_many(connection, [("public_key", claim.public_key.hex()) for claim in claims])
    known = await certificates.with_public_keys(connection, [claim.public_key for claim in claims])
    return [_refusal(known.get(claim.public_key, ()), claim) for claim in claims]


def _refusal(known: Sequence[CertificateRecord], claim: Claim) -> Refused | None:
    for one in known:
        if one.state is CertificateState.REVOKED and one.reason is RevocationReason.KEY_COMPROMISE:
            return Refused(
                "that key was reported compromised; make a new one", code="key_compromised_before", field=_FIELD
            )
        if not _same_holder(one, claim.holder_id, claim.subject):
            return Refused("that key is certified for another holder", code="key_of_another", field=_FIELD)
    return None


def _same_holder(known: CertificateRecord, holder_id: str | None, subject: bytes) -> bool:
    if known.holder_id is not None and holder_id is not None:
        return known.holder_id == holder_id
    return known.subject == subject
