"""Bearer tokens: how one is made and what the store keeps of it.

A token is 256 random bits, so a plain SM3 of it cannot be searched. Who a token admits is said in service.callers.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.hazmat.primitives import hashes

#: What a caller may be admitted to.
SCOPES: Final = frozenset(
    {"sign", "decrypt", "issue", "revoke", "read", "metrics", "operate", "audit", "statistics", "kmc"}
    | {"holders", "unlock", "recover", "recover_judicial", "approve_recovery"}
    | {"requests:read", "registration:read", "registration:write"}
)


def digest(token: str) -> bytes:
    """SM3 of the token: what the store keeps, 32 bytes."""
    state = hashes.Hash(hashes.SM3())
    state.update(token.encode("utf-8", "surrogatepass"))
    return state.finalize()


def make_token() -> str:
    """A new token: 256 random bits in URL-safe base64."""
    return secrets.token_urlsafe(32)
