"""The key-management part's master key in hardware modules (GM/T 0018): a `signer.engine.master.MasterKey`.

Each value that is wrapped has a random SM4 key of its own, which seals it here (SM4-GCM) and is itself encrypted in a
module, under a master key that never leaves the modules: outside there is that key under the key-encryption key (KEK)
at an index, in the store. There may be several master keys: the newest wraps, each value says under which it is, and
what is still under the key store's file is opened by that (`fallback`). So the place and the key can be changed while
everything runs, and what is there is brought over afterwards (`Rewrapping`).

Wrapped: 02, the master key's number (4 octets), then for a private key its public key (65), the value's key encrypted
(16), nonce, SM4-GCM over the scalar; for a secret the value's key encrypted, then what signer.engine.master.seal makes.
What precedes the nonce is authenticated.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core.errors import Malformed, SettingsError, Unavailable
from core.store.kmc_masters import MasterRecord, head
from signer._native import sm2
from signer.engine import keyinfo
from signer.engine.master import MasterKey, seal, unseal
from signer.engine.pbes2 import as_bytes, wipe
from signer.engine.sdf import kek
from signer.engine.sdf.kek import BLOCK_BYTES, KekKey
from signer.engine.sdf.pool import SdfPool

_MARK: Final = 0x02
_HEAD_BYTES: Final = 5
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = _HEAD_BYTES + 65 + BLOCK_BYTES + _NONCE_BYTES + 32 + _TAG_BYTES
#: How long a master key that another process made may go unnoticed by who wraps.
_LOOK_EVERY_S: Final = 5.0

_log = structlog.get_logger("qianyan.kmc")

#: Reads the master keys anew; may block.
Reader = Callable[[], Sequence[MasterRecord]]


def number_of(wrapped: bytes) -> int | None:
    """Under which master key a value is; None where it is under the key store's file."""
    if len(wrapped) <= _HEAD_BYTES or wrapped[0] != _MARK:
        return None
    return int.from_bytes(wrapped[1:_HEAD_BYTES], "big")


