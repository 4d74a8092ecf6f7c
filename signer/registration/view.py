"""How a request is shown: the JSON members of its answer, and the HTTP status that goes with them."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

import orjson

from core.clock import rfc3339
from core.errors import Malformed
from core.store.registration_requests import RequestRecord
from signer.registration.payloads import REQUEST_ID
from signer.registration.roles import Kind

#: What these do is new: 201. The others change what is there: 200.
_MAKING: Final = frozenset(
    {Kind.ISSUE, Kind.RENEW, Kind.CHANGE, Kind.REISSUE, Kind.UNLOCK, Kind.RECOVER, Kind.RECOVER_JUDICIAL, "appoint"}
)
_TIME: Final = re.compile(r"[0-9]{1,15}")
#: The states in an answer.
STATES: Final = frozenset({"entered", "done", "rejected", "failed"})


def state_of(record: RequestRecord, now_ms: int) -> str:
    """`failed`: it was not approved in time."""
    return "failed" if record.state == "entered" and now_ms >= record.expires_at_ms else record.state


def status_of(record: RequestRecord) -> int:
    """202 while it waits for an approval, 201 where something was made, else 200."""
    if record.state == "entered":
        return 202
    return 201 if record.state == "done" and record.kind in _MAKING else 200


def members_of(record: RequestRecord, now_ms: int, *, reason: str | None, token: str | None = None) -> dict[str, Any]:
    """The answer. `token`: of an unlock, for who asked for it."""
    result = None if record.result is None else orjson.loads(record.result)
    if result is not None and record.kind == Kind.UNLOCK:
        del result["unlock"]
        result["token"] = token
    state = state_of(record, now_ms)
    approved = [record.first_approver] if record.first_approver is not None else []
    if record.state == "done" and record.decided_by is not None:
        approved.append(record.decided_by)
    return {
        "request_id": record.request_id,
        "ra": record.ra_id,
        "kind": record.kind,
        "state": state,
        "entered_by": record.entered_by,
        "entered_at": rfc3339(record.entered_at_ms),
        "expires_at": rfc3339(record.expires_at_ms),
        "approved_by": approved,
        "decided_by": record.decided_by,
        "decided_at": None if record.decided_at_ms is None else rfc3339(record.decided_at_ms),
        "reason": "request_expired" if state == "failed" else reason,
        "result": result,
    }


def cursor_of(record: RequestRecord) -> str:
    """Where the next page begins."""
    return base64.urlsafe_b64encode(f"{record.entered_at_ms}:{record.request_id}".encode()).decode()


def read_cursor(text: str) -> tuple[int, str]:
    """What `cursor_of` wrote. Raises Malformed (code "after")."""
    try:
        at_ms, _, request_id = base64.urlsafe_b64decode(text.encode()).decode().partition(":")
        if not _TIME.fullmatch(at_ms) or not re.fullmatch(REQUEST_ID, request_id):
            raise ValueError("no time and id")
        return int(at_ms), request_id
    except (ValueError, binascii.Error) as error:
        raise Malformed("'after' is what an answer gave as 'next'", code="after", field="after") from error
