"""Key management: makes encryption keys, hands them out enveloped, keeps them in escrow (R-11, R-16).

The private key lives in native memory and in bytearrays that are wiped here; what leaves is the SM2EnvelopedKey
(GM/T 0009 §7.4), openable with the holder's signing key alone, and the key wrapped for escrow. Knows keys and
bytes; not requests, certificates or the store.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core import oids
from core.asn1 import der
from signer._native import sm2
from signer.engine.pbes2 import as_bytes, wipe

#: SM4 in ECB with NULL parameters: what readers of the structure know (GM/T 0009 §7.4 says ECB and no padding rule).
_SM4_ECB: Final = der.sequence(der.oid(oids.SM4_ECB), der.null())


class KeyWrapper(Protocol):
    """Wraps a private key for escrow (signer.engine.keystore.KeyStore)."""

    def wrap(self, private_key: sm2.PrivateKey) -> bytes:
        """The wrapped key."""
        ...


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A new encryption key: its public point, the SM2EnvelopedKey for the holder, and the key wrapped for escrow."""

    public_key: bytes
    enveloped: bytes
    wrapped: bytes


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
    """Makes encryption keys. `wrapper` keeps the escrow's master key."""

    def __init__(self, wrapper: KeyWrapper) -> None:
        self._wrapper = wrapper

    async def make(self, signing_public_key: bytes) -> EncryptionKey:
        """A new key for the holder of `signing_public_key`. In a thread: the wrapper may have to read its key first."""
        return await asyncio.to_thread(self._make, sm2.PublicKey.from_bytes(signing_public_key))

    def _make(self, recipient: sm2.PublicKey) -> EncryptionKey:
        key = sm2.PrivateKey.generate()
        try:
            return EncryptionKey(key.public_key.to_bytes(), envelope(recipient, key), self._wrapper.wrap(key))
        finally:
            key.wipe()
