"""Asks another key-management centre: CA-KM messages over HTTP, signed here, answers believed only where they verify.

A message is sent again under its task number where no answer came: the centre then gives the same keys. Time limits,
a bound on messages at once, and a breaker that leaves a failing centre alone. Knows messages and HTTP; not stores.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from core.asn1.x509 import public_key_of_certificate
from core.clock import Clock
from core.errors import Malformed, Refused, SettingsError, TooLarge, Unavailable
from signer.engine.sdf.passwords import read_password
from signer.engine.verify import verify_signature
from signer.kmc import messages
from signer.kmc.breaker import Breaker
from signer.kmc.http import MEDIA_TYPE
from signer.kmc.identity import Identity
from signer.kmc.messages import MAX_BYTES, Answer, Failed, Reply, Request
from signer.kmc.metrics import ClientMetrics
from signer.kmc.names import EntityName
from signer.kmc.settings import CentreSettings

_log = structlog.get_logger("qianyan.kmc")
#: How far the time of an answer may be from ours.
_WINDOW_MS: Final = 600_000


class CentreRefusal(Exception):
    """The centre answered with an ErrorPkgRespond: what was asked will not be done."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"error {failed.number}: {failed.text}" if failed.text else f"error {failed.number}")
        self.number = failed.number


@dataclass(frozen=True, slots=True)
class Access:
    """What a centre is reached with. `certificate`: the one its answers verify under; `tls`: None for plain HTTP."""

    certificate: bytes
    tls: ssl.SSLContext | None
    token: str | None


def read_access(settings: CentreSettings, resolve: Callable[[str], Path]) -> Access:
    """Reads the files that the settings name. Raises SettingsError."""
    certificate = _read_certificate(resolve(settings.certificate), settings.name)
    tls = None
    if settings.url.startswith("https:"):
        tls = _tls(settings, resolve)
    token = None
    if settings.token_file is not None:
        token = read_password(resolve(settings.token_file)).decode("ascii", "replace")
    return Access(certificate, tls, token)


def _tls(settings: CentreSettings, resolve: Callable[[str], Path]) -> ssl.SSLContext:
    try:
        tls = ssl.create_default_context(cafile=None if settings.ca_file is None else str(resolve(settings.ca_file)))
        if settings.client_certificate is not None:
            key = None if settings.client_key is None else resolve(settings.client_key)
            tls.load_cert_chain(resolve(settings.client_certificate), key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"kmc.centres: TLS files of centre {settings.name!r} cannot be used: {error}", code="kmc_tls"
        ) from error
    return tls


def _read_certificate(path: Path, centre: str) -> bytes:
    try:
        content = path.read_bytes()
        pem = b"-----BEGIN" in content
        loaded = x509.load_pem_x509_certificate(content) if pem else x509.load_der_x509_certificate(content)
        certificate = loaded.public_bytes(Encoding.DER)
        public_key_of_certificate(certificate)
    except (OSError, ValueError, Malformed, Refused) as error:
        raise SettingsError(
            f"kmc.centres: {path} holds no SM2 certificate for centre {centre!r}: {error}", code="kmc_certificate"
        ) from error
    return certificate


