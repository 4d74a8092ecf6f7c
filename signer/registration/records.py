"""What is registered of an authority and its people: as it is asked for, kept of a certificate, and shown.

Knows forms, certificates and the store's rows; makes no change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import rfc3339
from core.errors import NotFound, QianyanError, Refused
from core.model import serial_to_hex
from core.store import authorities, certificates
from core.store.registration import PersonRecord, RaCertificate, RaRecord
from signer.issuance.issued import Issued
from signer.registration.envelope import name_digest
from signer.registration.roles import Role
from signer.signing.cms import IssuerAndSerial
from signer.signing.parsed import Parsed, parse

_SCOPE: Final = {
    "profiles": r"[a-z0-9][a-z0-9_-]{0,63}",
    "regions": r"[0-9]{2,6}",
    "customers": r"[A-Za-z0-9._-]{1,64}",
}
_CALLER: Final = r"(token|cert):[A-Za-z0-9_-]{1,48}"
_LIST_MAX: Final = 500
_NAME_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class RaWish:
    """What is to be registered, or changed: None leaves a member as it is."""

    name: str | None = None
    profiles: tuple[str, ...] | None = None
    regions: tuple[str, ...] | None = None
    customers: tuple[str, ...] | None = None
    unassigned: bool | None = None
    callers: tuple[str, ...] | None = None

    def check(self) -> None:
        """Raises Refused (code "ra_scope", "ra_name", "ra_callers")."""
        if self.name is not None:
            check_name(self.name)
        for what, pattern in _SCOPE.items():
            _check_list(getattr(self, what), what, rf"\*|{pattern}", "ra_scope")
        _check_list(self.callers, "callers", _CALLER, "ra_callers")

    def given(self) -> dict[str, Any]:
        """The members that are not left out."""
        values = {name: getattr(self, name) for name in RaWish.__dataclass_fields__}
        return {
            name: tuple(sorted(set(value))) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }


@dataclass(frozen=True, slots=True)
class PersonWish:
    """A person, with a certificate (DER), or a request (PKCS#10) for one."""

    id: str
    name: str
    roles: frozenset[Role]
    certificate: bytes | None = None
    csr: bytes | None = None


@dataclass(frozen=True, slots=True)
class PersonView:
    """A person as it may be shown: the name masked."""

    record: PersonRecord
    masked: str
    certificates: Sequence[RaCertificate]


@dataclass(frozen=True, slots=True)
class Appointed:
    """A person that was added, or given another certificate. `issued`: where one was made."""

    view: PersonView
    issued: Issued | None


def check_name(name: str) -> None:
    if not name.strip() or len(name) > _NAME_MAX or not name.isprintable():
        raise Refused(f"a name has 1 to {_NAME_MAX} printable characters", code="ra_name", field="name")


def _check_list(values: tuple[str, ...] | None, what: str, pattern: str, code: str) -> None:
    if values is None:
        return
    if len(values) > _LIST_MAX or not all(re.fullmatch(pattern, value) for value in values):
        raise Refused(f"{what} takes at most {_LIST_MAX} of: {pattern}", code=code, field=what)


def readable(der: bytes) -> Parsed:
    """A certificate that signs. Raises Refused (code "certificate_usage", or as it cannot be read)."""
    try:
        parsed = parse(der)
    except QianyanError as error:
        raise Refused(f"the certificate is not one of an SM2 key: {error.detail}", code="certificate") from error
    usage = parsed.key_usage
    if parsed.is_authority or usage is None or not usage.digital_signature:
        raise Refused("the certificate is not for a person's signatures", code="certificate_usage", field="certificate")
    return parsed


async def issuer_of(connection: AsyncConnection, parsed: Parsed) -> str | None:
    """The authority of ours whose certificate it is; None where it was issued elsewhere.

    Raises Refused (code "certificate_unknown") for one that names an authority of ours and is not in the store.
    """
    named = False  # several may have the name, each with a key of its own
    for authority in await authorities.list_all(connection):
        if authority.subject != parsed.issuer or authority.certificate is None:
            continue
        named = True
        try:
            if (await certificates.find(connection, parsed.serial, authority.id)).certificate == parsed.encoded:
                return authority.id
        except NotFound:
            continue
    if named:
        raise Refused("no such certificate was issued here", code="certificate_unknown", field="certificate")
    return None


async def certificate_row(
    connection: AsyncConnection, ra_id: str, person_id: str, der: bytes, at_ms: int
) -> RaCertificate:
    """A person's certificate as it is kept. Raises Refused, as `readable` and `issuer_of`."""
    parsed = readable(der)
    return RaCertificate(
        ra_id=ra_id,
        person_id=person_id,
        name_digest=name_digest(IssuerAndSerial.of_certificate(der)),
        authority_id=await issuer_of(connection, parsed),
        serial=parsed.serial,
        certificate=der,
        public_key=parsed.point,
        not_before_ms=parsed.not_before_ms,
        not_after_ms=parsed.not_after_ms,
        state="active",
        created_at_ms=at_ms,
    )


def ra_as_json(record: RaRecord) -> dict[str, Any]:
    """An authority as it is shown."""
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state,
        "profiles": list(record.profiles),
        "regions": list(record.regions),
        "customers": list(record.customers),
        "unassigned": record.unassigned,
        "callers": list(record.callers),
        "created_at": rfc3339(record.created_at_ms),
        "changed_at": rfc3339(record.changed_at_ms),
    }


def person_as_json(view: PersonView) -> dict[str, Any]:
    """A person as it is shown, the name masked."""
    record = view.record
    return {
        "id": record.id,
        "name": view.masked,
        "roles": list(record.roles),
        "state": record.state,
        "created_at": rfc3339(record.created_at_ms),
        "changed_at": rfc3339(record.changed_at_ms),
        "certificates": [
            {
                "serial": serial_to_hex(one.serial),
                "authority": one.authority_id,
                "state": one.state,
                "not_before": rfc3339(one.not_before_ms),
                "not_after": rfc3339(one.not_after_ms // 1000 * 1000),
            }
            for one in view.certificates
        ],
    }
