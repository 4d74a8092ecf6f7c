"""Runs a node on sockets it is handed: applications, background tasks, signals, and a stop that answers what was
accepted.

The only module that starts tasks and installs an event loop. Whether it is the whole service or one worker of several
(service.supervisor) is said by `Role`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import uvloop
from aiohttp import web

from core.errors import QianyanError, SettingsError
from core.store import heartbeat
from service import audit_log, maintenance, workers_metrics
from service.app import Applications, build_applications
from service.client_certificates import trust
from service.drain import Drain
from service.guard import Guard, GuardedSite
from service.listeners import Sockets
from service.node import Node, open_node
from service.settings import Loaded
from service.wire.listener import Wire, WireSite

#: What aiohttp's own shutdown gets after the drain, to write the last answers out.
_AFTER_DRAIN_S: Final = 2.0

#: How long a connection that has sent nothing yet may take to send its request when the service stops.
_FIRST_REQUEST_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.01
#: How long a start waits for the rehearsal.
_REHEARSAL_S: Final = 3.0

_log = structlog.get_logger("qianyan.server")


@dataclass(frozen=True, slots=True)
class Role:
    """What this process is among the workers.

    leader: builds CRLs and renews OCSP signers; one of several is enough. slot: its number. restarts: how often this
    slot's worker was replaced after a failure. run_directory: where workers find each other's metrics; None alone.
    """

    leader: bool = True
    slot: int = 0
    restarts: int = 0
    run_directory: Path | None = None


def _tls(loaded: Loaded) -> ssl.SSLContext | None:
    private = loaded.settings.private
    if private.tls == "off":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate, key = loaded.path(private.certificate), loaded.path(private.key)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"the private listener's certificate {certificate} or key {key} cannot be used: {error}", code="tls"
        ) from error
    trust(context, private.client_certificates, [loaded.path(name) for name in private.client_ca])
    return context


async def _runner(application: web.Application, loaded: Loaded) -> web.AppRunner:
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=loaded.settings.server.keepalive_timeout_s,
        max_line_size=loaded.settings.server.max_header_field_bytes,
        max_field_size=loaded.settings.server.max_header_field_bytes,
        max_headers=loaded.settings.server.max_header_fields,
        shutdown_timeout=_AFTER_DRAIN_S,
        handler_cancellation=False,
    )
    await runner.setup()
    return runner


async def _first_requests(listeners: Sequence[Guard | Wire]) -> None:
    """Returns when every connection has sent a request, or has had its time to.

    A connection that was accepted a moment before the stop has its request on the way; closing it now would lose it.
    """

    loop = asyncio.get_running_loop()
    deadline = loop.time() + _FIRST_REQUEST_S
    await asyncio.sleep(_LOOK_EVERY_S)  # what the kernel has accepted becomes a connection in the loop's next turns
    while any(listener.silent() for listener in listeners) and loop.time() < deadline:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(_LOOK_EVERY_S)


@asynccontextmanager
async def _listening(
    loaded: Loaded, applications: Applications, sockets: Sockets, drain: Drain, role: Role
) -> AsyncIterator[None]:
    """Accepts inside the block. At its end: stops accepting, answers what was accepted, then lets go."""
    tls = _tls(loaded)
    runners: list[web.AppRunner] = []
    try:
        sites: list[web.BaseSite] = []
        for application, bound, guard, wire, context in (
            (applications.private, sockets.private, applications.private_guard, applications.private_wire, tls),
            (applications.public, sockets.public, applications.public_guard, applications.wire, None),
        ):
            if bound is None:  # another worker's listener
                continue
            runners.append(await _runner(application, loaded))
            if wire is None:
                sites.append(GuardedSite(runners[-1], bound, guard, ssl_context=context))
            else:
                sites.append(WireSite(runners[-1], bound, wire, ssl_context=context))
        if role.run_directory is not None:
            runners.append(await _runner(applications.internal, loaded))
            path = workers_metrics.socket_path(role.run_directory, role.slot, os.getpid())
            sites.append(web.UnixSite(runners[-1], str(path)))
        for site in sites:
            await site.start()
        yield
    finally:
        _log.info("stopping", slot=role.slot)
        for site in [site for runner in runners for site in runner.sites]:
            await site.stop()
        guards = (applications.private_guard, applications.public_guard)
        wires = [wire for wire in (applications.private_wire, applications.wire) if wire is not None]
        await _first_requests([*guards, *wires])
        for wire in wires:
            await wire.finish(loaded.settings.server.stop_timeout_s)
        left = await drain.wait(loaded.settings.server.stop_timeout_s)
        if left:
            _log.warning("requests_unanswered", count=left, after_s=loaded.settings.server.stop_timeout_s)
        for wire in wires:
            wire.close()
        await asyncio.gather(*(runner.cleanup() for runner in runners))
        for guard in guards:
            guard.stop()
        if role.run_directory is not None:
            workers_metrics.socket_path(role.run_directory, role.slot, os.getpid()).unlink(missing_ok=True)


async def _rehearse(node: Node) -> None:
    """The first request for a certificate is to be as quick as others; what keeps it from that is said by health."""
    try:
        await node.issuer.rehearse()
        _log.debug("rehearsed")
    except QianyanError as error:
        _log.info("not_rehearsed", code=error.code, detail=error.detail)


async def _serve_node(
    node: Node, sockets: Sockets, role: Role, stop: asyncio.Event, announce: Callable[[], None]
) -> None:
    drain = Drain()
    if role.run_directory is not None:
        node.callers.share(role.run_directory)
    applications = build_applications(node, drain, role.slot, role.restarts, role.run_directory)
    background: set[asyncio.Task[None]] = set()
    responder = node.loaded.settings.store.primary_url is not None  # whose store cannot be written
    leader = role.leader and not responder
    if leader:
        publishers = node.directory.publishers()  # a secret that is missing stops the start
        await node.crl.build_outstanding()
        background = {
            asyncio.create_task(node.crl.run(stop), name="crl"),
            asyncio.create_task(node.status_set.run(stop), name="status_set"),
            asyncio.create_task(node.directory.run(stop, publishers), name="directory"),
            asyncio.create_task(maintenance.run(node, stop), name="maintenance"),
            asyncio.create_task(node.desk.keeper.run(stop), name="kmc"),
            asyncio.create_task(audit_log.run(node, stop), name="audit"),
        }
    if leader and node.database.target.settings.heartbeat_s:
        background.add(asyncio.create_task(heartbeat.run(node.database, node.clock, stop), name="heartbeat"))
    if leader and node.presigner is not None and node.loaded.settings.ocsp.presign_per_s:
        background.add(asyncio.create_task(node.presigner.run(stop), name="presign"))
    if node.hsm_maintenance is not None and not responder:
        background.add(asyncio.create_task(node.hsm_maintenance.run(stop), name="hsm"))
    background.add(asyncio.create_task(applications.watch.run(stop), name="watch"))
    stopped = asyncio.create_task(stop.wait(), name="stop")
    rehearsing = asyncio.create_task(_rehearse(node), name="rehearsal") if not responder and sockets.private else None
    try:
        if rehearsing is not None:  # goes on behind us where another process has the store for longer
            await asyncio.wait({rehearsing}, timeout=_REHEARSAL_S)
        async with _listening(node.loaded, applications, sockets, drain, role):
            # What was made for the start stays for good: the collector need not walk it again, some 50 ms each time.
            gc.collect()
            gc.freeze()
            _log.info("listening", slot=role.slot)
            announce()
            done, _ = await asyncio.wait({stopped, *background}, return_when=asyncio.FIRST_COMPLETED)
        for ended in done & background:
            ended.result()  # raises what ended it
    finally:
        stop.set()
        for hot in (applications.hot, applications.hot_signing):
            if hot is not None:
                await hot.close()
        await node.responder.close()
        last = [stopped, *background] if rehearsing is None else [stopped, rehearsing, *background]
        await asyncio.gather(*last, return_exceptions=True)


def _stop_with_supervisor(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stops where standard input ends: the supervisor holds its other side and writes nothing more to it."""
    descriptor = sys.stdin.fileno()

    def ended() -> None:
        loop.remove_reader(descriptor)
        stop.set()

    loop.add_reader(descriptor, ended)


async def _run(
    loaded: Loaded, passphrase: bytearray, sockets: Sockets, role: Role, announce: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if role.run_directory is not None:
        _stop_with_supervisor(loop, stop)
    async with open_node(loaded, passphrase) as node:
        await _serve_node(node, sockets, role, stop, announce)
    _log.info("stopped", slot=role.slot)


def serve(
    loaded: Loaded,
    passphrase: bytearray,
    sockets: Sockets,
    announce: Callable[[], None],
    role: Role | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. `announce` is called once, when both listeners accept."""
    uvloop.run(_run(loaded, passphrase, sockets, role or Role(), announce))