class Centre:
    """One centre. Closed by `close`. Only the event-loop thread touches it."""

    def __init__(
        self, settings: CentreSettings, access: Access, identity: Identity, clock: Clock, metrics: ClientMetrics
    ) -> None:
        self.settings = settings
        self._access = access
        self._identity = identity
        self._clock = clock
        self._metrics = metrics
        self._breaker = Breaker(settings.open_after, settings.open_s)
        self._free = settings.max_concurrent
        self._session: aiohttp.ClientSession | None = None
        metrics.open.labels(settings.name).set_function(lambda: float(self._breaker.open))

    async def ask(self, requests: Sequence[Request], task: int) -> list[Answer]:
        """The answers, one for each request, in order; ErrorPkgRespond among them.

        Raises CentreRefusal where the whole message is refused, Unavailable where no answer that can be believed came,
        which leaves open whether it was carried out: ask again under the same task.
        """
        certificate = await self._identity.certificate()
        trouble: Unavailable | None = None
        for _ in range(self.settings.attempts):
            body = messages.question_body(EntityName.of_certificate(certificate), requests, self._clock(), task)
            message = messages.join_signature(body, await self._identity.sign(body))
            try:
                return await self._ask_once(message, requests, task)
            except Unavailable as error:
                if error.code != "kmc_no_answer":
                    raise
                trouble = error
        assert trouble is not None
        raise trouble

    async def close(self) -> None:
        """Closes its connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask_once(self, message: bytes, requests: Sequence[Request], task: int) -> list[Answer]:
        if self._free <= 0 or not self._breaker.admit():
            wait_s = max(1, round(self._breaker.wait_s))
            raise Unavailable(
                f"key-management centre {self.settings.name!r} is not asked now", code="kmc_left", retry_after_s=wait_s
            )
        self._free -= 1
        began = time.monotonic()
        known = False
        try:
            try:
                reply = self._believe(await self._post(message), task)
            except Unavailable:
                self._breaker.failed()
                known = True
                raise
            self._breaker.succeeded()
            known = True
        finally:
            self._free += 1
            self._metrics.seconds.labels(self.settings.name).observe(time.monotonic() - began)
            if not known:
                self._breaker.left()
        return self._match(reply, requests)

    async def _post(self, message: bytes) -> bytes:
        """The body of the answer. Raises Unavailable (code "kmc_no_answer")."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        headers = {"Content-Type": MEDIA_TYPE}
        if self._access.token is not None:
            headers["Authorization"] = f"Bearer {self._access.token}"
        try:
            async with (
                asyncio.timeout(self.settings.timeout_s),
                self._session.post(
                    self.settings.url,
                    data=message,
                    headers=headers,
                    allow_redirects=False,
                    ssl=True if self._access.tls is None else self._access.tls,
                ) as answer,
            ):
                if answer.status != 200:
                    raise self._no_answer("unavailable", f"it answered with HTTP status {answer.status}")
                body = b""
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise self._no_answer("rejected", "its answer is too long")
                return body
        except TimeoutError as error:
            raise self._no_answer("unavailable", f"no answer within {self.settings.timeout_s} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._no_answer("unavailable", str(error) or type(error).__name__) from error

    def _believe(self, body: bytes, task: int) -> Reply:
        """The reply, where it is the centre's, to this task, and of now. Raises Unavailable (code "kmc_no_answer")."""
        certificate = self._access.certificate
        try:
            reply = messages.read_reply(body)
            verify_signature(public_key_of_certificate(certificate), reply.signed, reply.signature)
        except (Malformed, Refused, TooLarge) as error:
            raise self._no_answer("rejected", f"its answer is not believed: {error.detail}") from error
        if reply.task != task:  # of an error, too: one that names no task may be the answer to anything
            said = "".join(f"; it says: {one.number} {one.text}" for one in reply.answers if isinstance(one, Failed))
            raise self._no_answer("rejected", f"its answer is to another task{said}")
        if abs(reply.at_ms - self._clock()) > _WINDOW_MS:
            raise self._no_answer("rejected", "its answer is of another time")
        return reply

    def _match(self, reply: Reply, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each request. Raises CentreRefusal, Unavailable."""
        answers = list(reply.answers)
        if len(answers) == 1 and isinstance(answers[0], Failed) and len(requests) != 1:
            self._metrics.calls.labels(self.settings.name, "error").inc()
            raise CentreRefusal(answers[0])
        if len(answers) != len(requests):
            raise self._no_answer("rejected", f"{len(answers)} answers to {len(requests)} requests")
        for request, answer in zip(requests, answers, strict=True):
            if not isinstance(answer, Failed) and answer.number != request.number:
                raise self._no_answer("rejected", "its answer is about another certificate")
        bad = any(isinstance(answer, Failed) for answer in answers)
        self._metrics.calls.labels(self.settings.name, "error" if bad else "ok").inc()
        return answers

    def _no_answer(self, outcome: str, why: str) -> Unavailable:
        self._metrics.calls.labels(self.settings.name, outcome).inc()
        _log.warning("kmc_centre_failed", centre=self.settings.name, outcome=outcome, reason=why)
        return Unavailable(
            f"key-management centre {self.settings.name!r} gives no key now", code="kmc_no_answer", retry_after_s=5
        )
