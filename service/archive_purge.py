"""The end of archives: which of their files were kept long enough, and their deletion, on record.

Three kinds of archive may be in a directory: of the audit record (core.audit_archive), of certificates by year
(core.store.year_archive) and of signed requests (core.requests_archive). An archive is checked as a whole before
anything of it goes, so that a file which was tampered with stays to be looked at; each file is on the audit record
before it is deleted. Of the audit record only a beginning goes, and never all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from core import audit_archive, requests_archive
from core.audit import AuditEvent
from core.audit_archive import ArchiveFile
from core.clock import Clock, from_datetime, rfc3339
from core.ports import SignatureVerifier
from core.store import audit, counters, keys, year_archive
from core.store.database import Database
from service import request_retention
from service.retention import certificate_of, ends_of, keep_until, request_of, years_after
from service.settings import RetentionSettings, ServiceSettings

#: What the record says of a file that was deleted.
ACTION: Final = "archive.delete"
_AHEAD_MS: Final = 366 * 86_400_000


@dataclass(frozen=True, slots=True)
class Judged:
    """A file of an archive: until when it has to be kept, by which class, and whether it is gone now."""

    file: str
    sm3: str
    kept_by: str
    until_ms: int
    over: bool
    deleted: bool = False

    def as_json(self) -> dict[str, Any]:
        """As it is shown."""
        return {
            "file": self.file,
            "keep_until": rfc3339(self.until_ms),
            "class": self.kept_by,
            "over": self.over,
            "deleted": self.deleted,
        }


async def judge(
    database: Database, directory: Path, one: ArchiveFile, settings: RetentionSettings, now_ms: int
) -> Judged:
    """Until when a file of the audit record has to be kept: by the longest of its rows."""
    lines = await asyncio.to_thread(audit_archive.rows_of, directory, one)
    names = {of for row in lines if (of := certificate_of(row)) is not None}
    requests = {name for row in lines if (name := request_of(row)) is not None}
    async with database.read() as connection:
        ends = await ends_of(connection, names)
        kept = await request_retention.kept_of(connection, sorted(requests), settings)

    def until(row: Mapping[str, Any]) -> tuple[str, int]:
        """As the row says; of a request's step as long as the request, one that went before as a government
        department's."""
        step = request_of(row)
        if step is None:
            return keep_until(row, ends, settings)
        return kept.get(step, ("government", years_after(row["at_ms"], settings.government_years)))

    kept_by, until_ms = max(map(until, lines), key=lambda pair: pair[1])
    return Judged(one.name, one.sm3, kept_by, until_ms, until_ms < now_ms)


async def purge(
    database: Database,
    directory: Path,
    settings: ServiceSettings,
    clock: Clock,
    verify: SignatureVerifier,
    *,
    actor: str,
    delete: bool,
) -> list[Judged]:
    """Every file of the directory's archives; with `delete` those that are over are deleted.

    Raises Refused (code "audit_archive", "signature", "certificate_archive", "requests_archive") or Malformed where an
    archive is not whole; nothing of it was deleted then.
    """
    async with database.read() as connection:
        last_ms = await counters.current(connection, counters.LAST_TIME)
    # A clock that stands far ahead of the store's own time is not believed.
    now_ms = min(clock(), last_ms + _AHEAD_MS)
    found = await _audit(database, directory, settings, now_ms, verify, actor, clock, delete=delete)
    single = await asyncio.to_thread(
        lambda: [*_certificates(directory, settings, now_ms), *_requests(directory, now_ms)]
    )
    for one, paths in single:
        if one.over and delete:
            await _note(database, one, actor, clock)
            for path in paths:
                path.unlink(missing_ok=True)
            found.append(replace(one, deleted=True))
        else:
            found.append(one)
    return found


async def _audit(
    database: Database,
    directory: Path,
    settings: ServiceSettings,
    now_ms: int,
    verify: SignatureVerifier,
    actor: str,
    clock: Clock,
    *,
    delete: bool,
) -> list[Judged]:
    manifest = await asyncio.to_thread(audit_archive.read_manifest, directory)
    if manifest is None:
        return []
    async with database.read() as connection:
        key = await keys.get(connection, settings.audit.key)
    await asyncio.to_thread(audit_archive.verify_archive, directory, verify, key.public_key)
    judged = [await judge(database, directory, one, settings.retention, now_ms) for one in manifest.files]
    first_kept = next((place for place, one in enumerate(judged) if not one.over), len(judged))
    count = min(first_kept, len(judged) - 1)
    if not delete:
        return judged
    for one in judged[:count]:
        await _note(database, one, actor, clock)
    await asyncio.to_thread(audit_archive.delete_first, directory, count)
    return [replace(one, deleted=place < count) for place, one in enumerate(judged)]


def _certificates(directory: Path, settings: ServiceSettings, now_ms: int) -> Iterable[tuple[Judged, tuple[Path, ...]]]:
    """Retired years: kept as long as a government department's, whoever's they are."""
    retention = settings.retention
    years = max(retention.public_years, retention.government_years, settings.store.certificate_years)
    for path in sorted(directory.glob("certificates-*.json")):
        said = year_archive.check(path)
        until_ms = years_after(said.last_not_after_ms, years)
        judged = Judged(said.file, said.sm3, "government", until_ms, until_ms < now_ms)
        yield judged, (path.with_name(said.file), path)


def _requests(directory: Path, now_ms: int) -> Iterable[tuple[Judged, tuple[Path, ...]]]:
    """Retired requests, which went when they might."""
    for path in requests_archive.manifests(directory):
        said = requests_archive.check(path)
        until_ms = from_datetime(datetime.fromisoformat(said.keep_until))
        judged = Judged(said.file, said.sm3, "requests", until_ms, until_ms < now_ms)
        yield judged, (path.with_name(said.file), path)


async def _note(database: Database, one: Judged, actor: str, clock: Clock) -> None:
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        detail: dict[str, str | int] = {"sm3": one.sm3, "keep_until": rfc3339(one.until_ms), "class": one.kept_by}
        await audit.append(connection, AuditEvent(actor, ACTION, f"archive:{one.file}", detail=detail), at_ms=at_ms)
