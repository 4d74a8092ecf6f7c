"""Makes authorities: root, issuing authority, delegated OCSP signer.

Key files are written first, then one transaction records keys, authorities, certificates and audit. So an init that
died midway has key files and a store without authorities, and is told so; a finished one has both, and is refused.
Nothing here runs as a side effect of serving. Offers what `external` (R-13) and `ocsp_signer` do as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import Clock, to_datetime
from core.model import KeyPurpose
from core.store import authorities, certificates, counters
from core.store.authorities import Authority
from core.store.database import Database
from signer.issuance import serials, template
from signer.issuance.ceremony import KeyFiles, add_key, create_keys, put_on_record, require_empty
from signer.issuance.external import create_external, export_request, install_certificate
from signer.issuance.hierarchy import (
    ISSUING,
    ROOT,
    HierarchyPlan,
    encode_name,
    ocsp_key_id,
    ocsp_plan,
    placed,
    root_plan,
    subordinate_plan,
)
from signer.issuance.lint import Linter
from signer.issuance.ocsp_signer import ensure_ocsp_signer, renew_ocsp_signer
from signer.issuance.rows import new_certificate
from signer.issuance.signing import LocalSigner, sign_certificate
from signer.issuance.template import CertificatePlan, StatusIndex

__all__ = [
    "Hierarchy",
    "HierarchyPlan",
    "create_external",
    "create_hierarchy",
    "ensure_ocsp_signer",
    "export_request",
    "install_certificate",
    "renew_ocsp_signer",
]


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The certificates that were made, DER."""

    root: bytes
    issuing: bytes
    ocsp: bytes


async def create_hierarchy(
    database: Database, keystore: KeyFiles, plan: HierarchyPlan, clock: Clock, actor: str
) -> Hierarchy:
    """Makes root, issuing authority and OCSP signer. Raises SettingsError where there are authorities already."""
    names = [encode_name(name) for name in (plan.root_name, plan.issuing_name, plan.ocsp_name)]
    await require_empty(database)
    made = await create_keys(keystore, [ROOT, ISSUING, ocsp_key_id(ISSUING)])
    root_key, issuing_key, ocsp_key = made
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        for key in made:
            purpose = KeyPurpose.OCSP if key is ocsp_key else KeyPurpose.CERTIFICATE
            await add_key(connection, key.key_id, key.public_key, purpose, at_ms)
        ceremony = _Ceremony(connection, plan, at_ms, actor)
        root = await ceremony.root(names[0], root_key)
        issuing = await ceremony.issuing(root, names[1], root_key, issuing_key)
        ocsp = await ceremony.ocsp(issuing, names[2], issuing_key, ocsp_key)
    assert root.certificate is not None
    assert issuing.certificate is not None
    return Hierarchy(root.certificate, issuing.certificate, ocsp)


class _Ceremony:
    """One transaction's making of authorities, with keys at hand."""

    def __init__(self, connection: AsyncConnection, plan: HierarchyPlan, at_ms: int, actor: str) -> None:
        self._connection = connection
        self._plan = plan
        self._at_ms = at_ms
        self._now = to_datetime(at_ms)
        self._actor = actor
        self._linter = Linter()

    async def root(self, subject: bytes, key: LocalSigner) -> Authority:
        """The self-signed root, recorded. It carries no status index: nobody above it could revoke it."""
        wanted = root_plan(subject, key.public_key, serials.draw(), self._now, self._plan.root_days)
        encoded = await sign_certificate(wanted, key, key.public_key, self._linter)
        root = Authority(ROOT, None, key.key_id, subject, key.public_key, encoded, None, None, 1, self._at_ms)
        await authorities.add(self._connection, root)
        month = template.status_month(wanted.not_after)
        index = await certificates.take_status_index(self._connection, ROOT, month)
        place = StatusIndex(self._plan.status_index_oid, month, index)
        row = new_certificate(root, ROOT, wanted, encoded, place=place)
        await certificates.record(self._connection, row, at_ms=self._at_ms)
        await self._on_record(ROOT, ROOT, wanted)
        return root

    async def issuing(self, root: Authority, subject: bytes, by: LocalSigner, key: LocalSigner) -> Authority:
        """The issuing authority under the root, recorded."""
        issuer = template.issuer_identity(root)
        wanted = subordinate_plan(issuer, subject, key.public_key, serials.draw(), self._now, self._plan)
        wanted, encoded = await self._certify(root, ISSUING, wanted, by)
        partitions = self._plan.partitions
        authority = Authority(
            ISSUING, ROOT, key.key_id, subject, key.public_key, encoded, None, None, partitions, self._at_ms
        )
        await authorities.add(self._connection, authority)
        await self._on_record(ROOT, ISSUING, wanted)
        return authority

    async def ocsp(self, issuing: Authority, subject: bytes, by: LocalSigner, key: LocalSigner) -> bytes:
        """The OCSP signer of `issuing`, recorded; its certificate."""
        issuer = template.issuer_identity(issuing)
        wanted = ocsp_plan(issuer, subject, key.public_key, serials.draw(), self._now, self._plan.ocsp_days)
        wanted, encoded = await self._certify(issuing, key.key_id, wanted, by)
        await authorities.set_ocsp_signer(self._connection, issuing.id, key.key_id, encoded, at_ms=self._at_ms)
        await self._on_record(issuing.id, key.key_id, wanted)
        return encoded

    async def _certify(
        self, by: Authority, profile: str, wanted: CertificatePlan, signer: LocalSigner
    ) -> tuple[CertificatePlan, bytes]:
        month = template.status_month(wanted.not_after)
        index = await certificates.take_status_index(self._connection, by.id, month)
        wanted = placed(wanted, self._plan.status_index_oid, index)
        encoded = await sign_certificate(wanted, signer, by.public_key, self._linter)
        row = new_certificate(by, profile, wanted, encoded)
        await certificates.record(self._connection, row, at_ms=self._at_ms)
        return wanted, encoded

    async def _on_record(self, issuer_id: str, subject_id: str, wanted: CertificatePlan) -> None:
        await put_on_record(self._connection, issuer_id, subject_id, wanted, self._actor, self._at_ms)
