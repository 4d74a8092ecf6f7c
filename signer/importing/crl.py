"""Takes over what a CRL of the authority lists: every revoked serial, its certificate known or not; and the number.

The CRL is checked before anything is written: signature, issuer, that it is a whole list of all reasons, and that it is
current. What stands on it counts as revoked even where its entry says more than can be understood; what is revoked here
and does not stand on it stays so, and is told. Knows RFC 5280 §5; not files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import CRLEntryExtensionOID
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1 import der
from core.asn1.x509 import split_signed
from core.clock import from_datetime, rfc3339
from core.errors import QianyanError, Refused
from core.model import CertificateState, RevocationReason, serial_to_hex
from core.store import authorities, import_crls, imports
from core.store.database import Database
from core.store.imports import Ended
from signer.engine.verify import verify_signature
from signer.importing.certificates import Placing, end_all, unknown_certificate
from signer.importing.checks import Issuer
from signer.importing.job import Outcome

#: By name, as `cryptography` has the reasons.
_REASONS: Final = {reason.name.replace("_", "").lower(): reason for reason in RevocationReason}
_SERIAL_MAX_OCTETS: Final = 20
#: Extensions of a list that are understood (§5.2); any other critical one says something that must not be passed over.
_UNDERSTOOD: Final = (
    x509.CRLNumber,
    x509.DeltaCRLIndicator,
    x509.IssuingDistributionPoint,
    x509.AuthorityKeyIdentifier,
    x509.FreshestCRL,
)
_CERTIFICATE_ISSUER: Final = der.oid(CRLEntryExtensionOID.CERTIFICATE_ISSUER.dotted_string)
#: Revoked serials that are held against a list at a time; serials of theirs that a report names.
_LISTED_AT_ONCE: Final = 1_000_000
_TOLD: Final = 10_000
#: Octets of a CRL that is read: some ten million entries.
MOST_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True)
class Scope:
    """What a list tells of. urls: where it says that it is; empty where it does not say. whole: whether it tells of
    everything, wherever that is listed. authorities_only: only of authorities' certificates, or only of the others."""

    urls: tuple[str, ...] = ()
    whole: bool = True
    authorities_only: bool | None = None


@dataclass(frozen=True, slots=True)
class ReadCrl:
    """A checked CRL."""

    parsed: x509.CertificateRevocationList
    number: int
    scope: Scope
    this_update_ms: int
    next_update_ms: int

    def entries(self) -> Iterator[x509.RevokedCertificate]:
        """What it lists, in its order."""
        return iter(self.parsed)


def _refuse(why: str, code: str) -> Refused:
    return Refused(f"the CRL is not taken over: {why}", code=code)


