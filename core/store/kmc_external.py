"""Keys that authorities of this store have asked another key-management centre for.

Owns the states of such a key. `asked`: committed before the first message leaves, so that its task and certificate
number are never used for anything else. `answered`: it came, and no certificate has it yet; whoever issues next for the
same signing key takes it. `used`: a certificate has it. `ending`: the centre is to be told that it is over; `ended`:
it was. `refused`: the centre said no, and made none. Knows bytes; not messages or certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Conflict
from core.store.schema import certificates
from core.store.schema_kmc import kmc_asked_certificates, kmc_asked_keys
from core.store.upsert import hold

_k, _c = kmc_asked_keys.c, kmc_asked_certificates.c


@dataclass(frozen=True, slots=True)
class AskedKey:
    """A row. `task`, `number` and `revocation` are numbers of the CA-KM messages; keys are 65 bytes."""

    task: int
    centre: str
    authority_id: str
    number: int
    recipient: bytes
    not_before_ms: int
    not_after_ms: int
    state: str
    sent: int
    public_key: bytes | None
    enveloped: bytes | None
    revocation: int | None
    trouble: str | None
    created_at_ms: int
    changed_at_ms: int


def _asked(row: Any) -> AskedKey:
    values = dict(row._mapping)
    for name in ("task", "number", "revocation"):
        values[name] = None if values[name] is None else int(values[name], 16)
    return AskedKey(**values)


async def get(connection: AsyncConnection, task: int) -> AskedKey | None:
    """The key of a task."""
    row = (await connection.execute(select(kmc_asked_keys).where(_k.task == f"{task:x}"))).one_or_none()
    return None if row is None else _asked(row)


async def unused(connection: AsyncConnection, centre: str, authority_id: str, recipient: bytes) -> AskedKey | None:
    """A key for that signing key that no certificate has; another request for one waits for the transaction to end."""
    await hold(connection, "kmc_recipient", recipient.hex())
    found = (
        select(kmc_asked_keys)
        .where(
            _k.recipient == recipient,
            _k.centre == centre,
            _k.authority_id == authority_id,
            _k.state.in_(("asked", "answered")),
        )
        .order_by(_k.created_at_ms)
        .limit(1)
    )
    row = (await connection.execute(found)).one_or_none()
    return None if row is None else _asked(row)


async def add(connection: AsyncConnection, asked: AskedKey) -> None:
    """Records a key that is to be asked for. Raises Conflict (code "kmc_task") where a number is taken."""
    row = {name: getattr(asked, name) for name in AskedKey.__dataclass_fields__}
    row |= {"task": f"{asked.task:x}", "number": f"{asked.number:x}"}
    try:
        await connection.execute(insert(kmc_asked_keys).values(row))
    except IntegrityError as error:
        raise Conflict("that task or certificate number was used before", code="kmc_task") from error


async def sent_again(connection: AsyncConnection, task: int, *, at_ms: int) -> None:
    """Counts a message for the key, before it leaves."""
    values = {"sent": _k.sent + 1, "changed_at_ms": at_ms}
    await connection.execute(update(kmc_asked_keys).where(_k.task == f"{task:x}").values(values))


async def answered(connection: AsyncConnection, task: int, public_key: bytes, enveloped: bytes, *, at_ms: int) -> bool:
    """Records the key that came; False where the task is no longer `asked`, and nothing was changed.

    Raises Conflict (code "kmc_key_reused") where the centre has given this key before.
    """
    taken = select(_k.task).where(_k.public_key == public_key, _k.task != f"{task:x}")
    if (await connection.execute(taken)).first() is not None:
        raise Conflict("the key-management centre gave a key that it gave before", code="kmc_key_reused")
    values = {"state": "answered", "public_key": public_key, "enveloped": enveloped, "changed_at_ms": at_ms}
    done = update(kmc_asked_keys).where(_k.task == f"{task:x}", _k.state == "asked").values(values)
    return bool((await connection.execute(done)).rowcount)


async def refused(connection: AsyncConnection, task: int, trouble: str, *, made: bool, at_ms: int) -> None:
    """Records that there is no key for the task. made: the centre may have made one all the same, and is to end it."""
    values: dict[str, object] = {"state": "refused", "trouble": trouble, "changed_at_ms": at_ms}
    if made:
        values |= {"state": "ending", "trouble": None}
    await connection.execute(update(kmc_asked_keys).where(_k.task == f"{task:x}", _k.state == "asked").values(values))


async def refuse_taken(connection: AsyncConnection, task: int) -> Conflict | None:
    """Why the key cannot be given to a certificate, where it cannot; else nobody else gives it until the transaction
    ends."""
    locked = select(_k.state).where(_k.task == f"{task:x}").with_for_update()
    if (await connection.execute(locked)).scalar_one_or_none() == "answered":
        return None
    return Conflict("the encryption key went to another certificate meanwhile; ask again", code="kmc_key_taken")


async def use(connection: AsyncConnection, task: int, certificate_id: int, *, at_ms: int) -> None:
    """Gives the key to a certificate. Raises Conflict (code "kmc_key_taken") where another has it, or it is over."""
    taken = update(kmc_asked_keys).where(_k.task == f"{task:x}", _k.state == "answered")
    # What was enveloped is in the answer to who asked for the certificate, and is not needed here any more.
    values = {"state": "used", "enveloped": None, "changed_at_ms": at_ms}
    if (await connection.execute(taken.values(values))).rowcount != 1:
        raise Conflict("the encryption key went to another certificate meanwhile; ask again", code="kmc_key_taken")
    row = {"certificate_id": certificate_id, "task": f"{task:x}", "ended_at_ms": None}
    await connection.execute(insert(kmc_asked_certificates).values(row))


async def carry_over(connection: AsyncConnection, old_id: int, new_id: int) -> None:
    """A certificate that keeps another one's key: where that is another centre's, it is this one's as well."""
    found = await connection.execute(select(_c.task).where(_c.certificate_id == old_id))
    task = found.scalar_one_or_none()
    if task is not None:
        row = {"certificate_id": new_id, "task": task, "ended_at_ms": None}
        await connection.execute(insert(kmc_asked_certificates).values(row))


