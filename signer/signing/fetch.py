"""Fetches from allowed addresses only: bounded in size, time and number, one fetch per address at a time.

Owns the client session and who may be asked; knows URLs and bytes, not what is in them. Everything that goes wrong is
a `FetchError` with a word for it, and a source that fails is left alone for a while, longer each time. Redirects are
followed by hand, each against the allow-list. Host names mean what the machine's resolver says; what comes is signed.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp
from prometheus_client import CollectorRegistry, Counter

from core.clock import Clock
from signer.signing.verification_settings import ForeignStatusSettings

_URL_MAX_CHARS: Final = 1_024
_FAILING_MAX: Final = 10_000
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: A fixed word for each way to fail: the metric's label.
_WORDS: Final = ("ok", "not_allowed", "backing_off", "timeout", "too_large", "status", "redirect", "connection")


class FetchError(Exception):
    """`word`: one of the fixed words; the text says more, for a person."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(detail)
        self.word = word


class AllowList:
    """Which URLs may be asked."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        self._entries = tuple(_split(entry) for entry in allow)

    def admits(self, url: str) -> bool:
        """Whether scheme, host and port are those of an entry, and the path is its path or lies under it.

        A URL with a user, a fragment, a backslash, dots for a segment or escapes in its path is never admitted: two
        parties could read it differently.
        """
        if len(url) > _URL_MAX_CHARS or not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
            return False
        try:
            parts = urlsplit(url)
            if parts.username is not None or parts.password is not None or parts.fragment or "%" in parts.path:
                return False
            origin, path = _split(url)
        except ValueError:
            return False
        if any(segment in (".", "..") for segment in path.split("/")):
            return False
        return any(
            origin == allowed and (path == under or (under.endswith("/") and path.startswith(under)))
            for allowed, under in self._entries
        )


def _split(url: str) -> tuple[tuple[str, str, int | None], str]:
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    return (parts.scheme, (parts.hostname or "").lower(), port), parts.path or "/"


@dataclass(slots=True)
class _Failing:
    count: int
    until_ms: int


class Backoff:
    """What failed is left alone for a while, longer with each further failure. Bounded: the oldest are forgotten."""

    def __init__(self, settings: ForeignStatusSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._failing: OrderedDict[object, _Failing] = OrderedDict()

    def waits(self, what: object) -> bool:
        """Whether it is to be left alone now."""
        failing = self._failing.get(what)
        return failing is not None and self._clock() < failing.until_ms

    def failed(self, what: object) -> None:
        """It failed (once more)."""
        before = self._failing.pop(what, None)
        count = 1 if before is None else min(before.count + 1, 32)
        wait_s = min(self._settings.backoff_first_s * 2 ** (count - 1), self._settings.backoff_max_s)
        wait_s *= 1 - random.random() / 4  # noqa: S311 - spread, not a secret
        self._failing[what] = _Failing(count, self._clock() + round(wait_s * 1000))
        while len(self._failing) > _FAILING_MAX:
            self._failing.popitem(last=False)

    def well(self, what: object) -> None:
        """It did what it should."""
        self._failing.pop(what, None)


class Fetcher:
    """See the module. One event loop's."""

    def __init__(
        self, settings: ForeignStatusSettings, clock: Clock, registry: CollectorRegistry | None = None
    ) -> None:
        self._settings = settings
        self._allow = AllowList(settings.allow)
        self._slots = asyncio.Semaphore(settings.max_fetches)
        self._flights: dict[tuple[str, bytes | None], asyncio.Task[bytes]] = {}
        self._backoff = Backoff(settings, clock)
        self._session: aiohttp.ClientSession | None = None
        self._fetches = Counter(
            "qianyan_foreign_fetches",
            "Fetches of foreign CRLs and OCSP answers, by kind (crl, ocsp) and how they ended.",
            ["kind", "result"],
            registry=registry,
        )
        for kind in ("crl", "ocsp"):
            for word in _WORDS:
                self._fetches.labels(kind, word)

    def admits(self, url: str) -> bool:
        """Whether the allow-list has it."""
        return self._allow.admits(url)

    async def close(self) -> None:
        """Ends what is under way and the session."""
        for flight in list(self._flights.values()):
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def get(self, url: str, max_bytes: int) -> bytes:
        """GET. Raises FetchError."""
        return await self._fly(url, None, max_bytes)

    async def post(self, url: str, body: bytes, max_bytes: int) -> bytes:
        """POST of an OCSP request (RFC 6960 Appendix A.1). Raises FetchError."""
        return await self._fly(url, body, max_bytes)

    async def _fly(self, url: str, body: bytes | None, max_bytes: int) -> bytes:
        """Joins the fetch that is under way for the same, or begins one; a waiter that leaves ends it for nobody."""
        key = (url, body)
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._counted(url, body, max_bytes))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def _landed(self, key: tuple[str, bytes | None], done: asyncio.Task[bytes]) -> None:
        self._flights.pop(key, None)
        if not done.cancelled():
            done.exception()  # seen: those who waited may all have left

    async def _counted(self, url: str, body: bytes | None, max_bytes: int) -> bytes:
        kind = "crl" if body is None else "ocsp"
        try:
            self._check_may_ask(url)
            try:
                async with self._slots:
                    self._check_may_ask(url)  # others that waited before may have found it failing
                    content = await self._bounded(url, body, max_bytes)
            except FetchError as error:
                if error.word != "backing_off":
                    self._backoff.failed(url)
                raise
        except FetchError as error:
            self._fetches.labels(kind, error.word).inc()
            raise
        self._backoff.well(url)
        self._fetches.labels(kind, "ok").inc()
        return content

    def _check_may_ask(self, url: str) -> None:
        if not self._allow.admits(url):
            raise FetchError("not_allowed", "the address is not on the allow-list")
        if self._backoff.waits(url):
            raise FetchError("backing_off", "the source failed a moment ago")

    async def _bounded(self, url: str, body: bytes | None, max_bytes: int) -> bytes:
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                return await self._follow(url, body, max_bytes)
        except TimeoutError as error:
            raise FetchError("timeout", f"no whole answer within {self._settings.fetch_timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError("connection", f"the connection failed: {type(error).__name__}") from error

    async def _follow(self, url: str, body: bytes | None, max_bytes: int) -> bytes:
        for _ in range(self._settings.max_redirects + 1):
            found, target = await self._once(url, body, max_bytes)
            if target is None:
                return found
            url = urljoin(url, target)
            if body is not None or not self._allow.admits(url):
                raise FetchError("redirect", "it redirects off the allow-list")
        raise FetchError("redirect", f"more than {self._settings.max_redirects} redirects")

    async def _once(self, url: str, body: bytes | None, max_bytes: int) -> tuple[bytes, str | None]:
        """The content, or where else to look."""
        headers = {"Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/ocsp-request"
        method = "GET" if body is None else "POST"
        async with self._client().request(method, url, data=body, headers=headers, allow_redirects=False) as answer:
            if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                return b"", answer.headers["Location"]
            if answer.status != 200:
                raise FetchError("status", f"it answers {answer.status}")
            if (answer.content_length or 0) > max_bytes:
                raise FetchError("too_large", f"it has more than {max_bytes} bytes")
            chunks: list[bytes] = []
            size = 0
            async for chunk in answer.content.iter_any():
                size += len(chunk)
                if size > max_bytes:
                    raise FetchError("too_large", f"it has more than {max_bytes} bytes")
                chunks.append(chunk)
            return b"".join(chunks), None

    def _client(self) -> aiohttp.ClientSession:
        """Made with the first fetch, on the loop that fetches. No cookies, no proxies, no unpacking."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=self._settings.max_fetches),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
                headers={"User-Agent": "qianyan"},
            )
        return self._session
