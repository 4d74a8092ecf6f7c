"""LDAP searches for a holder's certificate (RFC 4511), encoded here: one request, entries, done."""

from __future__ import annotations

import socket
from typing import ClassVar, Final

from loadtest import der
from loadtest.call import Answer, Call
from loadtest.scenarios.base import Scenario, Single, World, expect, need

SEARCH_DONE: Final = 0x65
_SEARCH: Final = 0x63
_ENTRY: Final = 0x64
_SUBTREE: Final = 2
_SERIAL: Final = b"qianyanSerial"
_CERTIFICATE: Final = b"userCertificate;binary"


def search(base: str, attribute: bytes, value: str, wanted: bytes) -> bytes:
    """A SearchRequest (RFC 4511 §4.5.1) below `base` for entries whose attribute has the value."""
    equal = der.tlv(0xA3, der.octets(attribute), der.octets(value.encode()))
    body = der.tlv(
        _SEARCH,
        der.octets(base.encode()),
        der.integer(_SUBTREE, 0x0A),
        der.integer(0, 0x0A),  # aliases are not followed
        der.integer(10),
        der.integer(30),
        der.tlv(0x01, b"\0"),
        equal,
        der.sequence(der.octets(wanted)),
    )
    return der.sequence(der.integer(1), body)


def messages(data: bytes) -> tuple[list[bytes], bytes]:
    """(whole LDAPMessages, what is left of the next)."""
    found, at = [], 0
    while at < len(data):
        try:
            _, _, end = der.head(data, at)
        except ValueError:
            break
        found.append(data[at:end])
        at = end
    return found, data[at:]


def operation(message: bytes) -> bytes:
    """The operation inside an LDAPMessage."""
    return der.children(message)[1]


def result_code(done: bytes) -> int:
    """resultCode of a SearchResultDone."""
    return int.from_bytes(der.content(der.children(done)[0]), "big")


class Conversation:
    """Gathers the answer to one search from what a connection gives."""

    def __init__(self) -> None:
        self.whole = b""
        self._left = b""
        self.code: int | None = None

    def feed(self, data: bytes) -> bool:
        """Whether the answer is complete; then `code` is its resultCode and `whole` all of its messages."""
        self.whole += data
        found, self._left = messages(self._left + data)
        done = next((one for one in map(operation, found) if one[0] == SEARCH_DONE), None)
        if done is not None:
            self.code = result_code(done)
        return done is not None


def converse(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """(resultCode, all messages) over a blocking socket. Raises OSError."""
    connection.sendall(request)
    answer = Conversation()
    while not answer.feed(got := connection.recv(65536)):
        if not got:
            raise ConnectionError("the directory closed the connection")
    assert answer.code is not None
    return answer.code, answer.whole


class Search(Single):
    """A holder's certificate by its serial."""

    name: ClassVar[str] = "ldap"
    help: ClassVar[str] = "LDAP search for a holder's certificate by serial"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        need(world.target.holders, "holders")
        world.target.url("directory")

    def call(self) -> Call:
        holder = self.world.rng.choice(self.world.target.holders)
        text = f"{holder.serial:x}"
        text = text if len(text) % 2 == 0 else "0" + text
        body = search(self.world.target.directory_base, _SERIAL, text, _CERTIFICATE)

        def check(answer: Answer) -> None:
            found, _ = messages(answer.body)
            entries = [operation(one) for one in found if operation(one)[0] == _ENTRY]
            there = any(holder.certificate in entry for entry in entries)
            expect(
                there == (holder.state == "good"), f"{text} is {holder.state}, and {'there' if there else 'not there'}"
            )

        return Call(self.name, "directory", "SEARCH", "", body=body, status=0, check=check)


ALL: Final[tuple[type[Scenario], ...]] = (Search,)
