"""The first transaction of issuance: who issues, when, under which serials and status indexes.

For a group of orders at once, each statement once for all of them; an order that must be refused is refused alone.
Nothing is left behind but status indexes that were taken. The locks that it needs are taken last, in one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import to_datetime
from core.errors import QianyanError, Refused
from core.store import authorities, certificates, crl_points
from core.store.authorities import Authority
from core.store.crl_points import CrlPoint, Points
from signer.issuance import serials, template
from signer.issuance.chain import AuthorityChain, authority_keys, chain_of, refuse_one_of
from signer.issuance.key_owner import Claim, known_keys
from signer.issuance.order import Order
from signer.issuance.settings import IssuanceSettings
from signer.issuance.template import CertificatePlan, IssuerIdentity


@dataclass(frozen=True, slots=True)
class Issuing:
    """An authority as one transaction saw it, with its CRL partitions."""

    chain: AuthorityChain
    identity: IssuerIdentity
    points: Points


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the transaction settled for one order: one plan or, for a pair, two; all but an encryption key that is to be
    made yet."""

    chain: AuthorityChain
    plans: tuple[CertificatePlan, ...]


Outcome = Reservation | QianyanError


async def load_issuing(connection: AsyncConnection, known: Sequence[Authority], authority_id: str) -> Issuing:
    """One of the `known` authorities. Raises NotFound, Refused (as `chain_of`)."""
    chain = chain_of(known, authority_id)
    points = await crl_points.load(connection, chain.authority)
    return Issuing(chain, template.issuer_identity(chain.authority), points)


