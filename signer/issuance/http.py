"""Routes of issuance, for the private listener.

Reads bodies, asks `Issuer`, writes answers; knows no SQL and no DER. Errors are raised as `core.errors` and rendered by
the service's middleware.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from core.clock import from_datetime, rfc3339
from core.errors import Malformed
from core.http import (
    Caller,
    from_base64,
    idempotency_key,
    json_response,
    read_model,
    require,
    to_base64,
)
from core.model import serial_from_hex, serial_to_hex
from core.store.certificates import CertificateRecord
from signer.holders.claim import HolderClaim
from signer.issuance.grounds import Ground, read_reason
from signer.issuance.issued import Issued
from signer.issuance.issuer import Issuer

_PATH: Final = "/v1/certificates"
_Csr = Annotated[str, Field(min_length=1, max_length=1 << 21)]
_Authority = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]


B = TypeVar("B", bound=BaseModel)


class _Body(BaseModel):
    # hide_input_in_errors: what a person sent is in no message and no traceback.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class HolderBody(_Body):
    """A holder; what is left out stays as it is kept."""

    kind: Annotated[str, Field(max_length=32)]
    """organisation, person or device."""

    number: Annotated[str, Field(min_length=1, max_length=64)]
    """Unified social credit code, identity number or device id."""

    name: Annotated[str, Field(max_length=1024)] | None = None
    phone: Annotated[str, Field(max_length=1024)] | None = None
    address: Annotated[str, Field(max_length=1024)] | None = None

    def claim(self) -> HolderClaim:
        """Checked. Raises Refused."""
        return HolderClaim.of(self.kind, self.number, name=self.name, phone=self.phone, address=self.address)


class IssueBody(_Body):
    """POST /v1/certificates."""

    csr: _Csr
    """PKCS#10: PEM text, or base64 of the DER."""

    profile: Annotated[str, Field(min_length=1, max_length=64)]
    """A profile's name."""

    authority: _Authority | None = None
    """The issuing authority; the service's own default where it is left out."""

    holder: HolderBody | None = None
    """Whom it is for."""


