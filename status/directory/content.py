"""What an outbox row is about, as the store says by now. Reads; knows no target.

Several rows about one thing come to one content: what counts is how it stands, not how it came to that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import load_certificate
from core.model import CertificateState, serial_from_hex, serial_to_hex
from core.store import authorities, directory
from core.store.authorities import Authority
from core.store.directory import PublicCertificate
from status.directory.sinks import (
    AuthorityContent,
    CertificateContent,
    Content,
    Crl,
    CrlContent,
    OrphanContent,
    Reference,
)

#: The topic of entries that a check found and the store has nothing for; never in the outbox.
ORPHAN = "orphan"


def _serial(reference: str) -> tuple[str, int] | None:
    authority_id, _, digits = reference.partition("/")
    try:
        return authority_id, serial_from_hex(digits)
    except ValueError:
        return None


def scope_of(reference: str) -> tuple[str, int]:
    """(authority, partition) of `AUTHORITY/PARTITION[/NUMBER]`."""
    parts = reference.split("/")
    return parts[0], int(parts[1])


async def load(connection: AsyncConnection, references: Collection[Reference]) -> list[tuple[Reference, Content]]:
    """The contents of `references`, each once, in the order in which they last appear.

    A reference to what is not published (an OCSP signer's certificate, a kind that is new) has no content.
    """
    if not references:
        return []
    wanted = list(reversed(dict.fromkeys(reversed(list(references)))))
    names = [pair for topic, text in wanted if topic == "certificate" and (pair := _serial(text)) is not None]
    found = await directory.find_many(connection, names)
    known = await authorities.list_all(connection)
    issuers = {authority.parent_id for authority in known}
    contents: list[tuple[Reference, Content]] = []
    done: set[tuple[str, int]] = set()
    for reference in wanted:
        topic, text = reference
        if topic == "certificate":
            pair = _serial(text)
            record = None if pair is None else found.get(pair)
            if record is not None:
                contents += [(reference, c) for c in of_certificate(record, known)]
        elif topic == "authority":
            contents += [(reference, await of_authority(connection, a, known)) for a in known if a.id == text]
        elif topic == "crl":
            authority_id, partition = scope_of(text)
            if (authority_id, partition) not in done:
                done.add((authority_id, partition))
                crl = await of_scope(connection, authority_id, partition, authority_id in issuers)
                contents += [] if crl is None else [(("crl", f"{authority_id}/{partition}"), crl)]
        elif topic == ORPHAN:
            contents.append((reference, OrphanContent(text)))
    return contents


def of_certificate(record: PublicCertificate, known: Sequence[Authority]) -> list[Content]:
    """The content of a holder's certificate, or of the authority whose certificate it is."""
    if record.usage == "ca":
        shown = record.certificate if record.state != CertificateState.REVOKED.value else None
        return [AuthorityContent(a.id, shown, a.subject) for a in known if a.certificate == record.certificate]
    # An imported serial that was only ever seen on a CRL has no certificate to publish.
    return [CertificateContent(record)] if record.certificate and record.usage in ("sign", "encrypt") else []


async def of_authority(connection: AsyncConnection, authority: Authority, known: Sequence[Authority]) -> Content:
    """An authority's content: without its certificate where an authority here has revoked that."""
    shown = authority.certificate
    if shown is not None and authority.parent_id is not None:
        serial = _certificate_serial(shown)
        issued = await directory.find_many(connection, [(authority.parent_id, serial)])
        record = issued.get((authority.parent_id, serial))
        if record is not None and record.state == CertificateState.REVOKED.value:
            shown = None
    return AuthorityContent(authority.id, shown, authority.subject)


def _certificate_serial(certificate: bytes) -> int:
    return load_certificate(certificate).serial_number


async def of_scope(
    connection: AsyncConnection, authority_id: str, partition: int, of_authorities: bool
) -> CrlContent | None:
    """The CRLs of a scope; None where it has none yet."""
    full, delta = await directory.latest_crls(connection, authority_id, partition)
    if full is None:
        return None
    newest = None if delta is None else Crl(delta.number, delta.crl)
    return CrlContent(authority_id, partition, Crl(full.number, full.crl), newest, of_authorities)


async def other_references(connection: AsyncConnection) -> list[list[Reference]]:
    """Each authority with its scopes' CRLs: all that is published and no holder's certificate."""
    scopes = await directory.crl_scopes(connection)
    return [
        [
            ("authority", known.id),
            *(("crl", f"{owner}/{partition}") for owner, partition in scopes if owner == known.id),
        ]
        for known in await authorities.list_all(connection)
    ]


def of_records(records: Iterable[PublicCertificate]) -> list[tuple[Reference, Content]]:
    """The contents of holders' certificates among `records`."""
    return [
        (reference_of(record), CertificateContent(record))
        for record in records
        if record.certificate and record.usage in ("sign", "encrypt")
    ]


def reference_of(record: PublicCertificate) -> Reference:
    """How the outbox names a certificate."""
    return "certificate", f"{record.authority_id}/{serial_to_hex(record.serial)}"
