"""Says whether a CRL may be published, and what an outsider would find wrong with one that is.

Independent of the builder: reads through `crl.view`, and compares with the issuer's certificate, the CRL before
it and what the store's feed says happened in between. Pure; the caller reads the store and the clock. An empty list
of problems means that nothing is wrong; nothing here is a truth value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from core.asn1.x509 import split_signed
from core.clock import rfc3339
from core.errors import Malformed, Refused
from core.model import CertificateState, CertificateStatus
from core.ports import SignatureVerifier
from core.store.crls import StatusChange
from crl.settings import DAY_S
from crl.view import CrlView, IssuerView, listed, read_crl, read_issuer

#: How many serials one problem names.
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: a stable code, and a sentence for the operator."""

    code: str
    detail: str


def refuse(problems: Sequence[Problem]) -> None:
    """Raises Refused with the first problem's code and every detail; returns where there is none."""
    if problems:
        raise Refused("; ".join(problem.detail for problem in problems), code=problems[0].code)


def structure_problems(view: CrlView, issuer: IssuerView, now_ms: int) -> list[Problem]:
    """What the CRL's own shape, times and issuer show."""
    found = [Problem(code, detail) for code, detail in view.faults]
    if view.issuer != issuer.subject:
        found.append(Problem("crl_issuer", f"it is issued by {view.issuer_text}, not by the authority asked for"))
    if view.key_identifier is None or view.key_identifier != (issuer.key_identifier or view.key_identifier):
        found.append(Problem("crl_key_identifier", "its key identifier is not that of the issuer"))
    if view.number is None:
        found.append(Problem("crl_number", "it has no CRL number"))
    return found + list(_time_problems(view, issuer, now_ms))


def _time_problems(view: CrlView, issuer: IssuerView, now_ms: int) -> Iterator[Problem]:
    this_ms, next_ms = view.this_update_ms, view.next_update_ms
    if this_ms > now_ms:
        yield Problem("crl_this_update", f"its thisUpdate {rfc3339(this_ms)} is in the future")
    if next_ms is None or next_ms <= this_ms:
        yield Problem("crl_next_update", "its nextUpdate is missing, or not after thisUpdate")
        return
    if next_ms - this_ms > DAY_S * 1000:
        yield Problem("crl_life", "it lives longer than a day")
    if next_ms > issuer.not_after_ms:
        yield Problem("crl_next_update", "its nextUpdate is past the end of the issuer's certificate")
    if next_ms < now_ms:
        yield Problem("crl_expired", f"its nextUpdate {rfc3339(next_ms)} is past")


def signature_problems(crl: bytes, issuer: IssuerView, verify: SignatureVerifier) -> list[Problem]:
    """The signature, over the bytes as they stand in the CRL, by the key in the issuer's certificate."""
    signed = split_signed(crl)
    try:
        verify(issuer.public_key, signed.tbs, signed.signature)
    except (Refused, Malformed) as error:
        return [Problem("crl_signature", f"its signature is not the issuer's: {error.detail}")]
    return []


@dataclass(frozen=True, slots=True)
class History:
    """What the CRL is compared with, all of it read in one snapshot of the store after the CRL was built.

    previous: the CRL before it, None for a first one. previous_seq, feed_seq: the feed positions that the previous
    one and this one reflect. changes: revocations, holds and releases of the scope after `previous_seq`, in order.
    statuses: of every serial that changed, came or went.
    """

    idp: bytes
    number: int
    feed_seq: int
    previous: CrlView | None
    previous_seq: int
    changes: Sequence[StatusChange]
    statuses: Mapping[int, CertificateStatus]


def came_and_went(view: CrlView, previous: CrlView | None) -> set[int]:
    """The serials in one of the two CRLs and not in the other."""
    return view.entries.keys() ^ (previous.entries.keys() if previous else set())


