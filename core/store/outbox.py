"""The transactional outbox: what has to be published elsewhere, written with what caused it.

Delivery is at least once; what is delivered is named, not carried, so that it is idempotent.
"""

from __future__ import annotations

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.store.schema import outbox


async def put(connection: AsyncConnection, topic: str, reference: str, *, at_ms: int) -> None:
    """Adds one thing to publish: `topic` says what kind ("certificate", "crl"), `reference` which one."""
    row = {"topic": topic, "reference": reference, "created_at_ms": at_ms}
    await connection.execute(insert(outbox).values(row))
