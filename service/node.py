"""A node: every part opened in order and handed what it needs; closed in reverse.

The only place that knows all of them. Owns no logic of its own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from core.clock import Clock, system_clock
from core.model import KeyPurpose
from core.ports import Signer
from core.store import counters
from core.store.database import Database, open_database
from core.store.follow import FeedFollower
from crl.service import CrlService
from service.settings import Loaded, passphrase_from_environment, read_secret_file
from signer.engine.engine import SigningEngine
from signer.engine.keystore import KeyStore
from signer.engine.sdf.backend import SdfBackend
from signer.engine.sdf.pool import SdfPool
from signer.engine.verify import verify_signature
from signer.issuance.issuer import Issuer
from signer.issuance.metrics import IssuanceMetrics
from signer.issuance.profiles import load_profiles
from signer.signing.verification import VerificationService
from status.metrics import StatusMetrics
from status.responder import Responder
from status.source import StoreStatusSource

#: How often Python looks whether another thread wants to run, while hardware modules are in use.
_SWITCH_INTERVAL_S: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Node:
    """The open parts."""

    loaded: Loaded
    clock: Clock
    registry: CollectorRegistry
    database: Database
    follower: FeedFollower
    engine: SigningEngine
    issuer: Issuer
    source: StoreStatusSource
    responder: Responder
    verification: VerificationService
    crl: CrlService
    hsm: SdfPool | None


def find_passphrase(loaded: Loaded) -> bytearray | None:
    """The passphrase by file or environment; None where a person has to be asked."""
    keys = loaded.settings.keys
    if keys.passphrase_file is not None:
        return read_secret_file(loaded.path(keys.passphrase_file), "passphrase file")
    return passphrase_from_environment(keys.passphrase_env)


@asynccontextmanager
async def open_store(loaded: Loaded, clock: Clock = system_clock) -> AsyncIterator[Database]:
    """The store alone, after a look at the clock. Raises SettingsError, Unavailable (code "clock_behind")."""
    database = await open_database(loaded.store_url)
    try:
        async with database.read() as connection:
            counters.check_clock(clock(), await counters.current(connection, counters.LAST_TIME))
        yield database
    finally:
        await database.close()


def open_keystore(loaded: Loaded, passphrase: bytearray) -> KeyStore:
    """The key store; keeps `passphrase` and wipes it when closed."""
    return KeyStore(loaded.path(loaded.settings.keys.directory), passphrase, loaded.settings.keys)


async def _open_devices(loaded: Loaded, registry: CollectorRegistry, stack: AsyncExitStack) -> SdfPool | None:
    """The pool of hardware modules, where the settings name any; closed with `stack`, after the engine."""
    hsm = loaded.settings.hsm
    if not hsm.devices:
        return None
    # A device's answer comes in a thread, which would wait up to 5 ms for a busy event loop to give way.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    pool = SdfPool(hsm, loaded.path, registry)
    stack.push_async_callback(asyncio.to_thread, pool.close)
    await asyncio.to_thread(pool.start)
    return pool


@asynccontextmanager
async def open_node(loaded: Loaded, passphrase: bytearray, *, clock: Clock = system_clock) -> AsyncIterator[Node]:
    """Store → follower → keys → engine → the services; closed in reverse, the engine drained first."""
    settings = loaded.settings
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_store(loaded, clock))
        follower = await FeedFollower.start(database)
        stack.callback(follower.close)
        keystore = open_keystore(loaded, passphrase)
        stack.callback(keystore.close)
        hsm = await _open_devices(loaded, registry, stack)
        devices = None if hsm is None else SdfBackend(hsm)
        engine = SigningEngine(database, follower, keystore, settings.engine, clock, devices=devices, registry=registry)
        await engine.start()
        stack.push_async_callback(engine.close)

        def certificate_signer(key_id: str) -> Signer:
            return engine.signer(key_id, KeyPurpose.CERTIFICATE)

        def ocsp_signer(key_id: str) -> Signer:
            return engine.signer(key_id, KeyPurpose.OCSP)

        source = StoreStatusSource(database)
        own_profiles = settings.issuance.profiles
        profiles = load_profiles(None if own_profiles is None else loaded.path(str(own_profiles)))
        yield Node(
            loaded=loaded,
            clock=clock,
            registry=registry,
            database=database,
            follower=follower,
            engine=engine,
            issuer=Issuer(
                database,
                certificate_signer,
                keystore,
                profiles,
                settings.issuance,
                clock,
                metrics=IssuanceMetrics.create(registry),
            ),
            source=source,
            responder=Responder(database, follower, ocsp_signer, clock, settings.ocsp, StatusMetrics(registry)),
            verification=VerificationService(database, source, clock, settings.signing),
            crl=CrlService(
                database,
                follower,
                certificate_signer,
                verify_signature,
                clock,
                settings.crl,
                public_url=settings.issuance.public_url,
                registry=registry,
            ),
            hsm=hsm,
        )


async def until_stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Waits for `stop`, at most `seconds`; whether it was set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
