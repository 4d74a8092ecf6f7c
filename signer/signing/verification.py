"""Verifies signatures for applications: the signature, the certificate's path, its validity, usage and status.

Owns the bounds on how much is verified at a time, and the checked hierarchy of our authorities as the store last had
it. Knows certificates, the store, a StatusSource and foreign status; not HTTP or JSON. A bad item gets its reason and
affects no other; a store that cannot be asked fails the call (Unavailable), because no item can then be called valid.

Reasons come in this order, the first that applies: malformed, signature, chain, not_yet_valid or expired, key_usage,
and the status: unknown_status, revoked, suspended. With a time `at`, validity is judged at that time, and a revocation
or hold counts as `verdicts.standing` has it. Where several paths lead to an anchor one that holds is enough, unless it
runs through a key that another has revoked for its compromise.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from core.clock import Clock
from core.errors import Busy, QianyanError, TooLarge
from core.model import CertificateStatus
from core.ports import StatusSource
from core.store import authorities
from core.store.database import Database
from signer.signing.examination import Case, examine
from signer.signing.foreign import Evidence, ForeignAnswer, ForeignStatus, Key, Question, key_of, sm3, unknown
from signer.signing.hierarchy import Hierarchy
from signer.signing.parsed import ParseCache, Parsed
from signer.signing.paths import Path, PathFinder, SignatureCache
from signer.signing.records import record_octets, verify_records
from signer.signing.settings import SigningSettings
from signer.signing.trust import Trust
from signer.signing.verdicts import COMPROMISE, Depth, Reason, Verdict, VerifyItem, standing
from signer.signing.verification_settings import VerificationSettings

__all__ = ["Depth", "Reason", "Verdict", "VerificationService", "VerifyItem"]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the statuses along one path say."""

    path: tuple[Parsed, ...]
    reason: Reason | None = None
    detail: str | None = None
    status: CertificateStatus | None = None
    compromised: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Statuses:
    """What is known of every certificate that a call's paths need."""

    hierarchy: Hierarchy
    own: dict[tuple[str, int], CertificateStatus]
    foreign: dict[Key, ForeignAnswer]
    now_ms: int

    def of(self, question: Question) -> tuple[ForeignAnswer, str | None]:
        """(answer, the authority of ours that issued it)."""
        child, issuer = question
        ours = self.hierarchy.of_name_and_key(issuer)
        if ours is None:
            return self.foreign[key_of(question)], None
        return ForeignAnswer(self.own[ours.authority_id, child.serial]), ours.authority_id


