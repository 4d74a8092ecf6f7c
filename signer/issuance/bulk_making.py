"""Makes the certificates of one chunk of a bulk file: as `making` does, with all its orders in one go.

Serials and status indexes by the same `reserving`; to-be-signed certificates assembled from templates (`stencil`),
signed and looked at in native batches. Each template's first certificate is linted, and one in `LINT_EVERY` of all
others, which is held against the ordinary builder as well.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from core.asn1 import x509 as codec
from core.clock import Clock
from core.errors import QianyanError
from core.ports import BatchSigner
from core.store import counters
from core.store.database import Database
from signer._native import sm2
from signer.holders.service import Admission
from signer.issuance import serials
from signer.issuance.bulk_lines import Asked
from signer.issuance.issued import Issued, IssuedCertificate
from signer.issuance.kmc import EncryptionKey, KeyManagement
from signer.issuance.lint import Linter
from signer.issuance.order import Order
from signer.issuance.recording import Made
from signer.issuance.reserving import Reservation, Reserver
from signer.issuance.settings import IssuanceSettings
from signer.issuance.states import Operation
from signer.issuance.stencil import Stencils
from signer.issuance.template import CertificatePlan

#: One in so many certificates is linted, besides the first of each template.
LINT_EVERY: Final = 64
_SIGNATURE_BYTES: Final = 64


def order_of(asked: Asked, authority_id: str, actor: str, admission: Admission | None) -> Order:
    """The order that the HTTP route would give."""
    days = asked.profile.validity_days
    return Order(
        operation=Operation.ISSUE,
        profile_name=asked.profile_name,
        profile=asked.profile,
        authority_id=authority_id,
        subject=asked.subject,
        extensions=asked.extensions,
        public_key=asked.public_key,
        not_after=_Term(days),
        dual=asked.profile.dual,
        actor=actor,
        admission=admission,
    )


class _Term:
    """The end of a term that begins now; both ends are included."""

    __slots__ = ("_length",)

    def __init__(self, days: int) -> None:
        self._length = timedelta(days=days, seconds=-1)

    def __call__(self, now: datetime) -> datetime:
        return now + self._length


class ChunkMaker:
    """See the module. `signer_for` gives the signer of a key id, for batches."""

    def __init__(
        self,
        database: Database,
        signer_for: Callable[[str], BatchSigner],
        keys: KeyManagement,
        settings: IssuanceSettings,
        clock: Clock,
        entropy: serials.Entropy = os.urandom,
    ) -> None:
        self._database = database
        self._signer_for = signer_for
        self._keys = keys
        self._clock = clock
        self._reserver = Reserver(settings, entropy)
        self._linter = Linter()
        self._stencils = Stencils()
        self._assembled = 0

    async def make(self, orders: Sequence[Order]) -> tuple[list[Made | QianyanError], int]:
        """What was made for each order, or why nothing was, in order; and the time that it was reserved at."""
        if not orders:
            return [], self._clock()
        async with self._database.write() as connection:
            now_ms = await counters.look_at_time(connection, self._clock())
            reserved = await self._reserver.reserve(connection, orders, now_ms)
        whole = [(order, one) for order, one in zip(orders, reserved, strict=True) if isinstance(one, Reservation)]
        made = iter(await self._make_reserved(whole))
        return [one if isinstance(one, QianyanError) else next(made) for one in reserved], now_ms

    async def _make_reserved(self, reserved: Sequence[tuple[Order, Reservation]]) -> list[Made | QianyanError]:
        wanting = [order.public_key for order, _ in reserved if order.dual]
        made = iter(await self._keys.make_fresh(wanting) if wanting else [])
        keys = [next(made) if order.dual else None for order, _ in reserved]
        drafts: list[tuple[Order, Reservation, EncryptionKey | None]] = []
        for (order, reservation), key in zip(reserved, keys, strict=True):
            if not isinstance(key, QianyanError):
                drafts.append((order, reservation if key is None else _with_key(reservation, key), key))
        signed = iter(await self._sign(drafts))
        return [key if isinstance(key, QianyanError) else next(signed) for key in keys]

    async def _sign(self, drafts: Sequence[tuple[Order, Reservation, EncryptionKey | None]]) -> list[Made]:
        """All of a chunk are one authority's, and so one key's."""
        if not drafts:
            return []
        chain = drafts[0][1].chain
        plans = [plan for _, reservation, _ in drafts for plan in reservation.plans]
        bodies = await asyncio.to_thread(self._assemble, plans)
        signatures = await self._signer_for(chain.key_id).sign_many(bodies)
        encoded = iter(await asyncio.to_thread(_join, chain.authority.public_key, bodies, signatures))
        made = []
        for order, reservation, key in drafts:
            members = tuple(IssuedCertificate(plan.usage, plan.serial, next(encoded)) for plan in reservation.plans)
            issued = Issued(members, chain.certificates, None if key is None else key.enveloped, order.holder_id)
            made.append(Made(order, reservation, key, issued))
        return made

    def _assemble(self, plans: Sequence[CertificatePlan]) -> list[bytes]:
        bodies = []
        for plan in plans:
            body, fresh = self._stencils.tbs(plan)
            self._assembled += 1
            if fresh or self._assembled % LINT_EVERY == 0:
                if body != plan.tbs():
                    raise QianyanError("a template gives other octets than the builder", code="template")
                self._linter.check(plan, body)
            bodies.append(body)
        return bodies


def _with_key(reservation: Reservation, key: EncryptionKey) -> Reservation:
    first, second = reservation.plans
    return Reservation(reservation.chain, (first, replace(second, public_key=key.public_key)))


def _join(public_key: bytes, bodies: Sequence[bytes], signatures: bytes) -> list[bytes]:
    """The certificates, their signatures looked at once more as `signing` does."""
    key = sm2.PublicKey.from_bytes(public_key)
    if sm2.verify_many(key, sm2.digest_many(key, bodies), signatures) != b"\x01" * len(bodies):
        raise QianyanError("the signing key made a signature that does not verify", code="signature_fault")
    return [
        codec.join_signed(body, sm2.signature_to_der(signatures[at : at + _SIGNATURE_BYTES]))
        for body, at in zip(bodies, range(0, len(signatures), _SIGNATURE_BYTES), strict=True)
    ]
