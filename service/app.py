"""The aiohttp applications, from an open node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import Gauge, generate_latest

from core.http import BODY_TIMEOUT_S, json_response, require
from core.model import KeyPurpose
from core.ports import BatchSigner
from crl.http import CrlRoutes
from service import workers_metrics
from service.audit_log import AuditRoutes
from service.drain import Drain
from service.guard import Guard, GuardMetrics
from service.health import Health
from service.metrics import HttpMetrics
from service.middleware import make_middleware
from service.node import Node
from service.openapi import openapi_routes
from service.statistics import StatisticsRoutes
from service.statuspage import StatusPage
from service.tls import WARN_DAYS, ListenerCertificate
from service.version import VERSION
from service.watch import Watch
from service.wire.batch_signer import EngineBatchSigner
from service.wire.listener import Wire, ocsp_routes
from service.wire.signing import HotSigning
from signer.engine.sdf.http import HsmRoutes
from signer.holders.http import HolderRoutes
from signer.issuance.http import IssuanceRoutes
from signer.issuance.recovery_http import REDEEM_PATH, RecoveryRoutes
from signer.kmc.http import KmcRoutes
from signer.registration.admin_http import RegistrationRoutes
from signer.registration.http import RequestRoutes, only_signed
from signer.signing.cms_http import CmsRoutes
from signer.signing.cms_service import CmsService
from signer.signing.decrypt_http import DecryptRoutes
from signer.signing.decryption import DecryptionService
from signer.signing.http import SigningRoutes
from signer.signing.report import Reporter
from signer.signing.svs_http import SvsRoutes
from signer.signing.verify_http import VerificationRoutes
from status.hot import HotOcsp
from status.http import StatusRoutes
from status.set.http import StatusSetRoutes

_log = structlog.get_logger("qianyan.app")


def _health_routes(health: Health) -> list[web.RouteDef]:
    async def healthz(_request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def readyz(request: web.Request) -> web.Response:
        report = await health.report()
        ready = report.ready_but_for(request.query.getall("ignore", ()))
        return json_response({**report.as_json(), "ready": ready}, status=200 if ready else 503)

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


#: The exposition format's own media type; aiohttp wants it as a header, parameters and all.
_EXPOSITION: Final = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Applications:
    """What is served where. `internal`: to the other workers, on a socket that only this user can open."""

    public: web.Application
    private: web.Application
    internal: web.Application
    public_guard: Guard
    private_guard: Guard
    hot: HotOcsp | None
    wire: Wire | None
    hot_signing: HotSigning | None
    private_wire: Wire | None
    watch: Watch


def _metrics(node: Node, slot: int, run_directory: Path | None) -> web.RouteDef:
    async def metrics(request: web.Request) -> web.Response:
        require(request, "metrics")
        own = generate_latest(node.registry)
        body = own if run_directory is None else await workers_metrics.collect(run_directory, slot, own)
        return web.Response(body=body, headers=_EXPOSITION)

    return web.get("/metrics", metrics)


def _registration_routes(node: Node) -> list[web.RouteDef]:
    office = node.office
    return RegistrationRoutes(office.administration, office.appointments, office.settings).private()


def _certificate_routes(node: Node) -> list[web.RouteDef]:
    """Issuance and life cycle by tokens; what changes something is refused where signed requests are required."""
    unlocks = RecoveryRoutes(node.desk.recoveries, node.desk.unlocking)
    routes = [*IssuanceRoutes(node.issuer).private(), *unlocks.private()]
    if not node.loaded.settings.registration.required:
        return routes
    redeeming = [route for route in routes if route.path == REDEEM_PATH]
    return [*only_signed(route for route in routes if route.path != REDEEM_PATH), *redeeming]


def _internal(node: Node) -> web.Application:
    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(node.registry), headers=_EXPOSITION)

    application = web.Application()
    application.add_routes([web.get(workers_metrics.PATH, metrics)])
    return application


def _listener_certificate(node: Node) -> ListenerCertificate | None:
    """The certificate that the private listener shows, with its metric; None without TLS."""
    private = node.loaded.settings.private
    if private.tls == "off":
        return None
    certificate = ListenerCertificate(node.loaded.path(private.certificate), node.clock)
    Gauge(
        "qianyan_tls_certificate_seconds_left",
        "Until the private listener's certificate expires, in seconds; negative past that",
        registry=node.registry,
    ).set_function(certificate.seconds_left)
    if certificate.seconds_left() < WARN_DAYS * 86_400:
        _log.warning("tls_certificate_ends_soon", seconds_left=certificate.seconds_left())
    return certificate


def _reporter(node: Node) -> Reporter | None:
    """What signs verification reports, where the settings name a key for it."""
    key = node.loaded.settings.verification.report.key
    return None if key is None else Reporter(node.engine, node.database, node.verification, node.clock, key, VERSION)


def _hot_path(
    node: Node, routes: StatusRoutes, guard: Guard, drain: Drain, metrics: HttpMetrics
) -> tuple[HotOcsp, Wire] | tuple[None, None]:
    """OCSP by compiled connections, where the settings have it so."""
    settings = node.loaded.settings
    if settings.public.hot_path == "off":
        return None, None

    def signer_for(key_id: str) -> BatchSigner:
        return EngineBatchSigner(node.engine, key_id, KeyPurpose.OCSP)

    hot = HotOcsp(node.responder, node.database, node.follower, signer_for, node.clock, routes.refusal)
    metrics.before_scrape.append(hot.flush_metrics)
    wire = Wire(
        "public",
        ocsp_routes(hot, settings.ocsp.max_request_bytes),
        guard,
        drain,
        metrics,
        settings.server,
        log_requests=settings.log.requests,
    )
    return hot, wire


def _hot_signing(
    node: Node, signing: SigningRoutes, guard: Guard, drain: Drain, metrics: HttpMetrics
) -> tuple[HotSigning, Wire] | tuple[None, None]:
    """Signing by compiled connections, where the settings have it so."""
    settings = node.loaded.settings
    responder = settings.store.primary_url is not None
    if settings.private.hot_path == "off" or node.callers.reads_header or responder:
        return None, None
    hot = HotSigning(node.engine, signing, node.callers, settings.signing, max_pending=settings.engine.max_pending)
    log = settings.log.requests
    wire = Wire("private", hot.routes(), guard, drain, metrics, settings.server, log_requests=log)
    return hot, wire


def build_applications(
    node: Node, drain: Drain, slot: int = 0, restarts: int = 0, run_directory: Path | None = None
) -> Applications:
    """Each with its middleware and routes; the last three as in `service.server.Role`."""
    settings = node.loaded.settings
    Gauge("qianyan_worker_restarts", "How often this worker's place was lost", registry=node.registry).set(restarts)
    metrics = HttpMetrics(node.registry)
    log_requests = settings.log.requests
    health = Health(node, _listener_certificate(node))
    watch = Watch(node, health, node.registry)
    signing = SigningRoutes(node.engine, settings.signing)
    verifying = VerificationRoutes(node.verification, settings.signing, _reporter(node))
    cms = CmsService(node.engine, node.verification, node.database, settings.signing)
    messages = CmsRoutes(cms, settings.signing)
    decryption = DecryptRoutes(DecryptionService(node.engine, node.database, settings.signing), settings.signing)
    svs = SvsRoutes(node.engine, node.verification, cms, node.database, node.follower, settings.svs, node.clock)

    public_guard, private_guard = (
        Guard(
            name,
            header_timeout_s=settings.server.header_timeout_s,
            max_connections=settings.server.max_connections,
            looks=node.callers.looks,
        )
        for name in ("public", "private")
    )
    GuardMetrics(node.registry, (public_guard, private_guard))
    status_routes = StatusRoutes(node.responder, node.source, node.clock)
    hot, wire = _hot_path(node, status_routes, public_guard, drain, metrics)
    public = web.Application(
        middlewares=[make_middleware("public", metrics, drain, public_guard, log_requests=log_requests)],
        client_max_size=settings.public.max_body_bytes,
    )
    public.add_routes(
        [
            *status_routes.public(),
            *CrlRoutes(node.crl).public(),
            *StatusSetRoutes(node.status_set).public(),
            *verifying.public(),
            *messages.public(),
            *StatusPage(watch).public(),
            *_health_routes(health),
        ]
    )
    hot_signing, private_wire = _hot_signing(node, signing, private_guard, drain, metrics)
    private = web.Application(
        middlewares=[
            make_middleware("private", metrics, drain, private_guard, callers=node.callers, log_requests=log_requests)
        ],
        client_max_size=settings.private.max_body_bytes,
    )
    served = [_metrics(node, slot, run_directory), *openapi_routes(), *_health_routes(health)]
    if settings.store.primary_url is None:  # else a responder, which answers for status and nothing else
        served += [
            *signing.private(),
            *verifying.private(),
            *messages.private(),
            *decryption.private(),
            *svs.private(),
            *_certificate_routes(node),
            *RequestRoutes(node.office.requests, settings.registration).private(),
            *_registration_routes(node),
            *HolderRoutes(node.desk.holders).private(),
            *AuditRoutes(node.database).private(),
            *StatisticsRoutes(node.database, node.clock).private(),
            *HsmRoutes(node.database, settings.hsm, node.clock).private(),
            *([] if node.kmc is None else KmcRoutes(node.kmc).private()),
        ]
    private.add_routes(served)
    for application in (public, private):
        application[BODY_TIMEOUT_S] = settings.server.body_timeout_s
    return Applications(
        public, private, _internal(node), public_guard, private_guard, hot, wire, hot_signing, private_wire, watch
    )
