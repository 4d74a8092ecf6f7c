"""Opens what a command needs when it does not need every part: settings' secrets, the store, the key store.

Imports no part of the service but these: what asks the store one question starts in a fraction of the time that the
whole node (service/node.py) takes to load.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from core.clock import Clock, system_clock
from core.store import counters
from core.store.database import Database, open_database
from service.settings import Loaded, passphrase_from_environment, read_secret_file

if TYPE_CHECKING:
    from signer.engine.keystore import KeyStore


def find_passphrase(loaded: Loaded) -> bytearray | None:
    """The passphrase by file or environment; None where a person has to be asked."""
    keys = loaded.settings.keys
    if keys.passphrase_file is not None:
        return read_secret_file(loaded.path(keys.passphrase_file), "passphrase file")
    return passphrase_from_environment(keys.passphrase_env)


@asynccontextmanager
async def open_store(loaded: Loaded, clock: Clock = system_clock) -> AsyncIterator[Database]:
    """The store alone, after a look at the clock. Raises SettingsError, Unavailable (code "clock_behind")."""
    database = await open_database(loaded.store)
    try:
        async with database.read() as connection:
            counters.check_clock(clock(), await counters.current(connection, counters.LAST_TIME))
        yield database
    finally:
        await database.close()


def open_keystore(loaded: Loaded, passphrase: bytearray) -> KeyStore:
    """The key store; keeps `passphrase` and wipes it when closed."""
    from signer.engine.keystore import KeyStore

    return KeyStore(loaded.path(loaded.settings.keys.directory), passphrase, loaded.settings.keys)
