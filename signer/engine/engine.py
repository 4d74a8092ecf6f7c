"""The signing engine: keys, batches and accounts put together behind one interface.

Owns the order of things (rules 1 and 2): a batch is signed only after the change feed was looked at and the uses
are durably reserved. Knows keys by id and digests as bytes; not HTTP, DER structures or policy. Every failure leaves as
a core.errors class; native errors do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from prometheus_client import CollectorRegistry

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Busy, Conflict, QianyanError, Refused, SettingsError, Unavailable
from core.model import KeyPurpose, KeyState
from core.store import audit, counters, keys
from core.store.database import Database
from core.store.follow import FeedFollower
from signer._native import sm2
from signer.engine.admission import Admission, EngineWork, Ticket
from signer.engine.backend import DeviceBackend, KeyBackend, Readings, SoftwareBackend
from signer.engine.batch import DIGEST_BYTES, Batcher
from signer.engine.decrypt import Decryptor
from signer.engine.keyring import Key, Keyring
from signer.engine.keystore import KeyStore, check_key_id
from signer.engine.keyuse import change_key_state, check_use, use_detail, with_use
from signer.engine.metrics import EngineMetrics
from signer.engine.settings import EngineSettings
from signer.engine.usage import UsageLedger

#: GB/T 32918.2 §5.5 writes the user id's length in bits into two octets.
USER_ID_MAX_BYTES: Final = 8_191

#: How often changes of keys are looked for while no use is asked for.
_FOLLOW_S: Final = 1.0
_NO_LIMITS: Final = keys.KeyLimits()


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

    async def sign(self, message: bytes | memoryview) -> bytes:
        """The DER SM2Signature over `message` under the default user id."""
        raw = await self._engine.sign_message(
            self._key.id, message, user_id=sm2.DEFAULT_ID, caller="system", purpose=self._purpose, listed=False
        )
        return sm2.signature_to_der(raw)


class SigningEngine:
    """See the module. `start()`, then sign; `close()` answers what was accepted and writes the last counts.

    Keys of the store are in `keystore`, or in `devices`. Each of the two has batches of its own, so that nothing waits
    for a device that need not. accounts: where uses are accounted for, where that is not the store that keys are read
    from: its primary.
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
        accounts: Database | None = None,
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
        self._keyring = Keyring(database, follower, backends, self._key_changed)
        self._ledger = UsageLedger(
            accounts or database,
            settings,
            clock,
            worker_id or secrets.token_hex(8),
            lambda key_id: self._keyring.operation(key_id),
        )
        self._admission = Admission(self._keyring, self._ledger, clock)
        self._following: asyncio.Task[None] | None = None
        metrics = EngineMetrics.create(registry)
        self._decryptor = Decryptor(self._admission, self._software, settings, metrics)
        self._batchers: dict[str, Batcher[Ticket]] = {
            name: Batcher(
                EngineWork(self._admission, backend),
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
        self._following = asyncio.get_running_loop().create_task(self._follow(), name="key-changes")

    async def _follow(self) -> None:
        """Hears of changes while nobody asks for a use, too, so that what is reserved here goes back to the others."""
        while True:
            await asyncio.sleep(_FOLLOW_S)
            if self._ledger.holds:
                with contextlib.suppress(QianyanError):  # who asks for a use meets the same error, and is told
                    await self._keyring.refresh()

    def _key_changed(self, key_id: str) -> None:
        key = self._keyring.get(key_id)
        if key.counted or key.state is not KeyState.ACTIVE:
            self._ledger.release(key_id)

    async def close(self) -> None:
        """Refuses what comes from now on, answers what was accepted, writes the last counts."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        try:
            closing = [batcher.close() for batcher in self._batchers.values()]
            await asyncio.gather(*closing, self._decryptor.close())
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
        """The key, bound, for the service itself. Raises NotFound (code "key_unknown"), Refused ("key_purpose")."""
        key = self._keyring.get(key_id)
        if key.purpose is not purpose or purpose is KeyPurpose.ENCRYPT:
            raise Refused(f"key {key.id!r} is not for {purpose.value} signatures", code="key_purpose", field="key")
        return BoundSigner(self, key, purpose)

    async def sign_digests(
        self,
        key_id: str,
        digests: bytes,
        *,
        caller: str,
        purpose: KeyPurpose | Collection[KeyPurpose] = KeyPurpose.DATA,
        listed: bool = True,
    ) -> bytes:
        """n·64 bytes r ‖ s over n·32 bytes of digests.

        purpose: what the key must be for, or several of which it must be for one. listed: whether `caller` must be
        among the key's callers; False for the service itself, and where another check has admitted the caller.

        Raises NotFound (code "key_unknown"), Denied (code "key_caller"), Refused (code "key_purpose", "key_frozen",
        "key_compromised", "key_retired", "key_hours", "key_count"), Busy ("key_rate", "key_changed" among its codes),
        TooLarge or Unavailable.
        """
        key = await self._admission.key(key_id, purpose, caller, "sign")
        batcher = self._batchers.get(key.backend)
        if batcher is None:
            raise Unavailable(f"key {key.id!r} cannot be opened here", code="key_unreadable") from key.fault
        ticket = Ticket(key, caller if listed else None, caller, "sign")
        if not key.counted:
            return await batcher.submit(ticket, digests)
        async with self._admission.claimed(ticket, len(digests) // DIGEST_BYTES):
            return await batcher.submit(ticket, digests)

    def sign_now(self, key_id: str, digests: bytes, *, caller: str, purpose: KeyPurpose) -> bytes | None:
        """As `sign_digests` for the service itself, at once; None where something must be awaited first, and where
        there are limits that `sign_digests` must speak of. Raises as that does where the key must not be used now."""
        key = self._usable_now(key_id, purpose)
        if key is None:
            return None
        batcher = self._batchers[key.backend]
        ticket = Ticket(key, None, caller, "sign")
        count = len(digests) // DIGEST_BYTES
        if not batcher.ready_now([(ticket, count)]) or not self._charge_now(caller, count):
            return None
        batcher.admit_now(ticket, count)
        return batcher.sign_now([(ticket, digests)])[0]

    def sign_all_now(
        self, uses: Sequence[tuple[str, str, bytes]], purpose: KeyPurpose | Collection[KeyPurpose]
    ) -> list[bytes | None]:
        """The signatures of each (key id, listed caller, digests), all by one native call; None for each that
        `sign_digests` is to be asked for: something must be awaited first, or it says why not. Raises nothing."""
        out: list[bytes | None] = [None] * len(uses)
        batcher = self._batchers["software"]
        places, tickets = [], []
        for place, (key_id, caller, digests) in enumerate(uses):
            key = self._usable_now(key_id, purpose)
            if key is not None and key.backend == "software":
                places.append(place)
                tickets.append((Ticket(key, caller, caller, "sign"), len(digests) // DIGEST_BYTES))
        try:
            if not batcher.ready_now(tickets):
                return out
            admitted = [
                (place, ticket)
                for place, (ticket, count) in zip(places, tickets, strict=True)
                if self._admit_now(batcher, ticket, count)
            ]
            if admitted:
                signed = batcher.sign_now([(ticket, uses[place][2]) for place, ticket in admitted])
                for (place, _), signatures in zip(admitted, signed, strict=True):
                    out[place] = signatures
        except QianyanError:
            return [None] * len(uses)  # whoever asks for each alone meets it again
        return out

    def _admit_now(self, batcher: Batcher[Ticket], ticket: Ticket, count: int) -> bool:
        if not self._charge_now(ticket.caller, count):
            return False
        try:
            batcher.admit_now(ticket, count)
        except QianyanError:
            return False
        return True

    def is_plain(self, key_id: str, *, caller: str, purpose: KeyPurpose | Collection[KeyPurpose]) -> bool:
        """Whether, by what is known here now, a listed `caller` may sign with the key, whose uses need not be claimed.

        Nothing is taken account of. Where it says no, `sign_digests` says why.
        """
        key = self._usable_now(key_id, purpose)
        if key is None:
            return False
        try:
            key.check(caller, self._clock)
        except QianyanError:
            return False
        return True

    @property
    def now_max(self) -> int:
        """The most that `sign_now` signs in one call."""
        return max(batcher.now_max for batcher in self._batchers.values())

    def full(self) -> Busy:
        """What a request gets that finds too many others before it, on its way to the queue; counted as the queue's."""
        return self._batchers["software"].full()

    def _usable_now(self, key_id: str, purpose: KeyPurpose | Collection[KeyPurpose]) -> Key | None:
        """The key, where it is known, for one of the purposes, opened here and without limits."""
        if self._keyring.stale or key_id not in self._keyring:
            return None
        key = self._keyring.get(key_id)
        wanted = (purpose,) if isinstance(purpose, KeyPurpose) else purpose
        if key.counted or key.purpose not in wanted or key.purpose is KeyPurpose.ENCRYPT:
            return None
        return key if key.backend in self._batchers else None

    def _charge_now(self, caller: str, count: int) -> bool:
        """Whether the caller may have `count` single signatures, which are taken account of; for who limits callers."""
        return True

    async def sign_message(
        self,
        key_id: str,
        message: bytes | memoryview,
        *,
        user_id: bytes,
        caller: str,
        purpose: KeyPurpose | Collection[KeyPurpose] = KeyPurpose.DATA,
        listed: bool = True,
    ) -> bytes:
        """64 bytes r ‖ s over SM3(Z ‖ message); raises as `sign_digests`."""
        digest = await self.digests(key_id, [(message, user_id)])
        return await self.sign_digests(key_id, digest, caller=caller, purpose=purpose, listed=listed)

    async def decrypt(self, key_id: str, ciphertexts: Sequence[Readings], *, caller: str) -> list[bytearray | None]:
        """Each plaintext, which the caller wipes; None for what cannot be decrypted, whatever the cause.

        Each ciphertext comes in the ways it may be read; each counts as one use. Raises as `sign_digests`.
        """
        return await self._decryptor.decrypt(key_id, ciphertexts, caller)

    async def may_decrypt(self, key_id: str, *, caller: str) -> None:
        """Returns where `caller` may decrypt with the key now; no use is counted. Raises as `decrypt`."""
        key = await self._admission.key(key_id, KeyPurpose.ENCRYPT, caller, "decrypt")
        await self._keyring.refresh()
        self._admission.check(Ticket(key, caller, caller, "decrypt"))

    async def digests(self, key_id: str, messages: Sequence[tuple[bytes | memoryview, bytes]]) -> bytes:
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

    async def create_key(
        self,
        key_id: str,
        purpose: KeyPurpose,
        owner: str,
        actor: str,
        *,
        callers: Collection[str] = (),
        limits: keys.KeyLimits = _NO_LIMITS,
    ) -> bytes:
        """Makes a key, its row, feed entry and audit row; returns its public key. Raises Conflict (code "key_exists").

        Raises Refused (code "key_callers", "key_limits"), too. The private key is durable before the row: a crash
        between leaves a key that nothing names and nothing used.
        """
        checked = check_use(purpose, callers, limits)
        await self._check_new(key_id)
        handle = await asyncio.to_thread(self._software.create, key_id)
        record = keys.KeyRecord(key_id, purpose, KeyState.ACTIVE, handle.public_key, owner, 0, 0)
        await self._add(with_use(record, checked, limits), actor, "key.create", {"owner": owner})
        return handle.public_key

    async def register_device_key(
        self,
        key_id: str,
        purpose: KeyPurpose,
        owner: str,
        device_index: int,
        actor: str,
        *,
        callers: Collection[str] = (),
        limits: keys.KeyLimits = _NO_LIMITS,
    ) -> bytes:
        """Takes the signing key at an index of the devices into use; returns its public key.

        The devices must agree on the key and prove it by signatures, which are verified here. Raises SettingsError,
        Unavailable, Conflict (code "key_exists", "hsm_index_taken"), Refused as `create_key`.
        """
        if self._devices is None:
            raise SettingsError("no device is configured; add [[hsm.devices]]", code="hsm_missing")
        if purpose is KeyPurpose.ENCRYPT:
            raise Refused("a device's signing key is not for decryption", code="key_purpose", field="purpose")
        checked = check_use(purpose, callers, limits)
        await self._check_new(key_id)
        public_key = await asyncio.to_thread(self._devices.export, device_index)
        async with self._database.read() as connection:
            known = await keys.find_by_public_key(connection, public_key)
        if known:
            raise Conflict(f"the key at that index is key {known[0].id!r} already", code="hsm_index_taken")
        await asyncio.to_thread(self._devices.prove, device_index, public_key)
        record = keys.KeyRecord(key_id, purpose, KeyState.ACTIVE, public_key, owner, 0, 0, "sdf", device_index)
        detail: dict[str, str | int] = {"owner": owner, "device_index": device_index}
        await self._add(with_use(record, checked, limits), actor, "key.register", detail)
        return public_key

    async def _check_new(self, key_id: str) -> None:
        check_key_id(key_id)
        await self._keyring.refresh()
        if key_id in self._keyring:
            raise Conflict(f"there is a key {key_id!r} already", code="key_exists")

    async def _add(self, record: keys.KeyRecord, actor: str, action: str, detail: dict[str, str | int]) -> None:
        """Commits a new key's row (its times are given here), feed entry and audit row, and opens the key."""
        detail = {"purpose": record.purpose.value, **detail, **use_detail(record)}
        async with self._database.write() as connection:
            now_ms = await counters.advance_time(connection, self._clock())
            await keys.add(connection, replace(record, created_at_ms=now_ms, changed_at_ms=now_ms))
            await audit.append(connection, AuditEvent(actor, action, record.id, detail=detail), at_ms=now_ms)
        await self._keyring.refresh()

    async def set_key_state(self, key_id: str, state: KeyState, actor: str) -> None:
        """Changes a key's state. From the commit on no process signs with a key that is not active (rule 2).

        Raises NotFound (code "key_unknown"), Refused (code "key_state").
        """
        await change_key_state(self._database, key_id, state, actor, self._clock)
        await self._keyring.refresh()


def _digests(public: sm2.PublicKey, messages: Sequence[tuple[bytes | memoryview, bytes]]) -> bytes:
    out = b"".join(public.digest(message, user_id=user_id) for message, user_id in messages)
    assert len(out) == len(messages) * DIGEST_BYTES
    return out
