"""Where a certificate pair stands, and what may be done with it there: the state machine, as one table.

A pair's state is not stored; it follows from what is: the state of its certificates, their end, and whether a renewal
replaced them. `TRANSITIONS` has an entry for each operation in each state: where it leads, or why it is refused. Knows
values; not the store. Drawn in docs/life-cycle.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from core.errors import NotFound, Refused
from core.model import CertificateState


class PairState(StrEnum):
    """RENEWED: valid still, and a renewal has made its successor. NONE: there is no such certificate."""

    NONE = "none"
    ACTIVE = "active"
    RENEWED = "renewed"
    SUSPENDED = "suspended"
    SUSPENDED_RENEWED = "suspended_renewed"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Operation(StrEnum):
    """What is done. The words of the record, the history and the command line."""

    ISSUE = "issue"
    RENEW = "renew"
    CHANGE = "change"
    REISSUE = "reissue"
    SUSPEND = "suspend"
    RESUME = "resume"
    REVOKE = "revoke"
    UNLOCK = "unlock"
    RECOVER = "recover"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not: a stable code, and a sentence for the one who asked."""

    code: str
    detail: str


UNKNOWN: Final = Refusal("certificate_unknown", "there is no such certificate")
REPLACED: Final = Refusal("already_replaced", "a later certificate replaced this one; name that one")
ON_HOLD: Final = Refusal("suspended", "the certificate is suspended; resume it first")
ENDED: Final = Refusal("expired", "the certificate has run out; ask for a new one")
FINAL: Final = Refusal("already_revoked", "the certificate is revoked already")
HELD: Final = Refusal("already_held", "the certificate is on hold already")
NOT_HELD: Final = Refusal("not_held", "the certificate is not on hold")
NOT_NEW: Final = Refusal("certificate_exists", "there is a certificate; renew, change or reissue it")

_NONE, _ACTIVE, _RENEWED, _SUSPENDED, _BOTH, _EXPIRED, _REVOKED = PairState

#: Operation → state before → state after, or the refusal. For an operation that makes a new pair it is the old pair's
#: state that is said here; the new one is ACTIVE.
TRANSITIONS: Final[Mapping[Operation, Mapping[PairState, PairState | Refusal]]] = {
    Operation.ISSUE: {
        _NONE: _ACTIVE,
        _ACTIVE: NOT_NEW,
        _RENEWED: NOT_NEW,
        _SUSPENDED: NOT_NEW,
        _BOTH: NOT_NEW,
        _EXPIRED: NOT_NEW,
        _REVOKED: NOT_NEW,
    },
    Operation.RENEW: {
        _NONE: UNKNOWN,
        _ACTIVE: _RENEWED,
        _RENEWED: REPLACED,
        _SUSPENDED: ON_HOLD,
        _BOTH: REPLACED,
        _EXPIRED: ENDED,
        _REVOKED: FINAL,
    },
    Operation.CHANGE: {
        _NONE: UNKNOWN,
        _ACTIVE: _REVOKED,
        _RENEWED: REPLACED,
        _SUSPENDED: ON_HOLD,
        _BOTH: REPLACED,
        _EXPIRED: ENDED,
        _REVOKED: FINAL,
    },
    Operation.REISSUE: {
        _NONE: UNKNOWN,
        _ACTIVE: _REVOKED,
        _RENEWED: REPLACED,
        _SUSPENDED: _REVOKED,  # a medium is suspended the moment it is missed, and replaced later
        _BOTH: REPLACED,
        _EXPIRED: ENDED,
        _REVOKED: FINAL,
    },
    Operation.SUSPEND: {
        _NONE: UNKNOWN,
        _ACTIVE: _SUSPENDED,
        _RENEWED: _BOTH,
        _SUSPENDED: HELD,
        _BOTH: HELD,
        _EXPIRED: ENDED,
        _REVOKED: FINAL,
    },
    Operation.RESUME: {
        _NONE: UNKNOWN,
        _ACTIVE: NOT_HELD,
        _RENEWED: NOT_HELD,
        _SUSPENDED: _ACTIVE,
        _BOTH: _RENEWED,
        _EXPIRED: ENDED,
        _REVOKED: NOT_HELD,
    },
    Operation.REVOKE: {
        _NONE: UNKNOWN,
        _ACTIVE: _REVOKED,
        _RENEWED: _REVOKED,
        _SUSPENDED: _REVOKED,
        _BOTH: _REVOKED,
        _EXPIRED: _REVOKED,  # for signatures of before its end: a key may turn out to have been lost back then
        _REVOKED: FINAL,
    },
    Operation.UNLOCK: {
        _NONE: UNKNOWN,
        _ACTIVE: _ACTIVE,
        _RENEWED: _RENEWED,
        _SUSPENDED: ON_HOLD,
        _BOTH: ON_HOLD,
        _EXPIRED: ENDED,
        _REVOKED: FINAL,
    },
    Operation.RECOVER: {  # what was encrypted outlives the certificate
        _NONE: UNKNOWN,
        _ACTIVE: _ACTIVE,
        _RENEWED: _RENEWED,
        _SUSPENDED: _SUSPENDED,
        _BOTH: _BOTH,
        _EXPIRED: _EXPIRED,
        _REVOKED: _REVOKED,
    },
}


def state_of(stored: CertificateState, not_after_ms: int, *, replaced: bool, at_ms: int) -> PairState:
    """The state at `at_ms` of a certificate whose row says `stored`."""
    if stored is CertificateState.REVOKED:
        return PairState.REVOKED
    if at_ms >= not_after_ms + 1_000:  # notAfter is the last second in which it is valid (RFC 5280 §4.1.2.5)
        return PairState.EXPIRED
    if stored is CertificateState.HELD:
        return PairState.SUSPENDED_RENEWED if replaced else PairState.SUSPENDED
    return PairState.RENEWED if replaced else PairState.ACTIVE


def may(operation: Operation, state: PairState) -> bool:
    """Whether the table lets `operation` happen in `state`."""
    return isinstance(TRANSITIONS[operation][state], PairState)


def require(operation: Operation, state: PairState) -> PairState:
    """The state that `operation` leads to. Raises NotFound or Refused with the table's code."""
    after = TRANSITIONS[operation][state]
    if isinstance(after, PairState):
        return after
    kind = NotFound if after is UNKNOWN else Refused
    raise kind(after.detail, code=after.code, field=None)