class Reserver:
    """See the module."""

    def __init__(self, settings: IssuanceSettings, entropy: serials.Entropy) -> None:
        self._settings = settings
        self._entropy = entropy

    async def reserve(self, connection: AsyncConnection, orders: Sequence[Order], now_ms: int) -> list[Outcome]:
        """One outcome for each order, in order; `now_ms` becomes their notBefore."""
        outcomes: list[Outcome | None] = [None] * len(orders)
        issuing: dict[str, Issuing | QianyanError] = {}
        known = await authorities.list_all(connection)
        for authority_id in sorted({order.authority_id for order in orders}):
            try:
                issuing[authority_id] = await load_issuing(connection, known, authority_id)
            except QianyanError as error:
                issuing[authority_id] = error
        refused = await self._refusals(connection, known, orders)
        drafts: dict[int, CertificatePlan] = {}
        for place, order in enumerate(orders):
            issuer = issuing[order.authority_id]
            trouble = issuer if isinstance(issuer, QianyanError) else refused[place]
            if trouble is None:
                assert isinstance(issuer, Issuing)
                try:
                    drafts[place] = draft(order, issuer.identity, to_datetime(now_ms))
                    continue
                except QianyanError as error:
                    trouble = error
            outcomes[place] = trouble
        for place, plans in (await self._number(connection, orders, drafts, issuing)).items():
            issuer = issuing[orders[place].authority_id]
            assert isinstance(issuer, Issuing)
            outcomes[place] = Reservation(issuer.chain, plans)
        found = [outcome for outcome in outcomes if outcome is not None]
        assert len(found) == len(orders)
        return found

    async def look(self, connection: AsyncConnection, order: Order, now_ms: int) -> CertificatePlan:
        """The signing certificate's draft as it would be now; nothing is reserved. Raises as one that is refused."""
        known = await authorities.list_all(connection)
        issuer = await load_issuing(connection, known, order.authority_id)
        trouble = (await self._refusals(connection, known, [order]))[0]
        if trouble is not None:
            raise trouble
        return draft(order, issuer.identity, to_datetime(now_ms))

    async def _refusals(
        self, connection: AsyncConnection, known: Sequence[Authority], orders: Sequence[Order]
    ) -> list[QianyanError | None]:
        """For whose key nothing may be issued."""
        reserved = await authority_keys(connection, [order.public_key for order in orders], known)
        new = [order for order in orders if order.new_key]
        claims = [Claim(order.public_key, order.holder_id, order.subject) for order in new]
        others = dict(zip((id(order) for order in new), await known_keys(connection, claims), strict=True))
        return [refuse_one_of(reserved, order.public_key) or others.get(id(order)) for order in orders]

    async def _number(
        self,
        connection: AsyncConnection,
        orders: Sequence[Order],
        drafts: dict[int, CertificatePlan],
        issuing: dict[str, Issuing | QianyanError],
    ) -> dict[int, tuple[CertificatePlan, ...]]:
        """The drafts with serials, partitions and status indexes: of each authority and month one run of indexes."""
        runs: dict[tuple[str, int], list[int]] = {}
        for place, plan in drafts.items():
            runs.setdefault((orders[place].authority_id, template.status_month(plan.not_after)), []).append(place)
        numbered: dict[int, tuple[CertificatePlan, ...]] = {}
        for (authority_id, month), places in sorted(runs.items()):
            issuer = issuing[authority_id]
            assert isinstance(issuer, Issuing)
            counts = [2 if orders[place].dual else 1 for place in places]
            drawn = iter(await serials.fresh(connection, authority_id, sum(counts), self._entropy))
            public_url = self._settings.public_url
            settled = [
                [
                    (serial, await issuer.points.choose(connection, serial, public_url))
                    for serial in _serials(orders[place], drawn, count)
                ]
                for place, count in zip(places, counts, strict=True)
            ]
            index = await certificates.take_status_index(connection, authority_id, month, sum(counts))
            for place, members in zip(places, settled, strict=True):
                numbered[place] = self._members(orders[place], drafts[place], members, month, index)
                index += len(members)
        return numbered

    def _members(
        self, order: Order, plan: CertificatePlan, members: Sequence[tuple[int, CrlPoint]], month: int, index: int
    ) -> tuple[CertificatePlan, ...]:
        made = []
        for offset, (serial, point) in enumerate(members):
            changes: dict[str, Any] = {
                "serial": serial,
                "urls": _urls(self._settings.public_url, order.authority_id, point, delta=self._settings.freshest_crl),
                "status": template.StatusIndex(self._settings.status_index_oid, month, index + offset),
                "partition": point.partition,
            }
            if offset:
                changes |= {"usage": "encrypt", "key_usage": frozenset(order.profile.encrypt_key_usage)}
                if order.kept is not None:
                    changes["public_key"] = order.kept.public_key
            made.append(replace(plan, **changes))
        return tuple(made)


@lru_cache(maxsize=1_024)
def _urls(public_url: str, authority_id: str, point: CrlPoint, *, delta: bool) -> template.Urls:
    return replace(template.urls(public_url, authority_id, point.partition), crl=point.url, delta=delta)


def _serials(order: Order, drawn: Iterator[int], count: int) -> list[int]:
    """The next serials; the encryption certificate's is the one that its key was asked for under, where it was."""
    taken = list(islice(drawn, count))
    if order.given is not None and order.given.number is not None:
        taken[-1] = order.given.number
    return taken


def draft(order: Order, issuer: IssuerIdentity, now: datetime) -> CertificatePlan:
    """The signing certificate's plan, not yet numbered. Raises Refused where it would outlive its issuer."""
    not_after = order.not_after(now)
    if not_after > issuer.not_after:
        raise Refused(
            f"the certificate would be valid past the issuing authority's own end, {issuer.not_after:%Y-%m-%d}",
            code="issuer_expires",
            field="profile",
        )
    return CertificatePlan(
        usage="sign",
        serial=0,
        issuer=issuer.subject,
        authority_key_identifier=issuer.key_identifier,
        subject=order.subject,
        public_key=order.public_key,
        not_before=now,
        not_after=not_after,
        key_usage=frozenset(order.profile.sign_key_usage),
        extended_key_usage=order.profile.extended_key_usage,
        policies=order.profile.policies,
        more=order.extensions,
    )
