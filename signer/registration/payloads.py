"""What a request asks for, read from the JSON that was signed: the members of the HTTP routes of the same act.

Knows forms, numbers and certificate requests' shape; not the store, or who asks. Nothing that was sent is repeated in
an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import Malformed
from core.http import from_base64
from core.model import serial_from_hex
from core.settings import explain
from signer.issuance.http import ChangeBody, IssueBody, ReissueBody, RenewBody, RevokeBody, SerialBody, SuspendBody
from signer.registration.envelope import read_object
from signer.registration.roles import Kind

M = TypeVar("M", bound=BaseModel)

RA_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"
REQUEST_ID: Final = r"^[A-Za-z0-9._-]{1,64}$"
_CLOSED: Final = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class _Serial(BaseModel):
    serial: Annotated[str, Field(min_length=1, max_length=64)]
    """Either certificate of the pair, in hexadecimal digits."""

    def number(self) -> int:
        """Raises Malformed (code "serial")."""
        try:
            return serial_from_hex(self.serial)
        except ValueError as error:
            raise Malformed(str(error), code="serial", field="payload.serial") from error


class IssuePayload(IssueBody):
    """issue."""

    region: Annotated[str, Field(pattern=r"^[0-9]{2,6}$")] | None = None
    """The administrative division that it is for, 2 to 6 digits; needed where the RA is for some only."""

    customer: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """The customer or project that it is for; needed where the RA is for some only."""


class RenewPayload(RenewBody, _Serial):
    """renew."""


class ChangePayload(ChangeBody, _Serial):
    """change."""


class ReissuePayload(ReissueBody, _Serial):
    """reissue."""


class SuspendPayload(SuspendBody, _Serial):
    """suspend."""


class ResumePayload(SerialBody, _Serial):
    """resume."""


class RevokePayload(RevokeBody, _Serial):
    """revoke."""


class UnlockPayload(SerialBody, _Serial):
    """unlock."""


class RecoverPayload(SerialBody, _Serial):
    """recover."""

    reference: Annotated[str, Field(min_length=1, max_length=64)]
    """The case it rests on, by number."""

    recipient: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Serial of the holder's signing certificate; without it, the latest of the certificate's line."""


class JudicialPayload(SerialBody, _Serial):
    """recover_judicial."""

    reference: Annotated[str, Field(min_length=1, max_length=64)]
    """The order it rests on, by number."""

    recipient_key: Annotated[str, Field(max_length=128)]
    """The public key that the order names, base64 of 65 octets."""


Named = (
    RenewPayload
    | ChangePayload
    | ReissuePayload
    | SuspendPayload
    | ResumePayload
    | RevokePayload
    | UnlockPayload
    | RecoverPayload
    | JudicialPayload
)
Payload = IssuePayload | Named

PAYLOADS: Final[Mapping[Kind, type[Payload]]] = {
    Kind.ISSUE: IssuePayload,
    Kind.RENEW: RenewPayload,
    Kind.CHANGE: ChangePayload,
    Kind.REISSUE: ReissuePayload,
    Kind.SUSPEND: SuspendPayload,
    Kind.RESUME: ResumePayload,
    Kind.REVOKE: RevokePayload,
    Kind.UNLOCK: UnlockPayload,
    Kind.RECOVER: RecoverPayload,
    Kind.RECOVER_JUDICIAL: JudicialPayload,
}


class RequestBody(BaseModel):
    """What is signed by who enters and by who approves."""

    model_config = _CLOSED

    version: Literal[1]
    """1."""

    request_id: Annotated[str, Field(pattern=REQUEST_ID)]
    """The request's id, unique within the RA, for good."""

    ra: Annotated[str, Field(pattern=RA_ID)]
    """The RA's id."""

    kind: Annotated[Kind, Field(strict=False)]
    """What is asked for."""

    payload: dict[str, Any]
    """The act's own members."""


class RejectionBody(BaseModel):
    """What is signed by who rejects."""

    model_config = _CLOSED

    version: Literal[1]
    """1."""

    request_id: Annotated[str, Field(pattern=REQUEST_ID)]
    """The request's id."""

    ra: Annotated[str, Field(pattern=RA_ID)]
    """The RA's id."""

    decision: Literal["reject"]
    """reject."""

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    """Why, for whoever entered it."""


def read_model(model: type[M], value: object, prefix: str = "") -> M:
    """`value` as `model`. Raises Malformed (code "body") naming the member and not what is in it."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        field, message = explain(error)
        name = f"{prefix}{field}" or "content"
        raise Malformed(f"{name}: {message}", code="body", field=name) from error


def read_request(content: bytes) -> RequestBody:
    """Raises Malformed (codes "request_json", "body")."""
    return read_model(RequestBody, read_object(content))


def read_payload(body: RequestBody) -> Payload:
    """What `kind` takes. Raises Malformed; Refused for a holder's number or data that is not of the right form."""
    payload = read_model(PAYLOADS[body.kind], body.payload, "payload.")
    if isinstance(payload, IssuePayload):
        if payload.holder is not None:
            payload.holder.claim()
    else:
        payload.number()
    return payload


def read_csr(text: str) -> bytes:
    """PEM as it is, or base64 decoded. Raises Malformed (field `payload.csr`)."""
    if text.lstrip().startswith("-----BEGIN"):
        return text.encode()
    return from_base64(text, "payload.csr")
