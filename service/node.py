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
from core.store import metrics as store_metrics
from core.store import postgres
from core.store.database import Database
from core.store.follow import FeedFollower
from crl.service import CrlService
from service.callers import Callers
from service.metered import MeteredEngine
from service.opening import open_keystore, open_store
from service.settings import Loaded, read_secret_file
from service.shared_cache import open_shared_cache
from service.wire.batch_signer import EngineBatchSigner
from signer.engine.engine import SigningEngine
from signer.engine.master import SoftwareMaster
from signer.engine.sdf.backend import SdfBackend
from signer.engine.sdf.maintenance import Maintenance
from signer.engine.sdf.pool import SdfPool
from signer.engine.verify import verify_signature
from signer.issuance.desk import Desk, DeskSettings, make_desk
from signer.issuance.issuer import Issuer
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import KmcSettings
from signer.kmc.centres import Centres
from signer.kmc.identity import EngineIdentity
from signer.kmc.masters import open_master
from signer.kmc.metrics import ServerMetrics
from signer.kmc.server import KmcServer
from signer.registration.office import Office, make_office
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
    office: Office
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
    kmc: KmcServer | None


def open_directory(
    loaded: Loaded, database: Database, clock: Clock, registry: CollectorRegistry | None = None
) -> DirectoryService:
    """Publication to directories and buckets; connects to none before it runs."""

    def secret(name: str) -> bytes:
        return bytes(read_secret_file(loaded.path(name), "password file"))

    return DirectoryService(database, clock, loaded.settings.directory, loaded.path, secret, registry)


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
        primary = _primary(loaded)
        if primary is not None:
            stack.push_async_callback(primary.close)
        engine = MeteredEngine(
            *(callers, database, follower, keystore, settings.engine, clock),
            devices=devices,
            registry=registry,
            accounts=primary,
        )
        await engine.start()
        stack.push_async_callback(engine.close)

        def certificate_signer(key_id: str) -> Signer:
            return engine.signer(key_id, KeyPurpose.CERTIFICATE)

        def set_signer(key_id: str) -> Signer:
            return engine.signer(key_id, KeyPurpose.STATUS_SET)

        def ocsp_signer(key_id: str) -> Signer:
            return engine.signer(key_id, KeyPurpose.OCSP)

        def ocsp_batch_signer(key_id: str) -> BatchSigner:
            return EngineBatchSigner(engine, key_id, KeyPurpose.OCSP)

        shared = await open_shared_cache(loaded, database, follower, clock, registry, stack)
        responder = Responder(
            *(database, follower, ocsp_signer, clock, settings.ocsp, StatusMetrics(registry)),
            shared=shared,
            refresh_keys=engine.refresh,
        )
        presigner = None
        if shared is not None:
            presigner = Presigner(
                *(database, follower, responder.issuers, ocsp_batch_signer, shared, clock, settings.ocsp),
                PresignMetrics(registry),
            )
        source = StoreStatusSource(database, follower)
        foreign = ForeignStatus(settings.verification.foreign, clock, registry)
        stack.push_async_callback(foreign.close)
        own_profiles = settings.issuance.profiles
        profiles = load_profiles(None if own_profiles is None else loaded.path(str(own_profiles)))
        has_delta = settings.issuance.freshest_crl and settings.crl.delta
        issuance = settings.issuance.model_copy(update={"freshest_crl": has_delta})
        desk_settings = DeskSettings(issuance, settings.kmc, settings.holders)
        identity = EngineIdentity(engine, database, settings.kmc.key)
        centres = Centres.from_settings(settings.kmc.centres, loaded.path, identity, database, clock, registry)
        master = await open_master(database, settings.kmc.master, hsm, SoftwareMaster(keystore))
        desk = make_desk(
            *(database, certificate_signer, master, profiles, desk_settings, clock, registry),
            centres=centres,
        )
        stack.push_async_callback(desk.close)
        verification = VerificationService(
            database,
            source,
            clock,
            settings.signing,
            settings.verification,
            trust=load_trust(settings.verification.anchors, settings.verification.intermediates, loaded.path),
            foreign=foreign,
            registry=registry,
        )
        office = make_office(
            database,
            desk,
            profiles,
            settings.registration,
            settings.issuance,
            clock,
            foreign=verification,
            registry=registry,
        )
        yield Node(
            loaded=loaded,
            clock=clock,
            registry=registry,
            database=database,
            follower=follower,
            engine=engine,
            issuer=desk.issuer,
            desk=desk,
            office=office,
            source=source,
            responder=responder,
            shared=shared,
            presigner=presigner,
            verification=verification,
            status_set=StatusSetService(
                database,
                follower,
                certificate_signer,
                verify_signature,
                clock,
                settings.status_set,
                index_oid=settings.issuance.status_index_oid,
                registry=registry,
                delegate_for=set_signer,
                refresh_keys=engine.refresh,
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
            kmc=_kmc_server(settings.kmc, database, desk, identity, clock, registry),
        )


def _primary(loaded: Loaded) -> Database | None:
    """The primary of the replica that the store is, not asked anything yet: it may be away when a responder starts."""
    target = loaded.primary
    return None if target is None else Database(postgres.make_engine(target), target)


def _kmc_server(
    settings: KmcSettings,
    database: Database,
    desk: Desk,
    identity: EngineIdentity,
    clock: Clock,
    registry: CollectorRegistry,
) -> KmcServer | None:
    """Key management for other authorities, where the settings name the key that signs its answers."""
    if not settings.key:
        return None
    window_ms = settings.request_window_s * 1000
    return KmcServer(database, desk.keys, identity, clock, window_ms, ServerMetrics.create(registry))


async def until_stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Waits for `stop`, at most `seconds`; whether it was set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
