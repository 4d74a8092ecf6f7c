"""What the authorities of an installation are to be: names, lives, partitions; and the plans of their certificates.

Values and pure functions; `authority` and `external` carry them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from core import oids
from core.asn1 import x509 as codec
from core.asn1.names import build_name
from core.errors import Refused, SettingsError
from signer.issuance import template
from signer.issuance.settings import check_oid, check_public_url
from signer.issuance.template import CertificatePlan, IssuerIdentity, StatusIndex

ROOT: Final = "root"
ISSUING: Final = "issuing"


def ocsp_key_id(authority_id: str) -> str:
    """The key of an authority's delegated OCSP signer."""
    return f"ocsp-{authority_id}"


@dataclass(frozen=True, slots=True)
class HierarchyPlan:
    """The authorities to create. Names are subject fields by label: {"C": "CN", "O": ..., "CN": ...}.

    root_name is not used where the root is outside. partitions: how many CRLs the issuing authority's certificates are
    spread over; it is fixed for good. public_url: where relying parties reach us; written into every certificate.
    """

    root_name: Mapping[str, str]
    issuing_name: Mapping[str, str]
    ocsp_name: Mapping[str, str]
    public_url: str
    partitions: int = 1
    root_days: int = 7305
    issuing_days: int = 3652
    ocsp_days: int = 365
    status_index_oid: str = oids.STATUS_INDEX_DEFAULT

    def __post_init__(self) -> None:
        """Raises SettingsError where a value is out of bounds."""
        try:
            object.__setattr__(self, "public_url", check_public_url(self.public_url))
            check_oid(self.status_index_oid)
        except ValueError as error:
            raise SettingsError(str(error), code="hierarchy") from error
        if not 1 <= self.partitions <= 65_536:
            raise SettingsError("partitions must be 1 to 65536", code="hierarchy")
        if not 0 < self.ocsp_days <= self.issuing_days <= self.root_days <= 36_525:
            raise SettingsError("lives must not grow from root to OCSP signer, nor pass 100 years", code="hierarchy")


def encode_name(fields: Mapping[str, str]) -> bytes:
    """The DER Name. Raises Refused or Malformed naming the field."""
    return build_name(dict(fields)).public_bytes()


def _end(now: datetime, days: int) -> datetime:
    return now + timedelta(days=days) - timedelta(seconds=1)  # both ends of a validity are included


def root_plan(subject: bytes, public_key: bytes, serial: int, now: datetime, days: int) -> CertificatePlan:
    """A self-signed root."""
    return CertificatePlan(
        usage="ca",
        serial=serial,
        issuer=subject,
        authority_key_identifier=codec.key_identifier(public_key),
        subject=subject,
        public_key=public_key,
        not_before=now,
        not_after=_end(now, days),
        key_usage=template.KEY_CERT_SIGN,
    )


def subordinate_plan(
    issuer: IssuerIdentity, subject: bytes, public_key: bytes, serial: int, now: datetime, plan: HierarchyPlan
) -> CertificatePlan:
    """An issuing authority under `issuer`: no authority may follow it. The status index is still to come."""
    return CertificatePlan(
        usage="ca",
        serial=serial,
        issuer=issuer.subject,
        authority_key_identifier=issuer.key_identifier,
        subject=subject,
        public_key=public_key,
        not_before=now,
        not_after=min(_end(now, plan.issuing_days), issuer.not_after),
        key_usage=template.KEY_CERT_SIGN,
        path_length=0,
        urls=template.urls(plan.public_url, issuer.authority_id, serial % issuer.partitions, ocsp=False),
    )


def set_key_id(authority_id: str) -> str:
    """The key of an authority's delegated signer of status sets."""
    return f"set-{authority_id}"


def set_plan(
    issuer: IssuerIdentity, subject: bytes, public_key: bytes, serial: int, now: datetime, days: int
) -> CertificatePlan:
    """A delegated signer of status sets, as `ocsp_plan` for OCSP; its own status is asked of the set that it signs."""
    plan = ocsp_plan(issuer, subject, public_key, serial, now, days)
    return replace(plan, extended_key_usage=(template.SET_SIGNING,))


def ocsp_plan(
    issuer: IssuerIdentity, subject: bytes, public_key: bytes, serial: int, now: datetime, days: int
) -> CertificatePlan:
    """A delegated OCSP signer (RFC 6960 §4.2.2.2): its own status is not to be checked. The status index is to come.

    Raises Refused where the issuer ends before anything could be signed.
    """
    not_after = min(_end(now, days), issuer.not_after)
    if not_after <= now:
        raise Refused("the issuing authority's certificate has expired", code="issuer_expires")
    return CertificatePlan(
        usage="ocsp",
        serial=serial,
        issuer=issuer.subject,
        authority_key_identifier=issuer.key_identifier,
        subject=subject,
        public_key=public_key,
        not_before=now,
        not_after=not_after,
        key_usage=frozenset({"digital_signature"}),
        extended_key_usage=(template.OCSP_SIGNING,),
    )


def placed(plan: CertificatePlan, oid: str, index: int) -> CertificatePlan:
    """The plan with its status index."""
    return replace(plan, status=StatusIndex(oid, template.status_month(plan.not_after), index))
