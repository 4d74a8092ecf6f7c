"""Backups of software keys under a wrapping key that is in m of n shares and nowhere else.

Owns the backup file's form: JSON, each key under SM4-GCM, everything readable in it authenticated with every key. The
wrapping key is random, lives in a bytearray and is wiped; scalars likewise. Knows the key store and the store's
records; not where files and shares are kept.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core.audit import AuditEvent
from core.clock import Clock, rfc3339
from core.errors import Malformed, QianyanError, Refused
from core.model import KeyState
from core.store import audit, counters, keys
from core.store.database import Database
from signer._native import shamir, sm3
from signer.engine import keyinfo, shares
from signer.engine.keystore import MASTER_NAME, KeyStore, Restored
from signer.engine.pbes2 import as_bytes, wipe
from signer.engine.shares import Share

_FORMAT: Final = "qianyan-key-backup"
_VERSION: Final = 1
_CONTEXT: Final = b"qianyan key backup v1\0"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
FILE_MAX_BYTES: Final = 64 << 20

#: What became of a key: "kept": a working file was there; "unknown": the store has no such key, nothing was written.
Outcome = Literal["restored", "replaced", "kept", "unknown"]


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A key in a backup. `public_key` is empty for the master key of escrowed keys."""

    id: str
    public_key: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup file, read."""

    set_id: bytes
    created_at: str
    threshold: int
    digests: tuple[bytes, ...]
    keys: tuple[SealedKey, ...]

    def header(self) -> dict[str, Any]:
        """What is readable of it, in the file's own words."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "set": self.set_id.hex(),
            "created_at": self.created_at,
            "threshold": self.threshold,
            "shares": len(self.digests),
            "digests": [digest.hex() for digest in self.digests],
            "ids": [key.id for key in self.keys],
        }

    def encode(self) -> bytes:
        """The file."""
        sealed = [
            {"id": key.id, "public_key": key.public_key.hex(), "sealed": base64.b64encode(key.sealed).decode()}
            for key in self.keys
        ]
        return orjson.dumps({**self.header(), "keys": sealed}, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def decode(cls, encoded: bytes) -> Backup:
        """Raises Malformed (code "backup") where it is no backup."""
        try:
            value = orjson.loads(encoded)
            found = cls(
                set_id=bytes.fromhex(value["set"]),
                created_at=str(value["created_at"]),
                threshold=int(value["threshold"]),
                digests=tuple(bytes.fromhex(digest) for digest in value["digests"]),
                keys=tuple(
                    SealedKey(
                        str(key["id"]),
                        bytes.fromhex(key["public_key"]),
                        base64.b64decode(key["sealed"], validate=True),
                    )
                    for key in value["keys"]
                ),
            )
            sound = {name: value[name] for name in found.header()} == found.header()
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, binascii.Error) as error:
            raise Malformed("the file is not a key backup", code="backup") from error
        if not sound or len(found.set_id) != shares.SET_BYTES or not 1 <= found.threshold <= len(found.digests) <= 255:
            raise Malformed("the file is not a key backup of a known version, or was changed", code="backup")
        return found

    def digest(self) -> bytes:
        """Authenticated with every key: 32 bytes over the header."""
        return sm3.sm3(_CONTEXT + orjson.dumps(self.header(), option=orjson.OPT_SORT_KEYS))


def join(backup: Backup, found: Sequence[Share]) -> bytearray:
    """The wrapping key; the caller wipes it.

    Raises Refused: "share_set" (a share of another backup), "share_wrong" (not one that was made for this backup),
    "share_twice", "shares_few" (they are right, and not enough).
    """
    by_number: dict[int, Share] = {}
    for share in found:
        if share.set_id != backup.set_id:
            raise Refused(
                f"share {share.number} is of backup {share.set_id.hex()}, not of {backup.set_id.hex()}",
                code="share_set",
            )
        known = backup.digests[share.number - 1] if share.number <= len(backup.digests) else bytes(32)
        if not hmac.compare_digest(share.digest(), known):
            raise Refused(f"share {share.number} is not the one that was made for this backup", code="share_wrong")
        if share.number in by_number:
            raise Refused(f"share {share.number} is there twice", code="share_twice")
        by_number[share.number] = share
    missing = backup.threshold - len(by_number)
    if missing > 0:
        raise Refused(f"{missing} more of the {len(backup.digests)} shares needed", code="shares_few")
    return shares.combine(list(by_number.values()))


