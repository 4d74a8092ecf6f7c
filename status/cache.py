"""Signed answers in memory, bounded in bytes, the least recently used out first.

Owns the answers of one process; only the event-loop thread touches it. Knows keys, sizes and whose an answer is; not
whether it may still be served, which the responder decides.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

#: What an entry costs beside its key and its DER: the objects, the dictionaries' slots.
_OVERHEAD_BYTES: Final = 700

#: When an answer is renewed, in thousandths of its life: from the first, at most the second later.
_EARLY_PERMILLE: Final = 300
_JITTER_PERMILLE: Final = 150


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """A signed OCSP response.

    single: about one certificate that is known here, and without a nonce, so that others may be given it too.
    refresh_ms: not to be given from then on. early_ms: from when on a new one is made while this one is still given;
    another for each answer and process, so that what was made together is not made anew together.
    version: tells this answer from every other (empty where not `single`).
    """

    der: bytes
    this_update_ms: int
    next_update_ms: int
    refresh_ms: int
    single: bool
    version: str
    early_ms: int

    @classmethod
    def made(cls, der: bytes, this_update_ms: int, next_update_ms: int, *, single: bool) -> OcspAnswer:
        """A new one: renewed between 3/10 and 9/20 of its life, given until half of it."""
        return cls._of(der, this_update_ms, next_update_ms, (this_update_ms + next_update_ms) // 2, single=single)

    @classmethod
    def shared(cls, der: bytes, this_update_ms: int, next_update_ms: int, refresh_ms: int) -> OcspAnswer:
        """One that another process made and that others may be given."""
        return cls._of(der, this_update_ms, next_update_ms, refresh_ms, single=True)

    @classmethod
    def _of(cls, der: bytes, this_update_ms: int, next_update_ms: int, refresh_ms: int, *, single: bool) -> OcspAnswer:
        permille = _EARLY_PERMILLE + secrets.randbelow(_JITTER_PERMILLE)
        early_ms = this_update_ms + (next_update_ms - this_update_ms) * permille // 1000
        version = hashlib.sha256(der).hexdigest()[:32] if single else ""
        return cls(der, this_update_ms, next_update_ms, refresh_ms, single, version, min(early_ms, refresh_ms))


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
