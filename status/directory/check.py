"""Compares a directory with the store, both ways, in bounded memory.

First the directory is read page by page: every certificate there has to be one that the store has, where the settings
say, not revoked (or marked as such). What was seen is noted in a bit for each row of the store. Then the store is read:
what has to be there and was not seen is missing. Authorities and CRLs are few and are compared entry by entry.

Both sides go on changing meanwhile, so whatever looks wrong is looked at once more, store first, before it is reported.
Nothing is written here: a repair is asked of the publisher, who alone writes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from cryptography import x509

from core.errors import Refused, Unavailable
from core.model import CertificateState, serial_to_hex
from core.store import authorities, directory, publication
from core.store.directory import PublicCertificate
from status.directory import content
from status.directory.entries import HELD, REVOKED, SERIAL, USER_CERTIFICATE, Entry, Mapper
from status.directory.ldap_sink import LdapSink
from status.directory.naming import normalised
from status.directory.service import DirectoryService
from status.directory.settings import LdapTargetSettings
from status.directory.sinks import Reference, SinkDown

Kind = Literal["missing", "wrong", "revoked", "orphan"]

_PAGE: Final = 500
_ROWS: Final = 1_000
#: How many differences a report names; all are counted.
EXAMPLES: Final = 100

#: Called with how many certificates of the directory, and of the store, have been looked at.
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Report:
    """What a check found. in_directory, in_store: certificates seen there; in_store counts what has to be published."""

    in_directory: int = 0
    in_store: int = 0
    others: int = 0
    differences: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the directory says what the store says."""
        return not self.differences


class _Seen:
    """A bit for each row of the store."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> None:
        if number >> 3 >= len(self._bits):
            self._bits.extend(bytes((number >> 3) + (1 << 16) - len(self._bits)))
        self._bits[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        return number >> 3 < len(self._bits) and bool(self._bits[number >> 3] & 1 << (number & 7))


class Checker:
    """See the module. `repair`: whether the publisher is asked to put right what is wrong."""

    def __init__(self, service: DirectoryService, target: LdapTargetSettings, *, repair: bool) -> None:
        self._service = service
        self._database = service.database
        self._target = target
        self._repair = repair
        self._mapper = Mapper(target, service.clock)
        self._seen = _Seen()
        self._report = Report()

    async def run(self, progress: Progress = lambda _directory, _store: None) -> Report:
        """The whole comparison. Raises Unavailable where the directory or the store cannot be asked."""
        pages, again = self._service.sink(self._target), self._service.sink(self._target)
        try:
            await pages.open()
            await again.open()
            if self._repair:
                async with self._database.write() as connection:
                    await publication.ensure(connection, self._target.name, at_ms=self._service.clock())
            await self._read_directory(pages, again, progress)
            await self._read_store(again, progress)
            async with self._database.read() as connection:
                others = [one for together in await content.other_references(connection) for one in together]
            self._report.others = len(others)
            for reference in others:
                await self._look_again(again, {reference: "wrong"})
        except SinkDown as error:
            raise Unavailable(f"the directory {self._target.url}: {error}", code="directory_down") from error
        finally:
            for sink in (pages, again):
                await sink.close()
                sink.shut_down()
        return self._report

    async def _read_directory(self, pages: LdapSink, again: LdapSink, progress: Progress) -> None:
        names = (USER_CERTIFICATE, SERIAL, REVOKED, HELD)
        async for page in await pages.pages("(objectClass=qianyanCertified)", names, _PAGE):
            await self._look_again(again, await self._judge(page))
            progress(self._report.in_directory, self._report.in_store)

    async def _judge(self, page: list[tuple[str, Entry]]) -> dict[Reference, Kind]:
        """What looks wrong of a page."""
        there = [(dn, entry, der) for dn, entry in page for der in entry.get(USER_CERTIFICATE.lower(), ())]
        self._report.in_directory += len(there)
        serials = {der: _serial(der) for _, _, der in there}
        async with self._database.read() as connection:
            issuers = [authority.id for authority in await authorities.list_all(connection)]
            pairs = [(issuer, serial) for serial in serials.values() if serial is not None for issuer in issuers]
            found = await directory.find_many(connection, pairs)
        known = {record.certificate: record for record in found.values()}
        suspects: dict[Reference, Kind] = {}
        for dn, entry, der in there:
            record = known.get(der)
            if record is None or not self._belongs(record, dn):
                suspects[content.ORPHAN, f"{hashlib.sha256(der).hexdigest()} {dn}"] = "orphan"
                continue
            self._seen.add(record.id)
            if not self._mapper.shown(record):
                suspects[content.reference_of(record)] = "revoked"
            elif not _well_marked(record, entry):
                suspects[content.reference_of(record)] = "wrong"
        return suspects

    def _belongs(self, record: PublicCertificate, dn: str) -> bool:
        try:
            return self._mapper.publishes(record) and normalised(self._mapper.dn_of(record)) == normalised(dn)
        except Refused:  # there is no entry that it could be at
            return False

    async def _read_store(self, again: LdapSink, progress: Progress) -> None:
        after = 0
        while True:
            async with self._database.read() as connection:
                records = await directory.read_after(connection, after, limit=_ROWS)
            if not records:
                return
            after = records[-1].id
            wanted = [r for r in records if self._mapper.publishes(r) and self._mapper.shown(r)]
            self._report.in_store += len(wanted)
            missing = [record for record in wanted if record.id not in self._seen]
            await self._look_again(again, {content.reference_of(record): "missing" for record in missing})
            progress(self._report.in_directory, self._report.in_store)

    async def _look_again(self, sink: LdapSink, suspects: dict[Reference, Kind]) -> None:
        """Reports, and has repaired, what is still not as the store says."""
        if not suspects:
            return
        async with self._database.read() as connection:
            contents = await content.load(connection, suspects)
        wrong = dict.fromkeys(await sink.differences(contents))
        for reference in wrong:
            kind = suspects[reference]
            self._report.differences[kind] += 1
            if len(self._report.examples) < EXAMPLES:
                self._report.examples.append((kind, f"{reference[0]} {reference[1]}"))
        if self._repair:
            await self._ask(wrong, suspects)

    async def _ask(self, wrong: Iterable[Reference], kinds: dict[Reference, Kind]) -> None:
        wanted = [(topic, text, f"a check found it {kinds[topic, text]}") for topic, text in wrong]
        async with self._database.write() as connection:
            await publication.queue(connection, self._target.name, wanted, at_ms=self._service.clock())


def _serial(der: bytes) -> int | None:
    try:
        return x509.load_der_x509_certificate(der).serial_number
    except ValueError:
        return None


def _well_marked(record: PublicCertificate, entry: Entry) -> bool:
    """Whether the entry says of the certificate's state what the store says."""
    serial = serial_to_hex(record.serial).encode()
    return (
        serial in entry.get(SERIAL.lower(), ())
        and (serial in entry.get(REVOKED.lower(), ())) == (record.state == CertificateState.REVOKED.value)
        and (serial in entry.get(HELD.lower(), ())) == (record.state == CertificateState.HELD.value)
    )