def make_backup(
    keystore: KeyStore, records: Sequence[keys.KeyRecord], threshold: int, count: int, now_ms: int, *, master: bool
) -> tuple[Backup, list[Share]]:
    """The backup of the records' keys and its shares, which the caller wipes. `master`: the escrow's key, too.

    Blocks. Raises Refused (code "shares": not 2 <= threshold <= count <= 255), SettingsError where a key cannot be
    opened or is not what the store says.
    """
    if not 2 <= threshold <= count <= shamir.SHARES_MAX:
        raise Refused("shares: 2 <= threshold <= shares <= 255 must hold", code="shares")
    wrapping = bytearray(shares.SECRET_BYTES)
    set_id = bytearray(shares.SET_BYTES)
    shamir.fill_random(set_id)
    try:
        shamir.fill_random(wrapping)
        made = shares.split(wrapping, bytes(set_id), threshold, count)
        names = [SealedKey(record.id, record.public_key, b"") for record in records]
        if master:
            names.insert(0, SealedKey(MASTER_NAME, b"", b""))
        digests = tuple(share.digest() for share in made)
        empty = Backup(bytes(set_id), rfc3339(now_ms), threshold, digests, tuple(names))
        bound = empty.digest()
        sealed = tuple(_sealed(keystore, name, wrapping, bound) for name in names)
        return Backup(empty.set_id, empty.created_at, threshold, digests, sealed), made
    finally:
        wipe(wrapping)


def _sealed(keystore: KeyStore, name: SealedKey, wrapping: bytearray, bound: bytes) -> SealedKey:
    plain = keystore.export_master() if name.id == MASTER_NAME else _scalar(keystore, name)
    nonce = bytearray(_NONCE_BYTES)
    shamir.fill_random(nonce)
    out = bytearray(len(plain) + 15)
    try:
        cipher = Cipher(algorithms.SM4(as_bytes(wrapping)), modes.GCM(bytes(nonce))).encryptor()
        cipher.authenticate_additional_data(_bound_to(name, bound))
        length = cipher.update_into(as_bytes(plain), out)
        cipher.finalize()
        return SealedKey(name.id, name.public_key, bytes(nonce) + bytes(out[:length]) + cipher.tag)
    finally:
        wipe(plain)


def _scalar(keystore: KeyStore, name: SealedKey) -> bytearray:
    key = keystore.load(name.id)
    try:
        if key.public_key.to_bytes() != name.public_key:
            raise Refused(f"the key file of {name.id!r} holds another key than the store knows", code="key_mismatch")
        scalar = bytearray(32)
        key.export_into(scalar)
        return scalar
    finally:
        key.wipe()


def _bound_to(name: SealedKey, bound: bytes) -> bytes:
    return bound + name.id.encode() + b"\0" + name.public_key


def restore(backup: Backup, wrapping: bytearray, keystore: KeyStore, known: dict[str, bytes]) -> dict[str, Outcome]:
    """Puts the keys back whose public key the store knows (`known`, by id): what became of each.

    Blocks. Every key is opened and checked before the first file is written. Raises Malformed (code "backup_damaged"),
    Refused (code "key_mismatch"), or as `KeyStore.restore`.
    """
    bound = backup.digest()
    wanted = [name for name in backup.keys if name.id in known or name.id == MASTER_NAME]
    outcome: dict[str, Outcome] = {name.id: "unknown" for name in backup.keys if name not in wanted}
    for name in wanted:
        _restored(name, wrapping, bound, keystore, known, write=False)
    for name in wanted:
        outcome[name.id] = _restored(name, wrapping, bound, keystore, known, write=True)
    return outcome


def _restored(
    name: SealedKey, wrapping: bytearray, bound: bytes, keystore: KeyStore, known: dict[str, bytes], *, write: bool
) -> Restored:
    plain = _opened(name, wrapping, bound)
    try:
        if name.id == MASTER_NAME:
            return keystore.restore_master(plain) if write else "kept"
        if known[name.id] != name.public_key:
            raise Refused(f"the backup of {name.id!r} is of another key than the store knows", code="key_mismatch")
        key = keyinfo.from_scalar(plain, name.public_key)
        try:
            key.public_key.verify(_CONTEXT, key.sign(_CONTEXT))
            return keystore.restore(name.id, key) if write else "kept"
        finally:
            key.wipe()
    finally:
        wipe(plain)


