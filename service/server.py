"""Runs a node: listeners, background tasks, signals, and a stop that answers what was accepted.

The only module that starts tasks and installs an event loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
import uvloop
from aiohttp import web

from core.errors import SettingsError
from service import maintenance
from service.app import build_applications
from service.drain import Drain
from service.node import Node, open_node
from service.settings import Loaded

#: What aiohttp's own shutdown gets after the drain, to write the last answers out.
_AFTER_DRAIN_S: Final = 2.0

_log = structlog.get_logger("qianyan.server")


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a node listens, ports resolved."""

    public_url: str
    private_url: str


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
    return context


async def _listen(
    application: web.Application, loaded: Loaded, host: str, port: int, tls: ssl.SSLContext | None, name: str
) -> tuple[web.AppRunner, str]:
    server = loaded.settings.server
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=server.keepalive_timeout_s,
        shutdown_timeout=_AFTER_DRAIN_S,
        handler_cancellation=False,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024)
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(
            f"the {name} listener cannot have {host}:{port} ({os.strerror(error.errno or 0)}); "
            f"stop what uses it or set {name}.port",
            code="address",
        ) from error
    bound = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    return runner, f"{'https' if tls else 'http'}://{shown}:{bound}"


async def _serve_node(node: Node, stop: asyncio.Event, announce: Callable[[Listening], None]) -> None:
    loaded = node.loaded
    tls = _tls(loaded)
    drain = Drain()
    public, private = build_applications(node, drain)
    await node.crl.build_outstanding()
    background = {
        asyncio.create_task(node.crl.run(stop), name="crl"),
        asyncio.create_task(maintenance.run(node, stop), name="maintenance"),
    }
    stopped = asyncio.create_task(stop.wait(), name="stop")
    runners: list[web.AppRunner] = []
    try:
        settings = loaded.settings
        runner, private_url = await _listen(
            private, loaded, settings.private.host, settings.private.port, tls, "private"
        )
        runners.append(runner)
        runner, public_url = await _listen(public, loaded, settings.public.host, settings.public.port, None, "public")
        runners.append(runner)
        listening = Listening(public_url, private_url)
        _log.info("listening", public=public_url, private=private_url)
        announce(listening)
        done, _ = await asyncio.wait({stopped, *background}, return_when=asyncio.FIRST_COMPLETED)
        for ended in done & background:
            ended.result()  # raises what ended it
    finally:
        stop.set()
        _log.info("stopping")
        # Stop accepting, answer what was accepted, then let the parts go.
        for site in [site for runner in runners for site in runner.sites]:
            await site.stop()
        left = await drain.wait(loaded.settings.server.stop_timeout_s)
        if left:
            _log.warning("requests_unanswered", count=left, after_s=loaded.settings.server.stop_timeout_s)
        await asyncio.gather(*(runner.cleanup() for runner in runners))
        await node.responder.close()
        stopped.cancel()
        await asyncio.gather(*background, return_exceptions=True)


async def _run(loaded: Loaded, passphrase: bytearray, announce: Callable[[Listening], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_node(loaded, passphrase) as node:
        await _serve_node(node, stop, announce)
    _log.info("stopped")


def serve(loaded: Loaded, passphrase: bytearray, announce: Callable[[Listening], None]) -> None:
    """Serves until SIGTERM or SIGINT. `announce` is called once, when both listeners accept."""
    uvloop.run(_run(loaded, passphrase, announce))
