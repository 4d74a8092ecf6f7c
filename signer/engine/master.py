"""The key-management part's master key: what wraps encryption keys and the keys under which holders' data is kept.

`MasterKey` is what the rest asks for, so that the master key may be one that never leaves a hardware module.
`SoftwareMaster` is the one in the key store's file `kmc-master.pem`: encryption keys directly under it, in the form
that escrow has; other secrets under a key derived for each purpose (HKDF, RFC 5869, with SM3), by SM4-GCM.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import Malformed
from signer._native import sm2
from signer.engine.keystore import KeyStore
from signer.engine.pbes2 import as_bytes, wipe

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class MasterKey(Protocol):
    """Methods may block (a file is read, a module is asked): call them in a thread where that matters."""

    def wrap(self, private_key: sm2.PrivateKey) -> bytes:
        """An encryption key, for escrow."""
        ...

    def wrap_many(self, private_keys: Sequence[sm2.PrivateKey]) -> list[bytes]:
        """As `wrap`, for many at once, in order."""
        ...

    def unwrap(self, wrapped: bytes) -> sm2.PrivateKey:
        """What `wrap` put away. Raises Malformed (code "wrapped_key") where anything about it was changed."""
        ...

    def wrap_secret(self, purpose: str, secret: bytes) -> bytes:
        """A short secret, for one purpose."""
        ...

    def unwrap_secret(self, purpose: str, wrapped: bytes) -> bytes:
        """What `wrap_secret` put away for the same purpose. Raises Malformed (code "wrapped_key")."""
        ...


def seal(key: bytes, plain: bytes, bound: bytes) -> bytes:
    """Version, nonce, SM4-GCM over `plain`, tag; `bound` is authenticated with it."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    cipher = Cipher(algorithms.SM4(key), modes.GCM(nonce)).encryptor()
    cipher.authenticate_additional_data(_VERSION + bound)
    return _VERSION + nonce + cipher.update(plain) + cipher.finalize() + cipher.tag


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """What `seal` made. Raises Malformed (code "sealed") where it, or what it is bound to, was changed."""
    if len(sealed) < 1 + _NONCE_BYTES + _TAG_BYTES or sealed[:1] != _VERSION:
        raise Malformed("not sealed data of a known version", code="sealed")
    nonce, body, tag = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES : -_TAG_BYTES], sealed[-_TAG_BYTES:]
    cipher = Cipher(algorithms.SM4(key), modes.GCM(nonce)).decryptor()
    cipher.authenticate_additional_data(_VERSION + bound)
    try:
        return cipher.update(body) + cipher.finalize_with_tag(tag)
    except InvalidTag as error:
        raise Malformed("the sealed data was changed, or another key made it", code="sealed") from error


class SoftwareMaster:
    """A `MasterKey` over the key store, which keeps and wipes the key itself."""

    def __init__(self, keystore: KeyStore) -> None:
        self._keystore = keystore
        self._lock = threading.Lock()

    def wrap(self, private_key: sm2.PrivateKey) -> bytes:
        """See MasterKey."""
        with self._lock:
            return self._keystore.wrap(private_key)

    def wrap_many(self, private_keys: Sequence[sm2.PrivateKey]) -> list[bytes]:
        """See MasterKey."""
        with self._lock:
            return self._keystore.wrap_many(private_keys)

    def unwrap(self, wrapped: bytes) -> sm2.PrivateKey:
        """See MasterKey."""
        with self._lock:
            return self._keystore.unwrap(wrapped)

    def wrap_secret(self, purpose: str, secret: bytes) -> bytes:
        """See MasterKey."""
        return seal(self._derived(purpose), secret, purpose.encode())

    def unwrap_secret(self, purpose: str, wrapped: bytes) -> bytes:
        """See MasterKey."""
        try:
            return unseal(self._derived(purpose), wrapped, purpose.encode())
        except Malformed as error:
            raise Malformed(
                "the wrapped secret was changed, or another master key made it", code="wrapped_key"
            ) from error

    def _derived(self, purpose: str) -> bytes:
        with self._lock:
            master = self._keystore.export_master()
        try:
            return HKDF(hashes.SM3(), 16, None, b"qianyan " + purpose.encode()).derive(as_bytes(master))
        finally:
            wipe(master)
