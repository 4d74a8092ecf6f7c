"""Looks, as relying parties do, whether a change of status shows: in OCSP, CRL, delta, file and directory.

Reads what each channel hands out, never the store; takes the delay where it shows, and notes what may never happen.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import ldap
from cryptography.x509 import ocsp

from core.asn1 import der
from core.errors import QianyanError
from core.model import serial_to_hex
from crl._reader import Listing
from crl.view import read_crl
from tests.simulate.plan import Kind, Outcome
from tests.simulate.scene import Scene
from tests.status_world import HASH_OIDS, digest, request

_REMOVED = 8
_CRL = "certificateRevocationList;binary"
_ASKED_AT_ONCE = 32
_LOOK_S = 0.01
_PATIENCE_S = 900.0

Scope = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One certificate's change of status, committed at `at_ms`."""

    scope: Scope
    serial: int
    kind: Kind
    at_ms: int


class Channels:
    """See the module."""

    def __init__(self, scene: Scene, outcome: Outcome) -> None:
        self._scene = scene
        self._outcome = outcome
        self._tags: dict[Scope, str] = {}
        self._numbers: dict[Scope, int] = {}
        self._ends_ms: dict[Scope, int] = {}
        self._session: ldap.ldapobject.LDAPObject | None = None
        #: What no CRL shows yet.
        self.pending: list[Change] = []

    def fault(self, what: str) -> None:
        """Something that was never to happen."""
        self._outcome.faults.append(what)

    def _took(self, channel: str, change: Change) -> None:
        self._outcome.delays_s[channel].append((self._scene.clock() - change.at_ms) / 1000)

    async def ocsp(self, changes: list[Change]) -> None:
        """The responder's word on each, at once."""
        by_authority: dict[str, list[Change]] = {}
        for change in changes:
            by_authority.setdefault(change.scope[0], []).append(change)
        for authority_id, mine in by_authority.items():
            for start in range(0, len(mine), _ASKED_AT_ONCE):
                asked = mine[start : start + _ASKED_AT_ONCE]
                for change, state in zip(asked, await self.ask(authority_id, [c.serial for c in asked]), strict=True):
                    if state != ("GOOD" if change.kind == "released" else "REVOKED"):
                        self.fault(f"OCSP says {state} of {change.serial:x}, which was {change.kind}")
                    self._took("ocsp", change)

    async def ask(self, authority_id: str, serials: list[int]) -> list[str]:
        """The state of each serial in one signed answer."""
        branch = self._scene.branches[authority_id]
        head = (
            der.sequence(der.oid(HASH_OIDS["sm3"]), der.null()),
            der.octet_string(digest("sm3", branch.name.public_bytes())),
            der.octet_string(digest("sm3", branch.public_key)),
        )
        asked = request(*(der.sequence(*head, der.integer(serial)) for serial in serials))
        answer = ocsp.load_der_ocsp_response((await self._scene.responder.respond(asked)).der)
        said = {one.serial_number: one.certificate_status.name for one in answer.responses}
        return [said.get(serial, "NOTHING") for serial in serials]

    async def crls(self) -> None:
        """Fetches what is served, and the files; takes the delay of every pending change that all of it shows."""
        waiting, self.pending = self.pending, []
        mine: dict[Scope, list[Change]] = {}
        for change in waiting:
            mine.setdefault(change.scope, []).append(change)
        for scope in self._scene.scopes:
            await self._scope(scope, mine.get(scope, []))

    async def _scope(self, scope: Scope, changes: list[Change]) -> None:
        try:
            full = await self._scene.crl.published.current(scope)
        except QianyanError as error:
            self.pending += changes
            self.fault(f"no CRL of {scope} is served: {error.code}")
            return
        if full.tag == self._tags.get(scope):
            self.pending += changes
            return
        self._tags[scope] = full.tag
        view = await asyncio.to_thread(read_crl, full.body, second_max_bytes=0)
        number = view.number or 0
        if number <= self._numbers.get(scope, 0):
            self.fault(f"number {number} of {scope} follows {self._numbers[scope]}")
        self._numbers[scope], self._ends_ms[scope] = number, full.next_update_ms
        delta = None
        if number > 1:
            delta = Listing((await self._scene.crl.published.current(scope, delta=True)).body)
        path = self._scene.files_directory / "crl" / scope[0] / f"{scope[1]}.crl"
        filed = await asyncio.to_thread(path.read_bytes) == full.body
        for change in changes:
            if not self._shown(change, view.entries, "full"):
                self.pending.append(change)
                continue
            if delta is not None and not self._shown(change, delta, "delta"):
                self.fault(f"delta {number} of {scope} does not say that {change.serial:x} was {change.kind}")
            if not filed:
                self.fault(f"the file of {scope} is not CRL {number}")
            self._took("file", change)

    def _shown(self, change: Change, entries: Listing, channel: str) -> bool:
        found = entries.find(change.serial)
        if change.kind == "released":
            shown = found is None if channel == "full" else found is not None and found[1] == _REMOVED
        else:
            shown = found is not None and found[1] != _REMOVED
        if shown:
            self._took(channel, change)
        return shown

    def ended(self) -> None:
        """Notes a CRL that is past its nextUpdate by now."""
        now_ms = self._scene.clock()
        for scope, end_ms in self._ends_ms.items():
            if now_ms > end_ms:
                self.fault(f"CRL {self._numbers[scope]} of {scope} is past its nextUpdate")

    async def directory(self, changes: list[Change], head: int, crl_head: int) -> None:
        """Waits for the publisher, up to outbox rows `head` and `crl_head`; then reads entries and CRLs from it."""
        if self._scene.target is None:
            return
        began_ms, position = self._scene.clock(), 0
        for channel, until in (("directory", head), ("directory crl", crl_head)):
            while position < until:
                position = await self._scene.position()
                if position < until:
                    await asyncio.sleep(_LOOK_S)
                if self._scene.clock() - began_ms > _PATIENCE_S * 1000:
                    self.fault("the directory does not catch up")
                    return
            for change in changes:
                self._took(channel, change)
        self._outcome.faults += await asyncio.to_thread(self._read_directory, changes)
        for scope in {change.scope for change in changes}:
            served = await self._scene.crl.published.current(scope)
            if await asyncio.to_thread(self._directory_crl, scope) != served.body:
                self.fault(f"the directory's CRL of {scope} is not the one that is served")

    def _directory(self) -> ldap.ldapobject.LDAPObject:
        assert self._scene.target is not None
        if self._session is None:
            self._session = ldap.initialize(self._scene.target.url)
            self._session.simple_bind_s()
        return self._session

    def _read_directory(self, changes: list[Change]) -> list[str]:
        """What is wrong with the entries of `changes`."""
        assert self._scene.target is not None
        wrong = []
        for change in changes:
            text = f"(qianyanSerial={serial_to_hex(change.serial)})"
            found = self._directory().search_s(
                self._scene.target.base, ldap.SCOPE_SUBTREE, text, ["userCertificate;binary"]
            )
            there = any("userCertificate;binary" in values for _, values in found)
            if there != (change.kind == "released"):
                wrong.append(f"the directory {'has' if there else 'lacks'} {change.serial:x}, which was {change.kind}")
        return wrong

    def _directory_crl(self, scope: Scope) -> bytes:
        assert self._scene.target is not None
        base = f"cn={scope[0]}-{scope[1]},ou=crls,{self._scene.target.base}"
        found = self._directory().search_s(base, ldap.SCOPE_BASE, "(objectClass=*)", [_CRL])
        crl: bytes = found[0][1][_CRL][0]
        return crl