def _opened(name: SealedKey, wrapping: bytearray, bound: bytes) -> bytearray:
    nonce, sealed, tag = name.sealed[:_NONCE_BYTES], name.sealed[_NONCE_BYTES:-_TAG_BYTES], name.sealed[-_TAG_BYTES:]
    out = bytearray(len(sealed) + 15)
    try:
        cipher = Cipher(algorithms.SM4(as_bytes(wrapping)), modes.GCM(nonce)).decryptor()
        cipher.authenticate_additional_data(_bound_to(name, bound))
        length = cipher.update_into(sealed, out)
        cipher.finalize_with_tag(tag)
        return out[:length]
    except (InvalidTag, ValueError) as error:
        detail = f"the backup of {name.id!r} was changed; nothing was restored"
        raise Malformed(detail, code="backup_damaged") from error
    finally:
        wipe(out)


async def backup_keys(
    database: Database, keystore: KeyStore, only: Sequence[str], threshold: int, count: int, clock: Clock
) -> tuple[Backup, list[Share]]:
    """A backup of every software key that is not compromised and of the escrow's key, or of `only` these keys.

    `record_backup` when it is safe.

    Raises NotFound (code "key_unknown"), Refused (code "key_backend": it is in a device), or as `make_backup`.
    """
    async with database.read() as connection:
        if only:
            records = [await keys.get(connection, key_id) for key_id in sorted(set(only))]
        else:
            records = [record for record in await keys.list_all(connection) if _worth_keeping(record)]
    for record in records:
        if record.backend != "software":
            raise Refused(f"key {record.id!r} is in a device; back up the device", code="key_backend")
    master = not only and keystore.has_master()
    return await asyncio.to_thread(make_backup, keystore, records, threshold, count, clock(), master=master)


def _worth_keeping(record: keys.KeyRecord) -> bool:
    return record.backend == "software" and record.state is not KeyState.COMPROMISED


async def record_backup(database: Database, backup: Backup, actor: str, clock: Clock) -> None:
    """Writes into the audit record that the backup was made."""
    detail: dict[str, str | int] = {
        "keys": len(backup.keys),
        "threshold": backup.threshold,
        "shares": len(backup.digests),
    }
    async with database.write() as connection:
        now_ms = await counters.advance_time(connection, clock())
        event = AuditEvent(actor, "key.backup", backup.set_id.hex(), detail=detail)
        await audit.append(connection, event, at_ms=now_ms)


async def restore_keys(
    database: Database, keystore: KeyStore, backup: Backup, found: Sequence[Share], actor: str, clock: Clock
) -> dict[str, Outcome]:
    """Puts the backup's keys back, and has running processes open them: what became of each. Audited, refused or not.

    Raises as `join` and `restore`.
    """
    try:
        wrapping = join(backup, found)
        try:
            async with database.read() as connection:
                known = {record.id: record.public_key for record in await keys.list_all(connection)}
            outcome = await asyncio.to_thread(restore, backup, wrapping, keystore, known)
        finally:
            wipe(wrapping)
    except QianyanError as error:
        await _record_restore(database, backup, [("-", error.code)], actor, clock)
        raise
    await _record_restore(database, backup, list(outcome.items()), actor, clock)
    return outcome


async def _record_restore(
    database: Database, backup: Backup, rows: Sequence[tuple[str, str]], actor: str, clock: Clock
) -> None:
    async with database.write() as connection:
        now_ms = await counters.advance_time(connection, clock())
        for key_id, outcome in rows:
            detail: dict[str, str | int] = {"set": backup.set_id.hex()}
            event = AuditEvent(actor, "key.restore", key_id, outcome=outcome, detail=detail)
            await audit.append(connection, event, at_ms=now_ms)
            if outcome in ("restored", "replaced") and key_id != MASTER_NAME:
                await keys.announce(connection, key_id, at_ms=now_ms)
