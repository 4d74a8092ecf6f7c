"""What the service answers, typed. Members that are not known here are kept in `members`: the service may add some."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from qianyan_ra._errors import BadAnswer, Problem

ENTERED: Final = "entered"
DONE: Final = "done"
REJECTED: Final = "rejected"
FAILED: Final = "failed"
_WORD: Final = re.compile(r"[a-z_]{1,32}")


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate of an answer. `usage`: sign or encrypt."""

    serial: str
    usage: str
    certificate: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """Where a request stands. `state`: entered (it waits for approval until `expires_at`), done, rejected or failed.

    result: what was done, once it is; its members are those of the act (docs/ra-integration.md). reason: why it was
    rejected or failed. A request that is sent again has the answer of the first time.
    """

    request_id: str
    ra: str
    kind: str
    state: str
    entered_by: str | None
    entered_at: datetime | None
    expires_at: datetime | None
    decided_by: str | None
    decided_at: datetime | None
    approved_by: tuple[str, ...]
    reason: str | None
    result: Mapping[str, Any]
    members: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Answer(request_id={self.request_id!r}, kind={self.kind!r}, state={self.state!r})"

    @classmethod
    def of_json(cls, members: Any) -> Answer:
        """From the decoded JSON. Raises BadAnswer."""
        try:
            return cls(
                request_id=_text(members["request_id"]),
                ra=_text(members["ra"]),
                kind=_text(members["kind"]),
                state=_text(members["state"]),
                entered_by=members.get("entered_by"),
                entered_at=_time(members.get("entered_at")),
                expires_at=_time(members.get("expires_at")),
                decided_by=members.get("decided_by"),
                decided_at=_time(members.get("decided_at")),
                approved_by=tuple(members.get("approved_by") or ()),
                reason=members.get("reason"),
                result=dict(members.get("result") or {}),
                members=members,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadAnswer("the answer is not one about a request", code="answer") from error

    @property
    def done(self) -> bool:
        """Whether it is done and `result` says what came of it."""
        return self.state == DONE

    @property
    def waiting(self) -> bool:
        """Whether it still waits for an approval."""
        return self.state == ENTERED

    @property
    def certificates(self) -> tuple[Issued, ...]:
        """The new certificates, of kinds that make some. Raises BadAnswer."""
        found = self.result.get("certificates") or ()
        try:
            return tuple(
                Issued(_text(one["serial"]), _usage(one["usage"]), read_binary(one["certificate"]))
                for one in found
                if "certificate" in one
            )
        except (KeyError, TypeError) as error:
            raise BadAnswer("a certificate in the answer cannot be read", code="answer") from error

    def certificate(self, usage: str) -> Issued:
        """The new certificate for `sign` or `encrypt`. Raises BadAnswer where there is none."""
        for one in self.certificates:
            if one.usage == usage:
                return one
        raise BadAnswer(f"there is no new certificate for usage {usage!r} in the answer", code="answer")

    @property
    def person_certificate(self) -> bytes | None:
        """The certificate that was issued with an appointment, DER."""
        found = self.result.get("certificate")
        return None if found is None else read_binary(found)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates of the authorities above, DER, the issuing one first."""
        return tuple(read_binary(one) for one in self.result.get("chain") or ())

    @property
    def enveloped_key(self) -> bytes | None:
        """The SM2EnvelopedKey for the holder's signing key, where the act made or recovered one."""
        found = self.result.get("enveloped_key")
        return None if found is None else read_binary(found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _usage(value: Any) -> str:
    if value not in ("sign", "encrypt"):
        raise TypeError("not a usage")
    return str(value)


def read_word(value: Any) -> str:
    """A word of lower-case letters, which may become part of a file's name. Raises BadAnswer."""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise BadAnswer("a word in the answer is none", code="answer")
    return value


def _time(value: Any) -> datetime | None:
    return None if value is None else datetime.fromisoformat(_text(value))


def read_binary(value: Any) -> bytes:
    """Base64 in an answer. Raises BadAnswer."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadAnswer("a binary value in the answer is not base64", code="answer") from error


def decode(body: bytes) -> Any:
    """The JSON of a body. Raises BadAnswer."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise BadAnswer(
            "the answer is not JSON: is the address that of the private listener?", code="answer"
        ) from error


def problem(status: int, body: bytes, request_id: str | None, retry_after_s: float | None) -> Problem:
    """The problem document (RFC 9457) of a refusal; what is none is told by its status alone (a proxy's page)."""
    code, detail, field = (
        f"http_{status}",
        "the answer is no problem document; something stands before the service",
        None,
    )
    try:
        members = json.loads(body)
        code, detail = str(members["code"]), str(members.get("detail") or members.get("title") or "")
        field = None if members.get("field") is None else str(members["field"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return Problem(status, code, detail, field=field, request_id=request_id, retry_after_s=retry_after_s)
