"""A signing certificate with the encryption certificate that belongs to it, and the pairs before and after it.

A renewal leaves the old pair valid until its own end, under the same holder and often the same keys; so what ends a
pair ends those before it as well (`companions`). Knows the store's rows; makes no decision on who may do what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.model import RevocationReason
from core.store import certificates, events
from core.store.certificates import CertificateRecord
from signer.issuance import states
from signer.issuance.states import Operation, PairState

#: How far back and ahead a line of renewals is followed: longer than any certificate's history at one a year.
_LINE_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """`first`: the signing certificate (or whatever stands alone); `second`: the encryption certificate, if any.

    replaced: whether a renewal, change or reissue has made its successor.
    """

    first: CertificateRecord
    second: CertificateRecord | None
    replaced: bool

    @property
    def members(self) -> tuple[CertificateRecord, ...]:
        """One or two certificates."""
        return (self.first,) if self.second is None else (self.first, self.second)

    @property
    def encryption_ids(self) -> list[int]:
        """Row ids of its encryption certificates."""
        return [member.id for member in self.members if member.usage == "encrypt"]

    def state(self, at_ms: int) -> PairState:
        """Where the pair stands: as its signing certificate does."""
        return states.state_of(self.first.state, self.first.not_after_ms, replaced=self.replaced, at_ms=at_ms)


async def load(
    connection: AsyncConnection, serial: int, authority_id: str | None = None, *, lock: bool = False
) -> Pair:
    """The pair that has a certificate of that serial. Raises NotFound or Conflict (code "serial_ambiguous").

    lock: nobody else changes or replaces it until the caller's transaction has ended.
    """
    return await _complete(connection, await certificates.find(connection, serial, authority_id), lock=lock)


async def _complete(connection: AsyncConnection, one: CertificateRecord, *, lock: bool) -> Pair:
    first_id = one.id
    if one.usage == "encrypt" and one.pair_id is not None:
        first_id = one.pair_id
    first = one if one.id == first_id and not lock else await certificates.get(connection, first_id, lock=lock)
    second = None if first.pair_id is None else await certificates.get(connection, first.pair_id, lock=lock)
    return Pair(first, second, await events.successor(connection, first.id) is not None)


async def by_id(connection: AsyncConnection, certificate_id: int, *, lock: bool = False) -> Pair:
    """The pair that has the certificate of that row."""
    return await _complete(connection, await certificates.get(connection, certificate_id), lock=lock)


async def latest(connection: AsyncConnection, pair: Pair) -> Pair:
    """The end of the pair's line: what it was renewed, changed or reissued into; itself where that never happened."""
    for _ in range(_LINE_MAX):
        following = await events.successor(connection, pair.first.id)
        if following is None:
            return pair
        pair = await by_id(connection, following)
    return pair


async def companions(
    connection: AsyncConnection, named: Pair, operation: Operation, reason: RevocationReason | None, at_ms: int
) -> list[Pair]:
    """The other pairs of the line that move with `named`.

    Those that it was renewed from, where the operation can happen to them (RESUME: where they were suspended together
    with it); and, when a key is compromised, later ones with the same key.
    """
    moved: list[Pair] = []
    at = named
    for _ in range(_LINE_MAX):
        before = await events.predecessor(connection, at.first.id)
        if before is None:
            break
        at = await by_id(connection, before, lock=True)
        together = operation is not Operation.RESUME or at.first.revoked_at_ms == named.first.revoked_at_ms
        if states.may(operation, at.state(at_ms)) and at.state(at_ms) is not PairState.EXPIRED and together:
            moved.append(at)
    if operation is Operation.REVOKE and reason is RevocationReason.KEY_COMPROMISE:
        moved += await _later_with_its_keys(connection, named, at_ms)
    return moved


async def _later_with_its_keys(connection: AsyncConnection, named: Pair, at_ms: int) -> list[Pair]:
    keys = {member.public_key for member in named.members}
    found: list[Pair] = []
    at = named
    for _ in range(_LINE_MAX):
        after = await events.successor(connection, at.first.id)
        if after is None:
            break
        at = await by_id(connection, after, lock=True)
        shares = any(member.public_key in keys for member in at.members)
        if shares and states.may(Operation.REVOKE, at.state(at_ms)):
            found.append(at)
    return found
