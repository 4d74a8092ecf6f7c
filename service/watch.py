"""Looks at the node as its operators would: what alerts ask about and nobody else counts, and the last hours.

Owns the samples (bounded) and the newest look, which everybody who asks within a second shares. Reads through the
parts' own words for how they stand; knows no HTTP and changes nothing. Each worker watches for itself: what it sees is
the store's, and its own answer to an OCSP request.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import and_, not_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from core import oids
from core.asn1 import der
from core.asn1.x509 import load_certificate
from core.clock import from_datetime
from core.errors import QianyanError, Unavailable
from core.store import audit_tree, authorities, counters
from core.store.authorities import Authority
from core.store.database import sqlite_path
from core.store.schema import audit
from crl.service import ScopeStatus
from service.health import Check, Health, ended
from service.node import Node, until_stopped
from status.issuers import cert_id_issuers
from status.request import plain_request
from status.set.service import SetStanding

_log = structlog.get_logger("qianyan.watch")

INTERVAL_S: Final = 15.0
#: Four hours of them, some 100 KiB.
SAMPLES: Final = 960
#: A look is as good as new for so long: whatever number of people ask, the store is asked once a second.
_SHARED_S: Final = 1.0
_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look in numbers; None where there was nothing to measure. Times in seconds, `ocsp_s` of one answer."""

    at_ms: int
    crl_age_s: float | None
    crl_left_s: float | None
    feed_position: int
    ocsp_s: float | None
    ok: bool


@dataclass(frozen=True, slots=True)
class Look:
    """How everything stood at `at_ms`. `ocsp_s`: how long an OCSP answer took, None where none was given."""

    at_ms: int
    checks: tuple[Check, ...]
    scopes: tuple[ScopeStatus, ...]
    sets: tuple[SetStanding, ...]
    feed_position: int
    feed_age_ms: int
    ocsp_s: float | None

    @property
    def ok(self) -> bool:
        """Whether everything stands well."""
        return all(check.ok for check in self.checks) and self.ocsp_s is not None

    def sample(self) -> Sample:
        """The look in numbers; CRLs by the one that is worst off, a missing one being no number at all."""
        scopes = [scope for scope in self.scopes if not scope.ended]
        made = [scope.this_update_ms for scope in scopes if scope.this_update_ms is not None]
        ends = [scope.next_update_ms for scope in scopes if scope.next_update_ms is not None]
        whole = bool(scopes) and len(made) == len(ends) == len(scopes)
        return Sample(
            at_ms=self.at_ms,
            crl_age_s=(self.at_ms - min(made)) / 1000 if whole else None,
            crl_left_s=(min(ends) - self.at_ms) / 1000 if whole else None,
            feed_position=self.feed_position,
            ocsp_s=self.ocsp_s,
            ok=self.ok,
        )


class WatchMetrics:
    """Gauges that the rules in deploy/monitoring ask about; set with every look."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        def gauge(name: str, meaning: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, meaning, labels, registry=registry)

        self.looked_at = gauge("qianyan_watch_timestamp_seconds", "When this worker last looked at itself (Unix time)")
        self.check_ok = gauge("qianyan_check_ok", "Whether a check of /readyz holds", ("check",))
        self.ocsp_ok = gauge("qianyan_ocsp_probe_ok", "Whether this worker gives a signed answer to its own request")
        self.ocsp_seconds = gauge("qianyan_ocsp_probe_seconds", "How long that answer took")
        self.signer_left = gauge("qianyan_ocsp_signer_seconds_left", "Until the first OCSP signer expires")
        self.set_signer_left = gauge(
            "qianyan_status_set_signer_seconds_left",
            "Until the certificate of an authority's delegated set signer ends",
            ("authority",),
        )
        self.authority_left = gauge(
            "qianyan_authority_seconds_left", "Until the authority's certificate expires", ("authority",)
        )
        self.uncovered = gauge(
            "qianyan_audit_uncovered_seconds", "Age of the oldest audit row that no checkpoint covers; 0 where all are"
        )
        self.clock_behind = gauge("qianyan_clock_behind_seconds", "How far the clock stands behind the store's time")
        self.disk_free = gauge("qianyan_disk_free_bytes", "Free space where the store (SQLite) or the settings file is")
        self.disk_size = gauge("qianyan_disk_size_bytes", "Size of that file system")


def ocsp_request(authority: Authority) -> bytes | None:
    """A request about the authority's OCSP signer, which was issued for certain; None where it has none."""
    if authority.ocsp_certificate is None:
        return None
    serial = load_certificate(authority.ocsp_certificate).serial_number
    ways = cert_id_issuers(authority.subject, authority.public_key)
    issuer = next(way for way in ways if der.oid(oids.SM3) in way)
    return plain_request(der.sequence(issuer, der.integer(serial)))


