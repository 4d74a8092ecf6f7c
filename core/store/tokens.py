"""Bearer tokens, kept as digests."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.schema import tokens


async def add(connection: AsyncConnection, token_id: str, digest: bytes, scopes: frozenset[str], *, at_ms: int) -> None:
    """Records a token. `digest`: SM3 of the token; `scopes`: what it admits to."""
    row = {
        "id": token_id,
        "digest": digest,
        "scopes": " ".join(sorted(scopes)),
        "created_at_ms": at_ms,
        "withdrawn": False,
    }
    await connection.execute(insert(tokens).values(row))


async def load_all(connection: AsyncConnection) -> dict[bytes, tuple[str, frozenset[str]]]:
    """Every token in force: digest → (id, scopes)."""
    rows = await connection.execute(select(tokens).where(tokens.c.withdrawn.is_(False)))
    return {row.digest: (row.id, frozenset(row.scopes.split())) for row in rows}
