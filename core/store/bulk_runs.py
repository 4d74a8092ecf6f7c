"""How far files of requests are issued, and what came of their lines.

Owns the rule that a line is worked on once: whoever records a chunk says where it begins, and is refused where the run
is not there any more. Results are kept by line, so that the file of results can be written anew from the store. Knows
lines, serials and codes; not requests.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store.schema_bulk import bulk_chunks, bulk_runs
from core.store.upsert import upsert


@dataclass(frozen=True, slots=True)
class BulkRun:
    """A file under an authority. `lines`, `octets`: what of it is done; `holders`, `refused`: what came of that."""

    id: bytes
    authority_id: str
    name: str
    lines: int
    octets: int
    holders: int
    refused: int
    actor: str
    started_at_ms: int
    changed_at_ms: int
    ended_at_ms: int | None


@dataclass(frozen=True, slots=True)
class LineResult:
    """What came of a line, counted from 1. `serial`: of its signing certificate; else `code`, `detail`, `field` say why
    there is none."""

    line: int
    serial: int | None = None
    code: str = ""
    detail: str = ""
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that one transaction records. `first_line` counts from 1; `lines`, `octets`: how much of the file it is."""

    first_line: int
    lines: int
    octets: int
    results: Sequence[LineResult]


def _run(row: Row[Any]) -> BulkRun:
    return BulkRun(*(getattr(row, name) for name in BulkRun.__dataclass_fields__))


async def find(connection: AsyncConnection, run_id: bytes) -> BulkRun | None:
    """The run, where it was begun."""
    row = (await connection.execute(select(bulk_runs).where(bulk_runs.c.id == run_id))).one_or_none()
    return None if row is None else _run(row)


async def find_settled(connection: AsyncConnection, run_id: bytes) -> BulkRun | None:
    """The run, where it was begun, once no other transaction has lines of it: one whose process was killed may still
    commit them. Keeps others waiting until this one ends."""
    statement = select(bulk_runs).where(bulk_runs.c.id == run_id).with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _run(row)


async def begin(connection: AsyncConnection, run: BulkRun) -> BulkRun:
    """The run as it stands: this one where it is new."""
    row = {name: getattr(run, name) for name in BulkRun.__dataclass_fields__}
    await connection.execute(upsert(connection, bulk_runs).values(row).on_conflict_do_nothing())
    found = await find(connection, run.id)
    assert found is not None
    return found


async def list_all(connection: AsyncConnection, *, limit: int = 100) -> list[BulkRun]:
    """Runs, the last one begun first."""
    statement = select(bulk_runs).order_by(bulk_runs.c.started_at_ms.desc(), bulk_runs.c.id).limit(limit)
    return [_run(row) for row in await connection.execute(statement)]


async def advance(connection: AsyncConnection, run_id: bytes, chunk: Chunk, *, at_ms: int) -> None:
    """Takes the chunk's lines for this transaction, before anything is written for them; another one waits.

    Raises Conflict (code "bulk_elsewhere") where they were worked on already, by another process on the same file.
    """
    c = bulk_runs.c
    there = (c.id == run_id) & (c.lines == chunk.first_line - 1)
    changed = {"lines": c.lines + chunk.lines, "octets": c.octets + chunk.octets, "changed_at_ms": at_ms}
    if (await connection.execute(update(bulk_runs).where(there).values(changed))).rowcount != 1:
        raise Conflict(
            "another process works on the same file; let it end, then run the command again", code="bulk_elsewhere"
        )


async def record(connection: AsyncConnection, run_id: bytes, chunk: Chunk) -> None:
    """Keeps what came of the lines that `advance` took."""
    holders = sum(1 for result in chunk.results if result.serial is not None)
    row = {
        "run_id": run_id,
        "first_line": chunk.first_line,
        "lines": chunk.lines,
        "results": _packed(chunk.results),
    }
    await connection.execute(bulk_chunks.insert().values(row))
    c = bulk_runs.c
    counted = {"holders": c.holders + holders, "refused": c.refused + len(chunk.results) - holders}
    await connection.execute(update(bulk_runs).where(c.id == run_id).values(counted))


async def end(connection: AsyncConnection, run_id: bytes, *, at_ms: int) -> None:
    """No line is left."""
    await connection.execute(update(bulk_runs).where(bulk_runs.c.id == run_id).values(ended_at_ms=at_ms))


async def results_after(connection: AsyncConnection, run_id: bytes, line: int) -> list[LineResult]:
    """What came of the lines of the first chunk that has any after `line`; nothing where there is none."""
    c = bulk_chunks.c
    statement = (
        select(c.results).where(c.run_id == run_id, c.first_line + c.lines > line + 1).order_by(c.first_line).limit(1)
    )
    packed = (await connection.execute(statement)).scalar_one_or_none()
    return [] if packed is None else [result for result in _unpacked(packed) if result.line > line]


def _packed(results: Sequence[LineResult]) -> bytes:
    """Compressed JSON: [line, serial in hex] or [line, null, code, detail, field] for each."""
    rows = [
        [one.line, f"{one.serial:x}"] if one.serial is not None else [one.line, None, one.code, one.detail, one.field]
        for one in results
    ]
    return zlib.compress(orjson.dumps(rows), 1)


def _unpacked(packed: bytes) -> list[LineResult]:
    rows = orjson.loads(zlib.decompress(packed))
    return [
        LineResult(row[0], int(row[1], 16)) if row[1] is not None else LineResult(row[0], None, *row[2:])
        for row in rows
    ]