async def of_certificate(connection: AsyncConnection, certificate_id: int) -> AskedKey | None:
    """The key of a certificate, where another centre keeps it."""
    joined = select(kmc_asked_keys).join(kmc_asked_certificates, _c.task == _k.task)
    row = (await connection.execute(joined.where(_c.certificate_id == certificate_id))).one_or_none()
    return None if row is None else _asked(row)


async def end(connection: AsyncConnection, certificate_ids: Sequence[int], *, at_ms: int) -> None:
    """These certificates have ended: keys that no other certificate has are to be ended at their centre."""
    mine = select(_c.task).where(_c.certificate_id.in_(certificate_ids), _c.ended_at_ms.is_(None))
    tasks = [row.task for row in await connection.execute(mine)]
    if not tasks:
        return
    over = update(kmc_asked_certificates).where(_c.certificate_id.in_(certificate_ids), _c.ended_at_ms.is_(None))
    await connection.execute(over.values(ended_at_ms=at_ms))
    other = kmc_asked_certificates.alias()
    has_other = exists().where(other.c.task == _k.task, other.c.ended_at_ms.is_(None))
    ending = update(kmc_asked_keys).where(_k.task.in_(tasks), _k.state == "used", ~has_other)
    await connection.execute(ending.values(state="ending", changed_at_ms=at_ms))


async def end_expired(connection: AsyncConnection, *, at_ms: int, limit: int) -> int:
    """As `end`, for at most `limit` certificates that have run out; returns how many."""
    expired = (
        select(_c.certificate_id)
        .join(certificates, certificates.c.id == _c.certificate_id)
        .where(_c.ended_at_ms.is_(None), certificates.c.not_after_ms < at_ms)
        .limit(limit)
    )
    ids = [row.certificate_id for row in await connection.execute(expired)]
    if ids:
        await end(connection, ids, at_ms=at_ms)
    return len(ids)


async def give_up(connection: AsyncConnection, *, before_ms: int, at_ms: int) -> int:
    """Keys that were asked for before a time and that no certificate has are to be ended; returns how many."""
    idle = update(kmc_asked_keys).where(_k.state.in_(("asked", "answered")), _k.created_at_ms < before_ms)
    return int((await connection.execute(idle.values(state="ending", enveloped=None, changed_at_ms=at_ms))).rowcount)


async def ending(connection: AsyncConnection, *, refused_before_ms: int, limit: int) -> Sequence[AskedKey]:
    """Keys that their centre is to be told about, those first that wait longest; not those it refused since a time."""
    due = or_(_k.trouble.is_(None), _k.changed_at_ms < refused_before_ms)
    waiting = select(kmc_asked_keys).where(_k.state == "ending", due).order_by(_k.changed_at_ms, _k.task).limit(limit)
    return [_asked(row) for row in await connection.execute(waiting)]


async def set_revocation(connection: AsyncConnection, task: int, revocation: int) -> None:
    """The number under which the centre is told, before it is."""
    chosen = update(kmc_asked_keys).where(_k.task == f"{task:x}", _k.revocation.is_(None))
    await connection.execute(chosen.values(revocation=f"{revocation:x}"))


async def settle(connection: AsyncConnection, task: int, trouble: str | None, *, ended: bool, at_ms: int) -> None:
    """What came of telling the centre: over, or to be tried again later, under another number."""
    values: dict[str, object] = {"trouble": trouble, "changed_at_ms": at_ms}
    if ended:
        values["state"] = "ended"
    else:
        values["revocation"] = None
    await connection.execute(update(kmc_asked_keys).where(_k.task == f"{task:x}", _k.state == "ending").values(values))


async def counts(connection: AsyncConnection) -> dict[str, dict[str, int]]:
    """How many keys are in which state, by centre."""
    grouped = select(_k.centre, _k.state, func.count()).group_by(_k.centre, _k.state).order_by(_k.centre, _k.state)
    found: dict[str, dict[str, int]] = {}
    for centre, state, count in (await connection.execute(grouped)).all():
        found.setdefault(centre, {})[state] = int(count)
    return found


async def public_key_known(connection: AsyncConnection, public_key: bytes) -> bool:
    """Whether a certificate of this store has that key, or it was asked for as somebody's signing key."""
    certified = select(certificates.c.id).where(certificates.c.public_key == public_key).limit(1)
    asked = select(_k.task).where(_k.recipient == public_key).limit(1)
    for statement in (certified, asked):
        if (await connection.execute(statement)).first() is not None:
            return True
    return False
