"""Keeps private keys in files: one PKCS#8 EncryptedPrivateKeyInfo in PEM per key, mode 0600.

Owns the key directory and the passphrase, which it wipes on `close()`. Knows files, PBES2 and native keys; not the
store's idea of a key's state, and not where the passphrase came from. A file appears whole and durable or not at all,
and is never overwritten.

What is wiped: the passphrase, derived keys, plaintexts and scalars, all of them bytearrays. What cannot be: copies the
operating system makes (swap, a core dump), and OpenSSL's key schedules until it frees them (it clears them then).
Native keys clear themselves when they go.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core import oids
from core.asn1 import der
from core.errors import Conflict, Malformed, Refused, SettingsError
from signer._native import sm2
from signer.engine import keyinfo, pbes2
from signer.engine.pbes2 import as_bytes, wipe
from signer.engine.settings import KeyStoreSettings

_KEY_LABEL: Final = "ENCRYPTED PRIVATE KEY"
_MASTER_LABEL: Final = "QIANYAN ENCRYPTED MASTER KEY"
#: The file of the key under which the key-management part keeps escrowed keys; no signing key has that name.
MASTER_NAME: Final = "kmc-master"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILE_MAX_BYTES: Final = 16_384
#: Plaintext of the master key file: a PrivateKeyInfo whose algorithm is SM4, up to its 16 octets.
_MASTER_HEAD: Final = der.sequence(der.integer(0), der.sequence(der.oid(oids.SM4)), der.octet_string(bytes(16)))[:-16]

# An escrowed key: version, public key in the clear, nonce, then SM4-GCM over the scalar; what precedes the nonce is
# authenticated with it.
_WRAP_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_WRAPPED_BYTES: Final = 1 + 65 + _NONCE_BYTES + 32 + _TAG_BYTES

T = TypeVar("T")

#: What became of a key that was put back: written where none was, in place of a damaged file, or not needed.
Restored = Literal["restored", "replaced", "kept"]


def check_key_id(key_id: str) -> str:
    """The id, where it can name a key: letters, digits, '.', '_', '-', at most 64. Raises Refused (code "key_id")."""
    if not _KEY_ID.fullmatch(key_id) or key_id == MASTER_NAME:
        raise Refused(
            "a key id has 1 to 64 letters, digits, '.', '_' or '-', and begins with a letter or digit",
            code="key_id",
            field="key",
        )
    return key_id


class KeyStore:
    """The key files in `directory`, all under one passphrase, which the store takes over and wipes on `close()`.

    Methods block (key derivation, fsync): call them in a thread where that matters. Files written by one store share
    their salt, so that loading a thousand keys costs one key derivation; their initial vectors differ.
    """

    def __init__(self, directory: Path, passphrase: bytearray, settings: KeyStoreSettings) -> None:
        self._directory = directory
        self._passphrase = pbes2.Passphrase(passphrase)
        self._settings = settings
        self._kdf: pbes2.Kdf | None = None
        self._master: bytearray | None = None

    def create(self, key_id: str) -> sm2.PrivateKey:
        """Generates a key and writes its file. Raises Conflict (code "key_exists"), Refused (code "key_id")."""
        path = self._path(check_key_id(key_id))
        if path.exists():
            raise _exists(path)
        key = sm2.PrivateKey.generate()  # has signed and verified once by then (GM/T 0028 §7.10)
        plain = keyinfo.encode(key)
        try:
            self._write(path, _KEY_LABEL, plain)
        finally:
            wipe(plain)
        return key

    def load(self, key_id: str) -> sm2.PrivateKey:
        """Reads a key file and checks it against the public key inside.

        Raises SettingsError with code "key_missing", "key_mode", "passphrase_wrong", or "key_unreadable" (damaged).
        """
        return self._read(self._path(check_key_id(key_id)), _KEY_LABEL, keyinfo.looks_right, keyinfo.decode)

    def create_master(self) -> None:
        """Makes the master key for escrowed keys, and the salt of this store's files. Raises Conflict."""
        master = bytearray(secrets.token_bytes(16))  # that one short-lived bytes object cannot be wiped
        plain = bytearray(_MASTER_HEAD) + master
        try:
            self._write(self._path(MASTER_NAME), _MASTER_LABEL, plain)
        finally:
            wipe(plain)
        self._master = master

    def wrap(self, private_key: sm2.PrivateKey) -> bytes:
        """The key under the master key, for escrow: SM4-GCM, the public key and version authenticated with it."""
        head = _WRAP_VERSION + private_key.public_key.to_bytes()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        scalar, out = bytearray(32), bytearray(32 + 15)
        try:
            private_key.export_into(scalar)
            cipher = Cipher(algorithms.SM4(as_bytes(self._master_key())), modes.GCM(nonce)).encryptor()
            cipher.authenticate_additional_data(head)
            length = cipher.update_into(as_bytes(scalar), out)
            cipher.finalize()
            return head + nonce + bytes(out[:length]) + cipher.tag
        finally:
            wipe(scalar)

    def wrap_many(self, private_keys: Sequence[sm2.PrivateKey]) -> list[bytes]:
        """As `wrap`, for many, in order."""
        return [self.wrap(key) for key in private_keys]

    def unwrap(self, wrapped: bytes) -> sm2.PrivateKey:
        """The key that `wrap` put away. Raises Malformed (code "wrapped_key") where anything about it was changed."""
        if len(wrapped) != _WRAPPED_BYTES or wrapped[:1] != _WRAP_VERSION:
            raise Malformed("not a wrapped key of a known version", code="wrapped_key")
        head, nonce, sealed, tag = wrapped[:66], wrapped[66:78], wrapped[78:110], wrapped[110:]
        out = bytearray(32 + 15)
        scalar = bytearray(32)
        try:
            cipher = Cipher(algorithms.SM4(as_bytes(self._master_key())), modes.GCM(nonce)).decryptor()
            cipher.authenticate_additional_data(head)
            cipher.update_into(sealed, out)
            cipher.finalize_with_tag(tag)
            scalar[:] = memoryview(out)[:32]
            return keyinfo.from_scalar(scalar, head[1:])
        except InvalidTag as error:
            raise Malformed("the wrapped key was changed, or another master key made it", code="wrapped_key") from error
        finally:
            wipe(out)
            wipe(scalar)

    def has_master(self) -> bool:
        """Whether there is a master key for escrowed keys."""
        return self._path(MASTER_NAME).exists()

    def export_master(self) -> bytearray:
        """A copy of the master key, which the caller wipes. Raises SettingsError."""
        return bytearray(self._master_key())

    def restore(self, key_id: str, key: sm2.PrivateKey) -> Restored:
        """Writes the key's file where there is none, or one that is damaged, which is set aside and not removed.

        A file that works is left alone. Raises Conflict (code "key_exists") where it holds another key, SettingsError
        where it cannot be told whether it works (`passphrase_wrong`, `key_mode`).
        """
        path = self._path(check_key_id(key_id))
        existing = self._standing(path, lambda: self.load(key_id))
        if existing is not None:
            same = existing.public_key == key.public_key
            existing.wipe()
            if not same:
                raise Conflict(f"key file {path} works and holds another key", code="key_exists")
            return "kept"
        plain = keyinfo.encode(key)
        try:
            return self._put_back(path, _KEY_LABEL, plain)
        finally:
            wipe(plain)

    def restore_master(self, master: bytearray) -> Restored:
        """As `restore`, for the master key."""
        path = self._path(MASTER_NAME)
        existing = self._standing(path, self._master_key)
        if existing is not None:
            if not hmac.compare_digest(existing, master):
                raise Conflict(f"key file {path} works and holds another key", code="key_exists")
            return "kept"
        plain = bytearray(_MASTER_HEAD) + master
        try:
            return self._put_back(path, _MASTER_LABEL, plain)
        finally:
            wipe(plain)

    @staticmethod
    def _standing(path: Path, load: Callable[[], T]) -> T | None:
        """What a file holds; None where there is none or it is damaged, for sure."""
        try:
            return load()
        except SettingsError as error:
            if error.code == "key_missing" or (error.code == "key_unreadable" and os.access(path, os.R_OK)):
                return None
            raise

    def _put_back(self, path: Path, label: str, plain: bytearray) -> Restored:
        damaged = path.exists()
        if damaged:
            path.rename(path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}"))
        self._write(path, label, plain)
        return "replaced" if damaged else "restored"

    def close(self) -> None:
        """Wipes the passphrase and what came of it. The store is of no use after that."""
        self._passphrase.wipe()
        if self._master is not None:
            wipe(self._master)
            self._master = None

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.pem"

    def _master_key(self) -> bytearray:
        if self._master is None:
            path = self._path(MASTER_NAME)
            self._master = self._read(path, _MASTER_LABEL, lambda p: p.startswith(_MASTER_HEAD), _decode_master)
        return self._master

    def _write_kdf(self) -> pbes2.Kdf:
        """The derivation for new files: by the settings, with the master key file's salt where there is one."""
        if self._kdf is None:
            salt = None
            path = self._path(MASTER_NAME)
            if path.exists():
                salt = _parse(path, _read_file(path), _MASTER_LABEL).kdf.salt
            self._kdf = pbes2.Kdf.new(self._settings, salt)
        return self._kdf

    def _write(self, path: Path, label: str, plain: bytearray) -> None:
        encoded = pbes2.encrypt(plain, self._passphrase, self._write_kdf()).encode()
        _write_file(path, _to_pem(label, encoded))

    def _read(
        self, path: Path, label: str, looks_right: Callable[[bytearray], bool], decode: Callable[[bytearray], T]
    ) -> T:
        encrypted = _parse(path, _read_file(path), label)
        plain, fill = pbes2.decrypt(encrypted, self._passphrase)
        try:
            # A wrong passphrase garbles everything; damage leaves either the beginning or a long padding intact.
            if not looks_right(plain) and fill < 4:
                raise SettingsError(f"the passphrase does not open key {path.stem!r}", code="passphrase_wrong")
            if fill == 0:
                raise _damaged(path)
            body = plain[:-fill]
            try:
                return decode(body)
            except Malformed as error:
                raise _damaged(path, error.detail) from error
            finally:
                wipe(body)
        finally:
            wipe(plain)


