"""Says whether a CRL may be published, and what an outsider would find wrong with one that is.

Independent of the builder: reads through `crl.view` and compares, entry by entry in compiled code, with the issuer's
certificate, the CRL before it and what the store's feed says happened in between. Pure; the caller reads the store and
the clock. An empty list of problems means that nothing is wrong; nothing here is a truth value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.clock import rfc3339
from core.errors import Malformed, Refused
from core.ports import SignatureVerifier
from crl._reader import Facts, Finds, common, compare, compare_delta, contradictions
from crl.settings import DAY_S
from crl.view import CrlView, IssuerView, read_crl, read_issuer

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


def signature_problems(crl: bytes, view: CrlView, issuer: IssuerView, verify: SignatureVerifier) -> list[Problem]:
    """The signature, over the bytes as they stand in the CRL, by the key in the issuer's certificate."""
    start, end = view.tbs
    try:
        verify(issuer.public_key, memoryview(crl)[start:end], view.signature)
    except (Refused, Malformed) as error:
        return [Problem("crl_signature", f"its signature is not the issuer's: {error.detail}")]
    return []


@dataclass(frozen=True, slots=True)
class History:
    """What a full CRL is compared with, all of it read in one snapshot of the store after the CRL was built.

    idp: the extension's value that the partition's address asks for. points: the DistributionPointNames of one of the
    partition's certificates, None where it has none. previous: the CRL before it, None for a first one.
    previous_seq, feed_seq: the feed positions that the previous one and this one reflect.
    """

    idp: bytes
    points: list[bytes] | None
    number: int
    feed_seq: int
    previous: CrlView | None
    previous_seq: int
    facts: Facts


def history_problems(view: CrlView, history: History, finds: Finds | None) -> list[Problem]:
    """What the CRL before it and the store show: numbers, scope, entries lost, missing, wrong or made up.

    finds: of `examine`; where it has none, `structure_problems` says what is out of order.
    """
    found = list(_number_problems(view, history))
    previous = history.previous
    if view.base_number is not None:
        found.append(Problem("crl_kind", "it is a delta CRL where a full one was asked for"))
    if view.idp != history.idp:
        found.append(Problem("crl_idp", "its issuingDistributionPoint is not that of the partition"))
    if history.points is not None and not _covers(view.idp, history.points):
        found.append(Problem("crl_idp", "its issuingDistributionPoint is not in the partition's certificates"))
    if previous and view.idp != previous.idp:
        found.append(Problem("crl_idp_changed", "its issuingDistributionPoint is not that of the CRL before it"))
    if previous and view.this_update_ms < previous.this_update_ms:
        found.append(Problem("crl_this_update", "its thisUpdate is before that of the CRL before it"))
    if history.feed_seq < history.previous_seq:
        found.append(Problem("crl_feed", "it is built from older data than the CRL before it"))
    return found + ([] if finds is None else list(_entry_problems(finds)))


def _covers(idp: bytes | None, points: list[bytes]) -> bool:
    """Whether a critical IDP names, byte for byte, one of the certificates' points (RFC 5280 §6.3.3 (b)(2)(i))."""
    return idp is not None and any(idp[2:] == point for point in points)


def _number_problems(view: CrlView, history: History) -> Iterator[Problem]:
    previous = history.previous
    if view.number != history.number:
        yield Problem("crl_number", f"its number is {view.number} where {history.number} was asked for")
    if previous and (view.number is None or previous.number is None or view.number <= previous.number):
        yield Problem("crl_number", f"its number {view.number} is not past {previous.number}")


def _kept_from_ms(history: History) -> int:
    """An entry whose certificate ended before was already there past its end, in the CRL before (rule 3)."""
    return history.previous.this_update_ms if history.previous else 0


def examine(view: CrlView, history: History, named: int = _NAMED) -> Finds | None:
    """The entries against the CRL before it and the facts; None where they are not in order and say nothing.

    The store's word is needed on each "unknown": it came or went without a change in the feed.
    """
    before = history.previous
    if not _comparable(view, before):
        return None
    return compare(view.entries, before.entries if before else None, history.facts, _kept_from_ms(history), named)


def _comparable(view: CrlView, other: CrlView | None) -> bool:
    return view.comparable and (other is None or other.comparable)


def _entry_problems(found: Finds) -> Iterator[Problem]:
    yield from _named("crl_entry_lost", "it drops unexpired entries of the CRL before it", found["lost"])
    yield from _named("crl_entry_missing", "it lacks revocations that it claims to reflect", found["missing"])
    yield from _named("crl_entry_wrong", "it has entries that the store does not have so", found["wrong"])
    yield from _named("crl_entry_wrong", "it has entries that nothing is known of", found["unknown"])


