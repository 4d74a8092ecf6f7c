"""Signed answers in memory, bounded in bytes, the least recently used out first.

Owns the answers of one process; only the event-loop thread touches it. Knows keys, sizes and whose an answer is; not
whether it may still be served, which the responder decides.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

#: What an entry costs beside its key and its DER: the objects, the dictionaries' slots.
_OVERHEAD_BYTES: Final = 700


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """A signed OCSP response.

    single: about one certificate that is known here, and without a nonce, so that others may be given it too.
    refresh_ms: when to make a new one. version: tells this answer from every other (empty where not `single`).
    """

    der: bytes
    this_update_ms: int
    next_update_ms: int
    refresh_ms: int
    single: bool
    version: str


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: OcspAnswer
    authority_id: str
    serial: int
    cost: int


class AnswerCache:
    """Answers by request; dropped by certificate, by authority, or by age of use."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._keys: dict[str, dict[int, tuple[bytes, ...]]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> OcspAnswer | None:
        """The answer kept under `key`, which counts as used now."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.answer

    def put(self, key: bytes, authority_id: str, serial: int, answer: OcspAnswer) -> None:
        """Keeps `answer` in place of what was under `key`; drops the least recently used to make room."""
        cost = len(key) + len(answer.der) + _OVERHEAD_BYTES
        if cost > self._max_bytes:
            return
        self._remove(key)
        self._entries[key] = _Entry(answer, authority_id, serial, cost)
        serials = self._keys.setdefault(authority_id, {})
        serials[serial] = (*serials.get(serial, ()), key)
        self.size_bytes += cost
        while self.size_bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def drop(self, authority_id: str, serial: int) -> None:
        """Forgets every answer about one certificate."""
        for key in self._keys.get(authority_id, {}).get(serial, ()):
            self._remove(key)

    def drop_authority(self, authority_id: str) -> None:
        """Forgets every answer about one authority's certificates."""
        for serial in list(self._keys.get(authority_id, ())):
            self.drop(authority_id, serial)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self._keys.clear()
        self.size_bytes = 0

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.size_bytes -= entry.cost
        serials = self._keys[entry.authority_id]
        rest = tuple(other for other in serials[entry.serial] if other != key)
        if rest:
            serials[entry.serial] = rest
        else:
            del serials[entry.serial]
