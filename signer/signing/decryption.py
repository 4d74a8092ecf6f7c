"""Opens what was encrypted for a key of the engine: SM2 ciphertexts and CMS EnvelopedData.

Knows the engine, the store's certificate of a key, and messages; not HTTP. What cannot be opened is said in one way,
whatever was wrong with it. Content keys are wiped here; plaintexts are bytearrays that the caller wipes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from core.errors import Refused, TooLarge
from core.store import keys
from core.store.database import Database
from signer.engine.backend import Encoding
from signer.engine.engine import SigningEngine
from signer.engine.pbes2 import wipe
from signer.signing import cms_enveloped
from signer.signing.cms_enveloped import EnvelopedData
from signer.signing.settings import SigningSettings


class DecryptionService:
    """See the module."""

    def __init__(self, engine: SigningEngine, database: Database, settings: SigningSettings) -> None:
        self._engine = engine
        self._database = database
        self._settings = settings

    async def decrypt(
        self, key_id: str, ciphertexts: Sequence[bytes], *, encoding: Encoding, caller: str
    ) -> list[bytearray | None]:
        """Each plaintext; None for what cannot be decrypted. Raises as `SigningEngine.decrypt`."""
        return await self._engine.decrypt(key_id, [[(encoding, text)] for text in ciphertexts], caller=caller)

    async def open_message(self, key_id: str, encoded: bytes, *, caller: str) -> bytearray:
        """The content of EnvelopedData (GM/T 0010-2012 §9) for the holder of the key's certificate.

        Raises Malformed, Refused or TooLarge for what is no such message; Refused (code "key_certificate": the key has
        none; "cms_recipient": the message is not for it; "cms_decrypt": it cannot be opened, whatever the cause), and
        as `SigningEngine.decrypt`. The message is looked at before the key is used: a message for others costs no use.
        """
        inline = len(encoded) <= self._settings.verify_inline_max_bytes
        parse = cms_enveloped.parse_enveloped_data
        message = parse(encoded) if inline else await asyncio.to_thread(parse, encoded)
        if len(message.ciphertext) > self._settings.max_data_bytes + 16:
            limit = self._settings.max_data_bytes
            raise TooLarge(f"the content has more than {limit} bytes", code="field_size", field="cms")
        async with self._database.read() as connection:
            certificate = (await keys.get(connection, key_id)).certificate
        readings: list[tuple[Encoding, bytes]] = []
        missing: Refused | None = None
        if certificate is None:
            missing = Refused(f"key {key_id!r} has no certificate", code="key_certificate", field="key")
        else:
            try:
                readings = list(message.recipient(certificate).readings())
            except Refused as error:
                missing = error
        if missing is not None:
            await self._engine.may_decrypt(key_id, caller=caller)  # who may not use the key learns no more than that
            raise missing
        (content_key,) = await self._engine.decrypt(key_id, [readings], caller=caller)
        if content_key is None:
            raise cms_enveloped.cannot_open()
        try:
            return await self._content(message, content_key, inline)
        finally:
            wipe(content_key)

    @staticmethod
    async def _content(message: EnvelopedData, content_key: bytearray, inline: bool) -> bytearray:
        if inline:
            return message.decrypt(content_key)
        return await asyncio.to_thread(message.decrypt, content_key)
