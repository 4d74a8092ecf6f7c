"""Takes over what a CRL of the authority lists: every revoked serial, its certificate known or not; and the number.

The CRL is checked before anything is written: signature, issuer, that it is a whole list of all reasons, and that it is
current. Knows RFC 5280 §5; not files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import split_signed
from core.clock import from_datetime, rfc3339
from core.errors import QianyanError, Refused
from core.model import RevocationReason, serial_to_hex
from core.store import imports
from core.store.imports import Ended
from signer.engine.verify import verify_signature
from signer.importing.certificates import Placing, end_all, unknown_certificate
from signer.importing.checks import Issuer
from signer.importing.job import Outcome

#: By name, as `cryptography` has the reasons; removeFromCRL only ever stands in deltas.
_REASONS: Final = {reason.name.replace("_", "").lower(): reason for reason in RevocationReason}
#: Octets of a CRL that is read: some ten million entries.
MOST_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True)
class ReadCrl:
    """A checked CRL. url: where it says that it is; None where it does not say."""

    parsed: x509.CertificateRevocationList
    number: int
    url: str | None
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
        next_update = parsed.next_update_utc
    except (QianyanError, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _refuse(f"it cannot be read: {error}", "crl") from error
    if parsed.issuer.public_bytes() != issuer.subject:
        raise _refuse("another authority issued it", "crl_issuer")
    if not signed.is_sm2:
        raise _refuse("it is not signed with SM2 and SM3", "crl_algorithm")
    verify_signature(issuer.public_key, signed.tbs, signed.signature)
    if any(isinstance(value, x509.DeltaCRLIndicator) for value in extensions.values()):
        raise _refuse("it is a delta; give the full CRL of the same number", "crl_delta")
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


def _scope(extensions: Sequence[x509.ExtensionType]) -> str | None:
    """The address of a list of everything; None where it has none. Raises Refused for a list of some (§5.2.5)."""
    found = next((one for one in extensions if isinstance(one, x509.IssuingDistributionPoint)), None)
    if found is None:
        return None
    if found.indirect_crl or found.only_some_reasons or found.only_contains_attribute_certs:
        raise _refuse("it is an indirect list, or one of some reasons only", "crl_scope")
    names = [n.value for n in found.full_name or () if isinstance(n, x509.UniformResourceIdentifier)]
    return next((name for name in names if name.lower().startswith("http")), names[0] if names else None)


def _entry(entry: x509.RevokedCertificate, now_ms: int) -> Ended | str:
    """What an entry says, or why it makes no sense."""
    reason, invalidity_ms = RevocationReason.UNSPECIFIED, None
    try:
        for one in entry.extensions:
            if isinstance(one.value, x509.CRLReason):
                reason = _REASONS[one.value.reason.value.lower()]
            elif isinstance(one.value, x509.InvalidityDate):
                invalidity_ms = from_datetime(one.value.invalidity_date_utc)
            elif one.critical:
                return f"critical extension {one.oid.dotted_string} is not understood"
    except (ValueError, KeyError, x509.DuplicateExtension):
        return "its extensions cannot be read, or its reason is of deltas only"
    if entry.serial_number <= 0:
        return "its serial is not positive"
    revoked_ms = min(from_datetime(entry.revocation_date_utc), now_ms)
    return Ended(entry.serial_number, reason, revoked_ms, invalidity_ms)


class CrlTaker:
    """A `signer.importing.job.Taker` of a CRL's entries."""

    def __init__(self, issuer: Issuer, crl: ReadCrl, placing: Placing, now_ms: int) -> None:
        self._issuer = issuer
        self._crl = crl
        self._placing = placing
        self._now_ms = now_ms

    async def prepare(self, chunk: Sequence[x509.RevokedCertificate]) -> list[tuple[int, Ended | str]]:
        """Reads the entries."""
        return [(entry.serial_number, _entry(entry, self._now_ms)) for entry in chunk]

    async def write(self, connection: AsyncConnection, prepared: Any, at_ms: int) -> list[Outcome]:
        """One chunk, in the caller's transaction."""
        entries: list[tuple[int, Ended | str]] = prepared
        ended = {one.serial: one for _, one in entries if isinstance(one, Ended)}
        authority_id = self._issuer.authority_id
        there = await imports.rows(connection, authority_id, list(ended))
        partition = await self._partition(connection)
        missing = [
            unknown_certificate(self._issuer, one, partition, self._placing)
            for serial, one in ended.items()
            if serial not in there
        ]
        await imports.add(connection, missing, at_ms=at_ms)
        changed = await end_all(connection, authority_id, list(ended.values()), at_ms=at_ms)
        return [_outcome(serial, one, changed, there) for serial, one in entries]

    async def _partition(self, connection: AsyncConnection) -> int:
        """Where serials without a certificate are listed: where this CRL is; else on the first imported one."""
        if self._crl.url is not None:
            return await imports.partition_of(connection, self._issuer.authority_id, self._crl.url)
        return await imports.first_partition(connection, self._issuer.authority_id)

    async def settle(self, connection: AsyncConnection) -> None:
        """Has CRLs of the same scope go on above this one's number: of all partitions where it names none."""
        authority_id = self._issuer.authority_id
        if self._crl.url is not None:
            scopes = [await imports.partition_of(connection, authority_id, self._crl.url)]
        else:
            scopes = await imports.partitions_of(connection, authority_id)
        for partition in scopes:
            await imports.raise_crl_number(connection, authority_id, partition, self._crl.number)


def _outcome(serial: int, one: Ended | str, changed: dict[int, bool], there: dict[int, imports.Known]) -> Outcome:
    rest: dict[str, Any] = {"serial": serial_to_hex(abs(serial))}
    if isinstance(one, str):
        return Outcome("refused", rest | {"code": "crl_entry", "detail": one})
    rest |= {"status": one.state.value, "reason": one.reason.label}
    known = there.get(serial)
    if known is None or not known.certificate:
        rest["warnings"] = ["certificate_unknown"]
    return Outcome("accepted" if serial in changed else "known", rest)
