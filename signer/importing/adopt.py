"""Takes an authority over that issued elsewhere, and lets its status be served when everything of it is there.

Until `finish` the authority waits for its certificate, as one does whose root is outside: nobody answers for it, no CRL
and no status set is made, so that a certificate whose revocation is still to be imported is never called good. Knows
the store's rows and certificates; keys come as signers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from core.asn1 import der
from core.asn1 import x509 as codec
from core.audit import AuditEvent
from core.clock import Clock, from_datetime
from core.errors import Conflict, QianyanError, Refused
from core.model import KeyPurpose, KeyState
from core.ports import Signer
from core.store import audit, authorities, counters, import_crls, imports, keys
from core.store.authorities import Authority
from core.store.database import Database
from core.store.imports import Adopted, Job
from core.store.keys import KeyRecord
from signer.engine.verify import verify_signature
from signer.importing.checks import Issuer
from signer.issuance.external import read_authority
from signer.issuance.hierarchy import ocsp_key_id
from signer.issuance.signing import sign_message


@dataclass(frozen=True, slots=True)
class Key:
    """The authority's key that is here. new: whether the store is still to learn of it (its file was just written)."""

    key_id: str
    public_key: bytes
    new: bool


async def adopt(
    database: Database,
    authority_id: str,
    certificate: bytes,
    chain: Sequence[bytes],
    key: Key | None,
    clock: Clock,
    actor: str,
) -> Authority:
    """Records the authority, waiting. key: None where its key stays elsewhere and only its status comes here.

    Raises Malformed, Refused (field `certificate`, `chain.N`, `key`); Conflict where there is such an authority.
    """
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        (encoded, subject, public_key), *above = read_authority(certificate, chain, at_ms)
        if key is not None and key.public_key != public_key:
            raise Refused("the key is not the one in the authority's certificate", code="key_pair", field="key")
        known = await authorities.list_all(connection)
        for one in known:
            if one.id == authority_id or one.public_key == public_key:
                raise Conflict(f"the authority is there already, as {one.id!r}", code="authority_exists")
        parent: str | None = None
        for number, (upper, name, point) in reversed(list(enumerate(above, 1))):
            there = next((one.id for one in known if one.certificate == upper), None)
            if there is None:
                there = f"{authority_id[:22]}-upper-{number}"
                row = Authority(there, parent, None, name, point, upper, None, None, 1, at_ms)
                await authorities.add(connection, row)
            parent = there
        if key is not None and key.new:
            record = KeyRecord(
                key.key_id, KeyPurpose.CERTIFICATE, KeyState.ACTIVE, public_key, "authority", at_ms, at_ms
            )
            await keys.add(connection, record)
        key_id = None if key is None else key.key_id
        authority = Authority(authority_id, parent, key_id, subject, public_key, None, None, None, 1, at_ms)
        await authorities.add(connection, authority)
        await imports.adopt(connection, Adopted(authority_id, encoded, None), at_ms=at_ms)
        event = AuditEvent(actor, "import.authority", authority_id, detail={"key": key_id or "elsewhere"})
        await audit.append(connection, event, at_ms=at_ms)
    return authority


async def finish(
    database: Database,
    authority_id: str,
    clock: Clock,
    actor: str,
    *,
    cutoff_s: int | None = None,
    without_crl: bool = False,
    accept_refused: bool = False,
) -> int:
    """Lets the authority's status be served, and says that all its certificates of before the cutoff are there.

    cutoff_s: notBefore in seconds since 1970; None: the one behind the last that was imported. Returns it. May be
    called again after later imports. Raises Refused (code "import_running", "import_no_crl", "import_refused");
    NotFound; Conflict.
    """
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        adopted = await imports.adopted(connection, authority_id)
        jobs = await imports.list_all(connection, authority_id)
        _check_whole(jobs, without_crl, accept_refused)
        if not without_crl and (untold := await import_crls.untold(connection, authority_id, at_ms)):
            raise Refused(
                f"certificates name a CRL at {untold[0]} ({len(untold)} such addresses) and it was not imported: what "
                "it lists would be called good; import it, or say --without-crl where nothing is on it",
                code="import_no_crl",
            )
        last_ms = await imports.latest_not_before_ms(connection, authority_id)
        cutoff = cutoff_s if cutoff_s is not None else (at_ms if last_ms is None else last_ms) // 1000 + 1
        cutoff = max(cutoff, adopted.cutoff_s or 0)
        authority = await authorities.get(connection, authority_id)
        if authority.certificate is None:
            await authorities.install_certificate(connection, authority_id, adopted.certificate, at_ms=at_ms)
        await imports.close(connection, authority_id, cutoff, at_ms=at_ms)
        event = AuditEvent(actor, "import.finish", authority_id, detail={"cutoff_s": cutoff, "imports": len(jobs)})
        await audit.append(connection, event, at_ms=at_ms)
    return cutoff


