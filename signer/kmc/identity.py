"""The key with which this installation signs CA-KM messages, as a centre and as an authority, and its certificate.

A key like any other in the engine: frozen, it signs no message more. The certificate is the one that `qianyan key
service` gave it.
"""

from __future__ import annotations

from typing import Final, Protocol

from core.errors import Refused
from core.model import KeyPurpose
from core.store import keys
from core.store.database import Database
from signer._native import sm2
from signer.engine.engine import SigningEngine

_CALLER: Final = "system"


class Identity(Protocol):
    """Who signs. Raises Refused (code "kmc_certificate", "key_frozen", ...), NotFound, Busy or Unavailable."""

    async def certificate(self) -> bytes:
        """The certificate of the key, DER."""
        ...

    async def sign(self, message: bytes) -> bytes:
        """The DER SM2Signature over `message` under the default user id."""
        ...

    async def sign_digest(self, digest: bytes) -> bytes:
        """The DER SM2Signature over a digest of 32 bytes, Z included."""
        ...


class EngineIdentity:
    """An `Identity` over the engine's key `key_id`."""

    def __init__(self, engine: SigningEngine, database: Database, key_id: str) -> None:
        self._engine = engine
        self._database = database
        self._key_id = key_id

    async def certificate(self) -> bytes:
        """See Identity."""
        async with self._database.read() as connection:
            found = (await keys.get(connection, self._key_id)).certificate
        if found is None:
            raise Refused(
                f"key {self._key_id!r} signs CA-KM messages and has no certificate; "
                f"run: qianyan key service {self._key_id} --certificate FILE",
                code="kmc_certificate",
            )
        return found

    async def sign(self, message: bytes) -> bytes:
        """See Identity."""
        return await self.sign_digest(await self._engine.digests(self._key_id, [(message, sm2.DEFAULT_ID)]))

    async def sign_digest(self, digest: bytes) -> bytes:
        """See Identity."""
        raw = await self._engine.sign_digests(
            self._key_id, digest, caller=_CALLER, purpose=KeyPurpose.DATA, listed=False
        )
        return sm2.signature_to_der(raw)
