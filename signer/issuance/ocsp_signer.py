"""The delegated OCSP signer of an authority (RFC 6960 §4.2.2.2): made once, renewed in time.

Signs outside transactions, as `issuer` does and for the same reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from core import oids
from core.asn1 import x509 as codec
from core.clock import Clock, from_datetime, to_datetime
from core.errors import Conflict, NotFound, SettingsError
from core.model import KeyPurpose
from core.ports import Signer
from core.store import authorities, certificates, counters, keys
from core.store.database import Database
from signer.issuance import serials, template
from signer.issuance.ceremony import KeyFiles, add_key, put_on_record
from signer.issuance.chain import AuthorityChain, load_chain, require_active
from signer.issuance.hierarchy import ISSUING, encode_name, ocsp_key_id, ocsp_plan, placed
from signer.issuance.lint import Linter
from signer.issuance.rows import new_certificate
from signer.issuance.signing import LocalSigner, sign_certificate
from signer.issuance.template import CertificatePlan, IssuerIdentity

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class DelegateKey:
    """The delegate's key: its id and point, and whether the store is still to learn of it."""

    key_id: str
    public_key: bytes
    new: bool = False


async def ensure_ocsp_signer(
    database: Database,
    keystore: KeyFiles,
    name: Mapping[str, str],
    clock: Clock,
    actor: str,
    *,
    authority_id: str = ISSUING,
    days: int = 365,
    status_index_oid: str = oids.STATUS_INDEX_DEFAULT,
    signer: Signer | None = None,
) -> bytes:
    """The OCSP signer's certificate; made, with its key, where the authority has none yet.

    Signs with the authority's key file, so it is for the command line, not for a running service; or with `signer`,
    where the key is in a device. Raises Refused where the authority waits for its own certificate.
    """
    async with database.read() as connection:
        chain = await load_chain(connection, authority_id)
    if chain.authority.ocsp_certificate is not None:
        return chain.authority.ocsp_certificate
    subject = encode_name(name)
    key = await _ocsp_key(database, keystore, ocsp_key_id(authority_id))
    if signer is None:
        signer = LocalSigner(chain.key_id, await asyncio.to_thread(keystore.load, chain.key_id))
    return await Certification(database, clock, actor, days, status_index_oid).run(chain, subject, key, signer)


async def _ocsp_key(database: Database, keystore: KeyFiles, key_id: str) -> DelegateKey:
    """The OCSP signer's key: new; or that of a run that ended between the key file and the store, never yet used."""
    async with database.read() as connection:
        try:
            await keys.get(connection, key_id)
        except NotFound:
            pass
        else:
            raise SettingsError(f"key {key_id!r} is in the store without a certificate", code="key_exists")
    try:
        made = await asyncio.to_thread(keystore.create, key_id)
    except Conflict:
        made = await asyncio.to_thread(keystore.load, key_id)
    return DelegateKey(key_id, made.public_key.to_bytes(), new=True)


async def renew_ocsp_signer(
    database: Database,
    signer: Signer,
    clock: Clock,
    actor: str,
    *,
    authority_id: str = ISSUING,
    days: int = 365,
    within_days: int = 30,
    status_index_oid: str = oids.STATUS_INDEX_DEFAULT,
) -> bytes | None:
    """A new certificate for the OCSP signer's key where the old one ends `within_days`; None where it does not yet.

    The key stays, so a running service need not load another. `signer` is the authority's (an engine's will do).
    """
    async with database.read() as connection:
        chain = await load_chain(connection, authority_id)
        authority = chain.authority
        if authority.ocsp_certificate is None or authority.ocsp_key_id is None:
            raise NotFound(f"authority {authority_id!r} has no OCSP signer", code="ocsp_signer_missing")
        public_key = (await keys.get(connection, authority.ocsp_key_id)).public_key
    old = codec.load_certificate(authority.ocsp_certificate)
    if from_datetime(old.not_valid_after_utc) - clock() > within_days * _DAY_MS:
        return None
    key = DelegateKey(authority.ocsp_key_id, public_key)
    certification = Certification(database, clock, actor, days, status_index_oid)
    return await certification.run(chain, old.subject.public_bytes(), key, signer)


@dataclass(frozen=True, slots=True)
class Role:
    """What a delegate is certified for: the purpose of its key, its certificate's plan, and where that is set."""

    purpose: KeyPurpose
    plan: Callable[[IssuerIdentity, bytes, bytes, int, datetime, int], CertificatePlan]
    install: Callable[..., Awaitable[None]]


_OCSP: Final = Role(KeyPurpose.OCSP, ocsp_plan, authorities.set_ocsp_signer)


@dataclass(frozen=True, slots=True)
class Certification:
    """One certificate for a delegate's key: reserve, lint and sign, record."""

    database: Database
    clock: Clock
    actor: str
    days: int
    status_index_oid: str
    role: Role = _OCSP

    async def run(self, chain: AuthorityChain, subject: bytes, key: DelegateKey, signer: Signer) -> bytes:
        """The recorded certificate."""
        wanted = await self._reserve(chain, subject, key)
        encoded = await sign_certificate(wanted, signer, chain.authority.public_key, Linter())
        async with self.database.write() as connection:
            at_ms = await counters.advance_time(connection, self.clock())
            await require_active(connection, chain.key_id)
            if key.new:
                await add_key(connection, key.key_id, key.public_key, self.role.purpose, at_ms)
            row = new_certificate(chain.authority, key.key_id, wanted, encoded)
            await certificates.record(connection, row, at_ms=at_ms)
            await self.role.install(connection, chain.authority.id, key.key_id, encoded, at_ms=at_ms)
            await put_on_record(connection, chain.authority.id, key.key_id, wanted, self.actor, at_ms)
        return encoded

    async def _reserve(self, chain: AuthorityChain, subject: bytes, key: DelegateKey) -> CertificatePlan:
        issuer = template.issuer_identity(chain.authority)
        async with self.database.write() as connection:
            now = to_datetime(await counters.advance_time(connection, self.clock()))
            (serial,) = await serials.fresh(connection, issuer.authority_id, 1)
            wanted = self.role.plan(issuer, subject, key.public_key, serial, now, self.days)
            month = template.status_month(wanted.not_after)
            index = await certificates.take_status_index(connection, issuer.authority_id, month)
        return placed(wanted, self.status_index_oid, index)
