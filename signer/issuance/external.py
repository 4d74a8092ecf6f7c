"""An issuing authority under a root that is elsewhere (R-13): its request, and its certificate taken back.

The certificate is held against the key and name that were asked for, and against the whole chain up to a self-signed
root, before anything is stored. What the operator hands in is trusted to be the root that was meant; that its
certificates are sound and belong together is checked here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from core.asn1 import der
from core.asn1 import x509 as codec
from core.asn1.x509 import Extension
from core.audit import AuditEvent
from core.clock import Clock, from_datetime
from core.errors import Conflict, Malformed, QianyanError, Refused
from core.model import KeyPurpose
from core.store import audit, authorities, counters
from core.store.authorities import Authority
from core.store.database import Database
from signer._native import sm2
from signer.issuance.ceremony import KeyFiles, add_key, create_keys, require_empty
from signer.issuance.chain import MAX_CHAIN
from signer.issuance.hierarchy import ISSUING, ROOT, HierarchyPlan, encode_name
from signer.issuance.signing import LocalSigner, check_signature, sign_message
from signer.issuance.template import subject_key_identifier

_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"
_MAX_CERTIFICATE_BYTES: Final = 64 * 1024
#: Critical extensions of an authority that are understood here (RFC 5280 §4.2: any other must be refused).
_UNDERSTOOD: Final = frozenset({"2.5.29.15", "2.5.29.19", "2.5.29.32"})


async def create_external(
    database: Database, keystore: KeyFiles, plan: HierarchyPlan, clock: Clock, actor: str
) -> bytes:
    """Makes the issuing authority's key and gives its PKCS#10 request, DER; the certificate is installed later.

    Raises SettingsError where there are authorities already.
    """
    subject = encode_name(plan.issuing_name)
    await require_empty(database)
    (key,) = await create_keys(keystore, [ISSUING])
    request = await _request(subject, key)
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        await add_key(connection, key.key_id, key.public_key, KeyPurpose.CERTIFICATE, at_ms)
        authority = Authority(
            ISSUING, None, key.key_id, subject, key.public_key, None, None, None, plan.partitions, at_ms
        )
        await authorities.add(connection, authority)
        await audit.append(connection, AuditEvent(actor, "authority.request", ISSUING), at_ms=at_ms)
    return request


async def export_request(database: Database, keystore: KeyFiles, authority_id: str = ISSUING) -> bytes:
    """The PKCS#10 request of a waiting authority once more. Raises Conflict where it has its certificate."""
    async with database.read() as connection:
        authority = await authorities.get(connection, authority_id)
    if authority.certificate is not None or authority.key_id is None:
        raise Conflict(f"authority {authority_id!r} does not wait for a certificate", code="certificate_installed")
    key = await asyncio.to_thread(keystore.load, authority.key_id)
    return await _request(authority.subject, LocalSigner(authority.key_id, key))


async def _request(subject: bytes, key: LocalSigner) -> bytes:
    """CertificationRequest (RFC 2986 §4.2), asking for an authority's extensions."""
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    wanted = codec.encode_extensions(
        [
            Extension.of(x509.BasicConstraints(ca=True, path_length=0), critical=True),
            Extension.of(usage, critical=True),
            Extension.of(x509.SubjectKeyIdentifier(codec.key_identifier(key.public_key))),
        ]
    )
    attribute = der.sequence(der.oid(_EXTENSION_REQUEST), der.tlv(der.SET, wanted))
    info = der.sequence(
        der.integer(0), subject, codec.subject_public_key_info(key.public_key), der.tlv(der.context(0), attribute)
    )
    return codec.join_signed(info, await sign_message(key, key.public_key, info))


def read_authority(certificate: bytes, chain: Sequence[bytes], at_ms: int) -> list[tuple[bytes, bytes, bytes]]:
    """An authority that was made elsewhere, and those above it: (DER, subject, public key) of each, itself first.

    certificate, chain: DER or PEM; chain as in `install_certificate`, or empty where nobody above it is known here.
    Raises Malformed, Refused (field `certificate` or `chain.N`).
    """
    links = [_load(certificate, "certificate"), *(_load(c, f"chain.{n}") for n, c in enumerate(chain))]
    if chain or links[0].issuer == links[0].subject:
        _check_chain(links, at_ms)
    else:
        _check_authority(links[0], 0, at_ms)
    return [(link.encoded, link.subject, link.public_key) for link in links]


async def install_certificate(
    database: Database,
    certificate: bytes,
    chain: Sequence[bytes],
    clock: Clock,
    actor: str,
    *,
    authority_id: str = ISSUING,
) -> None:
    """Gives a waiting authority its certificate, after checking it and the chain above it.

    certificate, chain: DER or PEM; chain begins with the issuer of `certificate` and ends with a self-signed root.
    The root is stored as authority "root", others as "upper-1", ...; their keys are not here. Raises Malformed,
    Refused (field `certificate` or `chain.N`) or Conflict; nothing is stored then.
    """
    if not 1 <= len(chain) < MAX_CHAIN:
        raise Refused(f"a chain has 1 to {MAX_CHAIN - 1} certificates", code="chain", field="chain")
    links = [_load(certificate, "certificate"), *(_load(c, f"chain.{n}") for n, c in enumerate(chain))]
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        authority = await authorities.get(connection, authority_id)
        if authority.certificate is not None:
            raise Conflict(f"authority {authority_id!r} has its certificate already", code="certificate_installed")
        _check_own(links[0], authority)
        _check_chain(links, at_ms)
        parent: str | None = None
        for number, link in reversed(list(enumerate(links[1:], 1))):
            upper = ROOT if parent is None else f"upper-{number}"
            row = Authority(upper, parent, None, link.subject, link.public_key, link.encoded, None, None, 1, at_ms)
            await authorities.add(connection, row)
            parent = upper
        assert parent is not None
        await authorities.install_certificate(connection, authority_id, links[0].encoded, at_ms=at_ms)
        await authorities.set_parent(connection, authority_id, parent)
        detail: dict[str, str | int] = {"serial": f"{links[0].certificate.serial_number:x}", "chain": len(chain)}
        await audit.append(connection, AuditEvent(actor, "authority.install", authority_id, detail=detail), at_ms=at_ms)


