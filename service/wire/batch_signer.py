"""A key of the signing engine that takes many messages at once: `core.ports.BatchSigner`.

Owns nothing. Every use is admitted and accounted for by the engine, once a batch.
"""

from __future__ import annotations

from core.model import KeyPurpose
from signer._native import sm2
from signer.engine.engine import SigningEngine


class EngineBatchSigner:
    """One key. Raises NotFound (code "key_unknown") where there is none of that id."""

    def __init__(self, engine: SigningEngine, key_id: str, purpose: KeyPurpose) -> None:
        self._engine = engine
        self._key_id = key_id
        self._purpose = purpose
        self.public_key = engine.public_key(key_id)
        self._public = sm2.PublicKey.from_bytes(self.public_key)

    def sign_now(self, messages: list[bytes]) -> bytes | None:
        """See BatchSigner."""
        digests = sm2.digest_many(self._public, messages)
        return self._engine.sign_now(self._key_id, digests, caller="system", purpose=self._purpose)

    async def sign_many(self, messages: list[bytes]) -> bytes:
        """See BatchSigner."""
        digests = sm2.digest_many(self._public, messages)
        return await self._engine.sign_digests(
            self._key_id, digests, caller="system", purpose=self._purpose, listed=False
        )
