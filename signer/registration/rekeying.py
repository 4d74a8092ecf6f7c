"""Brings everything that is sealed of persons under a new key: holders, people's names, reasons, signed messages.

Some rows at a time, each in a short transaction, beside a running service; broken off, it goes on where something is
left under an older key. A service seals under the key before for a minute more (signer.holders.vault), so a second pass
finds what came meanwhile. A key goes when nothing is left under it and it was not the newest for an hour: what was
under it and is still somewhere, in an archive, cannot be read any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Refused
from core.store import audit, counters, holders, sealed
from core.store.database import Database
from core.store.holders import HolderKey
from core.store.sealed import Kind
from core.store.tail import lift_time_limit
from signer.holders.vault import Vault
from signer.registration.sealed_names import NAMES

#: Of what a pass tells; beside the kinds of `core.store.sealed`.
HOLDERS: Final = "holder"
#: How long a key has to have been superseded before it may go; a service uses none for a minute after that.
SETTLED_MS: Final = 3_600_000
_AT_ONCE: Final = 500

Tell = Callable[[str, int], None]


class Rekeying:
    """See the module."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    async def run(self, *, actor: str, new: bool = True, tell: Tell = lambda _kind, _done: None) -> dict[str, int]:
        """Seals everything under a new key, or with `new` False under the newest; returns how much, by kind.

        tell: gets the kind and how many rows of it were looked at, after each transaction.
        """
        key_id = await self._vault.rotate() if new else await self._vault.newest()
        done = {HOLDERS: await self._holders(tell)}
        for kind in Kind:
            done[kind.value] = await self._octets(kind, key_id, tell)
        async with self._database.write() as connection:
            detail: dict[str, str | int] = {f"{name}s": count for name, count in done.items()}
            event = AuditEvent(actor, "holder.rekey", f"holder-key:{key_id}", detail=detail)
            await audit.append(connection, event, at_ms=self._clock())
        return done

    async def _holders(self, tell: Tell) -> int:
        count, after = 0, ""
        while done := await self._vault.reseal(after=after, limit=_AT_ONCE):
            count, after = count + len(done), done[-1]
            tell(HOLDERS, count)
        return count

    async def _octets(self, kind: Kind, key_id: int, tell: Tell) -> int:
        count, looked_at = 0, 0
        after: tuple[Any, ...] | None = None
        while True:
            async with self._database.read() as connection:
                page = await sealed.under_other_keys(connection, kind, key_id, after=after, limit=_AT_ONCE)
            changes = []
            for row in page.found:
                name = NAMES[kind](row.ra_id, row.of_id)
                changes.append(
                    (row, await self._vault.seal_octets(name, await self._vault.open_octets(name, row.sealed)))
                )
            if changes:
                async with self._database.write() as connection:
                    count += await sealed.replace(connection, changes)
            looked_at, after = looked_at + page.looked_at, page.last
            tell(kind.value, looked_at)
            if after is None:
                return count
            await asyncio.sleep(0)

    async def drop(self, *, actor: str, with_archives: bool = False) -> list[int]:
        """Removes every key but the newest, where nothing is under them; returns their ids.

        with_archives: also where archives have messages under them, which cannot be read then. Raises Refused (code
        "holder_key_new", "holder_key_used", "holder_key_archived"); nothing was removed then.
        """
        async with self._database.read() as connection:
            before = await self._droppable(connection)
            await self._require_unused(connection, before, with_archives)
        if not before:
            return []
        ids = [key.id for key in before]
        async with self._database.write() as connection:
            await holders.lock_keys(connection)
            if [key.id for key in await self._droppable(connection)] != ids:
                raise Refused("another changed the keys meanwhile; look, then again", code="holder_key_new")
            at_ms = await counters.advance_time(connection, self._clock())
            await holders.drop_keys(connection, ids)
            event = AuditEvent(actor, "holder.drop_keys", "holder-keys", detail={"keys": " ".join(map(str, ids))})
            await audit.append(connection, event, at_ms=at_ms)
        return ids

    async def _droppable(self, connection: Any) -> Sequence[HolderKey]:
        """The sealing keys before the newest, oldest first. Raises Refused where that one is too new."""
        keys = [key for key in await holders.list_keys(connection) if key.purpose == "seal"]
        if len(keys) > 1 and self._clock() - keys[-1].created_at_ms < SETTLED_MS:
            raise Refused(
                "the newest key is not an hour old: a service may still seal under the one before; come back then",
                code="holder_key_new",
            )
        return keys[:-1]

    async def _require_unused(self, connection: Any, keys: Sequence[HolderKey], with_archives: bool) -> None:
        if not keys:
            return
        await lift_time_limit(connection)
        used = await sealed.keys_in_use(connection)
        for key in keys:
            if key.id in used:
                raise Refused(
                    f"something is still sealed under key {key.id}: 'qianyan holder rekey --continue' first",
                    code="holder_key_used",
                )
            if not with_archives and await counters.current(connection, sealed.archived_counter(key.id)):
                raise Refused(
                    f"archives of signed requests are sealed under key {key.id} and could not be read any more; "
                    "--with-archives drops it all the same",
                    code="holder_key_archived",
                )
