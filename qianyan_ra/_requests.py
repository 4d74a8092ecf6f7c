"""What an RA may ask for: one builder for each kind, which looks at what can be looked at before a request is signed.

A request is a JSON object: version, request_id, ra, kind, payload. Its content octets are made once, here; every
signature is over these octets, and the id is the idempotency key. Knows the shape of requests; not CMS or HTTP.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from qianyan_ra._csr import check_csr
from qianyan_ra._errors import BadMessage, Unfit
from qianyan_ra._numbers import check_number
from qianyan_ra._pure import point_from_bytes

KINDS: Final = (
    "issue", "renew", "change", "reissue", "suspend", "resume", "revoke", "unlock", "recover", "recover_judicial",
)  # fmt: skip
GROUNDS: Final = (
    "duty_not_met", "holder_gone", "holder_request", "key_compromise", "data_changed", "practice_rules_not_met",
    "post_left", "lost", "damaged", "department_demand", "court_demand",
)  # fmt: skip
REISSUE_GROUNDS: Final = ("lost", "damaged", "key_compromise")
#: RFC 5280's reasons that a revocation may have, beside the grounds.
REASONS: Final = (
    "unspecified", "key_compromise", "affiliation_changed", "superseded", "cessation_of_operation",
    "privilege_withdrawn",
)  # fmt: skip

_ID_FORM: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RA_FORM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_REASON_MAX: Final = 500
_TEXT_MAX: Final = 1024
_SERIAL_FORM: Final = re.compile(r"[0-9a-f]{1,40}")
_REGION_FORM: Final = re.compile(r"[0-9]{2,6}")


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a certificate is for. What is left out stays as the service keeps it. Its printed form names nobody."""

    kind: str
    number: str
    name: str | None = None
    phone: str | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        for name in ("kind", "number", "name", "phone", "address"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name in ("kind", "number")):
                raise Unfit(f"a holder's {name} is a text", code="holder_data", field=f"holder.{name}")
            if value is not None and len(value) > _TEXT_MAX:
                raise Unfit(f"{name} has at most {_TEXT_MAX} characters", code="holder_data", field=f"holder.{name}")
        object.__setattr__(self, "number", check_number(self.kind, self.number))

    def __repr__(self) -> str:
        return f"Holder(kind={self.kind!r}, …)"

    def as_json(self) -> dict[str, str]:
        """The members of `payload.holder`."""
        members = {"kind": self.kind, "number": self.number, "name": self.name, "phone": self.phone}
        members["address"] = self.address
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Request:
    """A request before it is signed."""

    ra: str
    request_id: str
    kind: str
    payload: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Request(ra={self.ra!r}, request_id={self.request_id!r}, kind={self.kind!r})"

    def content(self) -> bytes:
        """The octets that are signed: the same for the same request. Raises Unfit (code "text")."""
        members = {
            "version": 1,
            "request_id": self.request_id,
            "ra": self.ra,
            "kind": self.kind,
            "payload": dict(self.payload),
        }
        return octets(members)


@dataclass(frozen=True, slots=True)
class Named:
    """Which request a signed content is about. `kind` None: it is a decision."""

    ra: str
    request_id: str
    kind: str | None


