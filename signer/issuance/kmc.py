"""Key management: makes encryption keys, hands them out enveloped, keeps them in escrow (R-11, R-16).

The private key lives in native memory and in bytearrays that are wiped here; what leaves is the SM2EnvelopedKey
(GM/T 0009 §7.4), openable with the holder's signing key alone, and the key wrapped for escrow. Keys made in advance
wait in the spare store (core.store.escrow, which owns the three stores). Knows keys and bytes; not requests or
certificates.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core import oids
from core.asn1 import der
from core.clock import Clock, system_clock
from core.errors import Malformed, QianyanError
from core.store import escrow
from core.store.database import Database
from core.store.escrow import WrappedKey
from signer._native import sm2
from signer.engine.pbes2 import as_bytes, wipe
from signer.issuance.metrics import KmcMetrics

#: SM4 in ECB with NULL parameters: what readers of the structure know (GM/T 0009 §7.4 says ECB and no padding rule).
_SM4_ECB: Final = der.sequence(der.oid(oids.SM4_ECB), der.null())
#: How many spare keys a process takes in one transaction, and makes in one.
_TAKE_AT_ONCE: Final = 16
_MAKE_AT_ONCE: Final = 256
#: How many keys are made on the spot before an empty spare store is looked into again.
_LOOK_AGAIN_AFTER: Final = 64
#: How many keys one refill makes at most.
REFILL_MAX: Final = 16_384

T = TypeVar("T")


class KeyWrapper(Protocol):
    """Wraps private keys for escrow (signer.engine.keystore.KeyStore, signer.engine.master.MasterKey)."""

    def wrap(self, private_key: sm2.PrivateKey) -> bytes:
        """The wrapped key."""
        ...

    def wrap_many(self, private_keys: Sequence[sm2.PrivateKey]) -> list[bytes]:
        """As `wrap`, for many at once, in order."""
        ...

    def unwrap(self, wrapped: bytes) -> sm2.PrivateKey:
        """The key that was wrapped. Raises Malformed (code "wrapped_key") where anything about it was changed."""
        ...


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A new encryption key: its public point, the SM2EnvelopedKey for the holder, and the key wrapped for escrow.

    task, number: of a key that another centre keeps (`wrapped` is empty then), and the serial it was asked for under.
    """

    public_key: bytes
    enveloped: bytes
    wrapped: bytes
    task: int | None = None
    number: int | None = None


class KeySource(Protocol):
    """Other key-management centres, for the authorities that have one (signer.kmc.centres)."""

    def serves(self, authority_id: str) -> bool:
        """Whether that authority's encryption keys are made and kept there."""
        ...

    async def make(self, authority_id: str, recipient: bytes, not_after_ms: int) -> EncryptionKey:
        """A key for the holder of the signing key `recipient`. Raises Unavailable, Refused (code "kmc_refused")."""
        ...


def envelope(recipient: sm2.PublicKey, private_key: sm2.PrivateKey) -> bytes:
    """SM2EnvelopedKey of `private_key` for `recipient`; the scalar is 32 octets, two SM4 blocks, not padded."""
    scalar, sym, sealed = bytearray(32), bytearray(16), bytearray(32 + 15)
    try:
        private_key.export_into(scalar)
        sym[:] = os.urandom(16)
        cipher = Cipher(algorithms.SM4(as_bytes(sym)), modes.ECB()).encryptor()  # noqa: S305 - the standard's mode
        length = cipher.update_into(as_bytes(scalar), sealed)
        cipher.finalize()
        return der.sequence(
            _SM4_ECB,
            recipient.encrypt(as_bytes(sym), encoding="der"),
            der.bit_string(private_key.public_key.to_bytes()),
            der.bit_string(bytes(sealed[:length])),
        )
    finally:
        wipe(scalar)
        wipe(sym)