async def _uncovered_since(connection: AsyncConnection) -> int | None:
    """When the first audit row past the newest checkpoint was written; None where there is none.

    Accounts of keys' use, which nobody waits for and which checkpoints themselves cause, do not count.
    """
    newest = await audit_tree.newest_checkpoint(connection)
    c = audit.c
    accounts = and_(c.actor == "system", c.action.like("sign.%"))
    later = select(c.at_ms).where(c.seq > (0 if newest is None else newest.size), not_(accounts))
    return (await connection.execute(later.order_by(c.seq).limit(1))).scalar_one_or_none()


class Watch:
    """See the module."""

    def __init__(self, node: Node, health: Health, registry: CollectorRegistry | None = None) -> None:
        self._node = node
        self._health = health
        self._metrics = WatchMetrics(registry)
        self._lock = asyncio.Lock()
        self._newest: tuple[float, Look] | None = None
        store = sqlite_path(node.loaded.store_url)
        self._place = node.loaded.directory if store is None else store.parent
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)

    async def run(self, stop: asyncio.Event) -> None:
        """Looks at every interval until `stop`."""
        while not stop.is_set():
            try:
                self.samples.append((await self.look()).sample())
            except Exception as error:  # who watches must never be what stops the service
                _log.error("watch_failed", detail=str(error), exc_info=True)
            await until_stopped(stop, INTERVAL_S)

    async def look(self) -> Look:
        """How everything stands, at most a second ago; where the store cannot be asked, what it said last.

        Raises Unavailable (code "watch_timeout") where nothing can be told in time.
        """
        async with self._lock:
            if self._newest is None or time.monotonic() - self._newest[0] >= _SHARED_S:
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        look = await self._look(None if self._newest is None else self._newest[1])
                except TimeoutError as error:
                    raise Unavailable("the look took too long", code="watch_timeout", retry_after_s=5) from error
                self._newest = (time.monotonic(), look)
            return self._newest[1]

    async def _look(self, before: Look | None) -> Look:
        node = self._node
        report = await self._health.report()
        scopes = before.scopes if before is not None else ()
        sets = before.sets if before is not None else ()
        ocsp_s = None
        try:
            scopes = tuple(await node.crl.status())
            if node.loaded.settings.status_set.enabled:
                sets = tuple(await node.status_set.status())
            async with node.database.read() as connection:
                known = await authorities.list_all(connection)
                last_ms = await counters.current(connection, counters.LAST_TIME)
                uncovered_ms = await _uncovered_since(connection)
            self._note_store(known, last_ms, uncovered_ms)
            ocsp_s = await self._probe(known)
        except QianyanError as error:
            _log.warning("watch_failed", code=error.code, detail=error.detail)
        look = Look(
            at_ms=node.clock(),
            checks=report.checks,
            scopes=scopes,
            sets=sets,
            feed_position=node.follower.position,
            feed_age_ms=node.follower.age_ms,
            ocsp_s=ocsp_s,
        )
        self._note(look)
        return look

    async def _probe(self, known: list[Authority]) -> float | None:
        """Asks the responder as a relying party would; seconds of the slowest authority's answer, None without one."""
        slowest = None
        for authority in known:
            request = ocsp_request(authority)
            if request is None or ended(authority, self._node.clock()):
                continue
            began = time.perf_counter()
            try:
                await self._node.responder.respond(request)
            except Exception as error:  # whatever it is, relying parties get no answer
                _log.error("ocsp_probe_failed", authority=authority.id, detail=str(error))
                return None
            slowest = max(slowest or 0.0, time.perf_counter() - began)
        return slowest

    def _note_store(self, known: list[Authority], last_ms: int, uncovered_ms: int | None) -> None:
        now_ms = self._node.clock()

        def left_s(certificate: bytes) -> float:
            return (from_datetime(load_certificate(certificate).not_valid_after_utc) - now_ms) / 1000

        in_force = [one for one in known if not ended(one, now_ms)]
        signers = [left_s(one.ocsp_certificate) for one in in_force if one.ocsp_certificate is not None]
        self._metrics.signer_left.set(min(signers, default=0.0))
        self._metrics.set_signer_left.clear()
        for authority in known:
            if authority.set_certificate is not None:
                self._metrics.set_signer_left.labels(authority.id).set(left_s(authority.set_certificate))
            if authority.certificate is not None:
                self._metrics.authority_left.labels(authority.id).set(left_s(authority.certificate))
        self._metrics.clock_behind.set(max(0, last_ms - now_ms) / 1000)
        self._metrics.uncovered.set(0 if uncovered_ms is None else max(0, now_ms - uncovered_ms) / 1000)

    def _note(self, look: Look) -> None:
        metrics = self._metrics
        for check in look.checks:
            metrics.check_ok.labels(check.name).set(check.ok)
        metrics.ocsp_ok.set(look.ocsp_s is not None)
        metrics.ocsp_seconds.set(look.ocsp_s or 0.0)
        disk = os.statvfs(self._place)
        metrics.disk_free.set(disk.f_bavail * disk.f_frsize)
        metrics.disk_size.set(disk.f_blocks * disk.f_frsize)
        metrics.looked_at.set(look.at_ms / 1000)
