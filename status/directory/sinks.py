"""What a publisher asks of what it publishes to, and what is handed over: content without form.

Owns the vocabulary only. A sink brings its target to what it is given, says what was refused, and keeps one mark there
by which a target that was emptied, restored or belongs to another store is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from core.store.directory import PublicCertificate


class SinkDown(Exception):
    """The target cannot be used now: away, slow, or refusing the publisher as such. Nothing is known of what was asked
    of it last."""


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL as it is published. `number`: its CRLNumber; `body`: DER."""

    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class CertificateContent:
    """A holder's certificate as the store has it."""

    record: PublicCertificate


@dataclass(frozen=True, slots=True)
class AuthorityContent:
    """An authority; `certificate` None: it is not to be shown (there is none yet, or it is revoked)."""

    authority_id: str
    certificate: bytes | None
    subject: bytes


@dataclass(frozen=True, slots=True)
class CrlContent:
    """The newest CRLs of a scope. `of_authorities`: certificates of authorities are among what it is about."""

    authority_id: str
    partition: int
    full: Crl
    delta: Crl | None
    of_authorities: bool


@dataclass(frozen=True, slots=True)
class OrphanContent:
    """A certificate at an entry where it does not belong: `reference` is its SHA-256 (hex), a space, and the entry."""

    reference: str


Content = CertificateContent | AuthorityContent | CrlContent | OrphanContent

#: (topic, reference), as in the outbox.
Reference = tuple[str, str]


@dataclass(slots=True)
class Applied:
    """What came of a batch. `changed`: how many things were not yet as they should be."""

    refused: dict[Reference, str] = field(default_factory=dict)
    changed: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """The publisher's own mark at a target."""

    identity: str
    position: int


class Sink(Protocol):
    """One target. Calls are made one after the other; each raises SinkDown."""

    async def open(self) -> Mark | None:
        """Connects anew; the mark that is there."""
        ...

    async def read_mark(self) -> Mark | None:
        """The mark that is there, on the connection that is."""
        ...

    async def apply(self, contents: Sequence[tuple[Reference, Content]], guard: Callable[[], None]) -> Applied:
        """Brings the target to `contents`. `guard` is called before anything is sent and raises where the publisher may
        not write any more."""
        ...

    async def mark(self, mark: Mark) -> None:
        """Leaves the mark."""
        ...

    async def close(self) -> None:
        """Lets go of the connection; never raises."""
        ...
