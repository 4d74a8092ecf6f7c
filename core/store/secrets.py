"""Random values that the nodes of one store share and that nothing outside the store has.

Owns the table `secrets`; a value is made once and never changes. Whoever can read the store can read them, so they
guard against what stands beside it (a shared cache), not against the store's own administrator.
"""

from __future__ import annotations

import os
from typing import Final

from sqlalchemy import select

from core.store.database import Database
from core.store.schema import secrets
from core.store.upsert import upsert

_BYTES: Final = 32


async def shared(database: Database, name: str) -> bytes:
    """The 32 bytes of that name, made where there are none yet.

    Raises Unavailable where the store cannot be read, or has none and cannot be written (a replica).
    """
    wanted = select(secrets.c.value).where(secrets.c.name == name)
    async with database.read() as connection:
        found = (await connection.execute(wanted)).scalar_one_or_none()
    if found is None:
        async with database.write() as connection:
            made = upsert(connection, secrets).values(name=name, value=os.urandom(_BYTES))
            await connection.execute(made.on_conflict_do_nothing())
            found = (await connection.execute(wanted)).scalar_one()
    return bytes(found)
