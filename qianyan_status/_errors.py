"""What the reader raises: a file is taken whole or not at all."""

from __future__ import annotations


class StatusSetError(ValueError):
    """The file may not be used. `code` is stable: "der", "format", "canonical", "signature", "issuer", "signer",
    "digest", "future", "rollback", "version", "size"."""

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class DeltaMismatch(StatusSetError):
    """The delta does not belong to this base or does not lead to the state that it declares.

    Drop the delta and fetch the base anew; the base alone may go on being used until its nextUpdate. Where it comes
    again with a base that was just fetched, somebody should look.
    """
