"""Reads an authority's private key from a file that another system wrote: PKCS#8 in PEM, encrypted or not.

Knows files and the key store's own readers; the caller puts the key away and wipes it.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from core.errors import Malformed, SettingsError
from signer._native import sm2
from signer.engine import keyinfo
from signer.engine.keystore import KeyStore
from signer.engine.pbes2 import wipe
from signer.engine.settings import KeyStoreSettings

_PLAIN: Final = b"-----BEGIN PRIVATE KEY-----", b"-----END PRIVATE KEY-----"
_FILE_MAX_BYTES: Final = 64 * 1024
_HOW: Final = (
    "write it as PKCS#8: 'openssl pkcs8 -topk8 -in OLD.pem -out NEW.pem -v2 sm4-cbc -scrypt', chmod 600, with the "
    "ending .pem"
)


def read_key(path: Path, passphrase: bytearray | None) -> sm2.PrivateKey:
    """The key. passphrase: of an encrypted file; wiped here. Raises SettingsError saying what to do."""
    try:
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"others may read key file {path}; run: chmod 600 {path}", code="key_mode")
        with path.open("rb") as file:
            content = bytearray(file.read(_FILE_MAX_BYTES))
    except OSError as error:
        raise SettingsError(f"key file {path} cannot be read: {error.strerror}", code="key_missing") from error
    try:
        if _PLAIN[0] in content:
            return _plain(content, path)
        if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in content or path.suffix != ".pem":
            raise SettingsError(f"key file {path} is in another form; {_HOW}", code="key_form")
        if passphrase is None:
            raise SettingsError(f"key file {path} is encrypted; give --key-passphrase-file", code="passphrase_missing")
        store = KeyStore(path.parent, passphrase, KeyStoreSettings())
        try:
            return store.load(path.stem)
        finally:
            store.close()
    finally:
        wipe(content)


def _plain(content: bytearray, path: Path) -> sm2.PrivateKey:
    body = content.partition(_PLAIN[0])[2].partition(_PLAIN[1])[0]
    try:
        plain = bytearray(base64.b64decode(bytes(body).translate(None, b"\r\n \t"), validate=True))
    except binascii.Error as error:
        raise SettingsError(f"key file {path} is not base64 inside; {_HOW}", code="key_form") from error
    try:
        return keyinfo.decode(plain)
    except Malformed as error:
        raise SettingsError(
            f"key file {path}: {error.detail}; an SM2 key is needed; {_HOW}", code="key_form"
        ) from error
    finally:
        wipe(plain)
