"""What every making of an authority shares: new key files, an empty store to begin with, rows on record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from core.audit import AuditEvent
from core.errors import Conflict, SettingsError
from core.model import KeyPurpose, KeyState, serial_to_hex
from core.store import audit, authorities, keys, outbox
from core.store.database import Database
from core.store.keys import KeyRecord
from signer._native import sm2
from signer.issuance.rows import reference
from signer.issuance.signing import LocalSigner
from signer.issuance.template import SET_SIGNING, CertificatePlan


class KeyFiles(Protocol):
    """What a ceremony needs of signer.engine.keystore.KeyStore."""

    def create(self, key_id: str) -> sm2.PrivateKey:
        """Makes a key and its file. Raises Conflict (code "key_exists")."""
        ...

    def create_master(self) -> None:
        """Makes the escrow's master key. Raises Conflict (code "key_exists")."""
        ...

    def load(self, key_id: str) -> sm2.PrivateKey:
        """Reads a key file. Raises SettingsError."""
        ...


async def require_empty(database: Database) -> None:
    """Raises SettingsError (code "authorities_exist") where the store knows an authority."""
    async with database.read() as connection:
        if await authorities.list_all(connection):
            raise SettingsError("the store has its authorities already; nothing was changed", code="authorities_exist")


async def create_keys(keystore: KeyFiles, key_ids: Sequence[str]) -> list[LocalSigner]:
    """The escrow's master key and the named keys, all new. Raises SettingsError (code "init_unfinished")."""

    def create() -> list[LocalSigner]:
        keystore.create_master()
        return [LocalSigner(key_id, keystore.create(key_id)) for key_id in key_ids]

    try:
        return await asyncio.to_thread(create)
    except Conflict as error:
        raise SettingsError(
            f"{error.detail}, but the store knows no authority: an init did not finish, or this is another store's key "
            "directory. If it was an unfinished init, remove the store and the key directory, then run init again",
            code="init_unfinished",
        ) from error


async def add_key(connection: AsyncConnection, key_id: str, public_key: bytes, purpose: KeyPurpose, at_ms: int) -> None:
    """Records a key of the authorities' own."""
    record = KeyRecord(key_id, purpose, KeyState.ACTIVE, public_key, "authority", at_ms, at_ms)
    await keys.add(connection, record)


async def put_on_record(
    connection: AsyncConnection, issuer_id: str, subject_id: str, plan: CertificatePlan, actor: str, at_ms: int
) -> None:
    """The audit and outbox rows of an authority's or OCSP signer's certificate."""
    detail: dict[str, str | int] = {"issuer": issuer_id, "serial": serial_to_hex(plan.serial)}
    action = "authority.create"
    if plan.usage == "ocsp":
        sets = SET_SIGNING in plan.extended_key_usage
        action = "authority.set_signer" if sets else "authority.ocsp_signer"
    await audit.append(connection, AuditEvent(actor, action, subject_id, detail=detail), at_ms=at_ms)
    await outbox.put(connection, "certificate", reference(issuer_id, plan.serial), at_ms=at_ms)
