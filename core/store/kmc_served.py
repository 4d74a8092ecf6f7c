"""Authorities that key management serves, the tasks that it has answered, and the keys that it keeps for them.

Owns the rules that a task number stands for one request for good, and a certificate number for one key. Knows wrapped
bytes and encoded answers; not what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict, NotFound
from core.store.escrow import WrappedKey
from core.store.schema_kmc import kmc_authorities, kmc_served_keys, kmc_tasks
from core.store.upsert import hold


@dataclass(frozen=True, slots=True)
class ServedAuthority:
    """An authority that may ask for keys; `certificate` (DER) verifies its messages."""

    id: str
    certificate: bytes
    withdrawn: bool
    created_at_ms: int
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class Task:
    """An answered task: the digest of what was asked, and the encoded list of answers."""

    digest: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class ServedKey:
    """A key that is kept for an authority. `number`: its certificate's."""

    authority_id: str
    number: int
    key: WrappedKey
    not_after_ms: int
    created_at_ms: int
    ended_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ServedCounts:
    """How many keys are kept for an authority, in use and in history."""

    authority_id: str
    in_use: int
    history: int


async def add_authority(connection: AsyncConnection, authority_id: str, certificate: bytes, *, at_ms: int) -> None:
    """Admits an authority. Raises Conflict (code "kmc_ca_exists")."""
    row = {
        "id": authority_id,
        "certificate": certificate,
        "withdrawn": False,
        "created_at_ms": at_ms,
        "changed_at_ms": at_ms,
    }
    try:
        await connection.execute(insert(kmc_authorities).values(row))
    except IntegrityError as error:
        raise Conflict(f"there is an authority {authority_id!r} already", code="kmc_ca_exists") from error


async def change_authority(
    connection: AsyncConnection,
    authority_id: str,
    *,
    at_ms: int,
    certificate: bytes | None = None,
    withdrawn: bool | None = None,
) -> None:
    """Gives it another certificate, withdraws or admits it anew. Raises NotFound (code "kmc_ca_unknown")."""
    values: dict[str, object] = {"changed_at_ms": at_ms}
    if certificate is not None:
        values["certificate"] = certificate
    if withdrawn is not None:
        values["withdrawn"] = withdrawn
    changed = update(kmc_authorities).where(kmc_authorities.c.id == authority_id).values(values)
    if (await connection.execute(changed)).rowcount != 1:
        raise NotFound(f"there is no authority {authority_id!r}; qianyan kmc ca list", code="kmc_ca_unknown")


async def list_authorities(connection: AsyncConnection) -> Sequence[ServedAuthority]:
    """All of them, those that were withdrawn too."""
    rows = await connection.execute(select(kmc_authorities).order_by(kmc_authorities.c.id))
    return [ServedAuthority(*(getattr(row, name) for name in ServedAuthority.__dataclass_fields__)) for row in rows]


async def is_admitted(connection: AsyncConnection, authority: ServedAuthority) -> bool:
    """Whether it is still admitted, with that certificate; nobody changes that until the transaction ends."""
    c = kmc_authorities.c
    locked = select(c.withdrawn, c.certificate).where(c.id == authority.id).with_for_update(read=True)
    row = (await connection.execute(locked)).one_or_none()
    return row is not None and not row.withdrawn and row.certificate == authority.certificate


async def recall(connection: AsyncConnection, authority_id: str, task: int, *, lock: bool = False) -> Task | None:
    """What was answered to that task. lock: another request with the same number waits for the transaction to end."""
    if lock:
        await hold(connection, "kmc_task", authority_id, f"{task:x}")
    c = kmc_tasks.c
    found = select(c.digest, c.answer).where(c.authority_id == authority_id, c.task == f"{task:x}")
    row = (await connection.execute(found)).one_or_none()
    return None if row is None else Task(row.digest, row.answer)


async def remember(connection: AsyncConnection, authority_id: str, task: int, done: Task, *, at_ms: int) -> None:
    """Keeps an answer, in the transaction that did what it speaks of."""
    row = {
        "authority_id": authority_id,
        "task": f"{task:x}",
        "digest": done.digest,
        "answer": done.answer,
        "created_at_ms": at_ms,
    }
    await connection.execute(insert(kmc_tasks).values(row))


async def forget_tasks(connection: AsyncConnection, *, before_ms: int, limit: int) -> int:
    """Drops at most `limit` answers to tasks from before a time; returns how many."""
    c = kmc_tasks.c
    old = select(c.authority_id, c.task).where(c.created_at_ms < before_ms).order_by(c.created_at_ms).limit(limit)
    rows = (await connection.execute(old)).all()
    for row in rows:
        await connection.execute(delete(kmc_tasks).where(c.authority_id == row.authority_id, c.task == row.task))
    return len(rows)


async def keep(connection: AsyncConnection, kept: ServedKey) -> bool:
    """Puts a key into use; False where the certificate number has one already, and nothing was changed."""
    await hold(connection, "kmc_number", kept.authority_id, f"{kept.number:x}")
    if await find(connection, kept.authority_id, kept.number) is not None:
        return False
    row = {
        "authority_id": kept.authority_id,
        "number": f"{kept.number:x}",
        "public_key": kept.key.public_key,
        "wrapped_key": kept.key.wrapped,
        "not_after_ms": kept.not_after_ms,
        "created_at_ms": kept.created_at_ms,
        "ended_at_ms": kept.ended_at_ms,
    }
    await connection.execute(insert(kmc_served_keys).values(row))
    return True


async def find(connection: AsyncConnection, authority_id: str, number: int) -> ServedKey | None:
    """The key of a certificate number, in use or history."""
    c = kmc_served_keys.c
    found = select(kmc_served_keys).where(c.authority_id == authority_id, c.number == f"{number:x}")
    row = (await connection.execute(found)).one_or_none()
    if row is None:
        return None
    key = WrappedKey(row.public_key, row.wrapped_key)
    return ServedKey(row.authority_id, int(row.number, 16), key, row.not_after_ms, row.created_at_ms, row.ended_at_ms)


async def end(connection: AsyncConnection, authority_id: str, number: int, *, at_ms: int) -> None:
    """Moves a key to history; one that is there stays."""
    c = kmc_served_keys.c
    ending = update(kmc_served_keys).where(
        c.authority_id == authority_id, c.number == f"{number:x}", c.ended_at_ms.is_(None)
    )
    await connection.execute(ending.values(ended_at_ms=at_ms))


async def end_expired(connection: AsyncConnection, *, at_ms: int, limit: int) -> int:
    """Moves at most `limit` keys whose time has run out to history; returns how many."""
    c = kmc_served_keys.c
    expired = select(c.id).where(c.ended_at_ms.is_(None), c.not_after_ms < at_ms).limit(limit)
    moved = update(kmc_served_keys).where(c.id.in_(expired)).values(ended_at_ms=at_ms)
    return int((await connection.execute(moved)).rowcount)


async def counts(connection: AsyncConnection) -> list[ServedCounts]:
    """What is kept, by authority; looks through all of it."""
    c = kmc_served_keys.c
    ended = func.count(c.ended_at_ms)
    grouped = select(c.authority_id, func.count(), ended).group_by(c.authority_id).order_by(c.authority_id)
    rows = (await connection.execute(grouped)).all()
    return [ServedCounts(authority, int(whole) - int(over), int(over)) for authority, whole, over in rows]
