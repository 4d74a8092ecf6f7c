"""Routes of issuance, for the private listener.

Reads bodies, asks `Issuer`, writes answers; knows no SQL and no DER. Errors are raised as `core.errors` and rendered by
the service's middleware.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

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
from core.model import RevocationReason, serial_from_hex, serial_to_hex
from core.store.certificates import CertificateRecord
from signer.issuance.issuer import Issuer

_PATH: Final = "/v1/certificates"
_Authority = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class IssueBody(_Body):
    """POST /v1/certificates."""

    csr: Annotated[str, Field(min_length=1, max_length=1 << 21)]
    """PKCS#10: PEM text, or base64 of the DER."""

    profile: Annotated[str, Field(min_length=1, max_length=64)]
    """A profile's name."""

    authority: _Authority | None = None
    """The issuing authority; the service's own default where it is left out."""


class RevokeBody(_Body):
    """POST /v1/certificates/{serial}/revoke."""

    reason: str
    """key_compromise, affiliation_changed, superseded, cessation_of_operation, certificate_hold, ..."""

    invalidity_at: Annotated[AwareDatetime | None, Field(strict=False)] = None
    """Since when the key is known or thought to be out of the holder's hands, RFC 3339."""

    authority: _Authority | None = None
    """The issuing authority, where several have the serial."""

    @field_validator("reason")
    @classmethod
    def _known(cls, value: str) -> str:
        RevocationReason.from_label(value)
        return value

    @field_validator("invalidity_at", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if value is not None and not isinstance(value, str):
            raise ValueError("a time is written as RFC 3339 text")
        return value


class ResumeBody(_Body):
    """POST /v1/certificates/{serial}/resume; the body may be left out."""

    authority: _Authority | None = None
    """The issuing authority, where several have the serial."""


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
            web.post(_PATH + "/{serial}/resume", self.resume),
        ]

    async def issue(self, request: web.Request) -> web.Response:
        """Issues a certificate, or a pair. 201 with the certificates; the same answer to the same Idempotency-Key."""
        caller = require(request, "issue")
        once = _once(request, caller)
        body = await read_model(request, IssueBody)
        csr = _csr(body.csr)
        issued = await self._issuer.issue(
            csr, body.profile, actor=caller.id, idempotency=once, authority_id=body.authority
        )
        return web.Response(body=issued.to_body(), status=201, content_type="application/json")

    async def show(self, request: web.Request) -> web.Response:
        """A certificate and where it stands."""
        require(request, "read")
        found = await self._issuer.find(_serial(request), request.query.get("authority"))
        value = _status(found.certificate)
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
        once = _once(request, caller)
        body = await read_model(request, RevokeBody)
        changed = await self._issuer.revoke(
            _serial(request),
            RevocationReason.from_label(body.reason),
            actor=caller.id,
            authority_id=body.authority,
            invalidity_at_ms=None if body.invalidity_at is None else from_datetime(body.invalidity_at),
            idempotency=once,
        )
        return _changed(changed)

    async def resume(self, request: web.Request) -> web.Response:
        """Ends a hold; the pair moves together."""
        caller = require(request, "revoke")
        once = _once(request, caller)
        body = await read_model(request, ResumeBody) if request.can_read_body else ResumeBody()
        changed = await self._issuer.release(
            _serial(request), actor=caller.id, authority_id=body.authority, idempotency=once
        )
        return _changed(changed)


def _once(request: web.Request, caller: Caller) -> tuple[str, str] | None:
    key = idempotency_key(request)
    return None if key is None else (caller.id, key)


def _csr(text: str) -> bytes:
    """PEM as it is, or base64 decoded. Raises Malformed (field `csr`)."""
    if text.lstrip().startswith("-----BEGIN"):
        return text.encode()
    return from_base64(text, "csr")


def _serial(request: web.Request) -> int:
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


def _changed(records: list[CertificateRecord]) -> web.Response:
    return json_response({"certificates": [{**_status(record), "usage": record.usage} for record in records]})
