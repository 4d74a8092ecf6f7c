"""Everything as LDIF (RFC 2849), for `slapadd`: the fast way to fill a directory from nothing.

The file ends in the mark of the store, so that the publisher takes up from the outbox position that it was written at.
Reads the store in steps; holds no more than a step, and the names of the entries above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TextIO

import ldif
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import Clock
from core.errors import Refused
from core.store import directory, outbox, publication
from core.store.database import Database
from status.directory import content
from status.directory.entries import Change, Mapper, Part, mark_entry, plan
from status.directory.naming import normalised, parent
from status.directory.session import parent_entry
from status.directory.settings import LdapTargetSettings
from status.directory.sinks import Content, Mark, Reference

_ROWS: Final = 1_000


class LdifExport:
    """See the module. suffix: the topmost entry to write; without it the target's base.

    refused: what no entry could be made of, with the reason.
    """

    def __init__(
        self, database: Database, target: LdapTargetSettings, clock: Clock, file: TextIO, *, suffix: str | None = None
    ) -> None:
        self._top = normalised(suffix or target.base)
        self._database = database
        self._target = target
        self._clock = clock
        self._mapper = Mapper(target, clock)
        self._writer = ldif.LDIFWriter(file, cols=1 << 20)
        self._above: set[str] = set()
        self.refused: list[tuple[Reference, str]] = []
        self.entries = 0

    async def write(self, progress: Callable[[int], None] = lambda _written: None) -> int:
        """Writes everything and says in the store that the target has it; returns the outbox position.

        Raises Refused (code "directory_shared") where certificates share entries.
        """
        if "{serial}" not in self._target.certificate_dn:
            raise Refused(
                "LDIF is written entry by entry: it needs {serial} in certificate_dn; load without --ldif",
                code="directory_shared",
            )
        async with self._database.write() as connection:
            await publication.ensure(connection, self._target.name, at_ms=self._clock())
        async with self._database.read() as connection:
            position = await outbox.head(connection)
            identity = (await publication.get(connection, self._target.name)).identity
            for together in await content.other_references(connection):
                await self._others(connection, together)
        after = 0
        while True:
            async with self._database.read() as connection:
                records = await directory.read_after(connection, after, limit=_ROWS)
            if not records:
                break
            after = records[-1].id
            for reference, one in content.of_records(records):
                self._entry(reference, one)
            progress(self.entries)
        self._put(mark_entry(self._target.base, Mark(identity, position)))
        async with self._database.write() as connection:
            await publication.set_position(connection, self._target.name, position)
            refused = [(topic, text, reason) for (topic, text), reason in self.refused]
            await publication.put_aside(connection, self._target.name, refused, at_ms=self._clock())
        return position

    async def _others(self, connection: AsyncConnection, together: list[Reference]) -> None:
        """An authority and its CRLs, which may share an entry."""
        parts: dict[str, list[Part]] = {}
        for reference, one in await content.load(connection, together):
            part = self._part(reference, one)
            if part is not None:
                parts.setdefault(normalised(part.dn), []).append(part)
        for shared in parts.values():
            change = plan(shared[0].dn, None, shared)
            if change is not None:
                self._put(change)

    def _part(self, reference: Reference, one: Content) -> Part | None:
        try:
            return self._mapper.part(one)
        except Refused as error:
            self.refused.append((reference, error.detail))
            return None

    def _entry(self, reference: Reference, one: Content) -> None:
        part = self._part(reference, one)
        change = None if part is None else plan(part.dn, None, [part])
        if change is not None:
            self._put(change)

    def _put(self, change: Change) -> None:
        above = parent(change.dn)
        if above and above not in self._above:
            self._put_above(above)
        self._writer.unparse(change.dn, dict(change.attributes))
        self.entries += 1

    def _put_above(self, dn: str) -> None:
        higher = parent(dn)
        inside = normalised(dn) != self._top
        if inside and higher and higher not in self._above:
            self._put_above(higher)
        self._above.add(dn)
        self._writer.unparse(dn, dict(parent_entry(dn).attributes))
