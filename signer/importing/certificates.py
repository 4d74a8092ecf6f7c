"""Takes certificates over: a chunk is checked as a whole, held against what is there, and written at once.

The same certificate again changes nothing; another one under a serial that is there is refused. A line of CSV may say
that its certificate is revoked or on hold, or name a revoked serial alone. Knows rows and checks; not files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import from_datetime, to_datetime
from core.model import CertificateState, RevocationReason, serial_from_hex, serial_to_hex
from core.store import crls, imports
from core.store.certificates import NewCertificate
from core.store.database import Database
from core.store.imports import Ended, Known
from signer.importing.checks import Checked, Issuer, Refusal, check_all
from signer.importing.job import Outcome
from signer.importing.sources import Item
from signer.issuance.template import status_month

_STATES: Final = frozenset({"", "good", "valid", "revoked", "held", "hold", "suspended"})


@dataclass(frozen=True, slots=True)
class Placing:
    """What is said of all certificates of an import, where a line does not say otherwise. pairs: whether a signing and
    an encryption certificate of one subject and one time are made a pair."""

    profile: str = "imported"
    ra: str = ""
    region: str = ""
    customer: str = ""
    pairs: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """An item that was checked. checked: None for a serial without its certificate."""

    item: Item
    serial: int
    checked: Checked | None
    ended: Ended | None


def read_line(item: Item, checked: Checked | None, now_ms: int) -> Ready | Refusal:
    """What a line says beside its certificate."""
    try:
        said = item.get("serial")
        serial = serial_from_hex(said) if said else (checked.serial if checked else 0)
        status = item.get("status").lower()
        if serial <= 0 or status not in _STATES:
            raise ValueError("serial and status have to make sense: status is good, revoked or held")
        if checked is not None and serial != checked.serial:
            raise ValueError("the serial is not the certificate's")
        ended = _ended(item, serial, status, now_ms)
    except ValueError as error:
        return Refusal("line", str(error))
    if checked is None and ended is None:
        return Refusal("certificate_missing", "a serial that is not revoked needs its certificate")
    return Ready(item, serial, checked, ended)


def _ended(item: Item, serial: int, status: str, now_ms: int) -> Ended | None:
    if status in ("", "good", "valid"):
        if item.get("revoked_at") or item.get("reason"):
            raise ValueError("a time or reason of revocation without the status revoked")
        return None
    holding = status != "revoked"
    label = item.get("reason")
    reason = RevocationReason.CERTIFICATE_HOLD if holding else RevocationReason.UNSPECIFIED
    if label:
        reason = RevocationReason(int(label)) if label.isdecimal() else RevocationReason.from_label(label)
    if holding != (reason is RevocationReason.CERTIFICATE_HOLD):
        raise ValueError("the reason does not go with the status")
    at_ms = _time(item.get("revoked_at"))
    if at_ms is None:
        raise ValueError("revoked_at is needed: when it was revoked")
    return Ended(serial, reason, min(at_ms, now_ms), _time(item.get("invalidity_at")))


def _time(text: str) -> int | None:
    if not text:
        return None
    at = datetime.fromisoformat(text)
    return from_datetime(at if at.tzinfo else at.replace(tzinfo=UTC))


class CertificateTaker:
    """See the module. A `signer.importing.job.Taker` of items."""

    def __init__(self, issuer: Issuer, placing: Placing, now_ms: int) -> None:
        self._issuer = issuer
        self._placing = placing
        self._now_ms = now_ms

    async def prepare(self, chunk: Sequence[Item]) -> list[tuple[Item, Ready | Refusal]]:
        """Checks in a thread, beside the event loop."""
        return await asyncio.to_thread(self._check, chunk)

    def _check(self, chunk: Sequence[Item]) -> list[tuple[Item, Ready | Refusal]]:
        encoded = [item.certificate for item in chunk if item.certificate and item.fault is None]
        checked = iter(check_all(self._issuer, encoded))
        found: list[tuple[Item, Ready | Refusal]] = []
        for item in chunk:
            result: Ready | Refusal
            if item.fault is not None:
                result = Refusal("unreadable", item.fault)
            else:
                one = next(checked) if item.certificate else None
                result = one if isinstance(one, Refusal) else read_line(item, one, self._now_ms)
                if isinstance(one, Checked) and one.not_before_ms > self._now_ms:
                    result = Refusal("certificate_not_yet_valid", "it begins after now")
            found.append((item, result))
        return found

    async def write(self, connection: AsyncConnection, prepared: Any, at_ms: int) -> list[Outcome]:
        """One chunk, in the caller's transaction."""
        chunk = _Chunk(self._issuer, self._placing, connection, at_ms)
        return await chunk.write(prepared)

    async def conclude(self, database: Database) -> list[dict[str, Any]]:
        """Nothing: every line was told."""
        return []


