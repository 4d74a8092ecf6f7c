"""What can go wrong for an RA, by who found it and what to do next. Every error has a stable `code`.

Nothing here carries a key, a passphrase or what a holder is called.
"""

from __future__ import annotations

from typing import Final

#: Answers after which the same bytes may be sent again: the service is busy, or a part of it is not there just now.
RETRYABLE_STATUS: Final = frozenset({429, 502, 503, 504})


class RaError(Exception):
    """Base. `code`: stable, snake_case. `detail`: one sentence for the person at the desk."""

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class Unfit(RaError):
    """Found here, before anything was sent: the service would refuse it. `field`: the member at fault."""

    def __init__(self, detail: str, *, code: str, field: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.field = field


class KeyTrouble(RaError):
    """A key cannot be had or used: its file, its passphrase, its device, or a certificate of another key."""


class BadMessage(RaError):
    """Bytes that are not what they should be: DER, a signed message, a certificate, a key envelope."""


class NotVerified(RaError):
    """A signature does not hold for the bytes it stands beside. Sign nothing that rests on it."""


class Problem(RaError):
    """The service said no (RFC 9457): the request changed nothing, and the refusal is on its audit record.

    status: HTTP's. field: the member at fault. request_id: the answer's `X-Request-Id`, which its log has.
    retry_after_s: when to come back, where the service says so.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail, code=code)
        self.status = status
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Whether the same bytes may help later; otherwise something has to be put right first."""
        return self.status in RETRYABLE_STATUS

    def __str__(self) -> str:
        where = f" ({self.field})" if self.field else ""
        return f"{self.status} {self.code}{where}: {self.detail}"


class NoAnswer(RaError):
    """No answer came, after every attempt: whether it was done is not known.

    Send the same request again: its id makes that safe, and the answer is that of the first time.
    """


class BadAnswer(RaError):
    """What answered does not speak as the service does: another address, a proxy's page, a cut-off body."""


class StillWaiting(RaError):
    """Nobody has decided within the time that was given; nothing is wrong."""
