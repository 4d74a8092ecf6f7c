"""Where private keys are and sign: the seam between the engine and software keys, or a device.

Knows key handles and digests; not states, futures or the store. The engine sees handles only through `KeyBackend`, so
that it never assumes that a private key is in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from core.errors import Unavailable
from signer._native import sm2
from signer.engine.keystore import KeyStore


class KeyHandle(Protocol):
    """An opened private key, wherever it is."""

    @property
    def public_key(self) -> bytes:
        """The uncompressed point, 65 bytes."""
        ...


class KeyBackend(Protocol):
    """Opens keys and signs with them. Methods may block and are safe to call from any one thread at a time."""

    @property
    def may_sign_inline(self) -> bool:
        """Whether a short batch may be signed on the event loop (False where a device is waited for)."""
        ...

    def create(self, key_id: str) -> KeyHandle:
        """Generates a key. Raises Conflict (code "key_exists")."""
        ...

    def open(self, key_id: str) -> KeyHandle:
        """Opens a key. Raises SettingsError saying what is wrong with it."""
        ...

    def sign(self, uses: Sequence[tuple[KeyHandle, int]], digests: bytes) -> bytes:
        """Signs digests (32 bytes each) in order, so many with each handle; 64 bytes r ‖ s each.

        Raises Unavailable where it cannot.
        """
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

    def __init__(self, keystore: KeyStore) -> None:
        self._keystore = keystore

    def create(self, key_id: str) -> KeyHandle:
        """See KeyBackend."""
        return _SoftwareKey(self._keystore.create(key_id))

    def open(self, key_id: str) -> KeyHandle:
        """See KeyBackend."""
        return _SoftwareKey(self._keystore.load(key_id))

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
