"""The routes by which applications have something decrypted with a key that is kept here.

Knows routes, media types and bounds; not keys or structures. Plaintexts are wiped once the answer is written; the
answer itself is text that Python keeps until it is sent.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from core.errors import Malformed, Refused, TooLarge
from core.http import json_response, read_json, require, to_base64
from signer.engine.backend import Encoding
from signer.engine.pbes2 import as_bytes, wipe
from signer.signing import fields
from signer.signing.decryption import DecryptionService
from signer.signing.settings import SigningSettings

_MEMBERS: Final = frozenset({"key", "ciphertext", "encoding", "items"})
_ITEM_MEMBERS: Final = frozenset({"ciphertext"})
_CMS_MEMBERS: Final = frozenset({"key", "cms"})
_ENCODINGS: Final[dict[str, Encoding]] = {"der": "der", "c1c3c2": "c1c3c2"}
#: What a ciphertext has beside its plaintext, at most: C1 and C3, and the DER around them.
_OVERHEAD_BYTES: Final = 160
_FAILED: Final = "decrypt_failed"


class DecryptRoutes:
    """`private()` is mounted on the private listener by the service."""

    def __init__(self, service: DecryptionService, settings: SigningSettings) -> None:
        self._service = service
        self._settings = settings

    def private(self) -> list[web.RouteDef]:
        """For callers with scope `decrypt`."""
        return [web.post("/v1/decrypt", self.decrypt), web.post("/v1/cms/decrypt", self.open_message)]

    async def decrypt(self, request: web.Request) -> web.Response:
        """POST /v1/decrypt: one SM2 ciphertext, or `items` of them, under one key."""
        caller = require(request, "decrypt")
        body = fields.members(await read_json(request, self._settings.max_body_bytes), _MEMBERS, "")
        key_id = fields.text(body, "key", "", max_chars=64)
        encoding = _ENCODINGS.get(str(body.get("encoding", "der")))
        if encoding is None:
            raise Malformed("encoding is 'der' or 'c1c3c2'", code="body", field="encoding")
        many = "items" in body
        ciphertexts = self._items(body) if many else [self._ciphertext(body, "")]
        found = await self._service.decrypt(key_id, ciphertexts, encoding=encoding, caller=caller.id)
        if many:
            return json_response({"results": [_rendered(plaintext) for plaintext in found]})
        if found[0] is None:
            raise Refused("the ciphertext cannot be decrypted", code=_FAILED, field="ciphertext")
        return json_response(_rendered(found[0]))

    async def open_message(self, request: web.Request) -> web.Response:
        """POST /v1/cms/decrypt: the content of EnvelopedData."""
        caller = require(request, "decrypt")
        settings = self._settings
        body = fields.members(await read_json(request, settings.max_body_bytes), _CMS_MEMBERS, "")
        content = await self._service.open_message(
            fields.text(body, "key", "", max_chars=64),
            fields.binary(body, "cms", "", max_bytes=settings.max_body_bytes),
            caller=caller.id,
        )
        return json_response({"data": _text(content)})

    def _items(self, body: dict[str, Any]) -> list[bytes]:
        if "ciphertext" in body:
            raise Malformed("'items' stands in place of 'ciphertext'", code="body", field="items")
        items, limit = body["items"], self._settings.max_ciphertexts
        if not isinstance(items, list) or not items:
            raise Malformed("items must be a list that is not empty", code="body", field="items")
        if len(items) > limit:
            raise TooLarge(f"items has {len(items)} entries; at most {limit} are taken", code="items", field="items")
        return [
            self._ciphertext(fields.members(item, _ITEM_MEMBERS, f"items[{index}]"), f"items[{index}]")
            for index, item in enumerate(items)
        ]

    def _ciphertext(self, value: dict[str, Any], where: str) -> bytes:
        return fields.binary(value, "ciphertext", where, max_bytes=self._settings.max_data_bytes + _OVERHEAD_BYTES)


def _rendered(plaintext: bytearray | None) -> dict[str, str]:
    return {"code": _FAILED} if plaintext is None else {"plaintext": _text(plaintext)}


def _text(plaintext: bytearray) -> str:
    try:
        return to_base64(as_bytes(plaintext))
    finally:
        wipe(plaintext)
