"""The routes by which applications sign and verify.

Knows routes, media types and bounds; not threads, SQL or certificates. Bodies are read by hand (signer.signing.fields)
because these are the hot paths; errors are raised as core.errors and rendered by the service.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from core.clock import rfc3339
from core.errors import Malformed, QianyanError, TooLarge
from core.http import json_response, read_body, read_json, require, to_base64
from core.model import serial_to_hex
from signer._native import sm2
from signer.engine.engine import SigningEngine
from signer.signing import fields
from signer.signing.settings import SigningSettings
from signer.signing.verification import Verdict, VerificationService, VerifyItem

_ALGORITHM: Final = "sm2-with-sm3"
_OCTETS: Final = "application/octet-stream"
_SIGN_MEMBERS: Final = frozenset({"key", "items", "digest", "data", "user_id"})
_SIGN_ITEM_MEMBERS: Final = frozenset({"digest", "data", "user_id"})
_VERIFY_ITEM_MEMBERS: Final = frozenset({"certificate", "public_key", "data", "digest", "signature", "user_id", "at"})
_SIGNATURE_MAX_BYTES: Final = 256


class SigningRoutes:
    """`private()` and `public()` are mounted on the two listeners by the service."""

    def __init__(self, engine: SigningEngine, verification: VerificationService, settings: SigningSettings) -> None:
        self._engine = engine
        self._verification = verification
        self._settings = settings

    def private(self) -> list[web.RouteDef]:
        """Signing: for callers with scope `sign`."""
        return [
            web.post("/v1/sign", self.sign),
            web.post("/v1/keys/{key}/sign", self.sign_digests),
        ]

    def public(self) -> list[web.RouteDef]:
        """Verification: for everybody."""
        return [web.post("/v1/verify", self.verify)]

    async def sign(self, request: web.Request) -> web.Response:
        """POST /v1/sign: one digest or data, or `items` of them, under one key."""
        caller = require(request, "sign")
        body = fields.members(await read_json(request, self._settings.max_body_bytes), _SIGN_MEMBERS, "")
        key_id = fields.text(body, "key", "", max_chars=64)
        many = "items" in body
        if many and len(body) != 2:
            raise Malformed("'items' stands in place of 'digest', 'data' and 'user_id'", code="body", field="items")
        digests = await self._digests(key_id, self._sign_items(body) if many else [("", body)])
        raw = await self._engine.sign_digests(key_id, digests, caller=caller.id)
        signatures = [to_base64(sm2.signature_to_der(raw[at : at + 64])) for at in range(0, len(raw), 64)]
        if many:
            return json_response({"signatures": signatures, "algorithm": _ALGORITHM})
        return json_response({"signature": signatures[0], "algorithm": _ALGORITHM})

    async def sign_digests(self, request: web.Request) -> web.Response:
        """POST /v1/keys/{key}/sign: n digests of 32 octets in, n signatures r ‖ s of 64 octets out."""
        caller = require(request, "sign")
        if request.content_type != _OCTETS:
            raise Malformed(f"the body must be {_OCTETS}", code="content_type")
        digests = await read_body(request, self._settings.max_digests * 32)
        if not digests or len(digests) % 32:
            raise Malformed("the body must be one or more digests of 32 octets", code="digest_length")
        raw = await self._engine.sign_digests(request.match_info["key"], digests, caller=caller.id)
        return web.Response(body=raw, content_type=_OCTETS)

    async def verify(self, request: web.Request) -> web.Response:
        """POST /v1/verify: a result per item, in order."""
        body = fields.members(await read_json(request, self._settings.max_body_bytes), {"items"}, "")
        items = self._items(body, self._settings.max_verify_items)
        results: list[dict[str, Any] | None] = []
        parsed: list[VerifyItem] = []
        for index, value in enumerate(items):
            try:
                parsed.append(self._verify_item(value, f"items[{index}]"))
                results.append(None)
            except QianyanError as error:
                results.append({"valid": False, "reason": "malformed", "detail": error.detail})
        verdicts = iter(await self._verification.verify(parsed))
        return json_response({"results": [rendered(next(verdicts)) if r is None else r for r in results]})

    def _items(self, body: dict[str, Any], limit: int) -> list[Any]:
        items = body.get("items")
        if not isinstance(items, list) or not items:
            raise Malformed("items must be a list that is not empty", code="body", field="items")
        if len(items) > limit:
            raise TooLarge(f"items has {len(items)} entries; at most {limit} are taken", code="items", field="items")
        return items

    def _sign_items(self, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """(where, item) of each."""
        return [
            (f"items[{index}]", fields.members(value, _SIGN_ITEM_MEMBERS, f"items[{index}]"))
            for index, value in enumerate(self._items(body, self._settings.max_items))
        ]

    async def _digests(self, key_id: str, items: list[tuple[str, dict[str, Any]]]) -> bytes:
        """What is to be signed for each item, in order; data is hashed natively."""
        digests: list[bytes] = []
        messages: list[tuple[bytes, bytes]] = []
        places: list[int] = []
        for where, item in items:
            if fields.one_of(item, ("digest", "data"), where) == "digest":
                if "user_id" in item:
                    field = fields.path(where, "user_id")
                    raise Malformed(f"{field} belongs to 'data'; a digest has it in it", code="body", field=field)
                digests.append(fields.digest(item, "digest", where))
                continue
            data = fields.binary(item, "data", where, max_bytes=self._settings.max_data_bytes)
            messages.append((data, fields.user_id(item, where, sm2.DEFAULT_ID)))
            places.append(len(digests))
            digests.append(b"")
        if messages:
            hashed = await self._engine.digests(key_id, messages)
            for at, place in enumerate(places):
                digests[place] = hashed[at * 32 : at * 32 + 32]
        return b"".join(digests)

    def _verify_item(self, value: Any, where: str) -> VerifyItem:
        item = fields.members(value, _VERIFY_ITEM_MEMBERS, where)
        settings = self._settings
        by_certificate = fields.one_of(item, ("certificate", "public_key"), where) == "certificate"
        over_data = fields.one_of(item, ("data", "digest"), where) == "data"
        if "user_id" in item and not over_data:
            raise Malformed(f"{where}.user_id belongs to 'data'; a digest has it in it", code="body")
        return VerifyItem(
            signature=fields.binary(item, "signature", where, max_bytes=_SIGNATURE_MAX_BYTES),
            certificate=fields.binary(item, "certificate", where, max_bytes=settings.max_certificate_bytes)
            if by_certificate
            else None,
            public_key=None if by_certificate else fields.binary(item, "public_key", where, max_bytes=65),
            data=fields.binary(item, "data", where, max_bytes=settings.max_data_bytes) if over_data else None,
            digest=None if over_data else fields.digest(item, "digest", where),
            user_id=fields.user_id(item, where, sm2.DEFAULT_ID),
            at_ms=fields.time_ms(item, "at", where),
        )


def rendered(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the API writes it."""
    out: dict[str, Any] = {"valid": verdict.valid, "reason": verdict.reason}
    if verdict.detail is not None:
        out["detail"] = verdict.detail
    if verdict.serial is not None:
        out["serial"] = serial_to_hex(verdict.serial)
    if verdict.authority_id is not None:
        out["authority"] = verdict.authority_id
    if verdict.checked_at_ms is not None:
        out["checked_at"] = rfc3339(verdict.checked_at_ms)
    if verdict.revoked_at_ms is not None:
        out["revoked_at"] = rfc3339(verdict.revoked_at_ms)
    if verdict.revocation_reason is not None:
        out["revocation_reason"] = verdict.revocation_reason.label
    return out