class HsmMaster:
    """See the module. Methods block; safe from any thread but the event loop's.

    read: the master keys as the store has them. fallback: what opens values under the key store's file.
    """

    def __init__(self, pool: SdfPool, records: Sequence[MasterRecord], read: Reader, fallback: MasterKey) -> None:
        if not records:
            raise SettingsError(
                'kmc.master is "hsm", and there is no master key in the modules yet; run: qianyan kmc master create',
                code="kmc_master_missing",
            )
        self._pool = pool
        self._read = read
        self._fallback = fallback
        self._lock = threading.Lock()
        self._known = {record.id: record for record in records}
        self._looked = time.monotonic()

    def prove(self) -> None:
        """Looks whether the devices in service have the newest master key.

        One that has not is named in the log. Raises SettingsError where none has it; with no device in service nothing
        is known, and what needs the key is refused until one is.
        """
        newest = self._newest()
        outcomes = self._pool.perform_everywhere(lambda session: kek.prove(session, _kek_key(newest)))
        troubles = {name: failure for name, failure in outcomes.items() if isinstance(failure, Exception)}
        for name, failure in troubles.items():
            _log.error("kmc_master_refused", device=name, number=newest.id, reason=str(failure))
        if not outcomes:
            _log.warning("kmc_master_unproven", number=newest.id, reason="no device is in service")
        elif len(troubles) == len(outcomes):
            name, failure = next(iter(troubles.items()))
            raise SettingsError(
                f"no hardware module has master key {newest.id}; {name}: {failure}", code="kmc_master_refused"
            )

    def wrap(self, private_key: sm2.PrivateKey) -> bytes:
        """See MasterKey."""
        return self.wrap_many([private_key])[0]

    def wrap_many(self, private_keys: Sequence[sm2.PrivateKey]) -> list[bytes]:
        """As `wrap`, for many by one call of a module."""
        newest = self._newest(look=True)
        keys = bytearray(os.urandom(BLOCK_BYTES * len(private_keys)))
        try:
            encrypted = self._cipher(newest, bytes(keys), encrypt=True)
            out = []
            for at, private_key in enumerate(private_keys):
                block = slice(at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES)
                bound = head(newest.id) + private_key.public_key.to_bytes() + encrypted[block]
                out.append(_seal_scalar(private_key, keys[block], bound))
            return out
        finally:
            wipe(keys)

    def unwrap(self, wrapped: bytes) -> sm2.PrivateKey:
        """See MasterKey. Raises Unavailable where no module can be asked."""
        number = number_of(wrapped)
        if number is None:
            return self._fallback.unwrap(wrapped)
        if len(wrapped) != _KEY_BYTES:
            raise Malformed("not a wrapped key of a known version", code="wrapped_key")
        bound, rest = wrapped[: _HEAD_BYTES + 65 + BLOCK_BYTES], wrapped[_HEAD_BYTES + 65 + BLOCK_BYTES :]
        key = self._decrypted(number, bound[-BLOCK_BYTES:])
        out, scalar = bytearray(32 + 15), bytearray(32)
        try:
            nonce, sealed, tag = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:-_TAG_BYTES], rest[-_TAG_BYTES:]
            cipher = Cipher(algorithms.SM4(as_bytes(key)), modes.GCM(nonce)).decryptor()
            cipher.authenticate_additional_data(bound)
            cipher.update_into(sealed, out)
            cipher.finalize_with_tag(tag)
            scalar[:] = memoryview(out)[:32]
            return keyinfo.from_scalar(scalar, bound[_HEAD_BYTES : _HEAD_BYTES + 65])
        except InvalidTag as error:
            raise Malformed("the wrapped key was changed, or another master key made it", code="wrapped_key") from error
        finally:
            for secret in (key, out, scalar):
                wipe(secret)

    def wrap_secret(self, purpose: str, secret: bytes) -> bytes:
        """See MasterKey."""
        newest = self._newest(look=True)
        key = bytearray(os.urandom(BLOCK_BYTES))
        try:
            begin = head(newest.id) + self._cipher(newest, bytes(key), encrypt=True)
            return begin + seal(as_bytes(key), secret, begin + purpose.encode())
        finally:
            wipe(key)

    def unwrap_secret(self, purpose: str, wrapped: bytes) -> bytes:
        """See MasterKey. Raises Unavailable where no module can be asked."""
        number = number_of(wrapped)
        if number is None:
            return self._fallback.unwrap_secret(purpose, wrapped)
        begin, sealed = wrapped[: _HEAD_BYTES + BLOCK_BYTES], wrapped[_HEAD_BYTES + BLOCK_BYTES :]
        key = self._decrypted(number, begin[_HEAD_BYTES:])
        try:
            return unseal(as_bytes(key), sealed, begin + purpose.encode())
        except Malformed as error:
            raise Malformed(
                "the wrapped secret was changed, or another master key made it", code="wrapped_key"
            ) from error
        finally:
            wipe(key)

    @property
    def newest(self) -> int:
        """The number of the key that wraps."""
        return self._newest().id

    def _decrypted(self, number: int, encrypted: bytes) -> bytearray:
        """A value's key, to be wiped by the caller."""
        if len(encrypted) != BLOCK_BYTES:
            raise Malformed("not a wrapped value of a known version", code="wrapped_key")
        with self._lock:
            record = self._known.get(number)
        if record is None:
            self._look()
            record = self._known.get(number)
        if record is None:
            raise Malformed(f"the store has no master key {number}", code="wrapped_key")
        return bytearray(self._cipher(record, encrypted, encrypt=False))

    def _cipher(self, record: MasterRecord, blocks: bytes, *, encrypt: bool) -> bytes:
        work = kek.encrypt if encrypt else kek.decrypt
        try:
            return self._pool.perform(lambda session: work(session, _kek_key(record), blocks))
        except SettingsError as error:  # while it runs, that is an outage, not a start that fails
            _log.error("kmc_master_refused", number=record.id, code=error.code, reason=error.detail)
            raise Unavailable("no hardware module has the master key", code=error.code, retry_after_s=30) from error

    def _newest(self, *, look: bool = False) -> MasterRecord:
        if look and time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._look()
        with self._lock:
            return self._known[max(self._known)]

    def _look(self) -> None:
        found = {record.id: record for record in self._read()}
        with self._lock:
            self._known.update(found)
            self._looked = time.monotonic()


def _kek_key(record: MasterRecord) -> KekKey:
    return KekKey(record.kek_index, record.wrapped, record.check_plain, record.check_cipher)


def _seal_scalar(private_key: sm2.PrivateKey, key: bytearray, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    scalar, out = bytearray(32), bytearray(32 + 15)
    try:
        private_key.export_into(scalar)
        cipher = Cipher(algorithms.SM4(as_bytes(key)), modes.GCM(nonce)).encryptor()
        cipher.authenticate_additional_data(bound)
        length = cipher.update_into(as_bytes(scalar), out)
        cipher.finalize()
        return bound + nonce + bytes(out[:length]) + cipher.tag
    finally:
        wipe(scalar)
        wipe(key)
