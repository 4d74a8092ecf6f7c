"""The signing engine: keys, batches and accounts put together behind one interface.

Owns the order of things (DESIGN rules 1 and 2): a batch is signed only after the change feed was looked at and the uses
are durably reserved. Knows keys by id and digests as bytes; not HTTP, DER structures or policy. Every failure leaves as
a core.errors class; native errors do not.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import CollectorRegistry

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, QianyanError, Refused, SettingsError, Unavailable
from core.model import KeyPurpose, KeyState
from core.store import audit, counters, keys
from core.store.database import Database
from core.store.follow import FeedFollower
from signer._native import sm2
from signer.engine.backend import DeviceBackend, KeyBackend, SoftwareBackend
from signer.engine.batch import DIGEST_BYTES, Batcher
from signer.engine.keyring import Key, Keyring
from signer.engine.keystore import KeyStore, check_key_id
from signer.engine.metrics import EngineMetrics
from signer.engine.settings import EngineSettings
from signer.engine.usage import UsageLedger

#: GB/T 32918.2 §5.5 writes the user id's length in bits into two octets.
USER_ID_MAX_BYTES: Final = 8_191

_STATE_ACTIONS: Final = {
    KeyState.ACTIVE: "key.resume",
    KeyState.FROZEN: "key.freeze",
    KeyState.COMPROMISED: "key.compromise",
    KeyState.RETIRED: "key.retire",
}


@dataclass(frozen=True, slots=True)
class _Ticket:
    """Which key, and for whom."""

    key: Key
    caller: str


class _EngineWork:
    """What the batcher asks of the engine (signer.engine.batch.Work)."""

    def __init__(self, keyring: Keyring, ledger: UsageLedger, backend: KeyBackend) -> None:
        self._keyring = keyring
        self._ledger = ledger
        self._backend = backend

    def ready(self, demand: Sequence[tuple[_Ticket, int]]) -> bool:
        return self._keyring.current() and self._ledger.covers(_usable_uses(demand))

    async def prepare(self, demand: Sequence[tuple[_Ticket, int]]) -> None:
        await self._keyring.refresh()
        uses = _usable_uses(demand)
        while not self._ledger.covers(uses):  # again, where a batch beside this one took what was reserved
            await self._ledger.reserve(uses)
            await self._keyring.refresh()  # the commit took milliseconds: keys' states are the last thing looked at

    def admit(self, ticket: _Ticket, count: int) -> None:
        try:
            ticket.key.usable()
        except QianyanError as error:
            self._ledger.refused(ticket.key.id, ticket.caller, error.code)
            raise
        self._ledger.take(ticket.key.id, count)

    def sign(self, parts: Sequence[tuple[_Ticket, int]], digests: bytes) -> bytes:
        return self._backend.sign([(ticket.key.usable(), count) for ticket, count in parts], digests)

    def signed(self, ticket: _Ticket, count: int) -> None:
        self._ledger.signed(ticket.key.id, ticket.caller, count)


def _usable_uses(demand: Sequence[tuple[_Ticket, int]]) -> Counter[str]:
    """Uses by key, of active keys: a refused use needs no reservation."""
    uses: Counter[str] = Counter()
    for ticket, count in demand:
        if ticket.key.state is KeyState.ACTIVE:
            uses[ticket.key.id] += count
    return uses


class BoundSigner:
    """One key of the engine as a core.ports.Signer."""

    __slots__ = ("_engine", "_key", "_purpose")

    def __init__(self, engine: SigningEngine, key: Key, purpose: KeyPurpose) -> None:
        self._engine = engine
        self._key = key
        self._purpose = purpose

    @property
    def key_id(self) -> str:
        """The key's id."""
        return self._key.id

    @property
    def public_key(self) -> bytes:
        """The uncompressed point."""
        return self._key.public_key

    async def sign(self, message: bytes) -> bytes:
        """The DER SM2Signature over `message` under the default user id."""
        raw = await self._engine.sign_message(
            self._key.id, message, user_id=sm2.DEFAULT_ID, caller="system", purpose=self._purpose
        )
        return sm2.signature_to_der(raw)