class VerificationService:
    """See the module. `trust`, `foreign`: whom to trust beside our authorities, and how their status is had."""

    def __init__(
        self,
        database: Database,
        status_source: StatusSource,
        clock: Clock,
        settings: SigningSettings,
        bounds: VerificationSettings | None = None,
        *,
        trust: Trust | None = None,
        foreign: ForeignStatus | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._database = database
        self._status_source = status_source
        self._clock = clock
        self._settings = settings
        self.bounds = bounds or VerificationSettings()
        self._trust = trust or Trust()
        self._foreign = foreign
        self._items = Counter(
            "qianyan_verified_items",
            "Items verified, by result: valid, or the reason why not.",
            ["result"],
            registry=registry,
        )
        self._under_way = 0
        self._threads = asyncio.Semaphore(self.bounds.threads)
        self._parsed = ParseCache(self.bounds.certificate_cache)
        self._signatures = SignatureCache(self.bounds.certificate_cache)
        self._hierarchy = Hierarchy(())
        self._hierarchy_of: list[authorities.Authority] = []

    async def verify(
        self, items: Sequence[VerifyItem], *, intermediates: Sequence[bytes] = (), evidence: bool = False
    ) -> list[Verdict]:
        """A verdict per item, in order.

        `intermediates`: certificates (DER) that may stand in paths; those that cannot be read are left out.
        `evidence`: whether verdicts say what they rest on. Raises Busy where too much is under verification,
        TooLarge (code "intermediates"), Unavailable.
        """
        if len(intermediates) > self.bounds.max_intermediates:
            limit = self.bounds.max_intermediates
            raise TooLarge(f"at most {limit} intermediates are taken", code="intermediates", field="intermediates")
        self._admit(len(items))
        try:
            return await self._verify(items, intermediates, evidence)
        finally:
            self._under_way -= len(items)

    async def verify_records(self, body: bytes, point_octets: int) -> bytes:
        """As `records.verify_records`, off the event loop where it is much. Raises Busy, TooLarge (code "records")."""
        count = len(body) // record_octets(point_octets)
        if count > self.bounds.max_records:
            raise TooLarge(f"at most {self.bounds.max_records} records are taken", code="records")
        self._admit(count)
        try:
            if count <= self._settings.verify_inline_max:
                return verify_records(body, point_octets)
            async with self._threads:
                return await asyncio.to_thread(verify_records, body, point_octets)
        finally:
            self._under_way -= count

    def _admit(self, count: int) -> None:
        if self._under_way + count > self._settings.max_verifying:
            raise Busy(
                "too many signatures are under verification",
                code="verify_queue",
                retry_after_s=1 + secrets.randbelow(3),
            )
        self._under_way += count

    async def _verify(self, items: Sequence[VerifyItem], brought: Sequence[bytes], evidence: bool) -> list[Verdict]:
        now_ms = self._clock()
        hierarchy = await self.hierarchy() if any(item.certificate for item in items) else Hierarchy(())
        size = sum(len(item.data or b"") + len(item.certificate or b"") for item in items)
        settings = self._settings
        if len(items) <= settings.verify_inline_max and size <= settings.verify_inline_max_bytes and not brought:
            cases = self._examine(items, brought, hierarchy, now_ms)
        else:
            async with self._threads:
                cases = await asyncio.to_thread(self._examine, items, brought, hierarchy, now_ms)
        outcomes = await self._judge([case for case in cases if case.needs_status], hierarchy, now_ms, evidence)
        verdicts = [outcomes.get(id(case)) or _verdict(case, hierarchy, now_ms) for case in cases]
        for result, count in collections.Counter(verdict.reason or "valid" for verdict in verdicts).items():
            self._items.labels(result).inc(count)
        return verdicts

    def _examine(
        self, items: Sequence[VerifyItem], brought: Sequence[bytes], hierarchy: Hierarchy, now_ms: int
    ) -> list[Case]:
        limit = self._settings.max_certificate_bytes
        extra = [parsed for encoded in brought if (parsed := self._readable(encoded, limit)) is not None]
        finder = PathFinder(hierarchy, self._trust, extra, self._signatures, self.bounds)
        return examine(items, finder, self._parsed, now_ms, limit)

    def _readable(self, encoded: bytes, limit: int) -> Parsed | None:
        """An intermediate; None where it is of no use. What needs it fails for want of a path, and says so."""
        try:
            return self._parsed.parse(encoded) if len(encoded) <= limit else None
        except QianyanError:
            return None

    async def hierarchy(self) -> Hierarchy:
        """Our authorities as the store has them now. Raises Unavailable."""
        async with self._database.read() as connection:
            rows = await authorities.list_all(connection)
        if rows != self._hierarchy_of:
            self._hierarchy = await asyncio.to_thread(Hierarchy.build, rows)
            self._hierarchy_of = rows
        return self._hierarchy

    async def _judge(
        self, cases: Sequence[Case], hierarchy: Hierarchy, now_ms: int, evidence: bool
    ) -> dict[int, Verdict]:
        """Verdicts by the statuses along the paths, by id of the case; one for all of one certificate and time."""
        alike: dict[tuple[bytes, int], list[Case]] = {}
        for case in cases:
            assert case.parsed is not None
            alike.setdefault((case.parsed.encoded, case.at_ms), []).append(case)
        if not alike:
            return {}
        asked = [pair for first, *_ in alike.values() for path in first.paths for pair in _pairs(first, path)]
        questions = {key_of(question): question for question in asked}
        statuses = await self._statuses(list(questions.values()), hierarchy, now_ms)
        verdicts: dict[int, Verdict] = {}
        for those in alike.values():
            verdict = _by_status(those[0], statuses, evidence)
            verdicts |= {id(case): verdict for case in those}
        return verdicts

    async def _statuses(self, questions: Sequence[Question], hierarchy: Hierarchy, now_ms: int) -> _Statuses:
        """Own: one question per authority to the store. Foreign: by their sources."""
        wanted: dict[str, set[int]] = {}
        others: list[Question] = []
        for child, issuer in questions:
            ours = hierarchy.of_name_and_key(issuer)
            if ours is None:
                others.append((child, issuer))
            else:
                wanted.setdefault(ours.authority_id, set()).add(child.serial)
        own: dict[tuple[str, int], CertificateStatus] = {}
        for authority_id, serials in wanted.items():
            for status in await self._status_source.statuses(authority_id, sorted(serials)):
                own[authority_id, status.serial] = status
        if self._foreign is None:
            foreign = {key_of(asked): unknown(asked[0], "no foreign status is fetched here") for asked in others}
        else:
            foreign = await self._foreign.resolve(others) if others else {}
        return _Statuses(hierarchy, own, foreign, now_ms)


def _pairs(case: Case, path: Path) -> list[Question]:
    """(certificate, issuer) along a path; the anchor's own certificate is asked of nobody."""
    assert case.parsed is not None
    return list(zip((case.parsed, *path[:-1]), path, strict=True))


def _by_status(case: Case, statuses: _Statuses, evidence: bool) -> Verdict:
    """The first path that holds, else what the first path says."""
    outcomes = [_along(case, path, statuses) for path in case.paths]
    compromised = {outcome.compromised for outcome in outcomes} - {None}
    chosen = outcomes[0]
    for outcome in outcomes:
        if outcome.reason is None and not any(link.point in compromised for link in outcome.path[1:]):
            chosen = outcome
            break
    else:
        chosen = next(outcome for outcome in outcomes if outcome.reason is not None)
    case.reason, case.detail = chosen.reason, chosen.detail
    found = _evidence(chosen.path, statuses) if evidence else ()
    return _verdict(case, statuses.hierarchy, statuses.now_ms, chosen.status, chosen.path, found)


def _along(case: Case, path: Path, statuses: _Statuses) -> _Outcome:
    """What the statuses say: of the authorities first, because without them the leaf's own says nothing."""
    assert case.parsed is not None
    whole = (case.parsed, *path)
    (leaf, _), *above = (statuses.of(question) for question in _pairs(case, path))
    uncertain: str | None = None
    for child, (answer, ours) in zip(path, above, strict=False):
        stands = standing(answer.status, case.at_ms)
        if stands in ("revoked", "suspended"):
            compromised = child.point if answer.status.reason in COMPROMISE else None
            return _Outcome(whole, "chain", "an authority's certificate is revoked", None, compromised)
        # Of our authorities' own certificates, those that were issued elsewhere are not in our store. Another one that
        # our key has signed was issued by nobody: it is good for nothing.
        if stands == "unknown_status" and (ours is None or statuses.hierarchy.of_certificate(child) is None):
            why = answer.detail or "it was not issued here"
            uncertain = f"the status of an authority's certificate is unknown: {why}"
    stands = standing(leaf.status, case.at_ms)
    if stands is None and uncertain is not None:
        return _Outcome(whole, "unknown_status", uncertain)
    return _Outcome(whole, stands, leaf.detail if stands == "unknown_status" else None, leaf.status)


def _evidence(path: tuple[Parsed, ...], statuses: _Statuses) -> tuple[Evidence, ...]:
    """What the statuses along a path rest on."""
    found: list[Evidence] = []
    for child, issuer in itertools.pairwise(path):
        answer, ours = statuses.of((child, issuer))
        if ours is not None:
            found.append(Evidence("store", sm3(child.encoded), ours, statuses.now_ms))
        elif answer.evidence is not None:
            found.append(answer.evidence)
    return tuple(found)


def _verdict(
    case: Case,
    hierarchy: Hierarchy,
    now_ms: int,
    status: CertificateStatus | None = None,
    path: tuple[Parsed, ...] = (),
    evidence: tuple[Evidence, ...] = (),
) -> Verdict:
    if case.parsed is None:
        return Verdict(case.reason, case.detail)
    path = path or (case.parsed, *(case.paths[0] if case.paths else ()))
    issuer = path[1] if len(path) > 1 else next(iter(case.candidates), None)
    ours = None if issuer is None else hierarchy.of_name_and_key(issuer)
    told = status if status is not None and case.reason in ("revoked", "suspended") else None
    return Verdict(
        case.reason,
        case.detail,
        case.parsed.serial,
        None if ours is None else ours.authority_id,
        now_ms,
        None if told is None else told.revoked_at_ms,
        None if told is None else told.reason,
        path,
        evidence,
    )
