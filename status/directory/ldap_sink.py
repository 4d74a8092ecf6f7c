"""An LDAP directory as a sink: contents to entries, read, compare, write what differs.

Owns the connection and the thread it is used in, so that neither a slow server nor a full socket holds up the event
loop. Which entries there are is entries.Mapper's; what an error means for the rest of a batch is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import ldap

from core.clock import Clock
from core.errors import Refused
from status.directory.entries import MARK_ID, MARK_POSITION, Change, Entry, Mapper, Part, mark_dn, mark_entry, plan
from status.directory.naming import normalised
from status.directory.session import ENTRY_FAULTS, STALE, Session, explain
from status.directory.settings import LdapTargetSettings
from status.directory.sinks import Applied, Content, Mark, Reference, SinkDown

T = TypeVar("T")

#: How often an entry that others change meanwhile is looked at anew.
_ATTEMPTS: Final = 4
#: A batch gets this many times the patience that one answer gets.
_BATCH_PATIENCE: Final = 6


class _Entries:
    """The parts of a batch by entry, and who asked for them."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Part]] = {}
        self.askers: dict[str, list[Reference]] = {}

    def put(self, reference: Reference, part: Part) -> None:
        key = normalised(part.dn)
        self.parts.setdefault(key, []).append(part)
        self.askers.setdefault(key, []).append(reference)


