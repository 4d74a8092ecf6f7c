"""Routes of key recovery and unlocking, for the private listener. Knows no SQL and no DER.

Each role has a scope of its own: `recover` asks for holders, `recover_judicial` for a court or authority,
`approve_recovery` approves, `unlock` unlocks media.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import Field

from core.clock import rfc3339
from core.errors import Denied, Malformed
from core.http import CALLER, Caller, from_base64, json_response, read_model, require, to_base64
from core.model import serial_from_hex, serial_to_hex
from core.store.recoveries import Recovery
from signer.issuance.http import SerialBody, once_of, read_optional, serial_of
from signer.issuance.recovery import Recoveries, RecoveryWish
from signer.issuance.unlocking import Unlocking

_READERS: Final = frozenset({"recover", "recover_judicial", "approve_recovery", "audit"})
#: Where the tool at the counter spends an unlock token.
REDEEM_PATH: Final = "/v1/unlocks/redeem"
_STATES: Final = frozenset({"asked", "approved", "done", "rejected"})


class RecoverBody(SerialBody):
    """POST /v1/certificates/{serial}/recover."""

    reference: Annotated[str, Field(min_length=1, max_length=64)]
    """The case or order it rests on, by number."""

    recipient: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Serial of the holder's signing certificate; without it, the latest of the certificate's line."""

    judicial: bool = False
    """Whether a court or authority asks; needs the scope `recover_judicial`."""

    recipient_key: Annotated[str, Field(max_length=128)] | None = None
    """Judicial only: the public key that the order names, base64 of 65 octets."""


class RedeemBody(SerialBody):
    """POST /v1/unlocks/redeem."""

    token: Annotated[str, Field(min_length=1, max_length=128)]
    """What …/unlock gave."""


class RecoveryRoutes:
    """See the module."""

    def __init__(self, recoveries: Recoveries, unlocking: Unlocking) -> None:
        self._recoveries = recoveries
        self._unlocking = unlocking

    def private(self) -> list[web.RouteDef]:
        """The routes for the private listener."""
        return [
            web.post("/v1/certificates/{serial}/recover", self.recover),
            web.post("/v1/certificates/{serial}/unlock", self.unlock),
            web.get("/v1/recoveries", self.list),
            web.get("/v1/recoveries/{recovery}", self.show),
            web.post("/v1/recoveries/{recovery}/approve", self.approve),
            web.post("/v1/recoveries/{recovery}/reject", self.reject),
            web.post(REDEEM_PATH, self.redeem),
        ]

    async def recover(self, request: web.Request) -> web.Response:
        """Asks for a recovery: 201; it waits for two approvals."""
        caller = _any_of(request, frozenset({"recover", "recover_judicial"}))
        body = await read_model(request, RecoverBody)
        require(request, "recover_judicial" if body.judicial else "recover")
        wish = RecoveryWish(
            serial_of(request),
            body.reference,
            body.authority,
            body.judicial,
            None if body.recipient is None else _recipient(body.recipient),
            None if body.recipient_key is None else from_base64(body.recipient_key, "recipient_key"),
        )
        asked = await self._recoveries.ask(wish, actor=caller.id, idempotency=once_of(request, caller))
        return json_response(as_json(asked), status=201)

    async def show(self, request: web.Request) -> web.Response:
        """A recovery; with the SM2EnvelopedKey where it is done."""
        _any_of(request, _READERS)
        return json_response(as_json(await self._recoveries.get(request.match_info["recovery"])))

    async def list(self, request: web.Request) -> web.Response:
        """The latest recoveries, newest first; `?state=asked` and so on."""
        _any_of(request, _READERS)
        state = request.query.get("state")
        if state is not None and state not in _STATES:
            raise Malformed(f"state is one of: {', '.join(sorted(_STATES))}", code="state", field="state")
        return json_response({"recoveries": [as_json(one) for one in await self._recoveries.list_all(state)]})

    async def approve(self, request: web.Request) -> web.Response:
        """One of the two approvals; the second one's answer has the SM2EnvelopedKey."""
        caller = require(request, "approve_recovery")
        return json_response(as_json(await self._recoveries.approve(request.match_info["recovery"], actor=caller.id)))

    async def reject(self, request: web.Request) -> web.Response:
        """Ends a recovery that is not done."""
        caller = require(request, "approve_recovery")
        return json_response(as_json(await self._recoveries.reject(request.match_info["recovery"], actor=caller.id)))

    async def unlock(self, request: web.Request) -> web.Response:
        """Permits a medium to be unlocked: 201 with a token that is good once."""
        caller = require(request, "unlock")
        body = await read_optional(request, SerialBody)
        given = await self._unlocking.unlock(
            serial_of(request), actor=caller.id, authority_id=body.authority, idempotency=once_of(request, caller)
        )
        value = {
            "serial": serial_to_hex(given.certificate.serial),
            "token": given.token,
            "expires_at": rfc3339(given.expires_at_ms),
        }
        return json_response(value, status=201)

    async def redeem(self, request: web.Request) -> web.Response:
        """Spends an unlock token; says for which certificate it was."""
        caller = require(request, "unlock")
        body = await read_model(request, RedeemBody)
        record = await self._unlocking.redeem(body.token, actor=caller.id)
        return json_response({"serial": serial_to_hex(record.serial), "authority": record.authority_id})


def _any_of(request: web.Request, scopes: frozenset[str]) -> Caller:
    caller: Caller | None = request.get(CALLER)
    if caller is not None and not caller.scopes & scopes:
        raise Denied(f"the token admits to none of: {', '.join(sorted(scopes))}", code="scope", authenticated=True)
    return caller if caller is not None else require(request, min(scopes))


def _recipient(text: str) -> int:
    try:
        return serial_from_hex(text)
    except ValueError as error:
        raise Malformed(str(error), code="serial", field="recipient") from error


def as_json(recovery: Recovery) -> dict[str, Any]:
    """A recovery as it is shown."""
    return {
        "id": recovery.id,
        "state": recovery.state,
        "judicial": recovery.judicial,
        "reference": recovery.reference,
        "requested_by": recovery.requested_by,
        "approved_by": [one for one in (recovery.first_approver, recovery.second_approver) if one is not None],
        "asked_at": rfc3339(recovery.created_at_ms),
        "expires_at": rfc3339(recovery.expires_at_ms),
        "enveloped_key": None if recovery.enveloped_key is None else to_base64(recovery.enveloped_key),
    }