class RevokeBody(_Body):
    """POST /v1/certificates/{serial}/revoke."""

    reason: Annotated[str, Field(max_length=64)]
    """key_compromise, superseded, certificate_hold, ...; or a ground: lost, court_demand, ..."""

    invalidity_at: Annotated[AwareDatetime | None, Field(strict=False)] = None
    """Since when the key is known or thought to be out of the holder's hands, RFC 3339."""

    authority: _Authority | None = None
    """The issuing authority, where several have the serial."""

    @field_validator("reason")
    @classmethod
    def _known(cls, value: str) -> str:
        read_reason(value)
        return value

    @field_validator("invalidity_at", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if value is not None and not isinstance(value, str):
            raise ValueError("a time is written as RFC 3339 text")
        return value


class SerialBody(_Body):
    """POST /v1/certificates/{serial}/resume and …/unlock; the body may be left out."""

    authority: _Authority | None = None
    """The issuing authority, where several have the serial."""


class SuspendBody(SerialBody):
    """POST /v1/certificates/{serial}/suspend; the body may be left out."""

    ground: Ground | None = Field(default=None, strict=False)
    """Why: lost, holder_request, ..."""


class RenewBody(SerialBody):
    """POST /v1/certificates/{serial}/renew; the body may be left out."""

    csr: _Csr | None = None
    """A request for new keys; without it the keys stay."""


class ChangeBody(SerialBody):
    """POST /v1/certificates/{serial}/change."""

    csr: _Csr
    """A request with the new subject, by the same key."""


class ReissueBody(SerialBody):
    """POST /v1/certificates/{serial}/reissue."""

    csr: _Csr
    """A request with the same subject, by a new key."""

    ground: Ground = Field(strict=False)
    """lost, damaged or key_compromise."""


class IssuanceRoutes:
    """See the module."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    def private(self) -> list[web.RouteDef]:
        """The routes for the private listener."""
        return [
            web.post(_PATH, self.issue),
            web.get(_PATH + "/{serial}", self.show),
            web.post(_PATH + "/{serial}/revoke", self.revoke),
            web.post(_PATH + "/{serial}/suspend", self.suspend),
            web.post(_PATH + "/{serial}/resume", self.resume),
            web.post(_PATH + "/{serial}/renew", self.renew),
            web.post(_PATH + "/{serial}/change", self.change),
            web.post(_PATH + "/{serial}/reissue", self.reissue),
        ]

    async def issue(self, request: web.Request) -> web.Response:
        """Issues a certificate, or a pair. 201 with the certificates; the same answer to the same Idempotency-Key."""
        caller = require(request, "issue")
        once = once_of(request, caller)
        body = await read_model(request, IssueBody)
        csr = read_csr(body.csr)
        issued = await self._issuer.issue(
            csr,
            body.profile,
            actor=caller.id,
            idempotency=once,
            authority_id=body.authority,
            holder=None if body.holder is None else body.holder.claim(),
        )
        return _issued(issued)

    async def show(self, request: web.Request) -> web.Response:
        """A certificate and where it stands."""
        require(request, "read")
        found = await self._issuer.find(serial_of(request), request.query.get("authority"))
        value = _status(found.certificate)
        value["state"] = found.state.value
        value["holder"] = found.certificate.holder_id
        value["usage"] = found.certificate.usage
        value["profile"] = found.certificate.profile
        value["not_before"] = rfc3339(found.certificate.not_before_ms)
        value["not_after"] = rfc3339(found.certificate.not_after_ms)
        value["issued_at"] = rfc3339(found.certificate.issued_at_ms)
        value["pair"] = None if found.pair is None else serial_to_hex(found.pair.serial)
        value["certificate"] = to_base64(found.certificate.certificate)
        return json_response(value)

    async def revoke(self, request: web.Request) -> web.Response:
        """Revokes or, with reason certificate_hold, holds; the pair moves together."""
        caller = require(request, "revoke")
        once = once_of(request, caller)
        body = await read_model(request, RevokeBody)
        reason, ground = read_reason(body.reason)
        changed = await self._issuer.revoke(
            serial_of(request),
            reason,
            ground=ground,
            actor=caller.id,
            authority_id=body.authority,
            invalidity_at_ms=None if body.invalidity_at is None else from_datetime(body.invalidity_at),
            idempotency=once,
        )
        return _changed(changed)

    async def resume(self, request: web.Request) -> web.Response:
        """Ends a hold; the pair moves together."""
        caller = require(request, "revoke")
        once = once_of(request, caller)
        body = await read_optional(request, SerialBody)
        changed = await self._issuer.release(
            serial_of(request), actor=caller.id, authority_id=body.authority, idempotency=once
        )
        return _changed(changed)

    async def suspend(self, request: web.Request) -> web.Response:
        """Suspends; the pair moves together."""
        caller = require(request, "revoke")
        once = once_of(request, caller)
        body = await read_optional(request, SuspendBody)
        changed = await self._issuer.suspend(
            serial_of(request), actor=caller.id, authority_id=body.authority, idempotency=once, ground=body.ground
        )
        return _changed(changed)

    async def renew(self, request: web.Request) -> web.Response:
        """Renews: 201 with the new pair; the old one stays until its end."""
        caller = require(request, "issue")
        once = once_of(request, caller)
        body = await read_optional(request, RenewBody)
        issued = await self._issuer.renew(
            serial_of(request),
            actor=caller.id,
            csr=None if body.csr is None else read_csr(body.csr),
            authority_id=body.authority,
            idempotency=once,
        )
        return _issued(issued)

    async def change(self, request: web.Request) -> web.Response:
        """Changes the subject: 201 with the new pair; the old one is revoked."""
        caller = require(request, "issue")
        once = once_of(request, caller)
        body = await read_model(request, ChangeBody)
        issued = await self._issuer.change(
            serial_of(request), read_csr(body.csr), actor=caller.id, authority_id=body.authority, idempotency=once
        )
        return _issued(issued)

    async def reissue(self, request: web.Request) -> web.Response:
        """Reissues with new keys: 201 with the new pair; the old one is revoked."""
        caller = require(request, "issue")
        once = once_of(request, caller)
        body = await read_model(request, ReissueBody)
        issued = await self._issuer.reissue(
            serial_of(request),
            read_csr(body.csr),
            body.ground,
            actor=caller.id,
            authority_id=body.authority,
            idempotency=once,
        )
        return _issued(issued)


def _issued(issued: Issued) -> web.Response:
    return web.Response(body=issued.to_body(), status=201, content_type="application/json")


async def read_optional(request: web.Request, model: type[B]) -> B:
    """The body as `model`; an absent one as an empty one."""
    return await read_model(request, model) if request.can_read_body else model()


def once_of(request: web.Request, caller: Caller) -> tuple[str, str] | None:
    """(caller, Idempotency-Key), where the request has one. Raises Refused."""
    key = idempotency_key(request)
    return None if key is None else (caller.id, key)


def read_csr(text: str) -> bytes:
    """PEM as it is, or base64 decoded. Raises Malformed (field `csr`)."""
    if text.lstrip().startswith("-----BEGIN"):
        return text.encode()
    return from_base64(text, "csr")


def serial_of(request: web.Request) -> int:
    """The serial in the path. Raises Malformed (code "serial")."""
    try:
        return serial_from_hex(request.match_info["serial"])
    except ValueError as error:
        raise Malformed(str(error), code="serial", field="serial") from error


def _status(record: CertificateRecord) -> dict[str, Any]:
    return {
        "serial": serial_to_hex(record.serial),
        "authority": record.authority_id,
        "status": record.state.value,
        "reason": None if record.reason is None else record.reason.label,
        "revoked_at": None if record.revoked_at_ms is None else rfc3339(record.revoked_at_ms),
        "invalidity_at": None if record.invalidity_at_ms is None else rfc3339(record.invalidity_at_ms),
    }


def changed_as_json(records: list[CertificateRecord]) -> list[dict[str, Any]]:
    """Certificates whose state was changed, as they are shown."""
    return [{**_status(record), "usage": record.usage} for record in records]


def _changed(records: list[CertificateRecord]) -> web.Response:
    return json_response({"certificates": changed_as_json(records)})