def read(content: bytes, issuer: Issuer, now_ms: int, *, allow_ended: bool = False) -> ReadCrl:
    """A CRL, DER or PEM. Raises Refused saying why it is none that can be relied on.

    allow_ended: one that is past its nextUpdate, and may lack what was revoked since, is taken all the same.
    """
    if len(content) > MOST_BYTES:
        raise _refuse(f"it has more than {MOST_BYTES} octets", "crl_size")
    try:
        pem = content.lstrip().startswith(b"-----BEGIN")
        parsed = x509.load_pem_x509_crl(content) if pem else x509.load_der_x509_crl(content)
        encoded = parsed.public_bytes(Encoding.DER) if pem else content
        extensions = {one.oid.dotted_string: one.value for one in parsed.extensions}
        signed = split_signed(encoded)
        name, next_update = _issuer_name(signed.tbs), parsed.next_update_utc
    except (QianyanError, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _refuse(f"it cannot be read: {error}", "crl") from error
    if name != issuer.subject:
        raise _refuse("another authority issued it", "crl_issuer")
    if not signed.is_sm2:
        raise _refuse("it is not signed with SM2 and SM3", "crl_algorithm")
    verify_signature(issuer.public_key, signed.tbs, signed.signature)
    if any(isinstance(value, x509.DeltaCRLIndicator) for value in extensions.values()):
        raise _refuse("it is a delta; give the full CRL of the same number", "crl_delta")
    for one in parsed.extensions:
        if one.critical and not isinstance(one.value, _UNDERSTOOD):
            raise _refuse(f"its critical extension {one.oid.dotted_string} is not understood", "crl_extension")
    if _CERTIFICATE_ISSUER in encoded and any(_names_issuer(entry) for entry in parsed):
        raise _refuse("it is an indirect list: entries are of other authorities", "crl_scope")
    this_ms = from_datetime(parsed.last_update_utc)
    next_ms = 0 if next_update is None else from_datetime(next_update)
    if this_ms > now_ms:
        raise _refuse("its thisUpdate lies in the future", "crl_future")
    if next_ms < now_ms and not allow_ended:
        raise _refuse(
            f"it ended {rfc3339(next_ms)} and lacks what was revoked since; give the newest one, or --allow-ended",
            "crl_ended",
        )
    number = next((value.crl_number for value in extensions.values() if isinstance(value, x509.CRLNumber)), 0)
    return ReadCrl(parsed, number, _scope(list(extensions.values())), this_ms, next_ms)


def _issuer_name(tbs: bytes) -> bytes:
    """The issuer of a TBSCertList (§5.1), as it stands there. Raises Malformed."""
    body = der.Reader(tbs).enter(der.SEQUENCE)
    if body.peek() == der.INTEGER:
        body.take_tlv()
    body.take_tlv()  # signature
    return body.take_tlv(der.SEQUENCE)


def _names_issuer(entry: x509.RevokedCertificate) -> bool:
    """Whether the entry says whose certificate it is of (§5.3.3); one that cannot be read does not."""
    try:
        return any(isinstance(one.value, x509.CertificateIssuer) for one in entry.extensions)
    except (ValueError, x509.DuplicateExtension):
        return False


def _scope(extensions: Sequence[x509.ExtensionType]) -> Scope:
    """Raises Refused for a list of some (§5.2.5)."""
    found = next((one for one in extensions if isinstance(one, x509.IssuingDistributionPoint)), None)
    if found is None:
        return Scope()
    if found.indirect_crl or found.only_some_reasons or found.only_contains_attribute_certs:
        raise _refuse("it is an indirect list, or one of some reasons only", "crl_scope")
    names = [n.value for n in found.full_name or () if isinstance(n, x509.UniformResourceIdentifier)]
    names.sort(key=lambda name: not name.lower().startswith("http"))
    kind = True if found.only_contains_ca_certs else False if found.only_contains_user_certs else None
    return Scope(tuple(names), found.full_name is None and found.relative_name is None, kind)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a list. ended: None where nothing can be done with it; why then."""

    serial: int
    ended: Ended | None
    warnings: tuple[str, ...] = ()
    why: str = ""


def _entry(entry: x509.RevokedCertificate, now_ms: int) -> _Entry:
    """What an entry says. In doubt it is a revocation: the serial does stand on the list."""
    serial, reason, invalidity_ms = entry.serial_number, RevocationReason.UNSPECIFIED, None
    if serial <= 0 or serial.bit_length() > 8 * _SERIAL_MAX_OCTETS:
        return _Entry(serial, None, why="its serial is not positive, or has more than 20 octets")
    warnings = []
    try:
        for one in entry.extensions:
            if isinstance(one.value, x509.CRLReason):
                if one.value.reason is x509.ReasonFlags.remove_from_crl:  # of deltas; may come back, as a hold may
                    reason = RevocationReason.CERTIFICATE_HOLD
                    warnings.append("reason_of_deltas")
                else:
                    reason = _REASONS[one.value.reason.value.lower()]
            elif isinstance(one.value, x509.InvalidityDate):
                invalidity_ms = from_datetime(one.value.invalidity_date_utc)
            elif one.critical:
                warnings.append("entry_extension")
    except (ValueError, KeyError, x509.DuplicateExtension):
        reason = RevocationReason.UNSPECIFIED
        warnings.append("entry_unreadable")
    revoked_ms = from_datetime(entry.revocation_date_utc)
    if revoked_ms > now_ms:
        warnings.append("revoked_in_future")
    return _Entry(serial, Ended(serial, reason, min(revoked_ms, now_ms), invalidity_ms), tuple(warnings))


@dataclass(slots=True)
class Unlisted:
    """What the list does not have, though the authority's list should: it stays as it is here.

    revoked: for good, and the certificate has not expired; held: on hold here, released there perhaps; undated:
    certificates that are not known, and may have expired. serials: (serial, which), the first of them.
    """

    revoked: int = 0
    held: int = 0
    undated: int = 0
    serials: list[tuple[int, str]] = field(default_factory=list)

    def add(self, serial: int, state: CertificateState, known: bool) -> None:
        """Counts one."""
        which = "held" if state is CertificateState.HELD else ("revoked" if known else "undated")
        setattr(self, which, getattr(self, which) + 1)
        if len(self.serials) < _TOLD:
            self.serials.append((serial, which))


class CrlTaker:
    """A `signer.importing.job.Taker` of a CRL's entries. unlisted: known when all of them are taken."""

    def __init__(self, issuer: Issuer, crl: ReadCrl, placing: Placing, now_ms: int) -> None:
        self._issuer = issuer
        self._crl = crl
        self._placing = placing
        self._now_ms = now_ms
        self.unlisted: Unlisted | None = None

    async def prepare(self, chunk: Sequence[x509.RevokedCertificate]) -> list[_Entry]:
        """Reads the entries."""
        return await asyncio.to_thread(lambda: [_entry(entry, self._now_ms) for entry in chunk])

    async def write(self, connection: AsyncConnection, prepared: Any, at_ms: int) -> list[Outcome]:
        """One chunk, in the caller's transaction."""
        entries: list[_Entry] = prepared
        ended = [one.ended for one in entries if one.ended is not None]
        authority_id = self._issuer.authority_id
        there = await imports.rows(connection, authority_id, list({one.serial for one in ended}))
        partition = await self._partition(connection)
        missing = {
            one.serial: unknown_certificate(self._issuer, one, partition, self._placing)
            for one in ended
            if one.serial not in there
        }
        await imports.add(connection, list(missing.values()), at_ms=at_ms)
        changed = await end_all(connection, authority_id, ended, at_ms=at_ms)
        return [_outcome(one, changed, there) for one in entries]

    async def _partition(self, connection: AsyncConnection) -> int:
        """Where serials without a certificate are listed: where this CRL is; else on the first imported one."""
        if self._crl.scope.urls:
            return (await imports.partitions_at(connection, self._issuer.authority_id, self._crl.scope.urls))[0]
        return await imports.first_partition(connection, self._issuer.authority_id)

    async def _partitions(self, connection: AsyncConnection) -> list[int]:
        """Those that the CRL tells of."""
        authority_id = self._issuer.authority_id
        if self._crl.scope.urls:
            return await imports.partitions_at(connection, authority_id, self._crl.scope.urls)
        return list(range((await authorities.get(connection, authority_id)).partitions))

    async def settle(self, connection: AsyncConnection, *, allow_older: bool = False) -> None:
        """Has CRLs of the same scope go on above this one's number: of all partitions where it names none.

        Raises Refused (code "crl_older") where a newer one was taken before: this one may have holds that ended.
        """
        authority_id, crl = self._issuer.authority_id, self._crl
        partitions = await self._partitions(connection)
        newest_ms = await import_crls.newest_ms(connection, authority_id, partitions)
        if crl.this_update_ms < newest_ms and not allow_older:
            raise _refuse(
                f"a newer one, of {rfc3339(newest_ms)}, was taken before; what this one has on hold may be released "
                "since; leave it, or give --allow-older",
                "crl_older",
            )
        named = partitions if crl.scope.urls else None
        await import_crls.note(connection, authority_id, named, crl.number, crl.this_update_ms)

    async def conclude(self, database: Database) -> list[dict[str, Any]]:
        """What is revoked here and does not stand on the list, for the report."""
        self.unlisted = found = Unlisted()
        if not self._crl.scope.whole and not self._crl.scope.urls:
            return []  # which certificates it tells of is not known
        batch: dict[int, tuple[CertificateState, bool]] = {}
        scope = self._crl.scope
        async with database.read() as connection:
            partitions = await self._partitions(connection)
            ended = import_crls.ended(
                connection, self._issuer.authority_id, partitions, self._crl.this_update_ms, scope.authorities_only
            )
            async for serial, state, known in ended:
                batch[serial] = state, known
                if len(batch) >= _LISTED_AT_ONCE:
                    await asyncio.to_thread(self._compare, batch, found)
        await asyncio.to_thread(self._compare, batch, found)
        return [
            {"result": "unlisted", "serial": serial_to_hex(serial), "status": which} for serial, which in found.serials
        ]

    def _compare(self, batch: dict[int, tuple[CertificateState, bool]], found: Unlisted) -> None:
        """Counts those of the batch that the list lacks; the batch is empty then."""
        for entry in self._crl.parsed if batch else ():
            batch.pop(entry.serial_number, None)
        for serial, (state, known) in batch.items():
            found.add(serial, state, known)
        batch.clear()


def _outcome(one: _Entry, changed: dict[int, bool], there: dict[int, imports.Known]) -> Outcome:
    rest: dict[str, Any] = {"serial": f"{'-' if one.serial < 0 else ''}{serial_to_hex(abs(one.serial))}"}
    if one.ended is None:
        return Outcome("refused", rest | {"code": "crl_entry", "detail": one.why})
    rest |= {"status": one.ended.state.value, "reason": one.ended.reason.label}
    known = there.get(one.serial)
    warnings = [*one.warnings, *([] if known is not None and known.certificate else ["certificate_unknown"])]
    if warnings:
        rest["warnings"] = warnings
    return Outcome("accepted" if one.serial in changed else "known", rest)
