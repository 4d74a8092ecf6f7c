"""Who calls the private listener: bearer tokens.

Owns the tokens in force, in memory as digests; follows the store, so that a token made by `qianyan token create` is
admitted by a running service at once. A token is 256 random bits, so a plain SM3 of it cannot be searched.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from cryptography.hazmat.primitives import hashes

from core.errors import Denied
from core.http import Caller
from core.store import tokens
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower

#: How many admitted headers are kept; a caller may write the same token in many ways.
_ADMITTED_MAX: Final = 10_000
#: What a token may admit to.
SCOPES: Final = frozenset({"sign", "issue", "revoke", "read", "metrics"})


def digest(token: str) -> bytes:
    """SM3 of the token: what the store keeps, 32 bytes."""
    state = hashes.Hash(hashes.SM3())
    state.update(token.encode("utf-8", "surrogatepass"))
    return state.finalize()


def make_token() -> str:
    """A new token: 256 random bits in URL-safe base64."""
    return secrets.token_urlsafe(32)


class TokenBook:
    """See the module."""

    def __init__(self, database: Database, follower: FeedFollower) -> None:
        self._database = database
        self._follower = follower
        self._callers: dict[bytes, Caller] = {}
        # Headers that were admitted since the last reload: a digest for each request would cost as much as a signature.
        self._admitted: dict[str, Caller] = {}
        self._lock = asyncio.Lock()
        # Counts of changes: what the feed has told of, and what the loaded tokens reflect.
        self._told = 1
        self._loaded = 0
        follower.subscribe(self._on_change)

    def _on_change(self, entry: FeedEntry) -> None:
        if entry.kind == "token":
            self._told += 1

    async def caller(self, authorization: str | None) -> Caller | None:
        """Who an `Authorization` header names; None without one. Raises Denied for one that is not good."""
        if authorization is None:
            return None
        if not self._follower.current():
            await self._follower.ensure_current()
        if self._loaded != self._told:
            await self._reload()
        caller = self._admitted.get(authorization)
        if caller is None:
            caller = self._known(authorization)
            if len(self._admitted) >= _ADMITTED_MAX:
                self._admitted.clear()
            self._admitted[authorization] = caller
        return caller

    def _known(self, authorization: str) -> Caller:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Denied("only 'Authorization: Bearer TOKEN' is accepted", code="unauthenticated")
        caller = self._callers.get(digest(token.strip()))
        if caller is None:
            raise Denied("the token is not known or was withdrawn", code="unauthenticated")
        return caller

    async def _reload(self) -> None:
        async with self._lock:
            while self._loaded != self._told:
                told = self._told
                async with self._database.read() as connection:
                    known = await tokens.load_all(connection)
                self._admitted.clear()
                self._callers = {key: Caller(f"token:{name}", scopes) for key, (name, scopes) in known.items()}
                self._loaded = told
