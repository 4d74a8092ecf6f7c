"""Targets of publication: how far each has got, who may write to it, and what it refused.

One publisher at a time for each target, by a lease with a fencing number. Nobody's clock is believed: who wants a lease
that another holds has to see its `beat` unchanged for the lease's whole life, by a watch of its own, and takes it only
if it is still unchanged in that transaction. Every write of a holder names its `epoch`; one that has been passed over
raises Conflict and changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound
from core.store.schema import publication_aside as aside
from core.store.schema import publication_targets as targets
from core.store.upsert import upsert

#: How long a reason may be that is kept.
_REASON_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class Target:
    """A row. `loading_to` None: nothing is loaded; see core.store.schema for the rest."""

    name: str
    identity: str
    position: int
    holder: str | None
    epoch: int
    beat: int
    loading_to: int | None
    loading_after: int
    changed_at_ms: int
    trouble: str | None


@dataclass(frozen=True, slots=True)
class Aside:
    """Something that was refused, or is to be delivered once more."""

    topic: str
    reference: str
    reason: str
    attempts: int
    at_ms: int
    retry: bool


_COLUMNS = [targets.c[field.name] for field in fields(Target)]
_ASIDE = [aside.c[field.name] for field in fields(Aside)]


async def ensure(connection: AsyncConnection, name: str, *, at_ms: int) -> None:
    """Makes the target's row where there is none; a new one stands before the first row of the outbox."""
    row = {"name": name, "identity": str(uuid.uuid4()), "position": 0, "epoch": 0, "beat": 0, "loading_after": 0}
    await connection.execute(upsert(connection, targets).values(**row, changed_at_ms=at_ms).on_conflict_do_nothing())


async def get(connection: AsyncConnection, name: str) -> Target:
    """Raises NotFound (code "target_unknown")."""
    row = (await connection.execute(select(*_COLUMNS).where(targets.c.name == name))).one_or_none()
    if row is None:
        raise NotFound(f"nothing was published to {name!r} yet", code="target_unknown")
    return Target(*row)


async def list_all(connection: AsyncConnection) -> list[Target]:
    """Every target that was ever published to, by name."""
    return [Target(*row) for row in await connection.execute(select(*_COLUMNS).order_by(targets.c.name))]