def name_of(content: bytes) -> Named:
    """Which request `content` is, or decides. Raises BadMessage (code "request")."""
    try:
        members = json.loads(content)
        named = Named(members["ra"], members["request_id"], members.get("kind"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadMessage("the signed content is not a request", code="request") from error
    if not (isinstance(named.ra, str) and isinstance(named.request_id, str) and isinstance(named.kind, str | None)):
        raise BadMessage("the signed content is not a request", code="request")
    return named


def rejection(ra: str, request_id: str, reason: str) -> bytes:
    """The content of a rejection, to be signed by who decides. Raises Unfit."""
    if not 1 <= len(reason.strip()) <= _REASON_MAX:
        raise Unfit(f"a rejection says why, in at most {_REASON_MAX} characters", code="reason", field="reason")
    members = {"version": 1, "request_id": check_id(request_id), "ra": ra, "decision": "reject", "reason": reason}
    return octets(members)


def octets(members: Mapping[str, Any]) -> bytes:
    """Compact JSON in UTF-8. Raises Unfit for text that has no UTF-8 (lone surrogates)."""
    try:
        return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise Unfit("a text in the request is not text", code="text") from None


class Maker:
    """Makes the requests of one RA. Every builder raises Unfit, naming the field, for what would be refused.

    `request_id`: give one of your own (a business number: 1 to 64 letters, digits, `.`, `_`, `-`; not personal data),
    so that a request made twice by mistake is one; without it a new random one is taken.
    """

    def __init__(self, ra: str, *, authority: str | None = None) -> None:
        if not _RA_FORM.fullmatch(ra):
            raise Unfit(
                "an RA's id has 1 to 32 letters, digits, '.', '_' or '-', and begins with a letter or digit",
                code="ra",
                field="ra",
            )
        self.ra = ra
        self._authority = authority

    def issue(
        self,
        profile: str,
        csr: bytes,
        holder: Holder | None = None,
        *,
        region: str | None = None,
        customer: str | None = None,
        request_id: str | None = None,
    ) -> Request:
        """A certificate, or a pair. `csr`: PKCS#10, DER or PEM. `region`, `customer`: where the RA's scope asks."""
        if not profile:
            raise Unfit("a profile is needed", code="profile", field="profile")
        if region is not None and not _REGION_FORM.fullmatch(region):
            raise Unfit("a region is the 2 to 6 digits of an administrative division", code="region", field="region")
        members = {
            "csr": _base64(check_csr(csr)),
            "profile": profile,
            "holder": None if holder is None else holder.as_json(),
            "region": region,
            "customer": None if customer is None else check_id(customer, "customer"),
        }
        return self._request("issue", members, request_id)

    def renew(self, serial: str, *, csr: bytes | None = None, request_id: str | None = None) -> Request:
        """A new pair from the old one's end. `csr`: for new keys; without it they stay."""
        return self._of("renew", serial, {"csr": None if csr is None else _base64(check_csr(csr))}, request_id)

    def change(self, serial: str, csr: bytes, *, request_id: str | None = None) -> Request:
        """A new subject, by a request with the same key; the old pair is revoked."""
        return self._of("change", serial, {"csr": _base64(check_csr(csr))}, request_id)

    def reissue(self, serial: str, csr: bytes, ground: str, *, request_id: str | None = None) -> Request:
        """New keys for the same subject; the old pair is revoked. `ground`: lost, damaged or key_compromise."""
        if ground not in REISSUE_GROUNDS:
            raise Unfit(f"a reissue is for one of: {', '.join(REISSUE_GROUNDS)}", code="ground", field="ground")
        return self._of("reissue", serial, {"csr": _base64(check_csr(csr)), "ground": ground}, request_id)

    def suspend(self, serial: str, *, ground: str | None = None, request_id: str | None = None) -> Request:
        """A hold, until `resume` or `revoke`."""
        if ground is not None and ground not in GROUNDS:
            raise Unfit(f"a ground is one of: {', '.join(GROUNDS)}", code="ground", field="ground")
        return self._of("suspend", serial, {"ground": ground}, request_id)

    def resume(self, serial: str, *, request_id: str | None = None) -> Request:
        """Ends a hold."""
        return self._of("resume", serial, {}, request_id)

    def revoke(
        self, serial: str, reason: str, *, invalidity_at: datetime | None = None, request_id: str | None = None
    ) -> Request:
        """Revokes for good. `reason`: a ground, or one of RFC 5280's; `invalidity_at`: since when the key is lost."""
        if reason not in GROUNDS and reason not in REASONS:
            raise Unfit(f"a reason is one of: {', '.join((*GROUNDS, *REASONS))}", code="reason", field="reason")
        return self._of("revoke", serial, {"reason": reason, "invalidity_at": _rfc3339(invalidity_at)}, request_id)

    def unlock(self, serial: str, *, request_id: str | None = None) -> Request:
        """Permits the holder's medium to be unlocked: the result has a token that is good once."""
        return self._of("unlock", serial, {}, request_id)

    def recover(
        self, serial: str, reference: str, *, recipient: str | None = None, request_id: str | None = None
    ) -> Request:
        """The encryption key again, for the holder. `reference`: the case's number; `recipient`: a serial."""
        members = {"reference": _reference(reference), "recipient": None if recipient is None else _serial(recipient)}
        return self._of("recover", serial, members, request_id)

    def recover_judicial(
        self, serial: str, reference: str, recipient_key: bytes, *, request_id: str | None = None
    ) -> Request:
        """The encryption key for whom an order names by a public key (04 ‖ x ‖ y)."""
        try:
            point_from_bytes(recipient_key)
        except ValueError as error:
            raise Unfit(f"the recipient's key: {error}", code="recipient_key", field="recipient_key") from error
        members = {"reference": _reference(reference), "recipient_key": _base64(recipient_key)}
        return self._of("recover_judicial", serial, members, request_id)

    def _of(self, kind: str, serial: str, members: dict[str, Any], request_id: str | None) -> Request:
        return self._request(kind, {"serial": _serial(serial), **members}, request_id)

    def _request(self, kind: str, members: dict[str, Any], request_id: str | None) -> Request:
        members["authority"] = self._authority
        payload = {name: value for name, value in members.items() if value is not None}
        return Request(self.ra, check_id(request_id), kind, payload)


def check_id(text: str | None, field: str = "request_id") -> str:
    """The id, where it is of the form of one; a new random one for None. Raises Unfit."""
    if text is None:
        return uuid.uuid4().hex
    if not _ID_FORM.fullmatch(text):
        raise Unfit(f"{field} has 1 to 64 letters, digits, '.', '_' or '-'", code=field, field=field)
    return text


def _serial(text: str) -> str:
    digits = text.replace(":", "").strip().lower()
    if not _SERIAL_FORM.fullmatch(digits):
        raise Unfit("a serial has 1 to 40 hexadecimal digits", code="serial", field="serial")
    return digits


def _reference(text: str) -> str:
    if not 1 <= len(text) <= 64:
        raise Unfit("a reference has 1 to 64 characters", code="reference", field="reference")
    return text


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _rfc3339(at: datetime | None) -> str | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise Unfit("a time has a zone", code="invalidity_at", field="invalidity_at")
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
