"""The two aiohttp applications, from an open node."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import generate_latest

from core.http import BODY_TIMEOUT_S, json_response, require
from crl.http import CrlRoutes
from service.drain import Drain
from service.health import Health
from service.metrics import HttpMetrics
from service.middleware import make_middleware
from service.node import Node
from service.tokens import TokenBook
from signer.issuance.http import IssuanceRoutes
from signer.signing.http import SigningRoutes
from status.http import StatusRoutes


def _health_routes(health: Health) -> list[web.RouteDef]:
    async def healthz(_request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def readyz(_request: web.Request) -> web.Response:
        report = await health.report()
        return json_response(report.as_json(), status=200 if report.ready else 503)

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


def _metrics_routes(node: Node) -> list[web.RouteDef]:
    async def metrics(request: web.Request) -> web.Response:
        require(request, "metrics")
        # The exposition format's own media type; aiohttp wants it as a header, parameters and all.
        return web.Response(
            body=generate_latest(node.registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    return [web.get("/metrics", metrics)]


def build_applications(node: Node, drain: Drain) -> tuple[web.Application, web.Application]:
    """(public, private), each with its middleware and routes."""
    settings = node.loaded.settings
    metrics = HttpMetrics(node.registry)
    log_requests = settings.log.requests
    health = Health(node)
    signing = SigningRoutes(node.engine, node.verification, settings.signing)

    public = web.Application(
        middlewares=[make_middleware("public", metrics, drain, log_requests=log_requests)],
        client_max_size=settings.public.max_body_bytes,
    )
    public.add_routes(
        [
            *StatusRoutes(node.responder, node.source, node.clock).public(),
            *CrlRoutes(node.crl).public(),
            *signing.public(),
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
            *IssuanceRoutes(node.issuer).private(),
            *_metrics_routes(node),
            *_health_routes(health),
        ]
    )
    for application in (public, private):
        application[BODY_TIMEOUT_S] = settings.server.body_timeout_s
    return public, private