class _Chunk:
    """The writing of one chunk."""

    def __init__(self, issuer: Issuer, placing: Placing, connection: AsyncConnection, at_ms: int) -> None:
        self._issuer = issuer
        self._placing = placing
        self._connection = connection
        self._at_ms = at_ms
        self._new: dict[int, NewCertificate] = {}
        self._known: dict[int, Known] = {}
        self._partitions: dict[str, int] = {}
        self._ended: dict[int, Ended] = {}

    async def write(self, prepared: list[tuple[Item, Ready | Refusal]]) -> list[Outcome]:
        """An outcome for each item."""
        serials = [one.serial for _, one in prepared if isinstance(one, Ready)]
        self._known = await imports.rows(self._connection, self._issuer.authority_id, serials)
        outcomes = []
        for item, one in prepared:
            outcome = await self._place(item, one)
            outcomes.append(self._note(one.ended, outcome) if isinstance(one, Ready) and one.ended else outcome)
        new = list(self._new.values())
        pairs = _pairs(new) if self._placing.pairs else []
        await imports.add(self._connection, new, at_ms=self._at_ms, pairs=pairs)
        ended = [one.ended for _, one in prepared if isinstance(one, Ready) and one.ended is not None]
        await end_all(self._connection, self._issuer.authority_id, ended, at_ms=self._at_ms)
        return outcomes

    def _note(self, ended: Ended, outcome: Outcome) -> Outcome:
        """What a line says of its serial counts, whatever became of its certificate: the answer is by serial."""
        known, before = self._known.get(ended.serial), self._ended.get(ended.serial)
        changes = known is None or imports.stricter(known, ended)
        if not changes or (before is not None and not _milder(before, ended)):
            return outcome
        self._ended[ended.serial] = ended
        if outcome.result == "refused":
            warnings = [*outcome.rest.get("warnings", ()), "serial_revoked"]
            return Outcome("refused", outcome.rest | {"warnings": warnings})
        return Outcome("accepted", outcome.rest)

    async def _place(self, item: Item, one: Ready | Refusal) -> Outcome:
        rest: dict[str, Any] = {"where": item.where}
        if isinstance(one, Refusal):
            return Outcome("refused", rest | {"code": one.code, "detail": one.detail})
        rest["serial"] = serial_to_hex(one.serial)
        if one.checked is not None and one.checked.warnings:
            rest["warnings"] = list(one.checked.warnings)
        known, planned = self._known.get(one.serial), self._new.get(one.serial)
        if known is None and planned is None:
            self._new[one.serial] = await self._row(one)
            return Outcome("accepted", rest)
        there = known.certificate if known is not None else (planned.certificate if planned is not None else b"")
        if one.checked is not None and there and there != one.checked.encoded:
            return Outcome("refused", rest | {"code": "serial_taken", "detail": "another certificate has that serial"})
        if one.checked is not None and not there:
            return await self._complete(one, known, rest)
        return Outcome("known", rest)

    async def _complete(self, one: Ready, known: Known | None, rest: dict[str, Any]) -> Outcome:
        """Gives a serial that was only known as revoked its certificate."""
        new = await self._row(one)
        if known is None:
            self._new[one.serial] = new
            return Outcome("accepted", rest)
        if new.partition != known.partition and await crls.newest(self._connection, new.authority_id, known.partition):
            new = replace(new, partition=known.partition)
            rest["warnings"] = [*rest.get("warnings", ()), "listed_in_another_crl"]
        await imports.fill_in(self._connection, known, new, at_ms=self._at_ms)
        self._known |= await imports.rows(self._connection, new.authority_id, [one.serial])
        return Outcome("accepted", rest)

    async def _row(self, one: Ready) -> NewCertificate:
        item, checked, placing = one.item, one.checked, self._placing
        if checked is None:
            assert one.ended is not None
            return unknown_certificate(self._issuer, one.ended, 0, placing)
        return NewCertificate(
            authority_id=self._issuer.authority_id,
            serial=checked.serial,
            usage=checked.usage,
            profile=item.get("profile") or placing.profile,
            subject=checked.subject,
            public_key=checked.public_key,
            not_before_ms=checked.not_before_ms,
            not_after_ms=checked.not_after_ms,
            partition=0 if checked.crl_url is None else await self._partition(checked.crl_url),
            status_month=checked.status_month,
            status_index=0,
            certificate=checked.encoded,
            ra=item.get("ra") or placing.ra,
            region=item.get("region") or placing.region or checked.region,
            customer=item.get("customer") or placing.customer,
            issued_at_ms=max(0, checked.not_before_ms),
        )

    async def _partition(self, url: str) -> int:
        if url not in self._partitions:
            self._partitions[url] = await imports.partition_of(self._connection, self._issuer.authority_id, url)
        return self._partitions[url]