def delta_problems(delta: CrlView, full: CrlView, base_number: int, history: History) -> list[Problem]:
    """What the full CRL of the same number, its base and the store's changes since show of a delta.

    `history.facts` reach back to the base's feed position.
    """
    found = list(_pair_problems(delta, full))
    if delta.number != full.number or delta.base_number != base_number:
        said = f"delta {delta.number} for {delta.base_number}"
        found.append(Problem("delta_number", f"it is {said} where {full.number} for {base_number} was asked for"))
    if (delta.this_update_ms, delta.next_update_ms) != (full.this_update_ms, full.next_update_ms):
        found.append(Problem("delta_times", "its times are not those of the full CRL of its number"))
    if _comparable(delta, full):
        entries = compare_delta(delta.entries, full.entries, history.facts, _kept_from_ms(history), _NAMED)
        found += _named("delta_entry_missing", "it lacks changes since its base", entries["missing"])
        found += _named("delta_entry_wrong", "it has entries that are none of the changes", entries["wrong"])
    return found


def _pair_problems(delta: CrlView, full: CrlView) -> Iterator[Problem]:
    """What is wrong with a delta beside any full CRL of its scope (RFC 5280 §5.2.4)."""
    if delta.base_number is None or delta.number is None:
        yield Problem("delta_number", "it has no DeltaCRLIndicator")
        return
    if delta.number <= delta.base_number:
        yield Problem("delta_number", f"its number {delta.number} is not past its base {delta.base_number}")
    if delta.freshest_url is not None:
        yield Problem("delta_freshest", "it names a delta of its own")
    if (delta.issuer, delta.key_identifier, delta.idp) != (full.issuer, full.key_identifier, full.idp):
        yield Problem("delta_scope", "its issuer, key or scope is not that of the full CRL")


def _named(code: str, what: str, found: tuple[int, list[int]]) -> Iterator[Problem]:
    count, serials = found
    if count:
        names = ", ".join(f"{serial:x}" for serial in serials[:_NAMED])
        yield Problem(code, f"{what}: {count}, among them {names}")


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

    A DER CRL per URL, full or delta; the IDP must name its URL, no serial may be in two full ones, and a delta must
    fit the full CRL of its scope where that is among them. Raises Malformed or Refused for a bad issuer certificate
    only: what is wrong with a CRL is in its report.
    """
    issuer = read_issuer(issuer_certificate)
    reports = []
    for url, crl in crls.items():
        try:
            view = read_crl(crl)
        except Malformed as error:
            reports.append(CrlReport(url, len(crl), None, [Problem("crl", error.detail)]))
            continue
        problems = structure_problems(view, issuer, now_ms) + signature_problems(crl, view, issuer, verify)
        if _home(view) != url:
            problems.append(Problem("crl_idp", f"its issuingDistributionPoint names {view.idp_url}"))
        if view.freshest_url is not None and view.freshest_url != _delta_url(view.idp_url):
            problems.append(Problem("crl_freshest", f"its FreshestCRL names {view.freshest_url}"))
        reports.append(CrlReport(url, len(crl), view, problems))
    _check_together(reports)
    return reports


def _delta_url(url: str | None) -> str | None:
    return None if url is None else url.removesuffix(".crl") + "-delta.crl"


def _home(view: CrlView) -> str | None:
    """Where the CRL says that it is."""
    return view.idp_url if view.base_number is None else _delta_url(view.idp_url)


def _check_together(reports: list[CrlReport]) -> None:
    """Adds what only shows beside others: serials in two partitions, deltas that do not fit."""
    full: list[tuple[CrlReport, CrlView]] = []
    deltas: list[tuple[CrlReport, CrlView]] = []
    for report in reports:
        if report.view is not None and report.view.comparable:
            (full if report.view.base_number is None else deltas).append((report, report.view))
    for place, (report, view) in enumerate(full):
        for _, other in full[:place]:
            twice = common(view.entries, other.entries, _NAMED)["wrong"]
            report.problems.extend(
                _named("crl_serial_twice", "it lists serials that another partition lists too", twice)
            )
    for report, view in deltas:
        for _, other in full:
            if other.idp_url == view.idp_url:
                report.problems.extend(_fit_problems(view, other))


def _fit_problems(delta: CrlView, full: CrlView) -> Iterator[Problem]:
    """Whether the two can be used together; where they have one number, whether they say the same."""
    yield from _pair_problems(delta, full)
    if full.number is None or delta.base_number is None:
        return
    if full.number < delta.base_number:
        yield Problem("delta_base", f"its base {delta.base_number} is past the full CRL {full.number}")
    if full.number == delta.number:
        wrong = contradictions(delta.entries, full.entries, _NAMED)["wrong"]
        yield from _named("delta_entry_wrong", "it has entries that the full CRL of its number has otherwise", wrong)
