"""Bearer tokens, kept as digests."""

from __future__ import annotations

from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound
from core.store import callers, feed
from core.store.schema import tokens


async def add(
    connection: AsyncConnection,
    token_id: str,
    digest: bytes,
    scopes: frozenset[str],
    *,
    at_ms: int,
    expires_at_ms: int | None = None,
) -> None:
    """Records a token and says so in the feed. `digest`: SM3 of the token; `scopes`: what it admits to.

    Raises Conflict (code "token_exists") where a token has that id.
    """
    row = {
        "id": token_id,
        "digest": digest,
        "scopes": " ".join(sorted(scopes)),
        "created_at_ms": at_ms,
        "withdrawn": False,
        "expires_at_ms": expires_at_ms,
    }
    try:
        await connection.execute(insert(tokens).values(row))
    except IntegrityError as error:
        raise Conflict(f"there is a token {token_id!r} already", code="token_exists") from error
    await feed.append(connection, [feed.FeedChange("token", subject_id=token_id)], at_ms=at_ms)


async def withdraw(connection: AsyncConnection, token_id: str, *, at_ms: int) -> None:
    """Withdraws a token from this commit on. Raises NotFound (code "token_unknown")."""
    in_force = (tokens.c.id == token_id) & tokens.c.withdrawn.is_(False)
    result = await connection.execute(update(tokens).where(in_force).values(withdrawn=True))
    if result.rowcount != 1:
        raise NotFound(f"there is no token {token_id!r} in force", code="token_unknown")
    await callers.drop_limits(connection, callers.token_caller(token_id))
    await feed.append(connection, [feed.FeedChange("token", subject_id=token_id)], at_ms=at_ms)
