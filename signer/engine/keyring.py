"""The keys as this process knows them: state, callers and limits by the store, handles by the backend.

Owns the cached state of every key and keeps it no older than the change feed. Knows the store and the backend; not
batches or requests. A key that is no longer active loses its handle here, and the native key wipes itself with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from core.clock import Clock
from core.errors import Denied, NotFound, QianyanError, Refused, SettingsError, Unavailable
from core.model import KeyPurpose, KeyState
from core.store import keys
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from signer._native import sm2
from signer.engine.backend import KeyBackend, KeyHandle
from signer.engine.hours import Gate, Hours

_log = structlog.get_logger()


class Key:
    """One key: what it is for, its state, who may use it and how much, and the handle it is used by while active."""

    __slots__ = (
        "_any_caller", "_callers", "_gate", "_hours_fault", "backend", "counted", "fault", "handle", "id", "public",
        "public_key", "purpose", "state",
    )  # fmt: skip

    def __init__(self, record: keys.KeyRecord) -> None:
        self.id = record.id
        self.backend = record.backend
        self.purpose: KeyPurpose = record.purpose
        self.public_key = record.public_key
        self.public = sm2.PublicKey.from_bytes(record.public_key)
        self.handle: KeyHandle | None = None
        self.fault: QianyanError | None = None
        self.take_over(record)

    def take_over(self, record: keys.KeyRecord) -> None:
        """What of a key may change: its state, callers and limits."""
        self.state: KeyState = record.state
        self._callers = frozenset(record.callers)
        self._any_caller = keys.ANY_CALLER in self._callers
        #: Whether each use must be claimed first (signer.engine.claims).
        self.counted = record.max_rate is not None or record.max_uses is not None
        self._gate: Gate | None = None
        self._hours_fault: QianyanError | None = None
        if record.hours is not None:
            try:
                self._gate = Gate(Hours.parse(record.hours))
            except Refused as error:  # a time zone that only another machine knows, say
                self._hours_fault = error
                _log.error("key_hours_unreadable", key=self.id, detail=error.detail)

    def check(self, caller: str | None, clock: Clock) -> KeyHandle:
        """The handle, where `caller` may use the key now; None for who needs no leave of the key's callers.

        Raises Denied (code "key_caller"), Refused (code "key_hours"), or as `usable`.
        """
        if caller is not None and not self._any_caller and caller not in self._callers:
            raise Denied(f"key {self.id!r} is not for this caller", code="key_caller", authenticated=True)
        handle = self.usable()
        if self._gate is not None and not self._gate.open_at(clock()):
            raise Refused(f"key {self.id!r} is not in use at this hour", code="key_hours", field="key")
        if self._hours_fault is not None:
            raise Unavailable(f"the hours of key {self.id!r} cannot be told here", code="key_hours_unreadable")
        return handle

    def usable(self) -> KeyHandle:
        """The handle. Raises Refused (code `key_frozen`, ...) or Unavailable (code "key_unreadable")."""
        handle = self.handle  # before the state: a thread may ask while the loop takes both away, state first
        if self.state is not KeyState.ACTIVE:
            raise Refused(f"key {self.id!r} is {self.state.value}", code=f"key_{self.state.value}", field="key")
        if handle is None:
            raise Unavailable(f"key {self.id!r} cannot be opened here", code="key_unreadable") from self.fault
        return handle


class Keyring:
    """See the module. `start()` opens every active key; `refresh()` catches up with the feed.

    `backends`: by the name that records have (core.store.schema). `changed` is told of every key that is not as it was.
    """

    def __init__(
        self,
        database: Database,
        follower: FeedFollower,
        backends: Mapping[str, KeyBackend],
        changed: Callable[[str], None],
    ) -> None:
        self._database = database
        self._follower = follower
        self._backends = backends
        self._tell = changed
        self._keys: dict[str, Key] = {}
        self._changed: set[str] = set()
        self._refreshing = asyncio.Lock()
        follower.subscribe(self._note)

    def _note(self, entry: FeedEntry) -> None:
        if entry.kind == "key" and entry.subject_id is not None:
            self._changed.add(entry.subject_id)

    def get(self, key_id: str) -> Key:
        """Raises NotFound (code "key_unknown")."""
        key = self._keys.get(key_id)
        if key is None:
            raise NotFound("there is no such key", code="key_unknown", field="key")
        return key

    def operation(self, key_id: str) -> str:
        """What the key is used for: "decrypt" or "sign"."""
        key = self._keys.get(key_id)
        return "decrypt" if key is not None and key.purpose is KeyPurpose.ENCRYPT else "sign"

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    @property
    def stale(self) -> bool:
        """Whether the feed has told of a change that is not known here yet. Does not look at the store."""
        return bool(self._changed)

    def current(self) -> bool:
        """Whether every committed change of a key is known here. Raises Unavailable where that cannot be told."""
        return self._follower.current() and not self._changed and not self._refreshing.locked()

    async def start(self) -> None:
        """Opens every active key. Raises SettingsError where one cannot be opened: the start fails."""
        await self._follower.ensure_current()
        async with self._database.read() as connection:
            records = await keys.list_all(connection)
        self._changed.clear()
        for record in records:
            key = self._keys[record.id] = Key(record)
            if key.state is KeyState.ACTIVE:
                key.handle = await self._open(key, record)

    async def refresh(self) -> None:
        """Returns with every committed change known. Raises Unavailable where the store cannot be asked."""
        async with self._refreshing:
            await self._follower.ensure_current()
            changed, self._changed = self._changed, set()
            if not changed:
                return
            try:
                async with self._database.read() as connection:
                    records = [await keys.get(connection, key_id) for key_id in sorted(changed)]
                for record in records:
                    await self._apply(record)
            except BaseException:
                self._changed |= changed
                raise

    def close(self) -> None:
        """Lets go of every handle."""
        for key in self._keys.values():
            key.handle = None

    async def _apply(self, record: keys.KeyRecord) -> None:
        key = self._keys.get(record.id)
        if key is None:
            key = self._keys[record.id] = Key(record)
        key.take_over(record)
        self._tell(record.id)
        if key.state is not KeyState.ACTIVE:
            key.handle = key.fault = None
        elif key.handle is None:
            try:
                key.handle, key.fault = await self._open(key, record), None
            except QianyanError as error:
                key.fault = error
                _log.error("key_not_opened", key=key.id, code=error.code, detail=error.detail)

    async def _open(self, key: Key, record: keys.KeyRecord) -> KeyHandle:
        backend = self._backends.get(record.backend)
        if backend is None:
            raise SettingsError(
                f"key {key.id!r} is in a device and no device is configured; add [[hsm.devices]]", code="hsm_missing"
            )
        handle = await asyncio.to_thread(backend.open, record)
        if handle.public_key != key.public_key:
            raise SettingsError(
                f"the key file of {key.id!r} holds another key than the store knows; restore the right one",
                code="key_mismatch",
            )
        return handle
