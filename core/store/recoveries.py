"""Recoveries of encryption keys and permissions to unlock a medium.

Owns the rule that a recovery goes asked → approved → done (or rejected), each step once, whoever comes at the same
time. Who may take a step is known to signer.issuance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound
from core.store.schema import recoveries, unlocks


@dataclass(frozen=True, slots=True)
class Recovery:
    """A row. `recipient_key`: the public key, 65 bytes, that the recovered key is enveloped for."""

    id: str
    certificate_id: int
    judicial: bool
    reference: str
    recipient_id: int | None
    recipient_key: bytes
    requested_by: str
    first_approver: str | None
    second_approver: str | None
    state: str
    enveloped_key: bytes | None
    created_at_ms: int
    expires_at_ms: int
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class Unlock:
    """A permission to unlock the medium that holds a certificate's key."""

    id: str
    certificate_id: int
    actor: str
    created_at_ms: int
    expires_at_ms: int
    used_at_ms: int | None = None


def _recovery(row: Row[Any]) -> Recovery:
    return Recovery(*(getattr(row, name) for name in Recovery.__dataclass_fields__))


async def add(connection: AsyncConnection, recovery: Recovery) -> None:
    """Records what was asked for."""
    row = {name: getattr(recovery, name) for name in Recovery.__dataclass_fields__}
    await connection.execute(insert(recoveries).values(row))


async def get(connection: AsyncConnection, recovery_id: str) -> Recovery:
    """Raises NotFound (code "recovery_unknown")."""
    row = (await connection.execute(select(recoveries).where(recoveries.c.id == recovery_id))).one_or_none()
    if row is None:
        raise NotFound("there is no such recovery", code="recovery_unknown")
    return _recovery(row)


async def list_all(connection: AsyncConnection, *, state: str | None = None, limit: int = 200) -> Sequence[Recovery]:
    """Recoveries, newest first."""
    statement = select(recoveries).order_by(recoveries.c.created_at_ms.desc(), recoveries.c.id).limit(limit)
    if state is not None:
        statement = statement.where(recoveries.c.state == state)
    return [_recovery(row) for row in await connection.execute(statement)]


async def advance(connection: AsyncConnection, seen: Recovery, now: Recovery) -> None:
    """Writes `now` over `seen`. Raises Conflict (code "recovery_changed") where another request took a step first."""
    unchanged = (recoveries.c.id == seen.id) & (recoveries.c.state == seen.state)
    values = {
        name: getattr(now, name)
        for name in ("first_approver", "second_approver", "state", "enveloped_key", "changed_at_ms")
    }
    if (await connection.execute(update(recoveries).where(unchanged).values(**values))).rowcount != 1:
        raise Conflict("another request took a step of this recovery first; look at it again", code="recovery_changed")


async def add_unlock(connection: AsyncConnection, unlock: Unlock) -> None:
    """Records a permission."""
    row = {name: getattr(unlock, name) for name in Unlock.__dataclass_fields__}
    await connection.execute(insert(unlocks).values(row))


async def get_unlock(connection: AsyncConnection, unlock_id: str) -> Unlock:
    """Raises NotFound (code "unlock_unknown")."""
    row = (await connection.execute(select(unlocks).where(unlocks.c.id == unlock_id))).one_or_none()
    if row is None:
        raise NotFound("there is no such unlock token", code="unlock_unknown")
    return Unlock(*(getattr(row, name) for name in Unlock.__dataclass_fields__))


async def use_unlock(connection: AsyncConnection, unlock_id: str, *, at_ms: int) -> None:
    """Spends a permission. Raises Conflict (code "unlock_used") where that was done before."""
    unused = (unlocks.c.id == unlock_id) & unlocks.c.used_at_ms.is_(None)
    if (await connection.execute(update(unlocks).where(unused).values(used_at_ms=at_ms))).rowcount != 1:
        raise Conflict("the unlock token was used already", code="unlock_used")
