"""Retires signed requests that were kept as long as their class asks: to an archive, or for good.

A request is kept for years after the end of every certificate that it made, changed or opened the key of, by that
certificate's class (`[retention]`); one that came to nothing, from its decision or its end on. Never a day less, and
rather too long than too short: an end that is not known any more counts as that of a government department. Some
hundred requests at a time: a file, where there is an archive, which is read back; then one transaction that removes
them and says so in the audit record. Killed in between, a file stays that nobody needs, and nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core import requests_archive
from core.clock import Clock
from core.requests_archive import ArchiveWriter
from core.store import counters, sealed
from core.store import registration_requests as requests
from core.store import request_retiring as rows
from core.store.database import Database
from core.store.registration_requests import RequestRecord
from core.store.request_retiring import About, Issued, Name, Removal
from service.retention import years_after
from service.settings import RetentionSettings

#: Requests in one file and one transaction.
AT_ONCE: Final = 500
_ISSUED_AT_ONCE: Final = 2_000
#: A clock that stands further ahead of the store's own time than this is not believed: it would have things removed
#: that are to be kept.
_AHEAD_MS: Final = 366 * 86_400_000
_CLASS: Final = "request."


@dataclass(frozen=True, slots=True)
class Kept:
    """A request, and until when it has to be kept by which class."""

    record: RequestRecord
    kept_by: str
    until_ms: int


@dataclass(slots=True)
class Retired:
    """What went, or would go. `files`: of the archive."""

    requests: int = 0
    messages: int = 0
    issued: int = 0
    files: list[str] = field(default_factory=list)
    by_class: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. archive None: what goes is nowhere then. dry_run: only say what would go."""

    settings: RetentionSettings
    actor: str
    archive: Path | None = None
    dry_run: bool = False


def keep_until(record: RequestRecord, about: Sequence[About], settings: RetentionSettings) -> tuple[str, int]:
    """The class of a request and until when it has to be kept, in ms."""
    settled_ms = rows.settled_ms(record)
    if record.state != "done":
        for known in (_CLASS + record.state, _CLASS):
            if known in settings.classes:
                return known, years_after(settled_ms, settings.classes[known])
        return "other", years_after(settled_ms, settings.other_years)
    judged = [_of_certificate(one.ends_ms, one.profile, settled_ms, settings) for one in about]
    return max(judged or [("government", years_after(settled_ms, settings.government_years))], key=lambda pair: pair[1])


def _of_certificate(ends_ms: int, profile: str | None, settled_ms: int, settings: RetentionSettings) -> tuple[str, int]:
    government = profile is None or profile in settings.government_profiles
    years = settings.government_years if government else settings.public_years
    return "government" if government else "public", years_after(max(ends_ms, settled_ms), years)


async def kept_of(
    connection: AsyncConnection, names: Sequence[Name], settings: RetentionSettings
) -> dict[Name, tuple[str, int]]:
    """`keep_until` of those of these requests that are in the store."""
    found: dict[Name, tuple[str, int]] = {}
    for start in range(0, len(names), AT_ONCE):
        records = await requests.find_many(connection, names[start : start + AT_ONCE])
        about = await rows.about(connection, records.values())
        found |= {name: keep_until(record, about[name], settings) for name, record in records.items()}
    return found


def _shortest(settings: RetentionSettings) -> int:
    """No request of less than so many years ago may go."""
    families = [years for name, years in settings.classes.items() if name.startswith(_CLASS)]
    return min(settings.public_years, settings.government_years, settings.other_years, *families)


async def retire(
    database: Database, wish: Wish, clock: Clock, *, tell: Callable[[Retired], None] = lambda _: None
) -> Retired:
    """Retires everything that is due; `tell` of it after each transaction. May be broken off and begun again.

    Raises Refused (code "requests_archive", "retention_changed"), Unavailable.
    """
    done = Retired()
    async with database.read() as connection:
        last_ms = await counters.current(connection, counters.LAST_TIME)
        authorities = await rows.ra_ids(connection)
    now_ms = min(clock(), last_ms + _AHEAD_MS)
    for ra_id in authorities:
        async for due in _due(database, ra_id, now_ms, wish.settings):
            await _retire_some(database, due, wish, clock, done)
            tell(done)
    async for issued in _due_issued(database, now_ms, wish):
        await _retire_issued(database, issued, wish, clock, done)
        tell(done)
    return done


