"""The delegated signer of an authority's status sets (docs/status-set.md): the authority's own key may stay away then.

Its key is made as any other (`SigningEngine.create_key`, purpose status_set); here it gets its certificates, the first
and, in time, the next. Signs outside transactions, as `ocsp_signer` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from core import oids
from core.asn1 import x509 as codec
from core.audit import AuditEvent
from core.clock import Clock, from_datetime
from core.errors import NotFound, Refused
from core.model import KeyPurpose
from core.ports import Signer
from core.store import audit, authorities, counters, keys
from core.store.database import Database
from signer.issuance.chain import load_chain
from signer.issuance.hierarchy import encode_name, set_key_id, set_plan
from signer.issuance.ocsp_signer import Certification, DelegateKey, Role

_DAY_MS: Final = 86_400_000
_ROLE: Final = Role(KeyPurpose.STATUS_SET, set_plan, authorities.set_set_signer)


async def certify_set_signer(
    database: Database,
    signer: Signer,
    clock: Clock,
    actor: str,
    *,
    authority_id: str,
    name: Mapping[str, str],
    days: int = 365,
    status_index_oid: str = oids.STATUS_INDEX_DEFAULT,
) -> bytes:
    """A certificate for the key `set_key_id(authority_id)`, with which sets are signed from now on. `signer`: the
    authority's. Raises NotFound (code "key_unknown"); Refused, also where the key is of another purpose."""
    async with database.read() as connection:
        chain = await load_chain(connection, authority_id)
        key = await keys.get(connection, set_key_id(authority_id))
    if key.purpose is not KeyPurpose.STATUS_SET:
        raise Refused(f"key {key.id!r} is not for status sets", code="key_purpose")
    certification = Certification(database, clock, actor, days, status_index_oid, _ROLE)
    return await certification.run(chain, encode_name(name), DelegateKey(key.id, key.public_key), signer)


async def renew_set_signer(
    database: Database,
    signer: Signer,
    clock: Clock,
    actor: str,
    *,
    authority_id: str,
    days: int = 365,
    within_days: int = 30,
    status_index_oid: str = oids.STATUS_INDEX_DEFAULT,
) -> bytes | None:
    """A new certificate for the same key where the old one ends `within_days`; None where it does not yet.

    Raises NotFound (code "set_signer_missing") where the authority signs its sets itself.
    """
    async with database.read() as connection:
        chain = await load_chain(connection, authority_id)
        authority = chain.authority
        if authority.set_certificate is None or authority.set_key_id is None:
            raise NotFound(f"authority {authority_id!r} signs its status sets itself", code="set_signer_missing")
        public_key = (await keys.get(connection, authority.set_key_id)).public_key
    old = codec.load_certificate(authority.set_certificate)
    if from_datetime(old.not_valid_after_utc) - clock() > within_days * _DAY_MS:
        return None
    key = DelegateKey(authority.set_key_id, public_key)
    certification = Certification(database, clock, actor, days, status_index_oid, _ROLE)
    return await certification.run(chain, old.subject.public_bytes(), key, signer)


async def remove_set_signer(database: Database, clock: Clock, actor: str, *, authority_id: str) -> None:
    """The authority signs its sets itself again. Raises NotFound (code "authority_unknown", "set_signer_missing")."""
    async with database.write() as connection:
        authority = await authorities.get(connection, authority_id)
        if authority.set_certificate is None:
            raise NotFound(f"authority {authority_id!r} signs its status sets itself", code="set_signer_missing")
        at_ms = await counters.advance_time(connection, clock())
        await authorities.set_set_signer(connection, authority_id, None, None, at_ms=at_ms)
        await audit.append(connection, AuditEvent(actor, "authority.set_signer_removed", authority_id), at_ms=at_ms)
