"""Issues what a file of requests asks for, a year's holders in one go; gone on with after any end.

A chunk of lines is one transaction, which records everything that the HTTP path would (`recording`), how far the file
is done, and what came of each line; so nothing is issued twice or lost, wherever a run ends. While the database commits
a chunk, the next one is read, reserved, assembled and signed. Results go to a file after their commit; what it lacks
when a run goes on is written anew from the store.

Two chunks are under way at most, and a chunk has no key and no holder twice; one that has any in common with the chunk
before it waits for that to be committed. So what is looked up for it is never older than what it builds upon.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Busy, QianyanError, Refused, Unavailable
from core.ports import BatchSigner
from core.store import audit, bulk_runs, counters
from core.store.bulk_runs import BulkRun, Chunk, LineResult
from core.store.database import Database
from signer._native import sm3
from signer.holders.service import Holders
from signer.issuance import recording
from signer.issuance.bulk_files import Requests, Results, digest_of
from signer.issuance.bulk_lines import Asked, Bad, LineReader
from signer.issuance.bulk_making import ChunkMaker, order_of
from signer.issuance.bulk_results import Restorer, issued_line, refused_line
from signer.issuance.chain import load_chain
from signer.issuance.issued import Issued
from signer.issuance.kmc import KeyManagement
from signer.issuance.metrics import IssuanceMetrics
from signer.issuance.order import Order
from signer.issuance.profiles import Profiles
from signer.issuance.recording import Made
from signer.issuance.settings import IssuanceSettings

#: Holders in one transaction: long enough to make its fixed cost small, short enough that others' commits wait little.
CHUNK_HOLDERS: Final = 400
#: How many questions to the register are under way at a time, and how often one that found it busy is asked again.
_REGISTER_AT_ONCE: Final = 8
_REGISTER_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class BulkParts:
    """What it works with. `signer_for` gives the signer of a key id; `elsewhere`: whether another centre makes an
    authority's encryption keys."""

    database: Database
    profiles: Profiles
    settings: IssuanceSettings
    holders: Holders
    keys: KeyManagement
    signer_for: Callable[[str], BatchSigner]
    elsewhere: Callable[[str], bool]
    clock: Clock
    metrics: IssuanceMetrics = field(default_factory=IssuanceMetrics.create)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `authority_id` None: the settings' one."""

    requests: Path
    output: Path
    actor: str
    authority_id: str | None = None
    chunk_holders: int = CHUNK_HOLDERS
    stop_on_error: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `octets` of `size` are read; `stopped`: at a line that was refused, as was asked for."""

    lines: int
    octets: int
    size: int
    holders: int
    refused: int
    stopped: bool = False


@dataclass(slots=True)
class _Chunk:
    """Lines that are recorded together, and what was made for them. `claims`: keys and holders."""

    first_line: int
    entries: list[Asked | Bad]
    claims: set[Hashable] = field(default_factory=set)
    made: list[Made | QianyanError] = field(default_factory=list)
    reserved_at_ms: int = 0

    @property
    def lines(self) -> int:
        return self.entries[-1].line.number - self.first_line + 1

    @property
    def octets(self) -> int:
        return sum(entry.line.octets for entry in self.entries)


class BulkIssuer:
    """See the module. One run at a time."""

    def __init__(self, parts: BulkParts, wish: Wish, progress: Callable[[Progress], None]) -> None:
        self._parts = parts
        self._wish = wish
        self._authority_id = wish.authority_id or parts.settings.authority
        self._told = progress
        self._maker = ChunkMaker(parts.database, parts.signer_for, parts.keys, parts.settings, parts.clock)
        self._reader = LineReader(parts.profiles, self._authority_id, parts.settings.max_csr_bytes)
        self._waiting: deque[Asked | Bad] = deque()
        self._next_line = 1
        self._at = Progress(0, 0, 0, 0, 0)

    async def run(self) -> Progress:
        """To the end of the file. Raises Refused, Conflict (code "bulk_elsewhere"), SettingsError, Unavailable.

        What was committed by then stays, and the next call goes on behind it.
        """
        parts, wish = self._parts, self._wish
        if parts.elsewhere(self._authority_id):
            raise Refused(
                "the authority's encryption keys are made by another centre; issue its certificates one by one",
                code="bulk_centre",
            )
        digest = await asyncio.to_thread(digest_of, wish.requests)
        run_id = sm3.sm3(b"bulk\0" + self._authority_id.encode() + b"\0" + digest)
        run, chain = await self._begin(run_id)
        results = await asyncio.to_thread(Results.open, wish.output, run_id, self._authority_id, chain)
        try:
            restorer = Restorer(parts.database, parts.keys, self._authority_id, parts.clock)
            await restorer.complete(results, run_id, wish.actor)
            requests = Requests(wish.requests, lines=run.lines, octets=run.octets, line_max=self._reader.line_max)
            try:
                self._next_line = run.lines + 1
                self._tell(Progress(run.lines, run.octets, requests.size, run.holders, run.refused))
                if run.ended_at_ms is None:
                    await self._work(run_id, requests, results)
            finally:
                requests.close()
        finally:
            results.close()
        return self._at

    async def _begin(self, run_id: bytes) -> tuple[BulkRun, tuple[bytes, ...]]:
        wish = self._wish
        async with self._parts.database.write() as connection:
            now_ms = await counters.look_at_time(connection, self._parts.clock())
            chain = await load_chain(connection, self._authority_id)
            known = await bulk_runs.find_settled(connection, run_id)
            if known is None:
                name = wish.requests.name[-255:]
                new = BulkRun(run_id, self._authority_id, name, 0, 0, 0, 0, wish.actor, now_ms, now_ms, None)
                known = await bulk_runs.begin(connection, new)
                event = AuditEvent(wish.actor, "bulk.begin", f"bulk:{run_id.hex()}", detail={"file": name})
                await audit.append(connection, event, at_ms=now_ms)
        return known, chain.certificates

    async def _work(self, run_id: bytes, requests: Requests, results: Results) -> None:
        reading = asyncio.create_task(self._read(requests))
        recording_: asyncio.Task[bool] | None = None
        ahead: _Chunk | None = None
        try:
            while True:
                while len(self._waiting) < self._wish.chunk_holders and not reading.done():
                    await asyncio.wait([reading])
                if reading.done() and reading.result():
                    self._waiting.extend(reading.result())
                    reading = asyncio.create_task(self._read(requests))
                chunk = self._cut()
                if chunk is None:
                    break
                if recording_ is not None and ahead is not None and not ahead.claims.isdisjoint(chunk.claims):
                    await asyncio.wait([recording_])
                await self._make(chunk)
                if recording_ is not None and not await recording_:
                    return
                ahead = chunk
                recording_ = asyncio.create_task(self._record(run_id, chunk, results))
            if recording_ is None or await recording_:
                await self._end(run_id)
        finally:
            # What is being committed is let come to its end: the file of results is written behind it.
            left: list[asyncio.Task[Any]] = [task for task in (reading, recording_) if task is not None]
            await asyncio.wait(left)
            for task in left:
                task.exception()  # what ended the run is raised already; nobody asks for the other's

    async def _read(self, requests: Requests) -> list[Asked | Bad]:
        """The next lines; nothing at the end of the file."""
        sealer = await self._parts.holders.sealer()

        def read() -> list[Asked | Bad]:
            return self._reader.read(requests.take(self._wish.chunk_holders), sealer)

        return await asyncio.to_thread(read)

    def _cut(self) -> _Chunk | None:
        """The next lines that may be recorded together; None where none are left."""
        if not self._waiting:
            return None
        chunk = _Chunk(self._next_line, [])
        while self._waiting and len(chunk.entries) < self._wish.chunk_holders:
            entry = self._waiting[0]
            if isinstance(entry, Asked):
                claims: set[Hashable] = {entry.public_key}
                if entry.number_hash is not None:
                    claims.add(entry.number_hash)
                if not claims.isdisjoint(chunk.claims):
                    break
                chunk.claims |= claims
            alone = isinstance(entry, Bad) and self._wish.stop_on_error  # nothing after it is to be done with it
            if alone and chunk.entries:
                break
            chunk.entries.append(self._waiting.popleft())
            if alone:
                break
        self._next_line += chunk.lines
        return chunk

    async def _make(self, chunk: _Chunk) -> None:
        """Reserved, assembled and signed; what is refused is kept with its reason."""
        asked = [entry for entry in chunk.entries if isinstance(entry, Asked)]
        refused = dict(zip(map(id, asked), await self._check(asked), strict=True))
        passed = [one for one in asked if refused[id(one)] is None]
        sealer = await self._parts.holders.sealer()
        hashed = [(one.claim, one.number_hash) for one in passed if one.claim is not None and one.number_hash]
        admissions = iter(await self._parts.holders.admit_many(sealer, hashed))
        orders: list[Order] = []
        for one in passed:
            admission = None if one.claim is None else next(admissions)
            orders.append(order_of(one, self._authority_id, self._wish.actor, admission))
        made, chunk.reserved_at_ms = await self._maker.make(orders)
        outcomes = iter(made)
        for entry in chunk.entries:
            if isinstance(entry, Bad):
                chunk.made.append(entry.error)
            else:
                chunk.made.append(refused[id(entry)] or next(outcomes))

    async def _check(self, asked: Sequence[Asked]) -> list[QianyanError | None]:
        """The register's word on each holder. Raises Unavailable, Busy: that is no fault of a line."""
        limit = asyncio.Semaphore(_REGISTER_AT_ONCE)

        async def check(one: Asked) -> QianyanError | None:
            async with limit:
                for turn in range(_REGISTER_TRIES):
                    try:
                        await self._parts.holders.check(one.claim)
                    except Refused as error:
                        return error
                    except (Busy, Unavailable) as error:
                        if turn + 1 == _REGISTER_TRIES:
                            raise
                        await asyncio.sleep(error.retry_after_s or 1)
                    else:
                        break
                return None

        return list(await asyncio.gather(*(check(one) for one in asked)))

    async def _record(self, run_id: bytes, chunk: _Chunk, results: Results) -> bool:
        """Commits the chunk, then writes its results; whether the run goes on."""
        made = [one for one in chunk.made if isinstance(one, Made)]
        async with self._parts.database.write() as connection:
            begun = Chunk(chunk.first_line, chunk.lines, chunk.octets, ())
            await bulk_runs.advance(connection, run_id, begun, at_ms=self._parts.clock())
            now_ms = await counters.advance_time(connection, max(self._parts.clock(), chunk.reserved_at_ms))
            recorded = iter(await recording.record(connection, made, now_ms, self._parts.metrics) if made else [])
            outcomes = [one if isinstance(one, QianyanError) else next(recorded) for one in chunk.made]
            for entry, outcome in zip(chunk.entries, outcomes, strict=True):
                if isinstance(outcome, QianyanError):
                    await audit.append(connection, _refusal(self._wish.actor, run_id, entry, outcome), at_ms=now_ms)
            done = Chunk(chunk.first_line, chunk.lines, chunk.octets, _results(chunk.entries, outcomes))
            await bulk_runs.record(connection, run_id, done)
        written = await asyncio.to_thread(_written, chunk.entries, outcomes)
        await asyncio.to_thread(results.append, written, chunk.entries[-1].line.number)
        holders = sum(1 for outcome in outcomes if isinstance(outcome, Issued))
        refused = len(outcomes) - holders
        stopped = bool(refused) and self._wish.stop_on_error
        at = self._at
        self._tell(
            Progress(
                at.lines + chunk.lines,
                at.octets + chunk.octets,
                at.size,
                at.holders + holders,
                at.refused + refused,
                stopped,
            )
        )
        return not stopped

    async def _end(self, run_id: bytes) -> None:
        wish, at = self._wish, self._at
        async with self._parts.database.write() as connection:
            now_ms = await counters.advance_time(connection, self._parts.clock())
            await bulk_runs.end(connection, run_id, at_ms=now_ms)
            detail: dict[str, str | int] = {"holders": at.holders, "refused": at.refused}
            event = AuditEvent(wish.actor, "bulk.end", f"bulk:{run_id.hex()}", detail=detail)
            await audit.append(connection, event, at_ms=now_ms)

    def _tell(self, progress: Progress) -> None:
        self._at = progress
        self._told(progress)


def _refusal(actor: str, run_id: bytes, entry: Asked | Bad, error: QianyanError) -> AuditEvent:
    """As a refusal of the HTTP route is put on record (R-23), with where it stood."""
    named = f"csr:{entry.csr_digest.hex()}" if entry.csr_digest is not None else f"bulk:{run_id.hex()}"
    return AuditEvent(actor, "certificate.refuse", named, error.code, {"line": entry.line.number})


def _results(entries: Sequence[Asked | Bad], outcomes: Sequence[Issued | QianyanError]) -> list[LineResult]:
    return [
        LineResult(entry.line.number, None, outcome.code, outcome.detail, outcome.field)
        if isinstance(outcome, QianyanError)
        else LineResult(entry.line.number, outcome.certificates[0].serial)
        for entry, outcome in zip(entries, outcomes, strict=True)
    ]


def _written(entries: Sequence[Asked | Bad], outcomes: Sequence[Issued | QianyanError]) -> list[bytes]:
    return [
        refused_line(entry.line.number, outcome.code, outcome.detail, outcome.field)
        if isinstance(outcome, QianyanError)
        else issued_line(entry.line.number, outcome)
        for entry, outcome in zip(entries, outcomes, strict=True)
    ]
