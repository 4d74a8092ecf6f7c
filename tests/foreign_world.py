"""Another province's CA: its certificates, CRLs and OCSP answers (made by BouncyCastle), and a web server for them.

The server is real and on loopback; each address does what a test puts there, well or badly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from core.asn1.x509 import Extension, key_identifier
from core.clock import to_datetime
from signer._native import sm2
from signer.signing.foreign import ForeignStatus
from signer.signing.parsed import parse
from signer.signing.settings import SigningSettings
from signer.signing.trust import Trust
from signer.signing.verdicts import Verdict, VerifyItem
from signer.signing.verification import VerificationService
from signer.signing.verification_settings import ForeignStatusSettings, VerificationSettings
from status.source import StoreStatusSource
from tests.engine_world import World
from tests.judges.bouncycastle import BouncyCastle
from tests.signing_world import DAY_MS, Holder, Office, authority, certificate, usage

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MESSAGE = b"what another province's holder signed"
CA = Extension.of(x509.BasicConstraints(ca=True, path_length=None), critical=True)


def scalar(key: sm2.PrivateKey) -> bytes:
    out = bytearray(32)
    key.export_into(out)
    return bytes(out)


def ocsp_at(url: str) -> Extension:
    access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))
    return Extension.of(x509.AuthorityInformationAccess([access]))


def crl_at(*urls: str) -> Extension:
    names = [x509.UniformResourceIdentifier(url) for url in urls]
    return Extension.of(x509.CRLDistributionPoints([x509.DistributionPoint(names, None, None, None)]))


@dataclass
class Site:
    """The web server: what stands at each path, and how often it was asked."""

    server: TestServer
    at: dict[str, Handler]
    hits: Counter[str]

    def url(self, path: str) -> str:
        return str(self.server.make_url(path))

    def put(self, path: str, content: bytes) -> None:
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(body=content)

        self.at[path] = answer


@asynccontextmanager
async def open_site() -> AsyncIterator[Site]:
    at: dict[str, Handler] = {}
    hits: Counter[str] = Counter()

    async def handle(request: web.Request) -> web.StreamResponse:
        hits[request.path] += 1
        found = at.get(request.path)
        return web.Response(status=404) if found is None else await found(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(application)
    await server.start_server()
    try:
        yield Site(server, at, hits)
    finally:
        await server.close()


@dataclass
class Foreign:
    """The CA, and a verification service that trusts its root. `clock[0]` is the service's time."""

    judge: BouncyCastle
    site: Site
    clock: list[int]
    root: Office
    issuing: Office
    service: VerificationService
    status: ForeignStatus
    count: list[int] = field(default_factory=lambda: [100])

    @property
    def now_ms(self) -> int:
        return self.clock[0]

    def when(self, seconds: float) -> datetime:
        """Relative to now."""
        return to_datetime(self.now_ms + round(seconds * 1000))

    def leaf(
        self,
        *extensions: Extension,
        issuer: Office | None = None,
        from_days: float = -30,
        to_days: float = 30,
        serial: int | None = None,
        kind: Sequence[Extension] = (usage("digital_signature"),),
    ) -> Holder:
        """A holder's certificate; its CRL is at /leaf.crl unless extensions say otherwise."""
        issuer = issuer or self.issuing
        key = sm2.PrivateKey.generate()
        self.count[0] += 1
        serial = serial or self.count[0]
        encoded = certificate(
            serial, issuer, f"foreign {serial}", key.public_key.to_bytes(),
            [*kind, *(extensions or (crl_at(self.site.url("/leaf.crl")),)), self.named(issuer)],
            self.now_ms + int(from_days * DAY_MS), self.now_ms + int(to_days * DAY_MS), issuer.key,
        )  # fmt: skip
        return Holder(key, encoded, serial)

    @staticmethod
    def named(issuer: Office) -> Extension:
        identifier = key_identifier(issuer.key.public_key.to_bytes())
        return Extension.of(x509.AuthorityKeyIdentifier(identifier, None, None))

    def delegate(self, *, nocheck: bool = True, issuer: Office | None = None, purpose: Any = None) -> Holder:
        """A delegated OCSP signer."""
        chosen = purpose or ExtendedKeyUsageOID.OCSP_SIGNING
        kind = [usage("digital_signature"), Extension.of(x509.ExtendedKeyUsage([chosen]))]
        if nocheck:
            kind.append(Extension.of(x509.OCSPNoCheck()))
        return self.leaf(issuer=issuer, kind=kind)

    def crl(
        self,
        entries: Sequence[tuple[int, int, float]] = (),
        *,
        issuer: Office | None = None,
        signed_by: Office | None = None,
        number: int = 7,
        since_s: float = -3_600,
        until_s: float = 3_600,
        idp_uri: str | None = None,
    ) -> bytes:
        """A CRL. An entry: serial, reason, seconds from now."""
        issuer = issuer or self.issuing
        return self.judge.make_crl(
            issuer.certificate,
            scalar((signed_by or issuer).key),
            number=number,
            this_update=self.when(since_s),
            next_update=self.when(until_s),
            entries=[(serial, reason, self.when(at)) for serial, reason, at in entries],
            idp_uri=idp_uri,
        )

    def ocsp(
        self,
        serial: int,
        status: str = "good",
        *,
        issuer: Office | None = None,
        responder: Holder | Office | None = None,
        since_s: float = -60,
        until_s: float = 3_600,
        produced_s: float = -60,
        reason: int | None = None,
        revoked_s: float = -600,
        digest: str = "sm3",
        by_key: bool = False,
    ) -> bytes:
        issuer = issuer or self.issuing
        responder = responder or issuer
        return self.judge.make_ocsp_response(
            issuer.certificate,
            serial,
            status,
            responder=responder.certificate,
            private=scalar(responder.key),
            this_update=self.when(since_s),
            next_update=self.when(until_s),
            produced_at=self.when(produced_s),
            reason=reason,
            revoked_at=self.when(revoked_s) if status == "revoked" else None,
            digest=digest,
            by_key=by_key,
        )

    async def judged(self, holder: Holder, *, at_ms: int | None = None) -> Verdict:
        item = VerifyItem(holder.key.sign(MESSAGE), certificate=holder.certificate, data=MESSAGE, at_ms=at_ms)
        (verdict,) = await self.service.verify([item], evidence=True)
        return verdict


@asynccontextmanager
async def open_foreign(world: World, judge: BouncyCastle, now_ms: int, **settings: Any) -> AsyncIterator[Foreign]:
    """The CA and its site; the root's CRL stands, empty. `settings`: of ForeignStatusSettings."""
    async with open_site() as site:
        clock = [now_ms]
        root = authority("foreign root", None, now_ms)
        kind = [usage("key_cert_sign", "crl_sign"), CA, crl_at(site.url("/root.crl"))]
        issuing = authority("foreign issuing", root, now_ms, serial=2, extensions=kind)
        allow = {"allow": (site.url("/"),), **settings}
        bounds = VerificationSettings(foreign=ForeignStatusSettings(**allow))
        status = ForeignStatus(bounds.foreign, lambda: clock[0])
        service = VerificationService(
            world.database,
            StoreStatusSource(world.database),
            lambda: clock[0],
            SigningSettings(),
            bounds,
            trust=Trust.of([parse(root.certificate)], [parse(issuing.certificate)]),
            foreign=status,
        )
        made = Foreign(judge, site, clock, root, issuing, service, status)
        site.put("/root.crl", made.crl(issuer=root, number=1, until_s=86_400 * 365))
        try:
            yield made
        finally:
            await status.close()
