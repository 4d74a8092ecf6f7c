"""Seals what is kept of holders, and makes the keyed hashes by which they are found.

Keys are random, one row each in the store, wrapped under the master key: those that seal (SM4-GCM; each holder's row
says which, the newest is used, older ones open) and one for the hashes (HMAC-SM3), which stays. What is sealed is bound
to the holder's id, kind and hash, so that rows cannot be exchanged. Owns the unwrapped keys of this process.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes, hmac
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import Clock
from core.errors import Unavailable
from core.store import holders
from core.store.database import Database
from core.store.holders import HolderKey, HolderRecord
from signer.engine.master import MasterKey, seal, unseal
from signer.holders.claim import HolderClaim

#: SM4 keys have 16 octets; the key of an HMAC has the hash's own length.
_KEY_BYTES: Final = {"seal": 16, "index": 32}


@dataclass(slots=True)
class _Keys:
    """Unwrapped, by id. `newest` seals."""

    seal: dict[int, bytes] = field(default_factory=dict, repr=False)
    index: bytes = field(default=b"", repr=False)

    @property
    def newest(self) -> int:
        return max(self.seal)


class Vault:
    """See the module. Keys are made with the first use, and read anew where a row names one that is not known yet."""

    def __init__(self, database: Database, master: MasterKey, clock: Clock) -> None:
        self._database = database
        self._master = master
        self._clock = clock
        self._keys: _Keys | None = None
        self._loading = asyncio.Lock()

    async def number_hash(self, claim: HolderClaim) -> bytes:
        """By what the holder is found: 32 bytes over kind and number."""
        return await self.keyed_hash("number", f"{claim.kind}\0{claim.number}".encode())

    async def keyed_hash(self, purpose: str, data: bytes) -> bytes:
        """HMAC-SM3 under the index key, 32 bytes; another purpose gives another hash."""
        mac = hmac.HMAC((await self._loaded()).index, hashes.SM3())
        mac.update(purpose.encode() + b"\0" + data)
        return mac.finalize()

    async def seal(self, holder_id: str, number_hash: bytes, claim: HolderClaim) -> tuple[int, bytes]:
        """The key's id and the sealed bytes."""
        keys = await self._loaded()
        key_id = keys.newest
        return key_id, seal(keys.seal[key_id], claim.encode(), _bound(holder_id, claim.kind, number_hash, key_id))

    async def open(self, record: HolderRecord) -> HolderClaim:
        """What a row holds. Raises Malformed (code "sealed") where it was changed."""
        keys = await self._loaded()
        if record.key_id not in keys.seal:
            keys = await self._load()
        if record.key_id not in keys.seal:
            raise Unavailable("the key of this holder's data is not in the store", code="holder_key_missing")
        bound = _bound(record.id, record.kind, record.number_hash, record.key_id)
        return HolderClaim.decode(record.kind, unseal(keys.seal[record.key_id], record.sealed, bound))

    async def rotate(self) -> int:
        """Makes a new sealing key, which seals from now on, and returns its id; `reseal` brings the rows to it."""
        await self._loaded()
        async with self._database.write() as connection:
            await holders.lock_keys(connection)
            key_id = await self._add(connection, "seal")
        await self._load()
        return key_id

    async def reseal(self, *, limit: int = 500) -> int:
        """Seals at most `limit` rows anew that are under an older key; returns how many, 0 when none is left."""
        newest = (await self._load()).newest
        async with self._database.write() as connection:
            rows = await holders.sealed_otherwise(connection, newest, limit=limit)
            for row in rows:
                key_id, sealed = await self.seal(row.id, row.number_hash, await self.open(row))
                await holders.reseal(connection, row.id, key_id, sealed)
        return len(rows)

    async def _loaded(self) -> _Keys:
        return self._keys or await self._load()

    async def _load(self) -> _Keys:
        async with self._loading:
            async with self._database.read() as connection:
                rows = await holders.list_keys(connection)
            if {row.purpose for row in rows} != set(_KEY_BYTES):
                rows = await self._create()
            keys = _Keys()
            for row in rows:
                secret = await asyncio.to_thread(self._master.unwrap_secret, _purpose(row.purpose, row.id), row.wrapped)
                if row.purpose == "seal":
                    keys.seal[row.id] = secret
                else:
                    keys.index = secret
            self._keys = keys
            return keys

    async def _create(self) -> list[HolderKey]:
        async with self._database.write() as connection:
            await holders.lock_keys(connection)
            there = {row.purpose for row in await holders.list_keys(connection)}
            for purpose in _KEY_BYTES:
                if purpose not in there:
                    await self._add(connection, purpose)
            return list(await holders.list_keys(connection))

    async def _add(self, connection: AsyncConnection, purpose: str) -> int:
        rows = await holders.list_keys(connection)
        key_id = max((row.id for row in rows), default=0) + 1
        secret = secrets.token_bytes(_KEY_BYTES[purpose])
        wrapped = await asyncio.to_thread(self._master.wrap_secret, _purpose(purpose, key_id), secret)
        await holders.add_key(connection, HolderKey(key_id, purpose, wrapped, self._clock()))
        return key_id


def _purpose(purpose: str, key_id: int) -> str:
    return f"holder {purpose} {key_id}"


def _bound(holder_id: str, kind: str, number_hash: bytes, key_id: int) -> bytes:
    return f"{holder_id}\0{kind}\0{key_id}\0".encode() + number_hash
