"""Keys as the store knows them: purpose, state, public key, who may use them and how much.

Private keys are elsewhere (signer.engine), and so is how often they were used (core.store.key_uses).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import public_key_of_certificate
from core.errors import Conflict, NotFound, Refused
from core.model import KeyPurpose, KeyState
from core.store import feed
from core.store.schema import key_uses, keys
from core.store.upsert import among

#: Which states a state may change to; compromised and retired are final (rule 2).
_TRANSITIONS: Final[dict[KeyState, frozenset[KeyState]]] = {
    KeyState.ACTIVE: frozenset({KeyState.FROZEN, KeyState.COMPROMISED, KeyState.RETIRED}),
    KeyState.FROZEN: frozenset({KeyState.ACTIVE, KeyState.COMPROMISED, KeyState.RETIRED}),
    KeyState.COMPROMISED: frozenset(),
    KeyState.RETIRED: frozenset({KeyState.COMPROMISED}),
}


#: Stands for every caller.
ANY_CALLER: Final = "*"
#: Bounds on a key's callers: how many, and how long an id is.
CALLERS_MAX: Final = 256
_CALLER_MAX_CHARS: Final = 128
RATE_MAX: Final = 1_000_000_000
USES_MAX: Final = 1 << 62
HOURS_MAX_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much a key may be used, None for without a bound.

    max_rate: uses a second. max_uses: uses in all. hours: when, as signer.engine.hours reads it.
    """

    max_rate: int | None = None
    max_uses: int | None = None
    hours: str | None = None

    def check(self) -> None:
        """Raises Refused (code "key_limits") where a number is out of bounds."""
        if self.max_rate is not None and not 1 <= self.max_rate <= RATE_MAX:
            raise Refused(f"a key's rate is 1 to {RATE_MAX} uses a second", code="key_limits", field="max_rate")
        if self.max_uses is not None and not 0 <= self.max_uses <= USES_MAX:
            raise Refused(f"a key's uses are 0 to {USES_MAX}", code="key_limits", field="max_uses")
        if self.hours is not None and not 1 <= len(self.hours) <= HOURS_MAX_CHARS:
            raise Refused(f"hours have 1 to {HOURS_MAX_CHARS} characters", code="key_limits", field="hours")


def check_callers(callers: Collection[str]) -> tuple[str, ...]:
    """The callers in order, each once. Raises Refused (code "key_callers") where one cannot be an id."""
    for caller in callers:
        if not 1 <= len(caller) <= _CALLER_MAX_CHARS or not caller.isprintable() or any(c.isspace() for c in caller):
            raise Refused("a caller's id has 1 to 128 visible characters", code="key_callers", field="callers")
    if len(set(callers)) > CALLERS_MAX:
        raise Refused(f"a key has at most {CALLERS_MAX} callers", code="key_callers", field="callers")
    return tuple(sorted(set(callers)))


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A row; `public_key` is 65 bytes. What has a default is described in core.store.schema.

    callers: who may use it; ("*",) for every caller, () for none but the service itself.
    """

    id: str
    purpose: KeyPurpose
    state: KeyState
    public_key: bytes
    owner: str
    created_at_ms: int
    changed_at_ms: int
    backend: str = "software"
    device_index: int | None = None
    certificate: bytes | None = None
    service_index: int | None = None
    service_code: bytes | None = None
    callers: tuple[str, ...] = ()
    max_rate: int | None = None
    max_uses: int | None = None
    hours: str | None = None

    @property
    def limits(self) -> KeyLimits:
        """How much it may be used, and when."""
        return KeyLimits(self.max_rate, self.max_uses, self.hours)


_COLUMNS = [keys.c[field.name] for field in fields(KeyRecord)]


def _record(row: Any) -> KeyRecord:
    values = dict(row._mapping)
    values["purpose"], values["state"] = KeyPurpose(values["purpose"]), KeyState(values["state"])
    values["callers"] = tuple(values["callers"].split())
    return KeyRecord(**values)


async def add(connection: AsyncConnection, key: KeyRecord) -> None:
    """Records a new key and its feed entry. Raises Conflict (code "key_exists")."""
    key.limits.check()
    values = {c.name: getattr(key, c.name) for c in _COLUMNS}
    values |= {"purpose": key.purpose.value, "state": key.state.value, "callers": " ".join(check_callers(key.callers))}
    try:
        await connection.execute(insert(keys).values(values))
    except IntegrityError as error:
        raise Conflict(f"there is a key {key.id!r} already", code="key_exists") from error
    await connection.execute(
        insert(key_uses).values(key_id=key.id, reserved=0, recorded=0, allowance_milli=None, allowance_at_ms=0)
    )
    await feed.append(connection, [feed.FeedChange("key", subject_id=key.id)], at_ms=key.created_at_ms)


async def get(connection: AsyncConnection, key_id: str, *, lock: bool = False) -> KeyRecord:
    """`lock`: nobody else changes it until the transaction ends. Raises NotFound (code "key_unknown")."""
    statement = select(*_COLUMNS).where(keys.c.id == key_id)
    if lock:
        statement = statement.with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFound(f"there is no key {key_id!r}", code="key_unknown")
    return _record(row)


async def find_by_public_key(connection: AsyncConnection, public_key: bytes) -> list[KeyRecord]:
    """Every key with that public key (65 bytes)."""
    return [_record(row) for row in await connection.execute(select(*_COLUMNS).where(keys.c.public_key == public_key))]


async def with_public_keys(connection: AsyncConnection, public_keys: Sequence[bytes]) -> list[KeyRecord]:
    """Every key whose public key is among these."""
    these = among(connection, keys.c.public_key, public_keys)
    return [_record(row) for row in await connection.execute(select(*_COLUMNS).where(these))]


async def list_all(connection: AsyncConnection) -> list[KeyRecord]:
    """Every key by id."""
    return [_record(row) for row in await connection.execute(select(*_COLUMNS).order_by(keys.c.id))]


async def change_state(connection: AsyncConnection, key_id: str, state: KeyState, *, at_ms: int) -> KeyRecord:
    """Changes a key's state and says so in the feed. Raises NotFound; Refused (code "key_state")."""
    key = await get(connection, key_id, lock=True)
    if state not in _TRANSITIONS[key.state]:
        raise Refused(f"key {key_id!r} is {key.state.value} and cannot become {state.value}", code="key_state")
    await connection.execute(update(keys).where(keys.c.id == key_id).values(state=state.value, changed_at_ms=at_ms))
    await feed.append(connection, [feed.FeedChange("key", subject_id=key_id)], at_ms=at_ms)
    return await get(connection, key_id)


