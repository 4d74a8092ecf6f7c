"""Whether this node may be sent requests: what a load balancer and an operator ask.

`/healthz` says the process runs; `/readyz` says that each part it needs would do its work now, and which would not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from core.asn1.x509 import load_certificate
from core.clock import from_datetime
from core.errors import QianyanError, Unavailable
from core.store import authorities, counters
from core.store.authorities import Authority
from service.node import Node
from service.tls import ListenerCertificate
from signer.engine.sdf.device import DeviceState


@dataclass(frozen=True, slots=True)
class Check:
    """One part: `detail` says what is wrong, or what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """All checks; ready where each is."""

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """Whether requests may come."""
        return all(check.ok for check in self.checks)

    def ready_but_for(self, ignored: Collection[str]) -> bool:
        """The same where checks of these names do not count: for who must not take every node away at once."""
        return all(check.ok or check.name in ignored for check in self.checks)

    def as_json(self) -> dict[str, object]:
        """For the answer's body."""
        return {
            "ready": self.ready,
            "checks": {check.name: {"ok": check.ok, "detail": check.detail} for check in self.checks},
        }


def ended(authority: Authority, now_ms: int) -> bool:
    """Whether its certificate has: with it everything of it has, and nobody asks any more."""
    certificate = authority.certificate
    return certificate is not None and from_datetime(load_certificate(certificate).not_valid_after_utc) <= now_ms


class Health:
    """Runs the checks against an open node."""

    def __init__(self, node: Node, tls: ListenerCertificate | None = None) -> None:
        self._node = node
        self._tls = tls

    async def report(self) -> Report:
        """Every check, each one run whatever the others say."""
        checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("store", self._store),
            ("clock", self._clock),
            ("authorities", self._authorities),
            ("ocsp_signer", self._ocsp_signer),
            ("crl", self._crl),
        ]
        if self._node.database.target.settings.require_synchronous:
            checks.append(("replication", self._replication))
        if self._node.loaded.settings.status_set.enabled:
            checks.append(("status_set", self.status_set))
        if self._node.hsm is not None:
            checks.append(("hsm", self._hsm))
        if self._tls is not None:
            checks.append(("tls", self._listener_certificate))
        results = []
        for name, run in checks:
            try:
                results.append(Check(name, True, await run()))
            except QianyanError as error:
                results.append(Check(name, False, error.detail))
        return Report(tuple(results))

    async def _listener_certificate(self) -> str:
        assert self._tls is not None
        return self._tls.note()

    async def _store(self) -> str:
        await self._node.follower.ensure_current()
        return f"feed at {self._node.follower.position}"

    async def _replication(self) -> str:
        found = await self._node.database.replication()
        if found is None:
            return "not a server that is written here"
        if not found.synchronous:
            raise Unavailable(
                "the server waits for no standby, and nothing is written: set its synchronous_standby_names",
                code="store_not_synchronous",
            )
        return f"{found.waited_for} of {found.standbys} standbys are waited for"

    async def _clock(self) -> str:
        async with self._node.database.read() as connection:
            counters.check_clock(self._node.clock(), await counters.current(connection, counters.LAST_TIME))
        self._node.responder.now_ms()
        return "not behind the store, nor a time seen before"

    async def _authorities(self) -> str:
        async with self._node.database.read() as connection:
            known = await authorities.list_all(connection)
        waiting = [authority.id for authority in known if authority.certificate is None]
        if waiting:
            raise Unavailable(
                f"authority {waiting[0]!r} waits for its certificate: qianyan ca install", code="certificate_waiting"
            )
        return ", ".join(authority.id for authority in known)

    async def _ocsp_signer(self) -> str:
        async with self._node.database.read() as connection:
            known = await authorities.list_all(connection)
        now_ms = self._node.clock()
        shortest = None
        for authority in known:
            if authority.ocsp_certificate is None or ended(authority, now_ms):
                continue
            left_s = (from_datetime(load_certificate(authority.ocsp_certificate).not_valid_after_utc) - now_ms) // 1000
            if left_s <= 0:
                raise Unavailable(
                    f"the OCSP signer of {authority.id!r} expired: qianyan ca renew-ocsp", code="ocsp_signer_expired"
                )
            shortest = left_s if shortest is None else min(shortest, left_s)
        if shortest is None:
            raise Unavailable("no authority has an OCSP signer", code="ocsp_signer_missing")
        return f"valid for {shortest // 86400} days more"

    async def _hsm(self) -> str:
        assert self._node.hsm is not None
        devices = await asyncio.to_thread(self._node.hsm.status)
        serving = [device.name for device in devices if device.state == DeviceState.IN.value]
        if not serving:
            raise Unavailable("no hardware module serves: see the log, and docs/hsm.md", code="hsm_unavailable")
        return f"{len(serving)} of {len(devices)} serve"

    async def _crl(self) -> str:
        left = []
        for scope in await self._node.crl.status():
            if scope.ended:  # with its issuer: nothing that it is about is valid any more
                continue
            if scope.next_update_ms is None or scope.next_update_ms <= self._node.clock():
                raise Unavailable(
                    f"no current CRL for {scope.authority_id}/{scope.partition}: see the log, or qianyan crl build",
                    code="crl_stale",
                )
            left_s = (scope.next_update_ms - self._node.clock()) // 1000
            if scope.late:
                raise Unavailable(
                    f"the CRL {scope.authority_id}/{scope.partition} has {left_s} s left and no successor: see the log",
                    code="crl_late",
                )
            left.append(left_s)
        return f"{len(left)} current, the shortest for {min(left, default=0)} s more"

    async def status_set(self) -> str:
        """Whether every set that was ever made may still be read. Raises Unavailable."""
        left = []
        for standing in await self._node.status_set.status():
            if standing.next_update_ms is None:
                if standing.failures:
                    raise Unavailable(
                        f"no status set for {standing.authority_id}: {standing.last_error}", code="status_set_missing"
                    )
                continue  # the first one is on its way
            left.append((standing.next_update_ms - self._node.clock()) // 1000)
            if left[-1] <= 0:
                raise Unavailable(
                    f"the status set of {standing.authority_id} is past its end: see the log, or qianyan set build",
                    code="status_set_stale",
                )
        return f"{len(left)} current, the shortest for {min(left, default=0)} s more"