@dataclass(frozen=True, slots=True)
class _Link:
    """A certificate of the chain, with what is compared. `field`: what to call it in an error."""

    field: str
    certificate: x509.Certificate
    encoded: bytes
    subject: bytes
    issuer: bytes
    public_key: bytes


def _load(encoded: bytes, field: str) -> _Link:
    if len(encoded) > _MAX_CERTIFICATE_BYTES:
        raise Refused("a certificate has at most 64 KiB", code="certificate_size", field=field)
    try:
        certificate = codec.load_certificate(encoded)
        binary = codec.certificate_der(certificate)
        public_key = codec.public_key_of_certificate(binary)
        sm2.PublicKey.from_bytes(public_key)
        subject, issuer = certificate.subject.public_bytes(), certificate.issuer.public_bytes()
    except sm2.InvalidKey as error:
        raise Refused("the certificate's key is not a valid SM2 key", code="certificate_key", field=field) from error
    except QianyanError as error:
        raise type(error)(error.detail, code=error.code, field=field) from error
    except ValueError as error:
        raise Malformed("not an X.509 certificate in DER or PEM", code="certificate", field=field) from error
    return _Link(field, certificate, binary, subject, issuer, public_key)


def _refuse(link: _Link, detail: str, code: str) -> Refused:
    return Refused(detail, code=code, field=link.field)


def _check_own(link: _Link, authority: Authority) -> None:
    """That the certificate is for the key and the name that were asked for."""
    if link.public_key != authority.public_key:
        raise _refuse(link, "the certificate is for another key than the one that was asked for", "certificate_key")
    if link.subject != authority.subject:
        raise _refuse(
            link, "the certificate has another subject than the one that was asked for", "certificate_subject"
        )


def _check_chain(links: Sequence[_Link], at_ms: int) -> None:
    """That every link is an authority in force, made by the next one; the last one by itself."""
    for number, link in enumerate(links):
        _check_authority(link, number, at_ms)
        issuer = links[min(number + 1, len(links) - 1)]
        if link.issuer != issuer.subject:
            why = "the last certificate is not a root" if link is issuer else "its issuer is not the next certificate"
            raise _refuse(link, why, "chain_order")
        _check_made_by(link, issuer)


def _check_authority(link: _Link, below: int, at_ms: int) -> None:
    """That it may stand above `below` authorities now (RFC 5280 §6.1.4)."""
    certificate = link.certificate
    try:
        present = {e.oid.dotted_string: e for e in certificate.extensions}
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Malformed(
            "the certificate's extensions are not readable", code="certificate", field=link.field
        ) from error
    if unknown := [o for o, e in present.items() if e.critical and o not in _UNDERSTOOD]:
        raise _refuse(link, f"critical extension {unknown[0]} is not understood", "certificate_extension")
    constraints = present.get("2.5.29.19")
    if constraints is None or not isinstance(constraints.value, x509.BasicConstraints) or not constraints.value.ca:
        raise _refuse(link, "the certificate is not an authority's (BasicConstraints)", "certificate_not_ca")
    if constraints.value.path_length is not None and constraints.value.path_length < below:
        raise _refuse(link, "its path length does not allow the authorities below it", "path_length")
    usage = present.get("2.5.29.15")
    if usage is None or not isinstance(usage.value, x509.KeyUsage):
        raise _refuse(link, "the certificate has no key usage", "certificate_key_usage")
    if not (usage.value.key_cert_sign and usage.value.crl_sign):
        raise _refuse(link, "its key usage lacks keyCertSign or cRLSign", "certificate_key_usage")
    if from_datetime(certificate.not_valid_before_utc) > at_ms:
        raise _refuse(link, "the certificate is not valid yet", "certificate_not_yet_valid")
    if from_datetime(certificate.not_valid_after_utc) < at_ms:
        raise _refuse(link, "the certificate has expired", "certificate_expired")


def _check_made_by(link: _Link, issuer: _Link) -> None:
    """That `issuer` signed it, with SM2 and SM3, and that the key identifiers agree."""
    signed = codec.split_signed(link.encoded)
    if not signed.is_sm2 or _inner_algorithm(signed.tbs) != signed.algorithm:
        raise _refuse(link, "the certificate is not signed with SM2 and SM3", "certificate_algorithm")
    try:
        named = link.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        named = None
    if named is not None and named != (subject_key_identifier(issuer.certificate) or named):
        raise _refuse(link, "its authority key identifier names another key", "certificate_issuer")
    try:
        check_signature(issuer.public_key, signed.tbs, signed.signature)
    except (sm2.InvalidSignature, sm2.InvalidEncoding) as error:
        raise _refuse(link, "its signature does not verify under its issuer's key", "certificate_signature") from error


def _inner_algorithm(tbs: bytes) -> bytes:
    body = der.Reader(tbs).enter(der.SEQUENCE)
    if body.peek() == der.context(0):
        body.take_tlv()
    body.take_tlv(der.INTEGER)
    return body.take_tlv(der.SEQUENCE)
