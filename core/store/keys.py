"""Signing keys as the store knows them: purpose, state, public key. Private keys are elsewhere (signer.engine)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.asn1.x509 import public_key_of_certificate
from core.errors import Conflict, NotFound, Refused
from core.model import KeyPurpose, KeyState
from core.store import feed
from core.store.schema import keys

#: Which states a state may change to; compromised and retired are final (DESIGN rule 2).
_TRANSITIONS: Final[dict[KeyState, frozenset[KeyState]]] = {
    KeyState.ACTIVE: frozenset({KeyState.FROZEN, KeyState.COMPROMISED, KeyState.RETIRED}),
    KeyState.FROZEN: frozenset({KeyState.ACTIVE, KeyState.COMPROMISED, KeyState.RETIRED}),
    KeyState.COMPROMISED: frozenset(),
    KeyState.RETIRED: frozenset({KeyState.COMPROMISED}),
}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A row; `public_key` is 65 bytes. The last five are described in core.store.schema."""

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


_COLUMNS = [keys.c[field.name] for field in fields(KeyRecord)]


def _record(row: Any) -> KeyRecord:
    values = dict(row._mapping)
    return KeyRecord(**{**values, "purpose": KeyPurpose(values["purpose"]), "state": KeyState(values["state"])})


async def add(connection: AsyncConnection, key: KeyRecord) -> None:
    """Records a new key and its feed entry. Raises Conflict (code "key_exists")."""
    values = {c.name: getattr(key, c.name) for c in _COLUMNS}
    try:
        await connection.execute(
            insert(keys).values({**values, "purpose": key.purpose.value, "state": key.state.value})
        )
    except IntegrityError as error:
        raise Conflict(f"there is a key {key.id!r} already", code="key_exists") from error
    await feed.append(connection, [feed.FeedChange("key", subject_id=key.id)], at_ms=key.created_at_ms)


async def get(connection: AsyncConnection, key_id: str) -> KeyRecord:
    """Raises NotFound (code "key_unknown")."""
    row = (await connection.execute(select(*_COLUMNS).where(keys.c.id == key_id))).one_or_none()
    if row is None:
        raise NotFound(f"there is no key {key_id!r}", code="key_unknown")
    return _record(row)


async def find_by_public_key(connection: AsyncConnection, public_key: bytes) -> list[KeyRecord]:
    """Every key with that public key (65 bytes)."""
    return [_record(row) for row in await connection.execute(select(*_COLUMNS).where(keys.c.public_key == public_key))]


async def list_all(connection: AsyncConnection) -> list[KeyRecord]:
    """Every key by id."""
    return [_record(row) for row in await connection.execute(select(*_COLUMNS).order_by(keys.c.id))]


async def change_state(connection: AsyncConnection, key_id: str, state: KeyState, *, at_ms: int) -> KeyRecord:
    """Changes a key's state and says so in the feed. Raises NotFound; Refused (code "key_state")."""
    key = await get(connection, key_id)
    if state not in _TRANSITIONS[key.state]:
        raise Refused(f"key {key_id!r} is {key.state.value} and cannot become {state.value}", code="key_state")
    await connection.execute(update(keys).where(keys.c.id == key_id).values(state=state.value, changed_at_ms=at_ms))
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
    key = await get(connection, key_id)
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