def _check_whole(jobs: Sequence[Job], without_crl: bool, accept_refused: bool) -> None:
    """Raises Refused where a revocation can be missing."""
    running = [job.id for job in jobs if job.state == "running"]
    if running:
        raise Refused(f"import {running[0]} has not ended; give its command again", code="import_running")
    if not without_crl and not any(job.kind == "crl" for job in jobs):
        raise Refused(
            "no CRL was imported: what was revoked would be called good; import the newest, or say --without-crl",
            code="import_no_crl",
        )
    # Beside a CRL, what a line says of revocation is not needed; alone, a line that was refused may have said it.
    refused = sum(job.refused for job in jobs if without_crl or job.kind == "crl")
    if refused and not accept_refused:
        raise Refused(
            f"{refused} entries or lines were refused, and what they say of revocations is not here: status sets would "
            "call their certificates good; look at the reports, then say --accept-refused",
            code="import_refused",
        )


async def ocsp_request(signer: Signer, subject: bytes) -> bytes:
    """The PKCS#10 request (RFC 2986) for an OCSP signer of an authority whose key is elsewhere, DER."""
    spki = codec.subject_public_key_info(signer.public_key)
    info = der.sequence(der.integer(0), subject, spki, der.tlv(der.context(0)))
    return codec.join_signed(info, await sign_message(signer, signer.public_key, info))


async def install_ocsp_signer(
    database: Database, authority_id: str, certificate: bytes, clock: Clock, actor: str
) -> None:
    """Takes the OCSP signer's certificate that the authority made elsewhere (RFC 6960 §4.2.2.2).

    Raises Refused: not by the authority, no OCSP signer's, for another key, not in force.
    """
    try:
        parsed = codec.load_certificate(certificate)
        encoded = codec.certificate_der(parsed)
        purposes = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (QianyanError, ValueError, x509.ExtensionNotFound) as error:
        raise Refused(
            "the OCSP signer's certificate cannot be read, or names no purpose", code="ocsp_signer"
        ) from error
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        adopted = await imports.adopted(connection, authority_id)
        issuer = Issuer.of(authority_id, adopted.certificate)
        signed = codec.split_signed(encoded)
        if parsed.issuer.public_bytes() != issuer.subject:
            raise Refused("another authority issued the OCSP signer's certificate", code="ocsp_signer")
        verify_signature(issuer.public_key, signed.tbs, signed.signature)
        if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
            raise Refused("the certificate lacks the extended key usage OCSPSigning", code="ocsp_signer")
        if not from_datetime(parsed.not_valid_before_utc) <= at_ms < from_datetime(parsed.not_valid_after_utc):
            raise Refused("the OCSP signer's certificate is not in force", code="ocsp_signer")
        key = await keys.get(connection, ocsp_key_id(authority_id))
        if codec.public_key_of_certificate(encoded) != key.public_key:
            raise Refused(f"the certificate is for another key than {key.id!r}", code="key_pair")
        await authorities.set_ocsp_signer(connection, authority_id, key.id, encoded, at_ms=at_ms)
        detail: dict[str, str | int] = {"serial": f"{parsed.serial_number:x}"}
        event = AuditEvent(actor, "authority.ocsp_signer", authority_id, detail=detail)
        await audit.append(connection, event, at_ms=at_ms)
