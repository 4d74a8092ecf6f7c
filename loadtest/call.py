"""One request, its answer, and what is expected of it. Sans I/O: any engine sends it, compiled, asyncio or locust."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Listener: TypeAlias = Literal["public", "private", "directory"]
LISTENERS: Final[tuple[Listener, ...]] = ("public", "private", "directory")


class Wrong(Exception):
    """An answer that is not true, not fresh or not signed: fails the run."""


class Failed(Exception):
    """A call within a journey was answered with an error: the journey ends, the error is counted with the call."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Times: Unix seconds. `sent`: the octets that were random in this request (a nonce)."""

    status: int
    body: bytes
    sent_at: float
    received_at: float
    sent: bytes = b""
    #: Names in lower case; empty from the compiled driver, which does not keep them.
    headers: Mapping[str, str] = field(default_factory=dict)


def nothing(_: Answer) -> None:
    """No more is asked of the answer than its status and size."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `kind` is its name in figures; `patch`: (offset, length) in the body that is random anew each time.

    size: octets of the answer's body, at least and at most. `check` raises Wrong; it runs for a sampled share.
    """

    kind: str
    listener: Listener
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    status: int = 200
    #: Other statuses that are as good, 304 above all; the compiled driver knows `status` alone.
    also: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 1 << 28)
    patch: tuple[int, int] = (0, 0)
    check: Callable[[Answer], None] = nothing

    def patched(self) -> tuple[bytes, bytes]:
        """(the body with its random octets, these octets)."""
        offset, length = self.patch
        if not length:
            return self.body, b""
        sent = random.randbytes(length)  # noqa: S311 - a load, not a secret
        return self.body[:offset] + sent + self.body[offset + length :], sent

    def fault(self, status: int, octets: int) -> str:
        """The error (loadtest.histogram.ERRORS) that an answer of that status and size is; "ok" where it is none."""
        if status != self.status and status not in self.also:
            return "status"
        if status == self.status and not self.size[0] <= octets <= self.size[1]:
            return "size"
        return "ok"

    def encode(self, host: str, authorization: str) -> tuple[bytes, int]:
        """The whole HTTP/1.1 request and where its body begins."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if authorization and self.listener == "private":
            lines.append(f"Authorization: {authorization}")
        if self.body or self.method == "POST":
            lines.append(f"Content-Length: {len(self.body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        return head + self.body, len(head)


#: Calls that follow one another: what is yielded is sent, what is sent back is the answer.
Journey: TypeAlias = Generator[Call, Answer, None]
