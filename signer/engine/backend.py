"""Where private keys are and sign: the seam between the engine and software keys, or a device.

Knows key handles and digests; not states, futures or the store. The engine sees handles only through `KeyBackend`, so
that it never assumes that a private key is in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from core.errors import Unavailable
from core.store.keys import KeyRecord
from signer._native import sm2
from signer.engine.keystore import KeyStore


class KeyHandle(Protocol):
    """An opened private key, wherever it is."""

    @property
    def public_key(self) -> bytes:
        """The uncompressed point, 65 bytes."""
        ...


class KeyBackend(Protocol):
    """Opens keys and signs with them. Methods may block; `sign` is called from up to `parallel` threads at a time."""

    @property
    def parallel(self) -> int:
        """How many batches may be signed at once (more than 1 where a device is waited for)."""
        ...

    @property
    def may_sign_inline(self) -> bool:
        """Whether a short batch may be signed on the event loop (False where a device is waited for)."""
        ...

    def create(self, key_id: str) -> KeyHandle:
        """Generates a key. Raises Conflict (code "key_exists")."""
        ...

    def open(self, record: KeyRecord) -> KeyHandle:
        """Opens the key of a record. Raises SettingsError saying what is wrong with it."""
        ...

    def sign(self, uses: Sequence[tuple[KeyHandle, int]], digests: bytes) -> bytes:
        """Signs digests (32 bytes each) in order, so many with each handle; 64 bytes r ‖ s each.

        Raises Unavailable where it cannot; with `retry_after_s` where trying key by key would end no better.
        """
        ...


class DeviceBackend(KeyBackend, Protocol):
    """A backend whose keys are made elsewhere and known by an index."""

    def export(self, device_index: int) -> bytes:
        """The public key at the index, 65 bytes. Raises SettingsError where there is none, Unavailable."""
        ...

    def prove(self, device_index: int, public_key: bytes) -> None:
        """Makes and verifies a signature with the key wherever it is. Raises SettingsError, Unavailable."""
        ...


class _SoftwareKey:
    """A native key in this process."""

    __slots__ = ("native", "public_key")

    def __init__(self, native: sm2.PrivateKey) -> None:
        self.native = native
        self.public_key: bytes = native.public_key.to_bytes()


class SoftwareBackend:
    """Keys of a `KeyStore`, signed with by the native core."""

    may_sign_inline = True
    parallel = 1

    def __init__(self, keystore: KeyStore) -> None:
        self._keystore = keystore

    def create(self, key_id: str) -> KeyHandle:
        """See KeyBackend."""
        return _SoftwareKey(self._keystore.create(key_id))

    def open(self, record: KeyRecord) -> KeyHandle:
        """See KeyBackend."""
        return _SoftwareKey(self._keystore.load(record.id))

    def sign(self, uses: Sequence[tuple[KeyHandle, int]], digests: bytes) -> bytes:
        """See KeyBackend. One native call, whatever the number of keys."""
        keys: list[sm2.PrivateKey] = []
        for handle, count in uses:
            assert isinstance(handle, _SoftwareKey)
            keys += [handle.native] * count
        one = keys[0] if all(key is keys[0] for key in keys) else None
        try:
            return sm2.sign_many(keys if one is None else one, digests)
        except sm2.EntropyError as error:
            raise Unavailable("the random generator failed; nothing was signed", code="entropy") from error
