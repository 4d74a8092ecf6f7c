"""One connection to an LDAP server: many operations on their way at once, each with its own answer.

Blocking, and for one thread at a time; python-ldap lets other threads run while it waits. `abort()` may be called from
any thread and ends whatever the connection waits for. Knows LDAP's result codes and which of them say that the server,
not the entry, is at fault; knows no certificates.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import ldap
import ldap.controls.libldap
from ldap.ldapobject import SimpleLDAPObject

from status.directory.entries import Change, Entry, as_entry
from status.directory.naming import first_part, parent
from status.directory.sinks import SinkDown

#: How many bytes of operations are on their way at once, about.
_BYTES_AT_ONCE: Final = 1 << 20
#: How many parents are remembered as being there.
_PARENTS_MAX: Final = 10_000

#: The entry is at fault, whatever else works (RFC 4511 Appendix A).
ENTRY_FAULTS: Final = (
    ldap.UNDEFINED_TYPE,
    ldap.INAPPROPRIATE_MATCHING,
    ldap.CONSTRAINT_VIOLATION,
    ldap.INVALID_SYNTAX,
    ldap.INVALID_DN_SYNTAX,
    ldap.NAMING_VIOLATION,
    ldap.OBJECT_CLASS_VIOLATION,
    ldap.NOT_ALLOWED_ON_NONLEAF,
    ldap.NOT_ALLOWED_ON_RDN,
    ldap.NO_OBJECT_CLASS_MODS,
    ldap.ALIAS_PROBLEM,
    ldap.IS_LEAF,
)
#: The entry changed between reading and writing: look again.
STALE: Final = (
    ldap.ALREADY_EXISTS,
    ldap.NO_SUCH_OBJECT,
    ldap.NO_SUCH_ATTRIBUTE,
    ldap.TYPE_OR_VALUE_EXISTS,
)
#: The server is at fault, or may be: these say nothing about an entry.
_AWAY: Final = (
    ldap.SERVER_DOWN,
    ldap.TIMEOUT,
    ldap.CONNECT_ERROR,
    ldap.BUSY,
    ldap.UNAVAILABLE,
    ldap.LOCAL_ERROR,
    ldap.ENCODING_ERROR,
    ldap.DECODING_ERROR,
    ldap.INVALID_CREDENTIALS,
    ldap.INAPPROPRIATE_AUTH,
    ldap.STRONG_AUTH_REQUIRED,
    ldap.CONFIDENTIALITY_REQUIRED,
    ldap.TIMELIMIT_EXCEEDED,
    ldap.PROTOCOL_ERROR,
    ldap.REFERRAL,
)
_RDN_CLASSES: Final = {
    "ou": (b"organizationalUnit",),
    "o": (b"organization",),
    "c": (b"country",),
    "l": (b"locality",),
    "st": (b"locality",),
    "dc": (b"dcObject", b"organization"),
}


def explain(error: ldap.LDAPError) -> str:
    """What the server said, in one line."""
    said = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    parts = [str(said.get("desc", type(error).__name__)), str(said.get("info", ""))]
    return ": ".join(part for part in parts if part)


def parent_entry(dn: str) -> Change:
    """How an entry is made that is only there for what is below it."""
    kind, value = first_part(dn)
    classes = [b"top", *_RDN_CLASSES.get(kind.lower(), (b"qianyanEntry",))]
    attributes = [("objectClass", classes), (kind, [value.encode()])]
    if kind.lower() == "dc":
        attributes.append(("o", [value.encode()]))
    return Change("add", dn, attributes=attributes)


class Session:
    """See the module; `connect()` comes first. We have the socket, too, to cut it whatever libldap waits for."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._parents: set[str] = set()
        self._socket: socket.socket | None = None
        self._aborted = False
        self._connection: SimpleLDAPObject = None

    def connect(self, *, start_tls: bool, ca_file: Path | None, bind_dn: str, password: bytes) -> None:
        """Connects and says who it is; anonymous where `bind_dn` is empty. Raises SinkDown."""
        connection = self._connection = self._initialise()
        if self._aborted:
            raise SinkDown("given up")
        connection.set_option(ldap.OPT_PROTOCOL_VERSION, 3)
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, self._timeout_s)
        connection.set_option(ldap.OPT_TIMEOUT, self._timeout_s)
        connection.set_option(ldap.OPT_REFERRALS, 0)
        if start_tls or self._url.startswith("ldaps:"):
            connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
            if ca_file is not None:
                connection.set_option(ldap.OPT_X_TLS_CACERTFILE, str(ca_file))
            connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        with self._server():
            if start_tls:
                connection.start_tls_s()
            self._wait(connection.simple_bind(bind_dn, password.decode()))
            if self._socket is None:
                self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def _initialise(self) -> SimpleLDAPObject:
        """The connection, not yet spoken on. For ldaps:// libldap connects by itself, within its network timeout."""
        parts = urlsplit(self._url)
        if parts.scheme == "ldaps":
            return ldap.initialize(self._url)
        address = (parts.hostname or "localhost", parts.port or 389)
        try:
            self._socket = socket.create_connection(address, self._timeout_s)
        except OSError as error:
            raise SinkDown(f"{address[0]}:{address[1]}: {error.strerror or error}") from error
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # libldap closes the descriptor that it is given.
        return ldap.initialize(self._url, fileno=os.dup(self._socket.fileno()))

    @contextlib.contextmanager
    def _server(self) -> Iterator[None]:
        """Any failure inside is the server's. Raises SinkDown."""
        try:
            yield
        except ldap.LDAPError as error:
            raise SinkDown(explain(error)) from error

    def _wait(self, number: int) -> list[Any]:
        """The answer to operation `number`. Raises ldap.LDAPError."""
        answer = self._connection.result4(number, all=1, timeout=self._timeout_s)
        return list(answer[1] or ())

    def abort(self) -> None:
        """Cuts the connection, so that whoever waits on it gets an error at once."""
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is cut already
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Lets go of the connection."""
        if self._connection is not None:
            with contextlib.suppress(ldap.LDAPError):
                self._connection.unbind_ext_s()
        if self._socket is not None:
            self._socket.close()

    def read(self, dns: Sequence[str]) -> list[Entry | None]:
        """Each entry, or None where there is none; all are asked for before the first answer is awaited.

        Raises SinkDown. A name that the server does not take counts as none: writing it says why.
        """
        with self._server():
            numbers = [self._connection.search_ext(dn, ldap.SCOPE_BASE, "(objectClass=*)") for dn in dns]
            return [self._one(number) for number in numbers]

    def _one(self, number: int) -> Entry | None:
        try:
            found = self._wait(number)
        except (ldap.NO_SUCH_OBJECT, *ENTRY_FAULTS):
            return None
        return as_entry(found[0][1]) if found else None

    def write(self, changes: Sequence[Change], guard: Callable[[], None]) -> list[ldap.LDAPError | None]:
        """Makes the changes and returns what was wrong with each; parents of new entries are made first.

        guard: called before each group is sent. Raises SinkDown where the server is at fault: then some may have been
        made and some not.
        """
        outcome: list[ldap.LDAPError | None] = []
        start = 0
        while start < len(changes):
            end, size = start, 0
            while end < len(changes) and (end == start or size + changes[end].size <= _BYTES_AT_ONCE):
                size += changes[end].size
                end += 1
            guard()
            with self._server():
                numbers = [self._send(change) for change in changes[start:end]]
            outcome += [self._outcome(number) for number in numbers]
            start = end
        for place, (change, error) in enumerate(zip(changes, outcome, strict=True)):
            outcome[place] = self._second_try(change, error, guard)
        return outcome

    def _second_try(
        self, change: Change, error: ldap.LDAPError | None, guard: Callable[[], None]
    ) -> ldap.LDAPError | None:
        if isinstance(error, ldap.NO_SUCH_OBJECT) and change.kind == "add":
            error = self._make_parents(parent(change.dn), guard)
        elif isinstance(error, ldap.NOT_ALLOWED_ON_NONLEAF) and change.instead is not None:
            change, error = change.instead, None
        else:
            return error
        if error is not None:
            return error
        guard()
        with self._server():
            number = self._send(change)
        return self._outcome(number)

    def _send(self, change: Change) -> int:
        if change.kind == "add":
            return int(self._connection.add_ext(change.dn, change.attributes))
        if change.kind == "delete":
            return int(self._connection.delete_ext(change.dn))
        return int(self._connection.modify_ext(change.dn, change.modifications))

    def _outcome(self, number: int) -> ldap.LDAPError | None:
        try:
            self._wait(number)
        except _AWAY as error:
            raise SinkDown(explain(error)) from error
        except ldap.LDAPError as error:
            return error
        return None

    def _make_parents(self, dn: str, guard: Callable[[], None]) -> ldap.LDAPError | None:
        """Makes `dn` and what is missing above it; returns what stood in the way."""
        if not dn or dn in self._parents:
            return None
        change = parent_entry(dn)
        for _ in range(2):
            guard()
            with self._server():
                number = self._send(change)
            error = self._outcome(number)
            if error is None or isinstance(error, ldap.ALREADY_EXISTS):
                if len(self._parents) >= _PARENTS_MAX:
                    self._parents.clear()
                self._parents.add(dn)
                return None
            if not isinstance(error, ldap.NO_SUCH_OBJECT) or not parent(dn):
                return error
            above = self._make_parents(parent(dn), guard)
            if above is not None:
                return above
        return error

    def pages(self, base: str, filter_text: str, names: Sequence[str], size: int) -> Iterator[list[tuple[str, Entry]]]:
        """A search of the whole subtree, page by page (RFC 2696). Raises SinkDown."""
        control = ldap.controls.libldap.SimplePagedResultsControl(True, size=size, cookie="")
        while True:
            with self._server():
                try:
                    number = self._connection.search_ext(
                        base, ldap.SCOPE_SUBTREE, filter_text, list(names), serverctrls=[control]
                    )
                    _, found, _, controls = self._connection.result3(number, timeout=self._timeout_s)
                except ldap.NO_SUCH_OBJECT:
                    return
            yield [(dn, as_entry(attributes)) for dn, attributes in found if dn is not None]
            cookie = next((c.cookie for c in controls if c.controlType == control.controlType), b"")
            if not cookie:
                return
            control.cookie = cookie