def _decode_master(plain: bytearray) -> bytearray:
    if len(plain) != len(_MASTER_HEAD) + 16 or not plain.startswith(_MASTER_HEAD):
        raise Malformed("it holds no master key", code="master_key")
    return plain[len(_MASTER_HEAD) :]


def _exists(path: Path) -> Conflict:
    return Conflict(f"there is a key file for {path.stem!r} already", code="key_exists")


def _damaged(path: Path, why: str = "its contents make no sense") -> SettingsError:
    return SettingsError(f"key file {path} is damaged: {why}; restore it from a backup", code="key_unreadable")


def _to_pem(label: str, encoded: bytes) -> bytes:
    text = base64.b64encode(encoded).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("ascii")


def _parse(path: Path, content: bytes, label: str) -> pbes2.Encrypted:
    begin, end = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    head, found, rest = content.partition(begin)
    body, closed, tail = rest.partition(end)
    if not found or not closed or head.strip() or tail.strip():
        raise _damaged(path, f"it is not PEM of the kind {label}")
    try:
        return pbes2.Encrypted.decode(base64.b64decode(b"".join(body.split()), validate=True))
    except (binascii.Error, Malformed) as error:
        raise _damaged(path, error.detail if isinstance(error, Malformed) else "it is not base64") from error


def _read_file(path: Path) -> bytes:
    """The file, where it is small and for its owner alone."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise SettingsError(f"others may read key file {path}; run: chmod 600 {path}", code="key_mode")
            if not stat.S_ISREG(status.st_mode) or status.st_size > _FILE_MAX_BYTES:
                raise _damaged(path, "it is not a key file")
            return file.read()
    except FileNotFoundError as error:
        raise SettingsError(
            f"there is no key file {path}; run 'qianyan init', or restore it", code="key_missing"
        ) from error
    except OSError as error:
        raise SettingsError(f"key file {path} cannot be read: {error.strerror}", code="key_unreadable") from error


def _write_file(path: Path, content: bytes) -> None:
    """Writes aside, then links into place: the name appears with the whole content on disk, and never replaces one."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.link(aside, path)
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise SettingsError(f"key file {path} cannot be written: {error.strerror}", code="key_unwritable") from error
    finally:
        aside.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
