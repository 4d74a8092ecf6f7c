"""Where private keys are and sign: the seam between the engine and software keys, or a device.

Knows key handles and digests; not states, futures or the store. The engine sees handles only through `KeyBackend`, so
that it never assumes that a private key is in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

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


#: How a ciphertext is written: SM2Cipher of GM/T 0009 §7.2, or 04 ‖ C1 ‖ C3 ‖ C2.
Encoding = Literal["der", "c1c3c2"]
#: What a ciphertext may be read as, in this order; the hash within tells which reading is right.
Readings = Sequence[tuple[Encoding, bytes]]

#: How many uses one call makes at most before the key's state is looked at again.
DECRYPT_CHUNK: Final = 64
#: C1 and C3 (GB/T 32918.4 §6.1): 04, two coordinates, a hash.
_CIPHERTEXT_OVERHEAD: Final = 65 + 32


class SoftwareBackend:
    """Keys of a `KeyStore`, used by the native core."""

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

    @staticmethod
    def decrypt(handle: KeyHandle, ciphertexts: Sequence[Readings]) -> list[bytearray | None]:
        """Each plaintext, which the caller wipes; None for what cannot be decrypted, whatever the cause."""
        assert isinstance(handle, _SoftwareKey)
        return [_decrypted(handle.native, readings) for readings in ciphertexts]


def _decrypted(key: sm2.PrivateKey, readings: Readings) -> bytearray | None:
    for encoding, ciphertext in readings:
        try:
            raw = sm2.ciphertext_from_der(ciphertext) if encoding == "der" else ciphertext
            # As long as the plaintext and no longer: shrinking it later would leave a copy behind.
            out = bytearray(max(0, len(raw) - _CIPHERTEXT_OVERHEAD))
            key.decrypt_into(raw, out, encoding="c1c3c2")
        except sm2.InvalidKey as error:
            raise Unavailable("the key went away meanwhile", code="key_unreadable", retry_after_s=1) from error
        except (sm2.DecryptionError, sm2.InvalidEncoding, ValueError):
            continue
        return out
    return None
