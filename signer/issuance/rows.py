"""A signed certificate as the store keeps it, and how the audit record and the outbox name it."""

from __future__ import annotations

from core.asn1.names import region_of
from core.clock import from_datetime
from core.model import serial_to_hex
from core.store.authorities import Authority
from core.store.certificates import NewCertificate
from signer.issuance.template import CertificatePlan, StatusIndex


def new_certificate(
    authority: Authority,
    profile: str,
    plan: CertificatePlan,
    encoded: bytes,
    *,
    place: StatusIndex | None = None,
    holder_id: str | None = None,
    ra: str = "",
    customer: str = "",
    region: str | None = None,
) -> NewCertificate:
    """The row. `place`: the status index of a certificate that does not carry its own (a root's).

    ra, customer: what statistics count it under; the region is the subject's, or given where it was read already.
    """
    place = place or plan.status
    if place is None:
        raise ValueError("a certificate in the store has a status index")
    return NewCertificate(
        authority_id=authority.id,
        serial=plan.serial,
        usage=plan.usage,
        profile=profile,
        subject=plan.subject,
        public_key=plan.public_key,
        not_before_ms=from_datetime(plan.not_before),
        not_after_ms=from_datetime(plan.not_after),
        partition=plan.serial % authority.partitions if plan.partition is None else plan.partition,
        status_month=place.month,
        status_index=place.index,
        certificate=encoded,
        holder_id=holder_id,
        region=region_of(plan.subject) if region is None else region,
        ra=ra,
        customer=customer,
    )


def reference(authority_id: str, serial: int) -> str:
    """`AUTHORITY/SERIAL`, the serial in hex."""
    return f"{authority_id}/{serial_to_hex(serial)}"
