"""The routes by which applications sign.

Knows routes, media types and bounds; not threads, SQL or certificates. Bodies are read by hand (signer.signing.fields)
because these are the hot paths; errors are raised as core.errors and rendered by the service.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from core.errors import Malformed, TooLarge
from core.http import Caller, json_response, read_body, read_json, require, to_base64
from signer._native import sm2
from signer.engine.engine import SigningEngine
from signer.engine.keyuse import APPLICATION_PURPOSES
from signer.signing import fields
from signer.signing.settings import SigningSettings

_ALGORITHM: Final = "sm2-with-sm3"
_OCTETS: Final = "application/octet-stream"
_SIGN_MEMBERS: Final = frozenset({"key", "items", "digest", "data", "user_id"})
_SIGN_ITEM_MEMBERS: Final = frozenset({"digest", "data", "user_id"})


class SigningRoutes:
    """`private()` is mounted on the private listener by the service."""

    def __init__(self, engine: SigningEngine, settings: SigningSettings) -> None:
        self._engine = engine
        self._settings = settings

    def private(self) -> list[web.RouteDef]:
        """Signing: for callers with scope `sign`."""
        return [
            web.post("/v1/sign", self.sign),
            web.post("/v1/keys/{key}/sign", self.sign_digests),
        ]

    async def sign(self, request: web.Request) -> web.Response:
        """POST /v1/sign: one digest or data, or `items` of them, under one key."""
        caller = require(request, "sign")
        value = await read_json(request, self._settings.max_body_bytes)
        return json_response(await self.sign_value(caller, value))

    async def sign_value(self, caller: Caller, value: Any) -> dict[str, Any]:
        """What is answered to the JSON `value` of POST /v1/sign. Raises as SigningEngine.sign_digests, or Malformed."""
        body = fields.members(value, _SIGN_MEMBERS, "")
        key_id = fields.text(body, "key", "", max_chars=64)
        many = "items" in body
        if many and len(body) != 2:
            raise Malformed("'items' stands in place of 'digest', 'data' and 'user_id'", code="body", field="items")
        digests = await self._digests(key_id, self._sign_items(body) if many else [("", body)])
        raw = await self._engine.sign_digests(key_id, digests, caller=caller.id, purpose=APPLICATION_PURPOSES)
        signatures = [to_base64(sm2.signature_to_der(raw[at : at + 64])) for at in range(0, len(raw), 64)]
        if many:
            return {"signatures": signatures, "algorithm": _ALGORITHM}
        return {"signature": signatures[0], "algorithm": _ALGORITHM}

    async def sign_digests(self, request: web.Request) -> web.Response:
        """POST /v1/keys/{key}/sign: n digests of 32 octets in, n signatures r ‖ s of 64 octets out."""
        caller = require(request, "sign")
        if request.content_type != _OCTETS:
            raise Malformed(f"the body must be {_OCTETS}", code="content_type")
        digests = await read_body(request, self._settings.max_digests * 32)
        raw = await self.sign_octets(caller, request.match_info["key"], digests)
        return web.Response(body=raw, content_type=_OCTETS)

    async def sign_octets(self, caller: Caller, key_id: str, digests: bytes) -> bytes:
        """n·64 octets for n·32. Raises as SigningEngine.sign_digests, or Malformed."""
        if not digests or len(digests) % 32:
            raise Malformed("the body must be one or more digests of 32 octets", code="digest_length")
        return await self._engine.sign_digests(key_id, digests, caller=caller.id, purpose=APPLICATION_PURPOSES)

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
