"""Seals what is kept of holders, and makes the keyed hashes by which they are found.

Keys are random, one row each in the store, wrapped under the master key: those that seal (SM4-GCM; each holder's row
says which, the newest is used, older ones open) and one for the hashes (HMAC-SM3), which stays. What is sealed is bound
to the holder's id, kind and hash, so that rows cannot be exchanged. Owns the unwrapped keys of this process, and looks
every minute whether there is a newer one: so a key that has not been the newest for an hour seals nothing any more, in
any process, and may go when nothing is left under it (signer.registration.rekeying).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes, hmac
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import Clock
from core.errors import Unavailable
from core.store import holders
from core.store.database import Database
from core.store.holders import HolderKey, HolderRecord
from signer._native import sm3
from signer.engine.master import MasterKey, seal, unseal
from signer.holders.claim import HolderClaim

#: SM4 keys have 16 octets; the key of an HMAC has the hash's own length.
_KEY_BYTES: Final = {"seal": 16, "index": 32}
_BLOCK_BYTES: Final = 64
#: How long keys are used before the store is asked whether there are newer ones.
KEYS_FOR_S: Final = 60.0


@dataclass(slots=True)
class _Keys:
    """Unwrapped, by id. `newest` seals. rows: as the store has them; until: of the monotonic clock."""

    rows: Sequence[HolderKey]
    until: float
    seal: dict[int, bytes] = field(default_factory=dict, repr=False)
    index: bytes = field(default=b"", repr=False)

    @property
    def newest(self) -> int:
        return max(self.seal)


class Sealer:
    """The keys as they were when it was made, for many holders at once; needs no event loop.

    The hashes are HMAC-SM3 (RFC 2104) of native batches: both passes over all claims.
    """

    def __init__(self, index: bytes, key_id: int, key: bytes) -> None:
        padded = index.ljust(_BLOCK_BYTES, b"\0")
        self._inner = bytes(octet ^ 0x36 for octet in padded)
        self._outer = bytes(octet ^ 0x5C for octet in padded)
        self._key_id = key_id
        self._key = key

    def number_hashes(self, claims: Sequence[HolderClaim]) -> list[bytes]:
        """As `Vault.number_hash`, of each."""
        named = [self._inner + _number(claim) for claim in claims]
        first = sm3.sm3_many(named)
        second = sm3.sm3_many([self._outer + digest for digest in _each(first)])
        return _each(second)

    def seal(self, holder_id: str, number_hash: bytes, claim: HolderClaim) -> tuple[int, bytes]:
        """As `Vault.seal`."""
        bound = _bound(holder_id, claim.kind, number_hash, self._key_id)
        return self._key_id, seal(self._key, claim.encode(), bound)


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
        mac = hmac.HMAC((await self._loaded()).index, hashes.SM3())
        mac.update(_number(claim))
        return mac.finalize()

    async def sealer(self) -> Sealer:
        """What seals and hashes now, for many holders; not to be kept longer than that takes: keys change."""
        keys = await self._load()
        return Sealer(keys.index, keys.newest, keys.seal[keys.newest])

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

    async def seal_octets(self, name: str, data: bytes) -> bytes:
        """Seals what is not a holder's row and is named `name`: the key's id (4 octets), then the sealed bytes."""
        keys = await self._loaded()
        key_id = keys.newest
        return key_id.to_bytes(4, "big") + seal(keys.seal[key_id], data, f"{name}\0{key_id}".encode())

    async def open_octets(self, name: str, sealed: bytes) -> bytes:
        """What `seal_octets` sealed under that name. Raises Malformed (code "sealed"), Unavailable."""
        keys = await self._loaded()
        key_id = int.from_bytes(sealed[:4], "big")
        if key_id not in keys.seal:
            keys = await self._load()
        if key_id not in keys.seal:
            raise Unavailable("the key of sealed data is not in the store", code="holder_key_missing")
        return unseal(keys.seal[key_id], sealed[4:], f"{name}\0{key_id}".encode())

    async def rotate(self) -> int:
        """Makes a new sealing key, which seals from now on, and returns its id; `reseal` brings the rows to it."""
        await self._loaded()
        async with self._database.write() as connection:
            await holders.lock_keys(connection)
            key_id = await self._add(connection, "seal")
        await self._load()
        return key_id

    async def newest(self) -> int:
        """The id of the key that seals now."""
        return (await self._load()).newest

    async def reseal(self, *, after: str = "", limit: int = 500) -> list[str]:
        """Seals at most `limit` holders' rows behind the id `after` anew that are under an older key; returns their
        ids in order, none when none is left."""
        newest = (await self._load()).newest
        async with self._database.write() as connection:
            rows = await holders.sealed_otherwise(connection, newest, after=after, limit=limit)
            for row in rows:
                key_id, sealed = await self.seal(row.id, row.number_hash, await self.open(row))
                await holders.reseal(connection, row.id, key_id, sealed)
        return [row.id for row in rows]

    async def _loaded(self) -> _Keys:
        keys = self._keys
        return keys if keys is not None and time.monotonic() < keys.until else await self._load()

    async def _load(self) -> _Keys:
        async with self._loading:
            until = time.monotonic() + KEYS_FOR_S
            async with self._database.read() as connection:
                rows = await holders.list_keys(connection)
            if {row.purpose for row in rows} != set(_KEY_BYTES):
                rows = await self._create()
            if self._keys is not None and list(self._keys.rows) == list(rows):
                self._keys.until = until
                return self._keys
            keys = _Keys(list(rows), until)
            for row in rows:
                purpose = wrapping_purpose(row.purpose, row.id)
                secret = await asyncio.to_thread(self._master.unwrap_secret, purpose, row.wrapped)
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
        wrapped = await asyncio.to_thread(self._master.wrap_secret, wrapping_purpose(purpose, key_id), secret)
        await holders.add_key(connection, HolderKey(key_id, purpose, wrapped, self._clock()))
        return key_id


def _number(claim: HolderClaim) -> bytes:
    """What the hash of a holder is over: purpose, kind, number."""
    return f"number\0{claim.kind}\0{claim.number}".encode()


def _each(digests: bytes) -> list[bytes]:
    return [digests[at : at + 32] for at in range(0, len(digests), 32)]


def wrapping_purpose(purpose: str, key_id: int) -> str:
    """What a key of the vault is wrapped for, under the master key."""
    return f"holder {purpose} {key_id}"


def _bound(holder_id: str, kind: str, number_hash: bytes, key_id: int) -> bytes:
    return f"{holder_id}\0{kind}\0{key_id}\0".encode() + number_hash
