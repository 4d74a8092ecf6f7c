"""The one error tree that leaves a package of ours.

Each class has a `kind`: the metric label, and what the front ends map to an HTTP status (service/problems.py)
or an OCSPResponseStatus (status/http.py). `code` is stable and says more; `detail` is for the person who reads
the answer and never carries a secret, personal data or an internal path.
"""

from __future__ import annotations

from typing import ClassVar


class QianyanError(Exception):
    """Base: a failure that has a name.

    code: stable, snake_case, finer than `kind` (e.g. "csr_signature").
    detail: one sentence for the caller.
    field: the member of the request at fault, as a dotted path, where there is one.
    retry_after_s: when to come back, for the kinds where that helps.
    """

    kind: ClassVar[str] = "internal"

    def __init__(
        self, detail: str, *, code: str | None = None, field: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.kind
        self.field = field
        self.retry_after_s = retry_after_s


class Malformed(QianyanError):
    """The bytes are not what they claim to be (bad DER, bad base64, bad JSON)."""

    kind = "malformed"


class Refused(QianyanError):
    """Well-formed, and not acceptable: policy, profile, state."""

    kind = "refused"


class Denied(QianyanError):
    """The caller is not known, or may not do this. `authenticated` tells 403 from 401."""

    kind = "denied"

    def __init__(self, detail: str, *, code: str | None = None, authenticated: bool = False) -> None:
        super().__init__(detail, code=code)
        self.authenticated = authenticated


class NotFound(QianyanError):
    """There is no such thing here."""

    kind = "not_found"


class Conflict(QianyanError):
    """Something that is already there stands against it."""

    kind = "conflict"


class TooLarge(QianyanError):
    """Past a bound on size or count."""

    kind = "too_large"


class Busy(QianyanError):
    """A bounded queue is full: refused at once, worth another try after `retry_after_s`."""

    kind = "busy"


class Unavailable(QianyanError):
    """A part that the answer depends on cannot be trusted now (store, clock, key)."""

    kind = "unavailable"


class SettingsError(QianyanError):
    """The start fails: what is wrong in one line, and what to do."""

    kind = "settings"
