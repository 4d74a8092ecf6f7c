"""The aiohttp applications, from an open node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client import Gauge, generate_latest

from core.http import BODY_TIMEOUT_S, json_response, require
from crl.http import CrlRoutes
from service import workers_metrics
from service.drain import Drain
from service.health import Health
from service.metrics import HttpMetrics
from service.middleware import make_middleware
from service.node import Node
from service.tokens import TokenBook
from signer.issuance.http import IssuanceRoutes
from signer.signing.cms_http import CmsRoutes
from signer.signing.cms_service import CmsService
from signer.signing.http import SigningRoutes
from signer.signing.svs_http import SvsRoutes
from status.http import StatusRoutes


def _health_routes(health: Health) -> list[web.RouteDef]:
    async def healthz(_request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def readyz(_request: web.Request) -> web.Response:
        report = await health.report()
        return json_response(report.as_json(), status=200 if report.ready else 503)

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


#: The exposition format's own media type; aiohttp wants it as a header, parameters and all.
_EXPOSITION: Final = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Applications:
    """What is served where. `internal`: to the other workers, on a socket that only this user can open."""

    public: web.Application
    private: web.Application
    internal: web.Application


def _metrics(node: Node, slot: int, run_directory: Path | None) -> web.RouteDef:
    async def metrics(request: web.Request) -> web.Response:
        require(request, "metrics")
        own = generate_latest(node.registry)
        body = own if run_directory is None else await workers_metrics.collect(run_directory, slot, own)
        return web.Response(body=body, headers=_EXPOSITION)

    return web.get("/metrics", metrics)


def _internal(node: Node) -> web.Application:
    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(node.registry), headers=_EXPOSITION)

    application = web.Application()
    application.add_routes([web.get(workers_metrics.PATH, metrics)])
    return application


def build_applications(
    node: Node, drain: Drain, slot: int = 0, restarts: int = 0, run_directory: Path | None = None
) -> Applications:
    """Each with its middleware and routes; the last three as in `service.server.Role`."""
    settings = node.loaded.settings
    Gauge("qianyan_worker_restarts", "How often this worker's place was lost", registry=node.registry).set(restarts)
    metrics = HttpMetrics(node.registry)
    log_requests = settings.log.requests
    health = Health(node)
    signing = SigningRoutes(node.engine, node.verification, settings.signing)
    cms = CmsService(node.engine, node.verification, node.database, settings.signing)
    messages = CmsRoutes(cms, settings.signing)
    svs = SvsRoutes(node.engine, node.verification, cms, node.database, node.follower, settings.svs, node.clock)

    public = web.Application(
        middlewares=[make_middleware("public", metrics, drain, log_requests=log_requests)],
        client_max_size=settings.public.max_body_bytes,
    )
    public.add_routes(
        [
            *StatusRoutes(node.responder, node.source, node.clock).public(),
            *CrlRoutes(node.crl).public(),
            *signing.public(),
            *messages.public(),
            *_health_routes(health),
        ]
    )
    book = TokenBook(node.database, node.follower)
    private = web.Application(
        middlewares=[make_middleware("private", metrics, drain, book=book, log_requests=log_requests)],
        client_max_size=settings.private.max_body_bytes,
    )
    private.add_routes(
        [
            *signing.private(),
            *messages.private(),
            *svs.private(),
            *IssuanceRoutes(node.issuer).private(),
            _metrics(node, slot, run_directory),
            *_health_routes(health),
        ]
    )
    for application in (public, private):
        application[BODY_TIMEOUT_S] = settings.server.body_timeout_s
    return Applications(public, private, _internal(node))
