"""Runs an import in chunks: each is one transaction with its rows, its place in the input and its part of the audit
record, so that what was killed goes on where it was, with nothing twice and nothing lost.

The report has a line of JSON for each item. It is on disk before its chunk commits, and cut back to what committed when
an import goes on. While one chunk is written the next is checked, no more. Knows chunks, jobs and the report; what is
done with an item is the business of `Taker`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import orjson
from cryptography.hazmat.primitives import hashes
from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, SettingsError, Unavailable
from core.store import audit, counters, imports
from core.store.database import Database
from core.store.imports import Job

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

#: Items of one transaction.
CHUNK: Final = 2_000
#: How often a chunk is tried again that another writer stood in the way of.
_ATTEMPTS: Final = 5

#: With what a report begins, in as many octets.
_HEADS: Final = b'{"item":0,', b'{"result":'

#: Called after each chunk with how the import stands.
Progress = Callable[[Job], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item. result: "accepted", "known" (changes nothing) or "refused". rest: for the report."""

    result: str
    rest: dict[str, Any]


class Taker(Protocol[T_contra]):
    """What an import does with its items."""

    async def prepare(self, chunk: Sequence[T_contra]) -> Any:
        """What needs no store: reading and checking."""
        ...

    async def write(self, connection: AsyncConnection, prepared: Any, at_ms: int) -> list[Outcome]:
        """Puts a chunk into the store; an outcome for each item. May be called again for the same chunk."""
        ...

    async def conclude(self, database: Database) -> list[dict[str, Any]]:
        """What is to be told when every item is in the store: lines for the report, behind those of the items."""
        ...


class Report:
    """The report's file, or none. size: octets of it that were committed; since_ms: when the import began."""

    def __init__(self, path: Path | None, size: int, since_ms: int) -> None:
        self._file = None
        self.size = size
        if path is None:
            return
        if not size and path.exists() and path.stat().st_size and not _own(path, since_ms):
            raise SettingsError(f"{path} is there already; name another report", code="report_exists")
        if size and (not path.exists() or path.stat().st_size < size):
            raise SettingsError(f"{path} is not the report that the import began", code="report_other")
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, first: int, outcomes: Sequence[Outcome]) -> int:
        """Adds a chunk's lines, durably, behind `size`; returns what `size` is when the chunk has committed."""
        return self.add(
            [{"item": first + place, "result": one.result} | one.rest for place, one in enumerate(outcomes)]
        )

    def add(self, lines: Sequence[dict[str, Any]]) -> int:
        """The same with lines of no item."""
        data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        if self._file is not None:
            self._file.seek(self.size)
            self._file.truncate()
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.size + len(data)


def _own(path: Path, since_ms: int) -> bool:
    """Whether a report of which nothing was committed is this import's: what was killed in its first chunk left it."""
    with path.open("rb") as file:
        head = file.read(len(_HEADS[0]))
    return path.stat().st_mtime_ns // 1_000_000 >= since_ms and any(one.startswith(head) for one in _HEADS)


def _after(job: Job, outcomes: Sequence[Outcome], *, report_bytes: int, at_ms: int) -> Job:
    counts = {name: sum(one.result == name for one in outcomes) for name in ("accepted", "known", "refused")}
    return replace(
        job,
        position=job.position + len(outcomes),
        report_bytes=report_bytes,
        accepted=job.accepted + counts["accepted"],
        known=job.known + counts["known"],
        refused=job.refused + counts["refused"],
        changed_at_ms=at_ms,
    )


class Importer(Generic[T]):
    """One import over one input."""

    def __init__(self, database: Database, clock: Clock, job: Job, taker: Taker[T], report: Path | None) -> None:
        self._database = database
        self._clock = clock
        self._wanted = job
        self._taker = taker
        self._report = report

    async def run(self, items: Callable[[], Iterator[T]], progress: Progress = lambda job: None) -> Job:
        """To the end, from where it was interrupted; nothing where it is done already.

        Raises SettingsError for the report; Conflict where another process does the same; Unavailable.
        """
        async with self._database.write() as connection:
            job = await imports.begin(connection, self._wanted)
        if job.state == "done":
            return job
        source = items()
        with Report(self._report, job.report_bytes, job.started_at_ms) as report:
            await asyncio.to_thread(_skip, source, job.position)
            ahead = asyncio.ensure_future(self._prepared(source))
            try:
                while (prepared := await ahead) is not None:
                    # The next one is read and checked while this one is written: a core for each, and no third waits.
                    ahead = asyncio.ensure_future(self._prepared(source))
                    job = await self._chunk(job, prepared, report)
                    progress(job)
            finally:
                await asyncio.gather(ahead, return_exceptions=True)
            return await self._finish(job, report)

    async def _prepared(self, source: Iterator[T]) -> Any:
        """The next chunk, checked; None behind the last."""
        chunk = await asyncio.to_thread(lambda: list(islice(source, CHUNK)))
        return await self._taker.prepare(chunk) if chunk else None

    async def _chunk(self, job: Job, prepared: Any, report: Report) -> Job:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._once(job, prepared, report)
            except Conflict as error:  # somebody revoked one of its certificates meanwhile
                if error.code not in ("state_changed", "serial_taken") or attempt == _ATTEMPTS:
                    raise
            except Unavailable as error:
                # Whether it committed may not be known: where the store stands says it.
                async with self._database.read() as connection:
                    there = await imports.find(connection, job.id)
                if there is not None and there.position > job.position:
                    report.size = there.report_bytes
                    return there
                if attempt == _ATTEMPTS or error.code == "clock_behind":
                    raise
        raise AssertionError("unreachable")

    async def _once(self, job: Job, prepared: Any, report: Report) -> Job:
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            outcomes = await self._taker.write(connection, prepared, at_ms)
            size = await asyncio.to_thread(report.write, job.position, outcomes)
            after = _after(job, outcomes, report_bytes=size, at_ms=at_ms)
            await imports.advance(connection, job, after)
            detail: dict[str, str | int] = {
                "import": job.id,
                "from": job.position,
                "items": len(outcomes),
                "accepted": after.accepted - job.accepted,
                "refused": after.refused - job.refused,
            }
            event = AuditEvent(job.actor, f"import.{job.kind}", job.authority_id, detail=detail)
            await audit.append(connection, event, at_ms=at_ms)
        report.size = size
        return after

    async def _finish(self, job: Job, report: Report) -> Job:
        told = await self._taker.conclude(self._database)
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            size = await asyncio.to_thread(report.add, told)
            done = replace(job, state="done", report_bytes=size, changed_at_ms=at_ms)
            await imports.advance(connection, job, done)
            detail: dict[str, str | int] = {"import": job.id, "items": job.position, "refused": job.refused}
            if told:
                detail["unlisted"] = len(told)
            event = AuditEvent(job.actor, "import.done", job.authority_id, detail=detail)
            await audit.append(connection, event, at_ms=at_ms)
        return done


def _skip(source: Iterator[T], count: int) -> None:
    next(islice(source, count, count), None)


def new_job(authority_id: str, kind: imports.Kind, digest: bytes, actor: str, now_ms: int) -> Job:
    """An import that has not begun; the same input for the same authority is the same import."""
    state = hashes.Hash(hashes.SM3())
    state.update(f"{authority_id}\0{kind}\0".encode() + digest)
    identity = state.finalize()[:16].hex()
    return Job(identity, authority_id, kind, digest, 0, 0, 0, 0, 0, "running", actor, now_ms, now_ms)
