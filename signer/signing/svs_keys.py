"""Which key a GB/T 38629 client means by `keyIndex`, and whether its `keyValue` is right.

Owns the keys' indexes and code digests as the store last had them, and how often wrong codes were tried. Follows the
change feed, so that a code changed by another process counts at once. The store keeps SM3 of the code with the key's id
before it; digests are compared in constant time. After some wrong codes each further one makes the key's next attempt
wait, twice as long each time, right code or not: otherwise whoever guesses would not wait at all. Successes forgive
nothing, time does: a guesser must not hide behind the traffic of the rightful client. Every wrong code that was looked
at is audited; attempts during a wait are counted and told with the next one.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.audit import AuditEvent
from core.clock import Clock
from core.store import audit, counters, keys
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from core.store.keys import KeyRecord
from signer._native import sm3
from signer.signing.svs_codec import Code, SvsError
from signer.signing.svs_settings import SvsSettings

_CONTEXT: Final = b"qianyan authorisation code v1\0"
_NO_CODE: Final = bytes(32)
#: Under which attempts at indexes that no key has are counted.
_UNKNOWN: Final = ""


def make_code() -> str:
    """A new authorisation code: 160 random bits in letters and digits, to be shown once."""
    return secrets.token_hex(20)


def code_digest(key_id: str, code: bytes) -> bytes:
    """What the store keeps of a code: 32 bytes."""
    return sm3.sm3(_CONTEXT + key_id.encode() + b"\0" + code)


@dataclass(slots=True)
class _Tries:
    """Wrong codes of one key: how many count, since when, until when the next one waits, how many came meanwhile."""

    failures: int = 0
    since_ms: int = 0
    until_ms: int = 0
    ignored: int = 0


class ServiceKeys:
    """See the module. `steady` never goes back; `clock` is the time of day."""

    def __init__(
        self, database: Database, follower: FeedFollower, settings: SvsSettings, clock: Clock, steady: Clock
    ) -> None:
        self._database = database
        self._follower = follower
        self._settings = settings
        self._clock = clock
        self._steady = steady
        self._keys: dict[int, KeyRecord] = {}
        self._tries: dict[str, _Tries] = {}
        self._lock = asyncio.Lock()
        # Counts of changes: what the feed has told of, and what the loaded keys reflect.
        self._told = 1
        self._loaded = 0
        follower.subscribe(self._on_change)

    def _on_change(self, entry: FeedEntry) -> None:
        if entry.kind == "key":
            self._told += 1

    async def all(self) -> dict[int, KeyRecord]:
        """The keys that have an index, by it. Raises Unavailable."""
        if self._follower.moved():
            await self._follower.ensure_current()
        if self._loaded != self._told:
            async with self._lock:
                while self._loaded != self._told:
                    told = self._told
                    async with self._database.read() as connection:
                        records = await keys.list_all(connection)
                    self._keys = {key.service_index: key for key in records if key.service_index is not None}
                    self._loaded = told
        return self._keys

    async def admit(self, index: int, codes: Sequence[bytes]) -> KeyRecord:
        """The key with that index, where one of `codes` is its code.

        Raises SvsError with KEY_INDEX where no key has the index, KEY_VALUE where the code is wrong or has to wait;
        Unavailable.
        """
        key = (await self.all()).get(index)
        tries = self._tries.setdefault(_UNKNOWN if key is None else key.id, _Tries())
        wait_s = self._wait_s(tries)
        if wait_s:
            tries.ignored += 1
            raise _refused(key is not None, wait_s)
        if key is not None:
            expected = key.service_code or _NO_CODE
            matches = [hmac.compare_digest(code_digest(key.id, code), expected) for code in codes]
            if any(matches) and key.service_code is not None:
                return key
        await self._failed(key, index, tries)
        raise _refused(key is not None, None)

    def _wait_s(self, tries: _Tries) -> int:
        """Seconds until the next attempt is looked at, rounded up; 0: now."""
        return max(0, -((self._steady() - tries.until_ms) // 1000))

    async def _failed(self, key: KeyRecord | None, index: int, tries: _Tries) -> None:
        settings, now_ms = self._settings, self._steady()
        forgotten = (now_ms - tries.since_ms) // (settings.code_forget_s * 1000)
        tries.failures = max(0, tries.failures - forgotten) + 1
        tries.since_ms = now_ms
        past = tries.failures - settings.code_free_failures
        if past >= 0:
            wait_s = min(settings.code_backoff_first_s << min(past, 32), settings.code_backoff_max_s)
            tries.until_ms = now_ms + wait_s * 1000
        ignored, tries.ignored = tries.ignored, 0
        detail: dict[str, str | int] = {"index": index, "failures": tries.failures, "ignored": ignored}
        if key is None:
            event = AuditEvent("svs", "key.index", "-", outcome="key_index", detail=detail)
        else:
            event = AuditEvent("svs", "key.code", key.id, outcome="key_value", detail=detail)
        async with self._database.write() as connection:
            at_ms = await counters.advance_time(connection, self._clock())
            await audit.append(connection, event, at_ms=at_ms)


def _refused(known: bool, wait_s: int | None) -> SvsError:
    if known:
        return SvsError(Code.KEY_VALUE, "the authorisation code is wrong, or has to wait", retry_after_s=wait_s)
    return SvsError(Code.KEY_INDEX, "there is no key with that index", retry_after_s=wait_s)
