"""What the store said of certificates, in memory, bounded in bytes: so that a live answer need not ask it again.

Owns the statuses of one process; only the event-loop thread touches them. Knows keys and sizes; not how old a status
may be: whoever owns a table drops what the change feed names. Serials that were never issued have a bound of their
own, so that nobody can push out what others ask about by asking for what does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from core.model import CertificateStatus
from status import response

#: A certificate: authority id, and the serial's octets as DER has them.
Certificate = tuple[str, bytes]

#: What an entry costs, about: two tuples, the serial, the status object, a slot of the dictionary.
_ENTRY_BYTES: Final = 400
#: Which part of the bound is for serials that were never issued.
_UNKNOWN_PART: Final = 8


@dataclass(frozen=True, slots=True)
class WrittenStatus:
    """A status as answers have it: CertStatus, [1] singleExtensions or nothing. `known`: it was issued."""

    status: bytes
    extensions: bytes
    known: bool

    @classmethod
    def of(cls, status: CertificateStatus) -> WrittenStatus:
        """As the store said it."""
        return cls(*response.status_parts(status), known=status.state is not None)


#: `good` is most of them: one object for all.
_SHARED: Final[dict[WrittenStatus, WrittenStatus]] = {}
_SHARED_MAX: Final = 64


class _Generations:
    """A dictionary of at most so many entries: what was asked for lately stays, the rest goes by halves."""

    def __init__(self, max_entries: int) -> None:
        self._half = max_entries // 2
        self.young: dict[Certificate, WrittenStatus] = {}
        self._old: dict[Certificate, WrittenStatus] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def get(self, certificate: Certificate) -> WrittenStatus | None:
        found = self.young.get(certificate)
        if found is None:
            found = self._old.pop(certificate, None)
            if found is not None:
                self.put(certificate, found)
        return found

    def put(self, certificate: Certificate, status: WrittenStatus) -> None:
        if len(self.young) >= self._half:
            self.young, self._old = {}, self.young
        if self._half:
            self.young[certificate] = status

    def drop(self, certificate: Certificate) -> None:
        self.young.pop(certificate, None)
        self._old.pop(certificate, None)

    def clear(self) -> None:
        self.young, self._old = {}, {}


class StatusTable:
    """Statuses by certificate."""

    def __init__(self, max_bytes: int) -> None:
        entries = max_bytes // _ENTRY_BYTES
        self._known = _Generations(entries - entries // _UNKNOWN_PART)
        self._unknown = _Generations(entries // _UNKNOWN_PART)

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    @property
    def size_bytes(self) -> int:
        """Memory held, about."""
        return len(self) * _ENTRY_BYTES

    @property
    def usual(self) -> dict[Certificate, WrittenStatus]:
        """The younger half of what was issued, to be looked into before `get` is called; not to be kept or changed."""
        return self._known.young

    def get(self, certificate: Certificate) -> WrittenStatus | None:
        """What was put and not dropped since."""
        return self._known.get(certificate) or self._unknown.get(certificate)

    def put(self, certificate: Certificate, status: WrittenStatus) -> None:
        """Keeps a status."""
        self.drop(certificate)
        if len(_SHARED) < _SHARED_MAX:
            _SHARED.setdefault(status, status)
        kept = _SHARED.get(status, status)
        (self._known if status.known else self._unknown).put(certificate, kept)

    def drop(self, certificate: Certificate) -> None:
        """Forgets one."""
        self._known.drop(certificate)
        self._unknown.drop(certificate)

    def clear(self) -> None:
        """Forgets all."""
        self._known.clear()
        self._unknown.clear()
