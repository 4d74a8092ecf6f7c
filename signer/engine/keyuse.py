"""Changes of keys in the store alone: state, limits, callers. They need no key opened.

Owns which words the audit record has for them. What is committed here counts on every process from the commit on,
because each looks at the change feed before it uses a key. Knows the store; not native keys or batches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Conflict, NotFound, Refused
from core.model import KeyPurpose, KeyState
from core.store import audit, counters, keys
from core.store.database import Database
from signer.engine.hours import Hours

#: What applications may ask signatures of.
APPLICATION_PURPOSES: Final = frozenset({KeyPurpose.DATA, KeyPurpose.TIMESTAMP, KeyPurpose.SEAL})
#: Keys that must name each of their callers: a signature of theirs speaks for more than the one who asks for it.
_NAMED_ONLY: Final = frozenset({KeyPurpose.TIMESTAMP, KeyPurpose.SEAL})
#: Keys that the service itself uses, for nobody else.
_INTERNAL: Final = frozenset({KeyPurpose.CERTIFICATE, KeyPurpose.OCSP, KeyPurpose.AUDIT, KeyPurpose.STATUS_SET})

_STATE_ACTIONS: Final = {
    KeyState.ACTIVE: "key.resume",
    KeyState.FROZEN: "key.freeze",
    KeyState.COMPROMISED: "key.compromise",
    KeyState.RETIRED: "key.retire",
}


def check_use(purpose: KeyPurpose, callers: Collection[str], limits: keys.KeyLimits) -> tuple[str, ...]:
    """The callers in order, where a key for `purpose` may have them and the limits.

    Raises Refused (code "key_callers", "key_limits").
    """
    limits.check()
    if limits.hours is not None:
        Hours.parse(limits.hours)
    checked = keys.check_callers(callers)
    if keys.ANY_CALLER in checked and purpose in _NAMED_ONLY:
        raise Refused(f"a key for {purpose.value} names its callers: '*' is too many", code="key_callers")
    if purpose in _INTERNAL and (checked or limits != keys.KeyLimits()):
        raise Refused(f"a key for {purpose.value} is the service's own: no callers, no limits", code="key_callers")
    return checked


def with_use(record: keys.KeyRecord, callers: tuple[str, ...], limits: keys.KeyLimits) -> keys.KeyRecord:
    """The record with callers and limits."""
    return replace(record, callers=callers, max_rate=limits.max_rate, max_uses=limits.max_uses, hours=limits.hours)


def use_detail(record: keys.KeyRecord) -> dict[str, str | int]:
    """Callers and limits for the audit record; -1 and "" for without."""
    return {
        "callers": " ".join(record.callers),
        "max_rate": -1 if record.max_rate is None else record.max_rate,
        "max_uses": -1 if record.max_uses is None else record.max_uses,
        "hours": record.hours or "",
    }


async def change_key_state(
    database: Database, key_id: str, state: KeyState, actor: str, clock: Clock
) -> keys.KeyRecord:
    """Changes a key's state; when it returns, no process uses the key otherwise. Raises as
    `SigningEngine.set_key_state`."""
    async with database.write() as connection:
        now_ms = await _now(connection, clock)
        changed = await keys.change_state(connection, key_id, state, at_ms=now_ms)
        await audit.append(connection, AuditEvent(actor, _STATE_ACTIONS[state], key_id), at_ms=now_ms)
    await database.settle()
    return changed


async def change_key_limits(
    database: Database, key_id: str, change: Callable[[keys.KeyLimits], keys.KeyLimits], actor: str, clock: Clock
) -> keys.KeyRecord:
    """Replaces a key's limits by what `change` makes of them.

    Raises NotFound (code "key_unknown"), Refused (code "key_limits", or "key_callers": the service's own key has none).
    """

    async def apply(connection: AsyncConnection, key: keys.KeyRecord, now_ms: int) -> keys.KeyRecord:
        limits = change(key.limits)
        check_use(key.purpose, key.callers, limits)
        return await keys.set_limits(connection, key_id, limits, at_ms=now_ms)

    return await _change(database, key_id, apply, "key.limit", actor, clock)


async def allow_caller(database: Database, key_id: str, caller: str, actor: str, clock: Clock) -> keys.KeyRecord:
    """Adds a caller to a key's. Raises NotFound (code "key_unknown"), Conflict (code "key_caller_known"), Refused."""

    async def apply(connection: AsyncConnection, key: keys.KeyRecord, now_ms: int) -> keys.KeyRecord:
        if caller in key.callers:
            raise Conflict(f"{caller} may use key {key_id!r} already", code="key_caller_known")
        callers = check_use(key.purpose, {*key.callers, caller}, key.limits)
        return await keys.set_callers(connection, key_id, callers, at_ms=now_ms)

    return await _change(database, key_id, apply, "key.allow", actor, clock)


async def deny_caller(database: Database, key_id: str, caller: str, actor: str, clock: Clock) -> keys.KeyRecord:
    """Takes a caller from a key's. Raises NotFound (code "key_unknown", "key_caller_unknown")."""

    async def apply(connection: AsyncConnection, key: keys.KeyRecord, now_ms: int) -> keys.KeyRecord:
        if caller not in key.callers:
            hint = "; it is for every caller: name those who may use it, then deny '*'" if "*" in key.callers else ""
            raise NotFound(f"{caller} is not among the callers of key {key_id!r}{hint}", code="key_caller_unknown")
        return await keys.set_callers(connection, key_id, set(key.callers) - {caller}, at_ms=now_ms)

    return await _change(database, key_id, apply, "key.deny", actor, clock)


async def _change(
    database: Database,
    key_id: str,
    apply: Callable[[AsyncConnection, keys.KeyRecord, int], Awaitable[keys.KeyRecord]],
    action: str,
    actor: str,
    clock: Clock,
) -> keys.KeyRecord:
    async with database.write() as connection:
        now_ms = await _now(connection, clock)
        changed = await apply(connection, await keys.get(connection, key_id), now_ms)
        await audit.append(connection, AuditEvent(actor, action, key_id, detail=use_detail(changed)), at_ms=now_ms)
    await database.settle()
    return changed


async def _now(connection: AsyncConnection, clock: Clock) -> int:
    """The time to write. A key must be stopped with a wrong clock, too; time still never goes back in the record."""
    return max(clock(), await counters.current(connection, counters.LAST_TIME))