async def acquire(connection: AsyncConnection, seen: Target, holder: str) -> Target | None:
    """The lease, where nobody has it, or its holder has not moved since `seen`; None where somebody else has it."""
    c = targets.c
    free = or_(c.holder.is_(None), and_(c.epoch == seen.epoch, c.beat == seen.beat))
    statement = (
        update(targets)
        .where(c.name == seen.name, free)
        .values(holder=holder, epoch=c.epoch + 1, beat=0)
        .returning(*_COLUMNS)
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else Target(*row)


async def change(connection: AsyncConnection, name: str, epoch: int, **values: Any) -> None:
    """Sets columns of a target for the holder of lease `epoch`. Raises Conflict (code "lease_lost")."""
    fenced = (targets.c.name == name) & (targets.c.epoch == epoch)
    if (await connection.execute(update(targets).where(fenced).values(**values))).rowcount != 1:
        raise Conflict(f"another publisher has taken over {name!r}", code="lease_lost")


async def renew(connection: AsyncConnection, name: str, epoch: int) -> None:
    """Says that the holder lives. Raises Conflict (code "lease_lost")."""
    await change(connection, name, epoch, beat=targets.c.beat + 1)


async def release(connection: AsyncConnection, name: str, epoch: int) -> None:
    """Gives the lease back; nothing where it is another's already."""
    fenced = (targets.c.name == name) & (targets.c.epoch == epoch)
    await connection.execute(update(targets).where(fenced).values(holder=None))


async def ask_load(connection: AsyncConnection, name: str, *, to: int, identity: str | None = None) -> None:
    """Has everything delivered anew, from the first certificate on, beside the outbox from after number `to` on."""
    values: dict[str, Any] = {"position": to, "loading_to": to, "loading_after": 0}
    if identity is not None:
        values["identity"] = identity
    await connection.execute(update(targets).where(targets.c.name == name).values(**values))


async def set_position(connection: AsyncConnection, name: str, position: int) -> None:
    """Says that the target has everything up to `position`, whatever it stood at: it was filled by other means."""
    values = {"position": position, "loading_to": None, "loading_after": 0}
    await connection.execute(update(targets).where(targets.c.name == name).values(**values))


async def forget(connection: AsyncConnection, name: str) -> bool:
    """Removes a target that is not used any more; whether there was one."""
    await connection.execute(delete(aside).where(aside.c.target == name))
    return (await connection.execute(delete(targets).where(targets.c.name == name))).rowcount == 1


async def put_aside(
    connection: AsyncConnection, target: str, refused: Iterable[tuple[str, str, str]], *, at_ms: int
) -> None:
    """Keeps (topic, reference, reason) of what a target refused; one that is there already counts one attempt more."""
    for topic, reference, reason in refused:
        row = {"target": target, "topic": topic, "reference": reference, "reason": reason[:_REASON_CHARS]}
        statement = upsert(connection, aside).values(**row, attempts=1, at_ms=at_ms, retry=False)
        statement = statement.on_conflict_do_update(
            index_elements=["target", "topic", "reference"],
            set_={"reason": row["reason"], "at_ms": at_ms, "retry": False, "attempts": aside.c.attempts + 1},
        )
        await connection.execute(statement)


async def queue(
    connection: AsyncConnection, target: str, wanted: Sequence[tuple[str, str, str]], *, at_ms: int
) -> None:
    """Has (topic, reference) delivered once more, with the reason why."""
    if not wanted:
        return
    rows = [
        {"target": target, "topic": t, "reference": r, "reason": why, "attempts": 0, "at_ms": at_ms, "retry": True}
        for t, r, why in wanted
    ]
    statement = upsert(connection, aside).values(rows)
    again = {"retry": True}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["target", "topic", "reference"], set_=again)
    )


async def taken(connection: AsyncConnection, target: str, delivered: Iterable[tuple[str, str]]) -> None:
    """Forgets what was set aside of what the target has now taken."""
    c = aside.c
    for topic, reference in delivered:
        await connection.execute(delete(aside).where(c.target == target, c.topic == topic, c.reference == reference))


async def due(connection: AsyncConnection, target: str, *, limit: int) -> list[Aside]:
    """What is to be delivered once more, the oldest first."""
    c = aside.c
    statement = select(*_ASIDE).where(c.target == target, c.retry.is_(True)).order_by(c.id).limit(limit)
    return [Aside(*row) for row in await connection.execute(statement)]


async def list_aside(connection: AsyncConnection, target: str, *, limit: int) -> list[Aside]:
    """What was set aside or is to be delivered once more, the oldest first."""
    statement = select(*_ASIDE).where(aside.c.target == target).order_by(aside.c.id).limit(limit)
    return [Aside(*row) for row in await connection.execute(statement)]


async def counts(connection: AsyncConnection, target: str) -> tuple[int, int]:
    """(how many are set aside, how many are to be delivered once more)."""
    c = aside.c
    statement = select(c.retry, func.count()).where(c.target == target).group_by(c.retry)
    found = {bool(retry): int(count) for retry, count in await connection.execute(statement)}
    return found.get(False, 0), found.get(True, 0)


async def retry(connection: AsyncConnection, target: str, reference: str | None = None) -> int:
    """Has what was set aside delivered once more, all of it or one reference; returns how many."""
    statement = update(aside).where(aside.c.target == target, aside.c.retry.is_(False))
    if reference is not None:
        statement = statement.where(aside.c.reference == reference)
    return (await connection.execute(statement.values(retry=True))).rowcount
