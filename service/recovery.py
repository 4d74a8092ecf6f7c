"""What a restored store gets back from what was published: revocations from CRLs, certificates from themselves.

Takes nothing on trust: a CRL and a certificate count where one of the store's authorities signed them. Brings
certificates to a stricter state and never to a milder one. Knows the store's rows and the formats; not how files come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1 import der
from core.asn1.x509 import certificate_der, load_certificate, public_key_of_certificate, split_signed
from core.audit import AuditEvent
from core.clock import from_datetime
from core.errors import Malformed, Refused
from core.model import CertificateState, RevocationReason, serial_to_hex
from core.store import audit, certificates, outbox, restored, status_sets
from core.store.authorities import Authority
from core.store.certificates import NewCertificate
from signer.engine.verify import verify_signature

#: What a certificate is said to be of where the profile that it was made by is not known any more.
PROFILE: Final = "recovered"


@dataclass(frozen=True, slots=True)
class Listed:
    """A CRL that was published in the lost time. `entries`: serial → (reason, time of revocation)."""

    authority: Authority
    partition: int
    number: int
    entries: dict[int, tuple[RevocationReason, int]]


@dataclass(slots=True)
class Recovered:
    """What came back. `unknown`: serials on the CRLs of certificates that the store does not have."""

    recorded: int = 0
    revoked: int = 0
    unknown: list[str] = field(default_factory=list)


def _issuer(known: Sequence[Authority], name: bytes, signed: bytes, what: str) -> Authority:
    """The authority that signed it. Raises Refused."""
    trouble = Refused(f"{what} is of an authority that this store does not have", code="recovered_issuer")
    parts = split_signed(signed)
    for authority in known:
        if authority.subject == name:  # several may have the name, each with a key of its own
            try:
                verify_signature(authority.public_key, parts.tbs, parts.signature)
            except Refused as error:
                trouble = error
            else:
                return authority
    raise trouble


def _partition(url: str, authority: Authority) -> int:
    """The partition that a CRL's address names."""
    partition = int(url.rpartition("/")[2].partition(".")[0].partition("-")[0])
    if not 0 <= partition < authority.partitions:
        raise ValueError(f"there is no partition {partition}")
    return partition


def read_crl(content: bytes, known: Sequence[Authority], what: str) -> Listed:
    """A full CRL, DER, of one of our authorities. Raises Refused; `what` is what it is called in the message."""
    try:
        crl = x509.load_der_x509_crl(content)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value.full_name or []
        authority = _issuer(known, crl.issuer.public_bytes(), content, what)
        partition = _partition(str(point[0].value), authority)
        entries = {entry.serial_number: _entry(entry) for entry in crl}
    except (Malformed, ValueError, IndexError, x509.ExtensionNotFound) as error:
        raise Refused(f"{what} is no CRL of ours in DER: {error}", code="recovered_crl") from error
    return Listed(authority, partition, number, entries)


def _entry(entry: x509.RevokedCertificate) -> tuple[RevocationReason, int]:
    try:
        flag = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        flag = x509.ReasonFlags.unspecified
    labels = {reason.name.replace("_", "").lower(): reason for reason in RevocationReason}
    reason = labels.get(flag.value.lower(), RevocationReason.UNSPECIFIED)
    return reason, from_datetime(entry.revocation_date_utc)


def read_certificate(content: bytes, known: Sequence[Authority], index_oid: str, what: str) -> NewCertificate:
    """A certificate, DER or PEM, that one of our authorities issued, as a row. Raises Refused.

    index_oid: the extension that carries its status index (`issuance.status_index_oid`).
    """
    try:
        certificate = load_certificate(content)
        encoded = certificate_der(certificate)
        authority = _issuer(known, certificate.issuer.public_bytes(), encoded, what)
        extensions = certificate.extensions
        place = next(e.value.public_bytes() for e in extensions if e.oid.dotted_string == index_oid)
        numbers = der.Reader(place).enter(0x30)
        month, index = numbers.integer(), numbers.integer()
        points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        partition = _partition(str((points[0].full_name or [])[0].value), authority)
        signs = extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except (Malformed, ValueError, IndexError, StopIteration, x509.ExtensionNotFound) as error:
        raise Refused(f"{what} is no holder's certificate of ours: {error}", code="recovered_certificate") from error
    return NewCertificate(
        authority_id=authority.id,
        serial=certificate.serial_number,
        usage="sign" if signs else "encrypt",
        profile=PROFILE,
        subject=certificate.subject.public_bytes(),
        public_key=public_key_of_certificate(encoded),
        not_before_ms=from_datetime(certificate.not_valid_before_utc),
        not_after_ms=from_datetime(certificate.not_valid_after_utc),
        partition=partition,
        status_month=month,
        status_index=index,
        certificate=encoded,
    )


async def record_again(
    connection: AsyncConnection, found: Sequence[NewCertificate], recovered: Recovered, *, actor: str, now_ms: int
) -> None:
    """Records certificates that the store does not have, each for itself.

    Raises Refused where one has an index past those that were skipped: more were issued than was said.
    """
    for new in found:
        (status,) = await certificates.statuses(connection, new.authority_id, [new.serial])
        if status.state is not None:
            continue
        spaces = await status_sets.spaces(connection, new.authority_id)
        if new.status_index >= spaces.get(new.status_month, (0, 0))[1]:
            raise Refused(
                f"certificate {serial_to_hex(new.serial)} has status index {new.status_index}: more were issued than "
                "--issued-at-most says",
                code="recovered_index",
            )
        await certificates.record(connection, new, at_ms=now_ms)
        subject = f"{new.authority_id}/{serial_to_hex(new.serial)}"
        await outbox.put(connection, "certificate", subject, at_ms=now_ms)
        await audit.append(connection, AuditEvent(actor, "store.recorded_again", subject), at_ms=now_ms)
        recovered.recorded += 1


async def revoke_again(
    connection: AsyncConnection, listed: Listed, recovered: Recovered, *, actor: str, now_ms: int
) -> None:
    """Brings every certificate of the list to where the list has it, with its time and reason; lifts the floor."""
    authority_id = listed.authority.id
    floor = restored.crl_floor(authority_id, listed.partition)
    await restored.raise_floor(connection, floor, listed.number)
    for status in await certificates.statuses(connection, authority_id, list(listed.entries)):
        reason, revoked_at_ms = listed.entries[status.serial]
        subject = f"{authority_id}/{serial_to_hex(status.serial)}"
        if status.state is None:
            recovered.unknown.append(serial_to_hex(status.serial))
            continue
        held = status.state is CertificateState.HELD and reason is RevocationReason.CERTIFICATE_HOLD
        if status.state is CertificateState.REVOKED or held:
            continue
        record = await certificates.find(connection, status.serial, authority_id)
        await certificates.revoke(connection, record, reason, at_ms=revoked_at_ms)
        detail: dict[str, str | int] = {
            "reason": int(reason),
            "revoked_at_ms": revoked_at_ms,
            "from_crl": listed.number,
        }
        await outbox.put(connection, "certificate", subject, at_ms=now_ms)
        await audit.append(connection, AuditEvent(actor, "store.revoked_again", subject, detail=detail), at_ms=now_ms)
        recovered.revoked += 1
