"""The routes for CMS messages and for encryption.

Knows routes, media types and bounds; not structures, keys or the store.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web

from core.errors import Malformed, Refused
from core.http import json_response, read_json, require, to_base64
from signer._native import sm2
from signer.signing import fields
from signer.signing.cms_service import CmsService
from signer.signing.settings import SigningSettings
from signer.signing.verify_http import rendered

_SIGN_MEMBERS: Final = frozenset({"key", "data", "user_id", "detached", "certificates"})
_VERIFY_MEMBERS: Final = frozenset({"cms", "data", "user_id", "at"})
_ENCRYPT_MEMBERS: Final = frozenset({"certificate", "public_key", "data", "format"})


class CmsRoutes:
    """`private()` and `public()` are mounted on the two listeners by the service."""

    def __init__(self, service: CmsService, settings: SigningSettings) -> None:
        self._service = service
        self._settings = settings

    def private(self) -> list[web.RouteDef]:
        """For callers with scope `sign`; verification for all who reach the listener."""
        return [
            web.post("/v1/cms/sign", self.sign),
            web.post("/v1/encrypt", self.encrypt),
            *self.public(),
        ]

    def public(self) -> list[web.RouteDef]:
        """Verification: for everybody."""
        return [web.post("/v1/cms/verify", self.verify)]

    async def sign(self, request: web.Request) -> web.Response:
        """POST /v1/cms/sign: `data` as SignedData."""
        caller = require(request, "sign")
        body = fields.members(await read_json(request, self._settings.max_body_bytes), _SIGN_MEMBERS, "")
        encoded = await self._service.sign(
            fields.text(body, "key", "", max_chars=64),
            fields.binary(body, "data", "", max_bytes=self._settings.max_data_bytes),
            caller=caller.id,
            detached=fields.flag(body, "detached", "", default=False),
            include="path" if fields.flag(body, "certificates", "", default=True) else "none",
            user_id=fields.user_id(body, "", sm2.DEFAULT_ID),
        )
        return json_response({"cms": to_base64(encoded)})

    async def verify(self, request: web.Request) -> web.Response:
        """POST /v1/cms/verify: a result per signer, and the content once all of them are valid."""
        settings = self._settings
        body = fields.members(await read_json(request, settings.max_body_bytes), _VERIFY_MEMBERS, "")
        data = None
        if body.get("data") is not None:
            data = fields.binary(body, "data", "", max_bytes=settings.max_data_bytes)
        verified = await self._service.verify(
            fields.binary(body, "cms", "", max_bytes=settings.max_body_bytes),
            data=data,
            at_ms=fields.time_ms(body, "at", ""),
            user_id=fields.user_id(body, "", sm2.DEFAULT_ID),
        )
        answer: dict[str, Any] = {
            "valid": verified.valid,
            "results": [rendered(verdict) for verdict in verified.verdicts],
        }
        if verified.valid and verified.content is not None:
            answer["content"] = to_base64(verified.content)
        return json_response(answer)

    async def encrypt(self, request: web.Request) -> web.Response:
        """POST /v1/encrypt: `data` for a certificate's holder, or under a bare public key."""
        require(request, "sign")
        settings = self._settings
        body = fields.members(await read_json(request, settings.max_body_bytes), _ENCRYPT_MEMBERS, "")
        to_certificate = fields.one_of(body, ("certificate", "public_key"), "") == "certificate"
        data = fields.binary(body, "data", "", max_bytes=settings.max_data_bytes)
        if not data:
            raise Refused("SM2 does not encrypt nothing: data is empty", code="data_empty", field="data")
        form = body.get("format", "cms" if to_certificate else "sm2")
        if form not in ("sm2", "cms") or (form == "cms" and not to_certificate):
            raise Malformed("format is 'sm2', or with a certificate 'cms'", code="body", field="format")
        if not to_certificate:
            sealed = await _seal(_bare_key(fields.binary(body, "public_key", "", max_bytes=65)), data)
            return json_response({"ciphertext": to_base64(sealed), "format": form})
        certificate = fields.binary(body, "certificate", "", max_bytes=settings.max_certificate_bytes)
        if form == "cms":
            sealed = await self._service.encrypt(certificate, data)
        else:
            sealed = await _seal(await self._service.check_recipient(certificate), data)
        return json_response({"ciphertext": to_base64(sealed), "format": form})


async def _seal(key: sm2.PublicKey, data: bytes) -> bytes:
    """SM2Cipher (GM/T 0009 §7.2), DER."""
    return await asyncio.to_thread(key.encrypt, data, encoding="der")


def _bare_key(encoded: bytes) -> sm2.PublicKey:
    try:
        return sm2.PublicKey.from_bytes(encoded)
    except sm2.InvalidKey as error:
        raise Malformed("public_key is not an SM2 point", code="public_key", field="public_key") from error
