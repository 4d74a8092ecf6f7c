"""Who calls the private listener, and within what limits.

Owns the callers in force, in memory: tokens and certificates as digests, each with an account (scopes, expiry, limits,
counts). Follows the store, so that a caller added, withdrawn or limited by `qianyan token` and `qianyan caller` is so
in every running process from that commit on, on connections that are open already, too. Everything is looked at with
each request: a connection proves nothing for the next one.

The store is asked for news once for all requests that had come in by then, not once for each: `looks` counts the
times, a connection notes the count when octets arrive (service.guard), and a request for which the store was asked
after its last octet arrived needs no look of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import structlog
from aiohttp import hdrs, web
from multidict import istr
from prometheus_client import CollectorRegistry

from core.audit import AuditEvent
from core.clock import Clock
from core.errors import Busy, Denied, QianyanError
from core.http import Caller
from core.store import audit, callers, counters
from core.store.callers import CallerRecord
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from service.caller_metrics import CallerMetrics
from service.client_certificates import Presented, from_header, identify
from service.guard import Connection, Looks
from service.guesses import Guesses
from service.limits import Gate, SharedCounts
from service.quotas import Quotas
from service.settings import PrivateSettings
from service.tokens import digest

_log = structlog.get_logger("qianyan.callers")

#: How many admitted headers are kept; a caller may write the same token in many ways.
_ADMITTED_MAX: Final = 10_000
#: How many certificates from a proxy's header are kept read.
_HEADERS_MAX: Final = 2_000
#: A caller's last use is written again when it is so much later.
_SEEN_EVERY_MS: Final = 300_000


@dataclass(slots=True, eq=False)
class Account:
    """A caller as this process has it. `refused`: by code. `seen_ms`: as the store has it."""

    caller: Caller
    expires_at_ms: int = sys.maxsize
    gate: Gate | None = None
    place: int | None = None
    seen_ms: int = 0
    requests: int = 0
    requests_noted: int = 0
    signatures: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def quota(self) -> int | None:
        """Signatures a day."""
        return None if self.gate is None else self.gate.limits.signatures_per_day


class Source(Protocol):
    """Where a request comes from."""

    @property
    def remote(self) -> str | None: ...


class Callers:
    """See the module. `start()` begins what is recorded now and then; `close()` records the last of it."""

    def __init__(
        self,
        database: Database,
        follower: FeedFollower,
        settings: PrivateSettings,
        clock: Clock,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._database = database
        self._follower = follower
        self._settings = settings
        self._clock = clock
        self.looks = Looks()
        self.accounts: dict[str, Account] = {}
        self._tokens: dict[bytes, Account] = {}
        self._certificates: dict[bytes, Account] = {}
        # What was admitted since the last reload: a digest for each request would cost as much as a signature.
        self._admitted: dict[str, Account] = {}
        self._read_headers: dict[str, Presented] = {}
        self._header = istr(settings.certificate_header) if settings.certificate_header else None
        self._asks_tls = settings.tls == "on" and settings.client_certificates != "off"
        self._required = settings.client_certificates == "required"
        self._counts: SharedCounts | None = None
        self.guesses = Guesses(settings.wrong_credentials_per_minute, settings.wrong_credentials_burst)
        self.quotas = Quotas(database, clock, settings.quota_day_offset_minutes)
        self._lock = asyncio.Lock()
        # Counts of changes: what the feed has told of, and what the loaded callers reflect.
        self._told = 1
        self._loaded = 0
        self._stopping = asyncio.Event()
        self._upkeep: asyncio.Task[None] | None = None
        follower.subscribe(self._on_change)
        if registry is not None:
            registry.register(CallerMetrics(self.accounts, self.guesses))

    def share(self, directory: Path) -> None:
        """Counts together with the other workers of this node; before the first request."""
        self._counts = SharedCounts.shared(directory)

    def start(self) -> None:
        """Begins to record, at an interval, what was refused and who was seen."""
        self._upkeep = asyncio.create_task(self._record_often(), name="callers")

    async def close(self) -> None:
        """Records the last of it and gives back what is held of quotas. A store that does not take it is logged."""
        self._stopping.set()
        if self._upkeep is not None:
            await self._upkeep
        try:
            await self.quotas.close()
        except QianyanError as error:
            _log.warning("quota_not_given_back", code=error.code, detail=error.detail)

    def _on_change(self, entry: FeedEntry) -> None:
        if entry.kind in ("token", "caller"):
            self._told += 1

    def fresh(self, connection: Connection | None) -> bool:
        """Whether the callers reflect the store as it was when the request came, or later; else `refresh()` first.

        Raises Unavailable where the store cannot be asked.
        """
        looks = self.looks
        if connection is None or connection.look >= looks.count:
            if not self._follower.current():
                return False
            looks.count += 1
        return self._loaded == self._told

    async def refresh(self) -> None:
        """Returns with everything known that was committed before. Raises Unavailable."""
        await self._follower.ensure_current()
        async with self._lock:
            while self._loaded != self._told:
                told = self._told
                async with self._database.read() as connection:
                    known = await callers.load_all(connection)
                self._take_over(known)
                self._loaded = told

    def _take_over(self, known: list[CallerRecord]) -> None:
        """Accounts keep their counts; what was withdrawn is gone."""
        before = dict(self.accounts)
        self.accounts.clear()
        self._admitted.clear()
        self._tokens, self._certificates = {}, {}
        for record in known:
            account = before.get(record.id) or Account(Caller(record.id, record.scopes), seen_ms=record.seen_ms or 0)
            account.caller = Caller(record.id, record.scopes)
            account.expires_at_ms = sys.maxsize if record.expires_at_ms is None else record.expires_at_ms
            self._set_gate(account, record)
            self.accounts[record.id] = account
            (self._tokens if record.matched_by is None else self._certificates)[record.digest] = account

    def _set_gate(self, account: Account, record: CallerRecord) -> None:
        quota = account.quota
        if record.place is None:
            account.gate = None
        elif account.gate is None or account.place != record.place or account.gate.limits != record.limits:
            if self._counts is None:
                self._counts = SharedCounts.private()
            account.gate = Gate(self._counts, record.place, record.limits)
        account.place = record.place
        if account.quota != quota:
            self.quotas.forget(record.id)

    def account(self, request: web.Request, connection: Connection | None) -> Account | None:
        """Whose request this is; None where it names nobody. To be asked when `fresh`, or after `refresh()`.

        A certificate that is shown must be good, with a token, too; the token then says who calls. Raises Denied for a
        credential that is not good, Busy (code "guessing") for too many of them from one address.
        """
        certificate = None
        if self._asks_tls or self._header is not None:
            certificate = self._presented(request, connection)
        return self._admit(request.headers.get(hdrs.AUTHORIZATION), certificate, request)

    @property
    def asks_certificates(self) -> bool:
        """Whether clients are asked for certificates in the TLS handshake."""
        return self._asks_tls

    @property
    def reads_header(self) -> bool:
        """Whether certificates may come in a proxy's header."""
        return self._header is not None

    def account_of(self, authorization: str | None, shown: Presented | None, source: Source) -> Account | None:
        """As `account`, for a request that is not aiohttp's; `shown`: the connection's certificate."""
        certificate = self._in_time(shown) if self._asks_tls else None
        return self._admit(authorization, certificate, source)

    def known(self, authorization: str | None, shown: Presented | None) -> Account | None:
        """The account, where it is plain that it may call; else `account_of` is to be asked. Nothing is counted."""
        try:
            certificate = self._in_time(shown) if self._asks_tls else None
            if authorization is not None:
                account = self._admitted.get(authorization)
            else:
                account = None if certificate is None else self._registered(certificate)
        except Denied:
            return None
        if account is None or account.expires_at_ms <= self._clock():
            return None
        return account

    def _admit(self, authorization: str | None, certificate: Presented | None, source: Source) -> Account | None:
        try:
            if authorization is not None:
                account = self._admitted.get(authorization) or self._known(authorization)
            elif certificate is not None:
                account = self._registered(certificate)
            else:
                return None
            if account.expires_at_ms != sys.maxsize and account.expires_at_ms <= self._clock():
                raise Denied("the token has expired; ask for a new one", code="token_expired")
        except Denied as error:
            raise self.guesses.failed(source.remote, error) from None
        account.requests += 1
        return account

    def _known(self, authorization: str) -> Account:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Denied("only 'Authorization: Bearer TOKEN' is accepted", code="unauthenticated")
        account = self._tokens.get(digest(token.strip()))
        if account is None:
            raise Denied("the token is not known or was withdrawn", code="unauthenticated")
        if len(self._admitted) >= _ADMITTED_MAX:
            self._admitted.clear()
        self._admitted[authorization] = account
        return account

    def _registered(self, certificate: Presented) -> Account:
        known = self._certificates
        account = known.get(certificate.by_fingerprint) or known.get(certificate.by_subject)
        if account is None:
            raise Denied(
                "the client certificate is not registered or was withdrawn: qianyan caller add",
                code="certificate_unknown",
            )
        return account

    def _presented(self, request: web.Request, connection: Connection | None) -> Presented | None:
        """The certificate that came with the connection or the proxy's header, in its validity period now."""
        presented = self._from_proxy(request) if self._header is not None else None
        if presented is None and self._asks_tls:
            if connection is None or connection.certificate is None:
                der = _peer_certificate(request)
                presented = None if der is None else identify(der)
                if connection is not None:
                    connection.certificate = presented
            else:
                presented = connection.certificate
        return self._in_time(presented)

    def _in_time(self, presented: Presented | None) -> Presented | None:
        """The certificate, in its validity period now. Raises Denied, also where there must be one."""
        if presented is None:
            if self._required:
                raise Denied("this service asks for a client certificate", code="certificate_missing")
            return None
        now_ms = self._clock()
        if now_ms > presented.not_after_ms:
            raise Denied("the client certificate has expired", code="certificate_expired")
        if now_ms < presented.not_before_ms:
            raise Denied("the client certificate is not valid yet", code="certificate_not_yet_valid")
        return presented

    def _from_proxy(self, request: web.Request) -> Presented | None:
        """From the header, where the peer is on this machine; anybody else's header says nothing."""
        assert self._header is not None
        values = request.headers.getall(self._header, [])
        if not values or not _is_local(request):
            return None
        if len(values) > 1:
            raise Denied("the certificate header came more than once", code="certificate_header")
        presented = self._read_headers.get(values[0])
        if presented is None:
            der = from_header(values[0])
            if der is None:
                return None
            presented = identify(der)
            if len(self._read_headers) >= _HEADERS_MAX:
                self._read_headers.clear()
            self._read_headers[values[0]] = presented
        return presented

    def charge(self, caller_id: str, count: int) -> Account | None:
        """Counts signatures that a caller asks for; the account, where a quota has to be looked at, too.

        Raises Busy (code "caller_rate").
        """
        account = self.accounts.get(caller_id)
        if account is None:
            return None
        if account.gate is not None:
            try:
                account.gate.signatures(count)
            except Busy as error:
                account.refused[error.code] += 1
                raise
        account.signatures += count
        return account if account.quota is not None else None

    def charge_now(self, caller_id: str, count: int) -> bool:
        """As `charge` and `take_quota` for so many single signatures, where that is all right and takes no wait.

        Else nothing is counted.
        """
        account = self.accounts.get(caller_id)
        if account is None:
            return True
        if account.gate is not None:
            quota = account.quota is not None
            if quota and not self.quotas.holds(caller_id, count):
                return False
            if not account.gate.signatures_all(count):
                return False
            if quota:
                self.quotas.take_held(caller_id, count)
        account.signatures += count
        return True

    async def take_quota(self, account: Account, count: int) -> int:
        """Takes signatures out of the account's day and returns the day. Raises Busy (code "caller_quota")."""
        assert account.quota is not None
        try:
            return await self.quotas.take(account.caller.id, count, account.quota)
        except Busy as error:
            account.refused[error.code] += 1
            raise

    async def _record_often(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._settings.record_interval_s)
            await self.record()

    async def record(self) -> None:
        """Writes what was refused since the last time into the audit record, and when callers were last seen.

        Where the store does not take it, it is kept for the next time, and the log says so.
        """
        now_ms = self._clock()
        seen = [
            account
            for account in self.accounts.values()
            if account.requests != account.requests_noted and now_ms - account.seen_ms >= _SEEN_EVERY_MS
        ]
        failures = self.guesses.take_failures()
        if not seen and not failures:
            return
        try:
            async with self._database.write() as connection:
                await callers.note_seen(connection, {account.caller.id: now_ms for account in seen})
                if failures:
                    at_ms = await counters.advance_time(connection, now_ms)
                    for address, code, count in failures:
                        event = AuditEvent("system", "caller.refuse", address, outcome=code, detail={"count": count})
                        await audit.append(connection, event, at_ms=at_ms)
        except QianyanError as error:
            self.guesses.put_back(failures)
            _log.warning("callers_not_recorded", code=error.code, detail=error.detail)
            return
        for account in seen:
            account.seen_ms, account.requests_noted = now_ms, account.requests


def _peer_certificate(request: web.Request) -> bytes | None:
    """The client's certificate of the TLS connection, DER."""
    tls = request.get_extra_info("ssl_object")
    der: bytes | None = None if tls is None else tls.getpeercert(binary_form=True)
    return der


def _is_local(request: web.Request) -> bool:
    """Whether the peer is a process of this machine: the loopback address or a Unix socket."""
    peer = request.get_extra_info("peername")
    if not isinstance(peer, tuple):
        # A Unix socket has no peer address, and a connection that is gone has none either.
        return isinstance(request.get_extra_info("sockname"), (str, bytes))
    try:
        return ipaddress.ip_address(peer[0]).is_loopback
    except ValueError:
        return False