class KeyManagement:
    """Makes, takes and hands out encryption keys. `wrapper` keeps the master key.

    With a database, keys that were made in advance are taken from the spare store, some at a time; what this process
    has taken and not used when it ends was never anybody's key. Without one, or with none to spare, a key is made.
    """

    def __init__(
        self,
        wrapper: KeyWrapper,
        database: Database | None = None,
        clock: Clock = system_clock,
        metrics: KmcMetrics | None = None,
    ) -> None:
        self._wrapper = wrapper
        self._database = database
        self._clock = clock
        self._metrics = metrics or KmcMetrics.create()
        self._taken: deque[WrappedKey] = deque()
        self._makes_itself = 0

    async def make(self, signing_public_key: bytes) -> EncryptionKey:
        """A new key for the holder of `signing_public_key`. In a thread: the wrapper may have to read its key first."""
        recipient = sm2.PublicKey.from_bytes(signing_public_key)
        spare = await self._take()
        if spare is None:
            made = await asyncio.to_thread(self._make, recipient)
            self._metrics.handed_out.labels("made").inc()
            return made
        enveloped = await asyncio.to_thread(self._restore, spare, recipient)
        self._metrics.handed_out.labels("spare").inc()
        return EncryptionKey(spare.public_key, enveloped, spare.wrapped)

    async def make_many(self, signing_public_keys: Sequence[bytes]) -> list[EncryptionKey | QianyanError]:
        """As `make`, for many holders at once; a key that cannot be made or opened is the trouble of its own place."""
        if not signing_public_keys:
            return []
        recipients = [sm2.PublicKey.from_bytes(key) for key in signing_public_keys]
        spares: list[WrappedKey] = []
        while len(spares) < len(recipients) and (spare := await self._take()) is not None:
            spares.append(spare)
        made = await asyncio.to_thread(self._make_all, recipients, spares)
        self._metrics.handed_out.labels("spare").inc(len(spares))
        self._metrics.handed_out.labels("made").inc(len(recipients) - len(spares))
        return made

    async def rehearse(self, signing_public_key: bytes) -> EncryptionKey:
        """A key that nobody will have: the first one takes longer than others, because the wrapper reads its key.

        Raises what kept it from being made."""
        recipients = [sm2.PublicKey.from_bytes(signing_public_key)]
        (made,) = await asyncio.to_thread(self._make_all, recipients, ())
        if isinstance(made, QianyanError):
            raise made
        return made

    async def make_fresh(self, signing_public_keys: Sequence[bytes]) -> list[EncryptionKey | QianyanError]:
        """As `make_many`, leaving the spare store to those who cannot wait."""
        recipients = [sm2.PublicKey.from_bytes(key) for key in signing_public_keys]
        made = await asyncio.to_thread(self._make_all, recipients, ())
        self._metrics.handed_out.labels("made").inc(len(recipients))
        return made

    def _make_all(
        self, recipients: Sequence[sm2.PublicKey], spares: Sequence[WrappedKey]
    ) -> list[EncryptionKey | QianyanError]:
        """Spare keys first, the rest made here: natively in one batch."""
        made: list[EncryptionKey | QianyanError] = []
        for spare, recipient in zip(spares, recipients, strict=False):
            try:
                made.append(EncryptionKey(spare.public_key, self._restore(spare, recipient), spare.wrapped))
            except QianyanError as error:
                made.append(error)
        return made + self._make_here(recipients[len(spares) :])

    def _make_here(self, recipients: Sequence[sm2.PublicKey]) -> list[EncryptionKey | QianyanError]:
        """Generated and wrapped in one go: a master key in a module is asked once for all."""
        keys = sm2.generate_many(len(recipients)) if recipients else []
        try:
            wrapped = self._wrapper.wrap_many(keys) if keys else []
            return [
                EncryptionKey(key.public_key.to_bytes(), envelope(recipient, key), one)
                for key, recipient, one in zip(keys, recipients, wrapped, strict=True)
            ]
        except QianyanError as error:
            return [error] * len(recipients)
        finally:
            for key in keys:
                key.wipe()

    async def take(self) -> WrappedKey:
        """A new key that is nobody's yet, wrapped: a spare one, or one made now."""
        spare = await self._take()
        if spare is None:
            (spare,) = await asyncio.to_thread(self._make_many, 1)
        self._metrics.handed_out.labels("served").inc()
        return spare

    def use(self, kept: WrappedKey, work: Callable[[sm2.PrivateKey], T]) -> T:
        """What `work` makes of a kept key, which is wiped then. Blocks. Raises Malformed (code "wrapped_key")."""
        key = self._wrapper.unwrap(kept.wrapped)
        try:
            if key.public_key.to_bytes() != kept.public_key:
                raise Malformed("the wrapped key is not that of its row", code="wrapped_key")
            return work(key)
        finally:
            key.wipe()

    async def restore(self, kept: WrappedKey, recipient: bytes) -> bytes:
        """The SM2EnvelopedKey of a key that is kept, for the public key `recipient`.

        Whether that may happen is settled before (signer.issuance.recovery). Raises Malformed (code "wrapped_key").
        """
        enveloped = await asyncio.to_thread(self._restore, kept, sm2.PublicKey.from_bytes(recipient))
        self._metrics.handed_out.labels("recovered").inc()
        return enveloped

    async def refill(self, wanted: int, *, at_most: int = REFILL_MAX) -> int:
        """Makes keys until the spare store holds `wanted`, at most `at_most` of them; returns how many it made."""
        if self._database is None:
            return 0
        async with self._database.read() as connection:
            missing = min(wanted - await escrow.count_spare(connection), at_most)
        made = 0
        while made < missing:
            keys = await asyncio.to_thread(self._make_many, min(missing - made, _MAKE_AT_ONCE))
            async with self._database.write() as connection:
                await escrow.add_spare(connection, keys, at_ms=self._clock())
            made += len(keys)
            self._metrics.made.inc(len(keys))
            self._makes_itself = 0
        return made

    async def _take(self) -> WrappedKey | None:
        if not self._taken and self._database is not None:
            if self._makes_itself > 0:
                self._makes_itself -= 1
                return None
            async with self._database.write() as connection:
                found = await escrow.take_spares(connection, _TAKE_AT_ONCE)
            self._taken.extend(found)
            if not found:
                self._makes_itself = _LOOK_AGAIN_AFTER
        return self._taken.popleft() if self._taken else None

    def _make(self, recipient: sm2.PublicKey) -> EncryptionKey:
        key = sm2.PrivateKey.generate()
        try:
            return EncryptionKey(key.public_key.to_bytes(), envelope(recipient, key), self._wrapper.wrap(key))
        finally:
            key.wipe()

    def _make_many(self, count: int) -> list[WrappedKey]:
        keys = sm2.generate_many(count)
        try:
            wrapped = self._wrapper.wrap_many(keys)
            return [WrappedKey(key.public_key.to_bytes(), one) for key, one in zip(keys, wrapped, strict=True)]
        finally:
            for key in keys:
                key.wipe()

    def _restore(self, kept: WrappedKey, recipient: sm2.PublicKey) -> bytes:
        return self.use(kept, lambda key: envelope(recipient, key))
