"""Until when records have to be kept: audit rows about a certificate for years after its end, others from their time.

Pure but for `ends_of`, which asks the store when certificates end. Knows actions and classes; not files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import from_datetime, to_datetime
from core.model import serial_from_hex, serial_to_bytes
from core.store.schema_certificates import certificate_serials, certificates, of_identity
from core.store.upsert import among
from service.settings import RetentionSettings

_IN_CHUNK = 5_000

#: (authority, serial)
Name = tuple[str, int]


@dataclass(frozen=True, slots=True)
class End:
    """When a certificate ends, and by which profile it was made."""

    not_after_ms: int
    profile: str


def years_after(at_ms: int, years: int) -> int:
    """The same moment so many years later; of 29 February the 1 March."""
    at = to_datetime(at_ms)
    try:
        return from_datetime(at.replace(year=at.year + years))
    except ValueError:
        return from_datetime(datetime(at.year + years, 3, 1, tzinfo=UTC))


def certificate_of(row: Mapping[str, Any]) -> Name | None:
    """The certificate that a row is about: its subject is AUTHORITY/SERIAL; None for any other."""
    authority, found, serial = str(row["subject"]).partition("/")
    if not found or ":" in authority:
        return None
    try:
        return authority, serial_from_hex(serial)
    except ValueError:
        return None


def keep_until(row: Mapping[str, Any], ends: Mapping[Name, End], settings: RetentionSettings) -> tuple[str, int]:
    """The class of an audit row and until when it has to be kept, in ms.

    A certificate that is not in the store any more counts as a government department's that ended when the row was
    written: rather too long than too short.
    """
    name = certificate_of(row)
    if name is not None:
        end = ends.get(name)
        if end is None:
            return "government", years_after(row["at_ms"], settings.government_years)
        government = end.profile in settings.government_profiles
        years = settings.government_years if government else settings.public_years
        return "government" if government else "public", years_after(max(end.not_after_ms, row["at_ms"]), years)
    action = str(row["action"])
    family = action.partition(".")[0] + "."
    for known in (action, family):
        if known in settings.classes:
            return known, years_after(row["at_ms"], settings.classes[known])
    return "other", years_after(row["at_ms"], settings.other_years)


def request_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The signed request that a row is about, by authority and id; None for any other, and for one that is no step of
    it."""
    kind, found, name = str(row["subject"]).partition(":")
    ra_id, _, request_id = name.partition("/")
    steps = ("request.enter", "request.approve", "request.done", "request.reject")
    return (ra_id, request_id) if found and kind == "request" and row["action"] in steps else None


async def ends_of(connection: AsyncConnection, names: Iterable[Name]) -> dict[Name, End]:
    """When these certificates end, of those that are in the store."""
    by_authority: dict[str, list[int]] = {}
    for authority, serial in set(names):
        by_authority.setdefault(authority, []).append(serial)
    c, s = certificates.c, certificate_serials.c
    found: dict[Name, End] = {}
    for authority, serials in by_authority.items():
        statement = select(c.serial, c.not_after_ms, c.profile).join(certificate_serials, of_identity)
        for start in range(0, len(serials), _IN_CHUNK):
            these = among(connection, s.serial, _octets(serials[start : start + _IN_CHUNK]))
            for row in await connection.execute(statement.where(s.authority_id == authority, these)):
                found[authority, int.from_bytes(row.serial, "big")] = End(row.not_after_ms, row.profile)
    return found


def _octets(serials: Sequence[int]) -> list[bytes]:
    return [serial_to_bytes(serial) for serial in serials]