class LdapSink:
    """See the module. `password` empty: anonymous. `clock`: for what has expired."""

    def __init__(self, settings: LdapTargetSettings, ca_file: Path | None, password: bytes, clock: Clock) -> None:
        self.settings = settings
        self.mapper = Mapper(settings, clock)
        self._ca_file = ca_file
        self._password = password
        self._session: Session | None = None
        self._mark_dn = mark_dn(settings.base)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"ldap-{settings.name}")

    async def open(self) -> Mark | None:
        """See Sink."""
        await self.close()
        self._session = Session(self.settings.url, timeout_s=self.settings.operation_timeout_s)
        await self._in_thread(self._connect, patience=2)
        return await self.read_mark()

    def _connect(self) -> None:
        self._open_session().connect(
            start_tls=self.settings.start_tls,
            ca_file=self._ca_file,
            bind_dn=self.settings.bind_dn,
            password=self._password,
        )

    async def close(self) -> None:
        """See Sink."""
        session, self._session = self._session, None
        if session is not None:
            session.abort()
            await asyncio.get_running_loop().run_in_executor(self._thread, session.close)

    def shut_down(self) -> None:
        """Ends the thread; nothing can be asked any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any, patience: int = 1) -> T:
        """Runs `work` in the connection's thread; past its time the connection is cut. Raises SinkDown."""
        task = asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        try:
            return await asyncio.wait_for(asyncio.shield(task), self.settings.operation_timeout_s * patience + 1)
        except (TimeoutError, asyncio.CancelledError) as error:
            if self._session is not None:
                self._session.abort()
            with contextlib.suppress(Exception):  # what it says now is that it was cut
                await task
            if isinstance(error, asyncio.CancelledError):
                raise
            raise SinkDown("the server does not answer in time") from error

    def _open_session(self) -> Session:
        if self._session is None:
            raise SinkDown("not connected")
        return self._session

    async def read_mark(self) -> Mark | None:
        """See Sink."""
        return await self._in_thread(self._read_mark)

    def _read_mark(self) -> Mark | None:
        found = self._open_session().read([self._mark_dn])[0]
        if found is None or MARK_ID.lower() not in found:
            return None
        position = found.get(MARK_POSITION.lower(), [b"0"])[0]
        return Mark(found[MARK_ID.lower()][0].decode(), int(position))

    async def mark(self, mark: Mark) -> None:
        """See Sink."""
        await self._in_thread(self._write_mark, mark, patience=_BATCH_PATIENCE)

    def _write_mark(self, mark: Mark) -> None:
        session = self._open_session()
        identity, position = [mark.identity.encode()], [b"%d" % mark.position]
        there = session.read([self._mark_dn])[0]
        if there is None:
            change = mark_entry(self.settings.base, mark)
        else:
            change = Change(
                "modify", self._mark_dn, modifications=[(2, MARK_ID, identity), (2, MARK_POSITION, position)]
            )
        error = session.write([change], lambda: None)[0]
        if error is not None:
            raise SinkDown(f"the publisher may not write {self._mark_dn}: {explain(error)}")

    async def apply(self, contents: Sequence[tuple[Reference, Content]], guard: Callable[[], None]) -> Applied:
        """See Sink."""
        if not contents:
            return Applied()
        return await self._in_thread(self._apply, contents, guard, patience=_BATCH_PATIENCE)

    async def differences(self, contents: Sequence[tuple[Reference, Content]]) -> list[Reference]:
        """Whose entries are not as they should be; changes nothing. Raises SinkDown."""

        def look() -> list[Reference]:
            applied = Applied()
            entries = self._entries(contents, applied)
            changes = self._plans(entries, list(entries.parts), applied)
            return [*applied.refused, *(reference for dn in changes for reference in entries.askers[dn])]

        return await self._in_thread(look, patience=_BATCH_PATIENCE) if contents else []

    async def pages(self, filter_text: str, names: Sequence[str], size: int) -> _Pages:
        """An iterator over a search below the base, page by page."""
        return _Pages(self, filter_text, names, size)

    def _entries(self, contents: Sequence[tuple[Reference, Content]], applied: Applied) -> _Entries:
        entries = _Entries()
        for reference, content in contents:
            try:
                part = self.mapper.part(content)
            except Refused as error:
                applied.refused[reference] = error.detail
                continue
            if part is not None:
                entries.put(reference, part)
        return entries

    def _plans(self, entries: _Entries, keys: Sequence[str], applied: Applied) -> dict[str, Change]:
        """What has to change of the entries `keys`."""
        found: list[Entry | None] = self._open_session().read([entries.parts[key][0].dn for key in keys])
        changes = {}
        for key, before in zip(keys, found, strict=True):
            try:
                change = plan(entries.parts[key][0].dn, before, entries.parts[key])
            except Refused as error:
                applied.refused |= dict.fromkeys(entries.askers[key], error.detail)
                continue
            if change is not None:
                changes[key] = change
        return changes

    def _apply(self, contents: Sequence[tuple[Reference, Content]], guard: Callable[[], None]) -> Applied:
        applied = Applied()
        entries = self._entries(contents, applied)
        keys = list(entries.parts)
        doubtful: dict[str, str] = {}
        for _ in range(_ATTEMPTS):
            changes = self._plans(entries, keys, applied)
            outcome = self._open_session().write(list(changes.values()), guard)
            keys = []
            for key, error in zip(changes, outcome, strict=True):
                if error is None:
                    applied.changed += len(entries.askers[key])
                elif isinstance(error, STALE):
                    keys.append(key)
                    doubtful[key] = explain(error)
                elif isinstance(error, ENTRY_FAULTS):
                    applied.refused |= dict.fromkeys(entries.askers[key], explain(error))
                else:  # no right, unwilling, full: is it this entry or everything?
                    self._probe(explain(error))
                    applied.refused |= dict.fromkeys(entries.askers[key], explain(error))
            if not keys:
                return applied
        for key in keys:
            self._probe(doubtful[key])
            applied.refused |= dict.fromkeys(entries.askers[key], doubtful[key])
        return applied

    def _probe(self, said: str) -> None:
        """Returns where the publisher may write what is surely good. Raises SinkDown where it may not."""
        session = self._open_session()
        there = session.read([self._mark_dn])[0]
        if there is None:
            raise SinkDown(said)
        again: list[tuple[int, str, list[bytes] | None]] = [(2, MARK_ID, there[MARK_ID.lower()])]
        error: ldap.LDAPError | None = session.write(
            [Change("modify", self._mark_dn, modifications=again)], lambda: None
        )[0]
        if error is not None:
            raise SinkDown(said)


class _Pages:
    """A paged search, taken from the connection's thread one page at a time."""

    def __init__(self, sink: LdapSink, filter_text: str, names: Sequence[str], size: int) -> None:
        self._sink = sink
        self._pages = sink._open_session().pages(sink.settings.base, filter_text, names, size)

    def __aiter__(self) -> _Pages:
        return self

    async def __anext__(self) -> list[tuple[str, Entry]]:
        page: list[tuple[str, Entry]] | None = await self._sink._in_thread(next, self._pages, None, patience=3)
        if page is None:
            raise StopAsyncIteration
        return page