async def set_limits(connection: AsyncConnection, key_id: str, limits: KeyLimits, *, at_ms: int) -> KeyRecord:
    """Replaces a key's limits and says so in the feed. Raises NotFound; Refused (code "key_limits")."""
    limits.check()
    values = {"max_rate": limits.max_rate, "max_uses": limits.max_uses, "hours": limits.hours}
    return await _change(connection, key_id, values, at_ms)


async def set_callers(connection: AsyncConnection, key_id: str, callers: Collection[str], *, at_ms: int) -> KeyRecord:
    """Replaces a key's callers and says so in the feed. Raises NotFound; Refused (code "key_callers")."""
    return await _change(connection, key_id, {"callers": " ".join(check_callers(callers))}, at_ms)


async def announce(connection: AsyncConnection, key_id: str, *, at_ms: int) -> None:
    """Has every process look at the key anew: its private key was put back. Raises NotFound."""
    await _change(connection, key_id, {}, at_ms)


async def _change(connection: AsyncConnection, key_id: str, values: dict[str, Any], at_ms: int) -> KeyRecord:
    await get(connection, key_id)
    await connection.execute(update(keys).where(keys.c.id == key_id).values({**values, "changed_at_ms": at_ms}))
    await feed.append(connection, [feed.FeedChange("key", subject_id=key_id)], at_ms=at_ms)
    return await get(connection, key_id)


async def set_service(
    connection: AsyncConnection,
    key_id: str,
    index: int | None,
    code_digest: bytes | None,
    certificate: bytes | None,
    *,
    at_ms: int,
) -> KeyRecord:
    """Says how GB/T 38629 clients name a key: its index, the digest of its authorisation code, its certificate (DER).

    None takes the index, the code or the certificate away; a code needs an index. Raises NotFound (code "key_unknown"),
    Conflict (code "service_index") where another key has the index, Refused (code "service_index", "service_code", or
    "key_certificate": the certificate is for another key), Malformed where the certificate is none.
    """
    key = await get(connection, key_id, lock=True)
    if index is not None and not 0 <= index < 1 << 31:
        raise Refused("a key index is a number from 0 to 2147483647", code="service_index", field="index")
    if code_digest is not None and (index is None or len(code_digest) != 32):
        raise Refused("an authorisation code needs an index and a digest of 32 bytes", code="service_code")
    if certificate is not None and public_key_of_certificate(certificate) != key.public_key:
        raise Refused(f"the certificate is not for key {key_id!r}", code="key_certificate", field="certificate")
    values = {"service_index": index, "service_code": code_digest, "certificate": certificate, "changed_at_ms": at_ms}
    try:
        await connection.execute(update(keys).where(keys.c.id == key_id).values(values))
    except IntegrityError as error:
        raise Conflict(f"another key has index {index}", code="service_index", field="index") from error
    await feed.append(connection, [feed.FeedChange("key", subject_id=key_id)], at_ms=at_ms)
    return await get(connection, key_id)
