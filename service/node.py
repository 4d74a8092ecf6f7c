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
from core.ports import BatchSigner, Signer
from core.store import counters
from core.store import metrics as store_metrics
from core.store.database import Database, open_database
from core.store.follow import FeedFollower
from crl.service import CrlService
from service.callers import Callers
from service.metered import MeteredEngine
from service.settings import Loaded, passphrase_from_environment, read_secret_file
from service.shared_cache import open_shared_cache
from service.wire.batch_signer import EngineBatchSigner
from signer.engine.engine import SigningEngine
from signer.engine.keystore import KeyStore
from signer.engine.master import SoftwareMaster
from signer.engine.sdf.backend import SdfBackend
from signer.engine.sdf.maintenance import Maintenance
from signer.engine.sdf.pool import SdfPool
from signer.engine.verify import verify_signature
from signer.issuance.desk import Desk, DeskSettings, make_desk
from signer.issuance.issuer import Issuer
from signer.issuance.profiles import load_profiles
from signer.signing.foreign import ForeignStatus
from signer.signing.trust import load_trust
from signer.signing.verification import VerificationService
from status.directory.service import DirectoryService
from status.metrics import PresignMetrics, StatusMetrics
from status.presign import Presigner
from status.redis_cache import RedisCache
from status.responder import Responder
from status.set.service import StatusSetService
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
    desk: Desk
    source: StoreStatusSource
    responder: Responder
    shared: RedisCache | None
    presigner: Presigner | None
    verification: VerificationService
    crl: CrlService
    status_set: StatusSetService
    directory: DirectoryService
    hsm: SdfPool | None
    hsm_maintenance: Maintenance | None
    callers: Callers


def find_passphrase(loaded: Loaded) -> bytearray | None:
    """The passphrase by file or environment; None where a person has to be asked."""
    keys = loaded.settings.keys
    if keys.passphrase_file is not None:
        return read_secret_file(loaded.path(keys.passphrase_file), "passphrase file")
    return passphrase_from_environment(keys.passphrase_env)


def open_directory(
    loaded: Loaded, database: Database, clock: Clock, registry: CollectorRegistry | None = None
) -> DirectoryService:
    """Publication to directories and buckets; connects to none before it runs."""

    def secret(name: str) -> bytes:
        return bytes(read_secret_file(loaded.path(name), "password file"))

    return DirectoryService(database, clock, loaded.settings.directory, loaded.path, secret, registry)


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
    return KeyStore(loaded.path(loaded.settings.keys.directory), passphrase, loaded.settings.keys)


async def _open_devices(
    loaded: Loaded,
    registry: CollectorRegistry,
    stack: AsyncExitStack,
    database: Database,
    follower: FeedFollower,
    clock: Clock,
) -> tuple[SdfPool | None, Maintenance | None]:
    """The pool of hardware modules, where the settings name any; closed with `stack`, after the engine."""
    hsm = loaded.settings.hsm
    if not hsm.devices:
        return None, None
    # A device's answer comes in a thread, which would wait up to 5 ms for a busy event loop to give way.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    pool = SdfPool(hsm, loaded.path, registry)
    stack.push_async_callback(asyncio.to_thread, pool.close)
    maintenance = Maintenance(pool, database, follower, clock)
    await asyncio.to_thread(pool.start, await maintenance.begin())
    return pool, maintenance


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
        store_metrics.register(follower, registry)
        keystore = open_keystore(loaded, passphrase)
        stack.callback(keystore.close)
        hsm, hsm_maintenance = await _open_devices(loaded, registry, stack, database, follower, clock)
        devices = None if hsm is None else SdfBackend(hsm)
        callers = Callers(database, follower, settings.private, clock, registry)
        callers.start()
        stack.push_async_callback(callers.close)
        engine = MeteredEngine(
            callers, database, follower, keystore, settings.engine, clock, devices=devices, registry=registry
        )
        await engine.start()
        stack.push_async_callback(engine.close)

        def certificate_signer(key_id: str) -> Signer:
            return engine.signer(key_id, KeyPurpose.CERTIFICATE)

        def ocsp_signer(key_id: str) -> Signer:
            return engine.signer(key_id, KeyPurpose.OCSP)

        def ocsp_batch_signer(key_id: str) -> BatchSigner:
            return EngineBatchSigner(engine, key_id, KeyPurpose.OCSP)

        shared = await open_shared_cache(loaded, database, follower, clock, registry, stack)
        responder = Responder(
            database, follower, ocsp_signer, clock, settings.ocsp, StatusMetrics(registry), shared=shared
        )
        presigner = None
        if shared is not None:
            presigner = Presigner(
                *(database, follower, responder.issuers, ocsp_batch_signer, shared, clock, settings.ocsp),
                PresignMetrics(registry),
            )
        source = StoreStatusSource(database)
        foreign = ForeignStatus(settings.verification.foreign, clock, registry)
        stack.push_async_callback(foreign.close)
        own_profiles = settings.issuance.profiles
        profiles = load_profiles(None if own_profiles is None else loaded.path(str(own_profiles)))
        desk_settings = DeskSettings(settings.issuance, settings.kmc, settings.holders)
        desk = make_desk(
            database, certificate_signer, SoftwareMaster(keystore), profiles, desk_settings, clock, registry
        )
        stack.push_async_callback(desk.close)
        yield Node(
            loaded=loaded,
            clock=clock,
            registry=registry,
            database=database,
            follower=follower,
            engine=engine,
            issuer=desk.issuer,
            desk=desk,
            source=source,
            responder=responder,
            shared=shared,
            presigner=presigner,
            verification=VerificationService(
                database,
                source,
                clock,
                settings.signing,
                settings.verification,
                trust=load_trust(settings.verification.anchors, settings.verification.intermediates, loaded.path),
                foreign=foreign,
                registry=registry,
            ),
            status_set=StatusSetService(
                database,
                follower,
                certificate_signer,
                verify_signature,
                clock,
                settings.status_set,
                index_oid=settings.issuance.status_index_oid,
                registry=registry,
            ),
            directory=open_directory(loaded, database, clock, registry),
            crl=CrlService(
                database,
                follower,
                certificate_signer,
                verify_signature,
                clock,
                settings.crl,
                public_url=settings.issuance.public_url,
                registry=registry,
                directory=None if settings.crl.directory is None else loaded.path(settings.crl.directory),
            ),
            hsm=hsm,
            hsm_maintenance=hsm_maintenance,
            callers=callers,
        )


async def until_stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Waits for `stop`, at most `seconds`; whether it was set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
