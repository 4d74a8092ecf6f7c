"""How large a CRL becomes: asked before a mass revocation, not after.

Counts with the entry encoder itself. Reads the store; changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from core.errors import NotFound, Refused
from core.model import RevocationReason
from core.store import authorities, crls
from core.store.crls import CrlSummary
from core.store.database import Database
from crl._entries import Entries, Row

#: Octets of the serials that the issuer writes.
SERIAL_OCTETS: Final = 16
_MOST: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """One partition's CRL now and after the revocations. A scope without a CRL counts as empty now."""

    authority_id: str
    partition: int
    entries_now: int
    size_now: int
    entries_then: int
    size_then: int


def entry_size(reason: RevocationReason, *, serial_octets: int = SERIAL_OCTETS, invalidity: bool = False) -> int:
    """Octets of one entry whose serial has `serial_octets` and a clear top bit."""
    serial = ((1 << 8 * serial_octets - 1) - 1).to_bytes(serial_octets, "big")
    row: Row = (serial, int(reason), 0, 0 if invalidity else None)
    with_one, without = (Entries().draft(b"", b"", b"", rows, 0).tbs for rows in ([row], []))
    return with_one[1] - with_one[0] - (without[1] - without[0]) - 2  # less the header of revokedCertificates


async def estimate(
    database: Database,
    authority_id: str,
    additional: int,
    *,
    partition: int | None = None,
    reason: RevocationReason = RevocationReason.SUPERSEDED,
) -> list[Estimate]:
    """The partitions' CRLs after `additional` more revocations: all in `partition`, or spread evenly over all.

    Raises NotFound (code "authority_unknown", "partition_unknown"); Refused (code "count").
    """
    if not 0 <= additional <= _MOST:
        raise Refused(f"the number of revocations must be between 0 and {_MOST}", code="count", field="additional")
    async with database.read() as connection:
        authority = await authorities.get(connection, authority_id)
        newest = {s.partition: s for s in await crls.summaries(connection) if s.authority_id == authority_id}
    if partition is not None and not 0 <= partition < authority.partitions:
        raise NotFound(f"authority {authority_id!r} has no partition {partition}", code="partition_unknown")
    chosen = range(authority.partitions) if partition is None else [partition]
    share = -(-additional // len(chosen))
    growth = share * entry_size(reason)
    return [_estimate(authority_id, number, newest.get(number), share, growth) for number in chosen]


def _estimate(authority_id: str, partition: int, newest: CrlSummary | None, share: int, growth: int) -> Estimate:
    entries, size = (newest.entries, newest.size) if newest else (0, 0)
    return Estimate(authority_id, partition, entries, size, entries + share, size + growth)
