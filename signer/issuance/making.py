"""Makes certificates to order: the one way in which a holder's certificates come about, new or in place of others.

The order of it, and why. (1) What can be checked without the store was checked before. (2) One short transaction
reserves serials and status indexes (`reserving`). (3) The certificates are linted and signed outside any transaction:
the signing engine keeps its own record in the store, and an HSM may be slow, so a signature must never wait for the
write lock or hold it. (4) One transaction records certificates, pair, escrow, feed, history, audit, outbox and the
remembered answer, and ends the certificates that these replace (`recording`); only then does the answer leave. An index
is thus never given twice, and what fails between (2) and (4) leaves a gap, which is harmless: the status set never
lists what was not issued.

Orders that wait at the same time go through this together, so that a transaction and its wait for the disk serve them
all; each is refused alone. An order that replaces a pair locks that, and goes by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1 import x509 as codec
from core.clock import Clock, from_datetime
from core.errors import QianyanError
from core.ports import Signer
from core.store import contention, counters, tail
from core.store.database import Database
from signer._native import sm2
from signer.issuance import recording, serials
from signer.issuance.gathering import Gatherer
from signer.issuance.issued import Issued, IssuedCertificate
from signer.issuance.kmc import EncryptionKey, KeyManagement, KeySource
from signer.issuance.lint import Linter
from signer.issuance.metrics import IssuanceMetrics
from signer.issuance.order import Once, Order, Replaced, Settlement
from signer.issuance.recording import Made
from signer.issuance.reserving import Reservation, Reserver
from signer.issuance.settings import IssuanceSettings
from signer.issuance.signing import sign_messages
from signer.issuance.stencil import Stencils, fits
from signer.issuance.template import CertificatePlan

__all__ = ["Maker", "Once", "Order", "Replaced", "Settlement"]

#: Groups under way at once: while one waits for the disk, the next is signed.
_PARALLEL: Final = 2

Outcome = Issued | QianyanError


class _RolledBack(Exception):
    """Ends a transaction of which nothing is to stay."""


class Maker:
    """See the module. `signer_for` gives the signer of a key id; `centres` has other key-management centres."""

    def __init__(
        self,
        database: Database,
        signer_for: Callable[[str], Signer],
        keys: KeyManagement,
        settings: IssuanceSettings,
        clock: Clock,
        metrics: IssuanceMetrics,
        entropy: serials.Entropy = os.urandom,
        centres: KeySource | None = None,
    ) -> None:
        self._database = database
        self._signer_for = signer_for
        self._keys = keys
        self._centres = centres
        self._clock = clock
        self._metrics = metrics
        self._reserver = Reserver(settings, entropy)
        self._linter = Linter()
        self._stencils = Stencils()
        self._gatherer: Gatherer[Order, Issued] = Gatherer(self._make_all, parallel=_PARALLEL)

    async def make(self, order: Order) -> Issued:
        """The certificates, durable. Raises Refused, NotFound, Conflict, Busy or Unavailable; nothing was done then."""
        order = await self._ask_centre(order)
        if not order.alone:
            return await self._gatherer.submit(order)
        outcome = (await self._make_group([order]))[0]
        if isinstance(outcome, QianyanError):
            raise outcome
        return outcome

    async def rehearse(self, order: Order) -> None:
        """Takes an order of nobody's through all of it but the authority's key, and leaves nothing behind.

        What the first certificate of a process costs more than others is done then: statements are compiled, extension
        classes are met, the master key is read. One transaction, which is rolled back; a key that is thrown away signs.
        Raises what would refuse any order: an authority without its certificate, Unavailable.
        """
        key = sm2.PrivateKey.generate()
        if order.dual:
            order = replace(order, given=await self._keys.rehearse(order.public_key))
        with contextlib.suppress(_RolledBack):
            async with self._database.write() as connection:
                now_ms = await counters.look_at_time(connection, self._clock())
                (reservation,) = await self._reserver.reserve(connection, [order], now_ms)
                if isinstance(reservation, QianyanError):
                    raise reservation
                reservation = _with_key(reservation, order.given)
                bodies = [self._body(plan) for plan in reservation.plans]
                encoded = [codec.join_signed(body, sm2.signature_to_der(key.sign(body))) for body in bodies]
                made = _made(order, reservation, order.given, encoded)
                await recording.record(connection, [made], now_ms, self._metrics)
                await tail.flush(connection)
                raise _RolledBack

    async def _ask_centre(self, order: Order) -> Order:
        """The order with its encryption key, where another centre makes it; before any other order waits with it."""
        centres = self._centres
        if centres is None or not order.dual or order.kept is not None or not centres.serves(order.authority_id):
            return order
        async with self._database.read() as connection:
            plan = await self._reserver.look(connection, order, self._clock())  # no key for what is refused anyway
        not_after_ms = from_datetime(plan.not_after)
        return replace(order, given=await centres.make(order.authority_id, order.public_key, not_after_ms))

    async def _make_all(self, orders: Sequence[Order]) -> list[Outcome]:
        """Orders that have something in common go one after the other: the later one meets what the earlier one did."""
        self._metrics.groups.observe(len(orders))
        outcomes: dict[int, Outcome] = {}
        waiting = list(enumerate(orders))
        while waiting:
            claimed: set[Hashable] = set()
            now: list[tuple[int, Order]] = []
            later: list[tuple[int, Order]] = []
            for place, order in waiting:
                apart = claimed.isdisjoint(order.claims)
                (now if apart else later).append((place, order))
                claimed |= order.claims
            try:
                made = await self._make_group([order for _, order in now])
            except QianyanError as error:  # of these alone: what an earlier turn did stands
                made = [error] * len(now)
            outcomes.update(zip((place for place, _ in now), made, strict=True))
            waiting = later
        return [outcomes[place] for place in range(len(orders))]

    async def _make_group(self, orders: Sequence[Order]) -> list[Outcome]:
        async with self._database.write() as connection:
            now_ms = await counters.look_at_time(connection, self._clock())
            reserved = await self._reserver.reserve(connection, orders, now_ms)
            outcomes = await _unless_answered(connection, orders, reserved)
        places = [place for place, one in enumerate(reserved) if isinstance(one, Reservation)]
        signed = await self._sign(
            [(orders[place], one) for place, one in enumerate(reserved) if isinstance(one, Reservation)]
        )
        made: list[tuple[int, Made]] = []
        for place, one in zip(places, signed, strict=True):
            if isinstance(one, QianyanError):
                outcomes[place] = one
            else:
                made.append((place, one))
        recorded = await contention.or_conflict(lambda: self._record([one for _, one in made], now_ms))
        for (place, _), outcome in zip(made, recorded, strict=True):
            outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    async def _sign(self, reserved: Sequence[tuple[Order, Reservation]]) -> list[Made | QianyanError]:
        """The certificates of each; a key that cannot be made, or may not sign, is the trouble of its orders alone."""
        keys = await self._keys_for([order for order, _ in reserved])
        drafts: list[tuple[Order, Reservation, EncryptionKey | None] | QianyanError] = []
        for (order, reservation), key in zip(reserved, keys, strict=True):
            if isinstance(key, QianyanError):
                drafts.append(key)
            else:
                drafts.append((order, _with_key(reservation, key), key))
        whole = [draft for draft in drafts if not isinstance(draft, QianyanError)]
        made = iter(await self._sign_whole(whole))
        return [draft if isinstance(draft, QianyanError) else next(made) for draft in drafts]

    async def _keys_for(self, orders: Sequence[Order]) -> list[EncryptionKey | QianyanError | None]:
        wanting = [order.dual and order.kept is None and order.given is None for order in orders]
        makes = [order.public_key for order, wants in zip(orders, wanting, strict=True) if wants]
        made = iter(await self._keys.make_many(makes))
        return [next(made) if wants else order.given for order, wants in zip(orders, wanting, strict=True)]

    async def _sign_whole(
        self, drafts: Sequence[tuple[Order, Reservation, EncryptionKey | None]]
    ) -> list[Made | QianyanError]:
        made: dict[int, Made | QianyanError] = {}
        bodies: dict[int, list[bytes]] = {}
        by_key: dict[str, list[int]] = {}
        for place, (_, reservation, _) in enumerate(drafts):
            try:
                bodies[place] = [self._body(plan) for plan in reservation.plans]
                by_key.setdefault(reservation.chain.key_id, []).append(place)
            except QianyanError as error:
                made[place] = error
            await asyncio.sleep(0)  # others get the processor between two orders
        for key_id, places in by_key.items():
            public_key = drafts[places[0]][1].chain.authority.public_key
            messages = [body for place in places for body in bodies[place]]
            try:
                signatures = iter(await sign_messages(self._signer_for(key_id), public_key, messages))
            except QianyanError as error:
                made.update(dict.fromkeys(places, error))
                continue
            for place in places:
                encoded = [codec.join_signed(body, next(signatures)) for body in bodies[place]]
                made[place] = _made(*drafts[place], encoded)
        return [made[place] for place in range(len(drafts))]

    def _body(self, plan: CertificatePlan) -> bytes:
        """To be signed, and linted. Raises LintFailure."""
        tbs = self._stencils.tbs(plan)[0] if fits(plan) else plan.tbs()
        self._linter.check(plan, tbs)
        return tbs

    async def _record(self, group: Sequence[Made], reserved_at_ms: int) -> list[Outcome]:
        if not group:
            return []
        try:
            async with self._database.write() as connection:
                now_ms = await counters.advance_time(connection, max(self._clock(), reserved_at_ms))
                outcomes = await recording.record(connection, group, now_ms, self._metrics)
        except QianyanError as error:
            if len(group) == 1 or not (recording.is_serial_taken(error) or contention.is_contended(error)):
                raise
            return [outcome for one in group for outcome in await self._record_alone(one, reserved_at_ms)]
        for outcome, one in zip(outcomes, group, strict=True):
            if outcome is one.issued:
                for certificate in one.issued.certificates:
                    self._metrics.certificates.labels(certificate.usage).inc()
        return outcomes

    async def _record_alone(self, one: Made, reserved_at_ms: int) -> list[Outcome]:
        try:
            return await contention.or_conflict(lambda: self._record([one], reserved_at_ms))
        except QianyanError as error:
            return [error]


async def _unless_answered(
    connection: AsyncConnection, orders: Sequence[Order], reserved: Sequence[Reservation | QianyanError]
) -> list[Outcome | None]:
    """What was refused already; where an identical request was faster, that is why, and its answer is this one's."""
    outcomes: list[Outcome | None] = [one if isinstance(one, QianyanError) else None for one in reserved]
    refused = [place for place, one in enumerate(outcomes) if one is not None and orders[place].once is not None]
    answers = await recording.recall_all(connection, [orders[place].once for place in refused])
    for place, answer in zip(refused, answers, strict=True):
        outcomes[place] = answer or outcomes[place]
    return outcomes


def _with_key(reservation: Reservation, key: EncryptionKey | None) -> Reservation:
    """The encryption certificate's plan with the key that was made for it."""
    if key is None:
        return reservation
    first, second = reservation.plans
    return replace(reservation, plans=(first, replace(second, public_key=key.public_key)))


def _made(order: Order, reservation: Reservation, new: EncryptionKey | None, encoded: Sequence[bytes]) -> Made:
    issued = Issued(
        tuple(IssuedCertificate(p.usage, p.serial, c) for p, c in zip(reservation.plans, encoded, strict=True)),
        reservation.chain.certificates,
        None if new is None else new.enveloped,
        order.holder_id,
    )
    return Made(order, reservation, new, issued)