async def change_key_state(
    database: Database, key_id: str, state: KeyState, actor: str, clock: Clock
) -> keys.KeyRecord:
    """Changes a key's state in the store alone: needs no key opened. Raises as `SigningEngine.set_key_state`."""
    async with database.write() as connection:
        # Stopping a key must work with a wrong clock, too; time still never goes back in the record.
        now_ms = max(clock(), await counters.current(connection, counters.LAST_TIME))
        changed = await keys.change_state(connection, key_id, state, at_ms=now_ms)
        await audit.append(connection, AuditEvent(actor, _STATE_ACTIONS[state], key_id), at_ms=now_ms)
        return changed


class SigningEngine:
    """See the module. `start()`, then sign; `close()` answers what was accepted and writes the last counts.

    Keys of the store are in `keystore`, or in `devices`. Each of the two has batches of its own, so that nothing waits
    for a device that need not.
    """

    def __init__(
        self,
        database: Database,
        follower: FeedFollower,
        keystore: KeyStore,
        settings: EngineSettings,
        clock: Clock,
        *,
        devices: DeviceBackend | None = None,
        registry: CollectorRegistry | None = None,
        worker_id: str | None = None,
    ) -> None:
        self._database = database
        self._follower = follower
        self._settings = settings
        self._clock = clock
        self._software = SoftwareBackend(keystore)
        self._devices = devices
        backends: dict[str, KeyBackend] = {"software": self._software}
        if devices is not None:
            backends["sdf"] = devices
        self._keyring = Keyring(database, follower, backends)
        self._ledger = UsageLedger(database, settings, clock, worker_id or secrets.token_hex(8))
        metrics = EngineMetrics.create(registry)
        self._batchers: dict[str, Batcher[_Ticket]] = {
            name: Batcher(
                _EngineWork(self._keyring, self._ledger, backend),
                settings,
                metrics,
                inline_max=settings.inline_max if backend.may_sign_inline else 0,
                parallel=backend.parallel,
            )
            for name, backend in backends.items()
        }

    async def start(self) -> None:
        """Opens the active keys and begins the accounts. Raises SettingsError where a key cannot be opened."""
        await self._keyring.start()
        self._ledger.start()

    async def close(self) -> None:
        """Refuses what comes from now on, answers what was accepted, writes the last counts."""
        try:
            await asyncio.gather(*(batcher.close() for batcher in self._batchers.values()))
        finally:
            await self._ledger.close()
            self._keyring.close()

    @property
    def pending(self) -> int:
        """How many signatures wait or are being made."""
        return sum(batcher.pending for batcher in self._batchers.values())

    async def refresh(self) -> None:
        """Returns with every key known that was committed before, by whichever process."""
        await self._keyring.refresh()

    def public_key(self, key_id: str) -> bytes:
        """The uncompressed point of a key. Raises NotFound (code "key_unknown")."""
        return self._keyring.get(key_id).public_key

    def signer(self, key_id: str, purpose: KeyPurpose) -> BoundSigner:
        """The key, bound. Raises NotFound (code "key_unknown"), Refused (code "key_purpose")."""
        return BoundSigner(self, self._for_purpose(self._keyring.get(key_id), purpose), purpose)

    async def sign_digests(
        self, key_id: str, digests: bytes, *, caller: str, purpose: KeyPurpose = KeyPurpose.DATA
    ) -> bytes:
        """n·64 bytes r ‖ s over n·32 bytes of digests.

        Raises NotFound (code "key_unknown"), Refused (code "key_purpose", "key_frozen", "key_compromised",
        "key_retired"), Busy, TooLarge or Unavailable.
        """
        key = await self._key(key_id, purpose, caller)
        batcher = self._batchers.get(key.backend)
        if batcher is None:
            raise Unavailable(f"key {key.id!r} cannot be opened here", code="key_unreadable") from key.fault
        return await batcher.submit(_Ticket(key, caller), digests)

    async def sign_message(
        self, key_id: str, message: bytes, *, user_id: bytes, caller: str, purpose: KeyPurpose = KeyPurpose.DATA
    ) -> bytes:
        """64 bytes r ‖ s over SM3(Z ‖ message); raises as `sign_digests`."""
        digest = await self.digests(key_id, [(message, user_id)])
        return await self.sign_digests(key_id, digest, caller=caller, purpose=purpose)

    async def digests(self, key_id: str, messages: Sequence[tuple[bytes, bytes]]) -> bytes:
        """What is signed for each (message, user id) under the key: e = SM3(Z ‖ message), 32 bytes each, in order."""
        if key_id not in self._keyring:
            await self._keyring.refresh()
        public = self._keyring.get(key_id).public
        for _, user_id in messages:
            if len(user_id) > USER_ID_MAX_BYTES:
                raise Refused(f"a user id has at most {USER_ID_MAX_BYTES} bytes", code="user_id", field="user_id")
        if sum(len(message) for message, _ in messages) <= self._settings.hash_inline_max_bytes:
            return _digests(public, messages)
        return await asyncio.to_thread(_digests, public, messages)

    async def create_key(self, key_id: str, purpose: KeyPurpose, owner: str, actor: str) -> bytes:
        """Makes a key, its row, feed entry and audit row; returns its public key. Raises Conflict (code "key_exists").

        The private key is durable before the row: a crash between leaves a key that nothing names and nothing used.
        """
        await self._check_new(key_id)
        handle = await asyncio.to_thread(self._software.create, key_id)
        record = keys.KeyRecord(key_id, purpose, KeyState.ACTIVE, handle.public_key, owner, 0, 0)
        await self._add(
            record, AuditEvent(actor, "key.create", key_id, detail={"purpose": purpose.value, "owner": owner})
        )
        return handle.public_key

    async def register_device_key(
        self, key_id: str, purpose: KeyPurpose, owner: str, device_index: int, actor: str
    ) -> bytes:
        """Takes the signing key at an index of the devices into use; returns its public key.

        The devices must agree on the key and prove it by signatures, which are verified here. Raises SettingsError,
        Unavailable, Conflict (code "key_exists", "hsm_index_taken").
        """
        if self._devices is None:
            raise SettingsError("no device is configured; add [[hsm.devices]]", code="hsm_missing")
        await self._check_new(key_id)
        public_key = await asyncio.to_thread(self._devices.export, device_index)
        async with self._database.read() as connection:
            known = await keys.find_by_public_key(connection, public_key)
        if known:
            raise Conflict(f"the key at that index is key {known[0].id!r} already", code="hsm_index_taken")
        await asyncio.to_thread(self._devices.prove, device_index, public_key)
        detail: dict[str, str | int] = {"purpose": purpose.value, "owner": owner, "device_index": device_index}
        record = keys.KeyRecord(key_id, purpose, KeyState.ACTIVE, public_key, owner, 0, 0, "sdf", device_index)
        await self._add(record, AuditEvent(actor, "key.register", key_id, detail=detail))
        return public_key

    async def _check_new(self, key_id: str) -> None:
        check_key_id(key_id)
        await self._keyring.refresh()
        if key_id in self._keyring:
            raise Conflict(f"there is a key {key_id!r} already", code="key_exists")

    async def _add(self, record: keys.KeyRecord, event: AuditEvent) -> None:
        """Commits a new key's row (its times are given here), feed entry and audit row, and opens the key."""
        async with self._database.write() as connection:
            now_ms = await counters.advance_time(connection, self._clock())
            await keys.add(connection, replace(record, created_at_ms=now_ms, changed_at_ms=now_ms))
            await audit.append(connection, event, at_ms=now_ms)
        await self._keyring.refresh()

    async def set_key_state(self, key_id: str, state: KeyState, actor: str) -> None:
        """Changes a key's state. From the commit on no process signs with a key that is not active (DESIGN rule 2).

        Raises NotFound (code "key_unknown"), Refused (code "key_state").
        """
        await change_key_state(self._database, key_id, state, actor, self._clock)
        await self._keyring.refresh()

    async def _key(self, key_id: str, purpose: KeyPurpose, caller: str) -> Key:
        if key_id not in self._keyring:
            await self._keyring.refresh()
        key = self._keyring.get(key_id)
        try:
            return self._for_purpose(key, purpose)
        except Refused as error:
            self._ledger.refused(key_id, caller, error.code)
            raise

    @staticmethod
    def _for_purpose(key: Key, purpose: KeyPurpose) -> Key:
        if key.purpose is not purpose:
            raise Refused(f"key {key.id!r} is not for {purpose.value} signatures", code="key_purpose", field="key")
        return key


def _digests(public: sm2.PublicKey, messages: Sequence[tuple[bytes, bytes]]) -> bytes:
    out = b"".join(public.digest(message, user_id=user_id) for message, user_id in messages)
    assert len(out) == len(messages) * DIGEST_BYTES
    return out