def history_problems(view: CrlView, history: History) -> list[Problem]:
    """What the CRL before it and the store show: numbers, scope, entries lost, missing, wrong or made up."""
    found = []
    previous = history.previous
    if view.number != history.number:
        found.append(Problem("crl_number", f"its number is {view.number} where {history.number} was asked for"))
    if previous and (view.number is None or previous.number is None or view.number <= previous.number):
        found.append(Problem("crl_number", f"its number {view.number} is not past {previous.number}"))
    if view.idp != history.idp:
        found.append(Problem("crl_idp", "its issuingDistributionPoint is not that of the certificates"))
    if previous and view.idp != previous.idp:
        found.append(
            Problem("crl_idp_changed", "its issuingDistributionPoint is not that of the CRL before it (public_url?)")
        )
    if previous and view.this_update_ms < previous.this_update_ms:
        found.append(Problem("crl_this_update", "its thisUpdate is before that of the CRL before it"))
    if history.feed_seq < history.previous_seq:
        found.append(Problem("crl_feed", "it is built from older data than the CRL before it"))
    return found + list(_entry_problems(view, history))


def _entry_problems(view: CrlView, history: History) -> Iterator[Problem]:
    reflected = {c.serial: c.kind for c in history.changes if c.seq <= history.feed_seq}
    moving = {c.serial for c in history.changes if c.seq > history.feed_seq}
    before: Mapping[int, int] = history.previous.entries if history.previous else {}
    kept_from_ms = history.previous.this_update_ms if history.previous else 0

    def lapsed(serial: int) -> bool:
        """Whether the CRL before this one already had the entry past its certificate's end (DESIGN rule 3)."""
        not_after_ms = history.statuses[serial].not_after_ms
        return not_after_ms is not None and not_after_ms < kept_from_ms

    lost = [
        s for s in before.keys() - view.entries.keys() if not lapsed(s) and reflected.get(s, "revoked") != "released"
    ]
    missing = [
        s
        for s, kind in reflected.items()
        if kind != "released" and s not in view.entries and s not in before and not lapsed(s)
    ]
    extra = [
        s
        for s in (view.entries.keys() - before.keys()) | (reflected.keys() & view.entries.keys())
        if s not in moving and not _agrees(view.entries[s], history.statuses[s])
    ]
    yield from _named("crl_entry_lost", "it drops unexpired entries of the CRL before it", lost)
    yield from _named("crl_entry_missing", "it lacks revocations that it claims to reflect", missing)
    yield from _named("crl_entry_wrong", "it has entries that the store does not have so", extra)


def _agrees(entry: int, status: CertificateStatus) -> bool:
    if status.state in (None, CertificateState.GOOD) or status.revoked_at_ms is None:
        return False
    return entry == listed(status.revoked_at_ms // 1000, int(status.reason or 0))


def _named(code: str, what: str, serials: list[int]) -> Iterator[Problem]:
    if serials:
        names = ", ".join(f"{serial:x}" for serial in islice(sorted(serials), _NAMED))
        yield Problem(code, f"{what}: {len(serials)}, among them {names}")


@dataclass(frozen=True, slots=True)
class CrlReport:
    """What was found at one URL. `view` is None where it is no CRL."""

    url: str
    size: int
    view: CrlView | None
    problems: list[Problem]


def check_published(
    crls: Mapping[str, bytes], issuer_certificate: bytes, verify: SignatureVerifier, *, now_ms: int
) -> list[CrlReport]:
    """Checks CRLs of one issuer as fetched from their URLs, each alone and against each other.

    A DER CRL per URL; the IDP must name its URL, and no serial may be in two. Raises Malformed or Refused for a bad
    issuer certificate only: what is wrong with a CRL is in its report.
    """
    issuer = read_issuer(issuer_certificate)
    reports = []
    seen: dict[int, str] = {}
    for url, crl in crls.items():
        try:
            view = read_crl(crl)
        except Malformed as error:
            reports.append(CrlReport(url, len(crl), None, [Problem("crl", error.detail)]))
            continue
        problems = structure_problems(view, issuer, now_ms) + signature_problems(crl, issuer, verify)
        if view.idp_url != url:
            problems.append(Problem("crl_idp", f"its issuingDistributionPoint names {view.idp_url}"))
        twice = [serial for serial in view.entries if serial in seen]
        problems += _named("crl_serial_twice", "it lists serials that another partition lists too", twice)
        seen.update(dict.fromkeys(view.entries, url))
        reports.append(CrlReport(url, len(crl), view, problems))
    return reports