async def _due(
    database: Database, ra_id: str, now_ms: int, settings: RetentionSettings
) -> AsyncIterator[Sequence[Kept]]:
    """An authority's requests that may go, in the order of their entry."""
    before_ms = years_after(now_ms, -_shortest(settings))
    after: tuple[int, str] | None = None
    while True:
        async with database.read() as connection:
            page = await rows.entered_before(connection, ra_id, before_ms, after, AT_ONCE)
            about = await rows.about(connection, page)
        judged = [Kept(one, *keep_until(one, about[one.ra_id, one.request_id], settings)) for one in page]
        due = [one for one in judged if one.until_ms < now_ms]
        if due:
            yield due
        if len(page) < AT_ONCE:
            return
        after = page[-1].entered_at_ms, page[-1].request_id
        await asyncio.sleep(0)


async def _due_issued(database: Database, now_ms: int, wish: Wish) -> AsyncIterator[Sequence[tuple[Issued, int]]]:
    """Rows that say whose request a certificate came from, where both are over."""
    after: tuple[str, bytes] | None = None
    while True:
        async with database.read() as connection:
            page = await rows.issued_after(connection, after, _ISSUED_AT_ONCE)
        judged = [
            (row, _of_certificate(row.ends_ms, row.profile, 0, wish.settings)[1])
            for row, gone in page
            if (gone or wish.dry_run) and row.ends_ms < now_ms
        ]
        due = [(row, until_ms) for row, until_ms in judged if until_ms < now_ms]
        if due:
            yield due
        if len(page) < _ISSUED_AT_ONCE:
            return
        after = page[-1][0].authority_id, bytes(page[-1][0].serial)
        await asyncio.sleep(0)


async def _retire_some(database: Database, due: Sequence[Kept], wish: Wish, clock: Clock, done: Retired) -> None:
    names: list[Name] = [(one.record.ra_id, one.record.request_id) for one in due]
    async with database.read() as connection:
        evidence = await rows.evidence_of_many(connection, names)
    keys: dict[int, int] = {}
    for message in (one for those in evidence.values() for one in those):
        key_id = sealed.key_of(message.sealed)
        keys[key_id] = keys.get(key_id, 0) + 1
    messages = sum(map(len, evidence.values()))
    for one in due:
        done.by_class[one.kept_by] = done.by_class.get(one.kept_by, 0) + 1
    done.requests += len(due)
    done.messages += messages
    if wish.dry_run:
        return

    def fill(writer: ArchiveWriter) -> None:
        for one, name in zip(due, names, strict=True):
            kept = [rows.as_row(message) for message in evidence.get(name, ())]
            writer.request(rows.as_row(one.record), kept, one.kept_by, one.until_ms)

    going = Removal([one.record for one in due], messages, keys, ())
    await _remove(database, going, fill, wish, clock, done)


async def _retire_issued(
    database: Database, due: Sequence[tuple[Issued, int]], wish: Wish, clock: Clock, done: Retired
) -> None:
    done.issued += len(due)
    if wish.dry_run:
        return

    def fill(writer: ArchiveWriter) -> None:
        for row, until_ms in due:
            writer.issued(rows.as_row(row), until_ms)

    await _remove(database, Removal((), 0, {}, [row for row, _ in due]), fill, wish, clock, done)


async def _remove(
    database: Database,
    going: Removal,
    fill: Callable[[ArchiveWriter], None],
    wish: Wish,
    clock: Clock,
    done: Retired,
) -> None:
    file = sm3 = ""
    if wish.archive is not None:
        made = await asyncio.to_thread(_write, wish.archive, clock(), fill)
        file, sm3 = made.file, made.sm3
    removal = Removal(going.requests, going.messages, going.keys, going.issued, file, sm3)
    async with database.write() as connection:
        at_ms = await counters.advance_time(connection, clock())
        await rows.remove(connection, removal, actor=wish.actor, at_ms=at_ms)
    if file:
        done.files.append(file)


def _write(directory: Path, at_ms: int, fill: Callable[[ArchiveWriter], None]) -> requests_archive.RequestsArchive:
    writer = ArchiveWriter(directory, at_ms)
    try:
        fill(writer)
        return writer.finish()
    except BaseException:
        with suppress(OSError):
            writer.abandon()
        raise