def unknown_certificate(issuer: Issuer, ended: Ended, partition: int, placing: Placing) -> NewCertificate:
    """The row of a revoked serial whose certificate is not known: it may end when its issuer does, at the latest."""
    return NewCertificate(
        authority_id=issuer.authority_id,
        serial=ended.serial,
        usage="sign",
        profile=placing.profile,
        subject=b"",
        public_key=b"",
        not_before_ms=0,  # not the issuer's: renewed, that may be later than the cutoff, and status sets pass it over
        not_after_ms=issuer.not_after_ms,
        partition=partition,
        status_month=status_month(to_datetime(issuer.not_after_ms)),
        status_index=0,
        certificate=b"",
        ra=placing.ra,
        region=placing.region,
        customer=placing.customer,
        issued_at_ms=ended.revoked_at_ms,
    )


async def end_all(
    connection: AsyncConnection, authority_id: str, ended: Sequence[Ended], *, at_ms: int
) -> dict[int, bool]:
    """Brings certificates that are there to the state that is said of them, where it is stricter; whether it was, by
    serial. Said twice, the stricter one counts."""
    strictest: dict[int, Ended] = {}
    for one in ended:
        before = strictest.get(one.serial)
        if before is None or _milder(before, one):
            strictest[one.serial] = one
    known = await imports.rows(connection, authority_id, list(strictest))
    changes = [
        (known[serial], one)
        for serial, one in strictest.items()
        if serial in known and imports.stricter(known[serial], one)
    ]
    await imports.end(connection, authority_id, changes, at_ms=at_ms)
    return {one.serial: True for _, one in changes}


def _milder(before: Ended, after: Ended) -> bool:
    """Whether what was said before is not as strict: a hold before a revocation, or a later moment of the same."""
    if before.state is not after.state:
        return before.state is CertificateState.HELD
    return after.revoked_at_ms < before.revoked_at_ms


def _pairs(new: Sequence[NewCertificate]) -> list[tuple[int, int]]:
    """Places of signing and encryption certificates of one subject and one time, where there is one of each."""
    groups: dict[tuple[bytes, int, int], dict[str, list[int]]] = {}
    for place, one in enumerate(new):
        if one.usage in ("sign", "encrypt") and one.certificate:
            group = groups.setdefault((one.subject, one.not_before_ms, one.not_after_ms), {"sign": [], "encrypt": []})
            group[one.usage].append(place)
    return [
        (group["sign"][0], group["encrypt"][0])
        for group in groups.values()
        if len(group["sign"]) == 1 and len(group["encrypt"]) == 1
    ]
