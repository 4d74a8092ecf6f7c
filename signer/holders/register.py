"""Checks a holder's data against an authority's register before anything is issued.

`RegisterCheck` is what a register is asked by: any object with that method will do. `HttpRegister` is an example over
HTTP. `LimitedRegister` gives every check a time limit and bounds how many run at a time; a register that cannot be
asked lets nobody pass. Nothing here logs what was asked or answered.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import aiohttp
import orjson
from prometheus_client import CollectorRegistry, Counter

from core.errors import Busy, QianyanError, Refused, Unavailable
from signer.holders.claim import HolderClaim
from signer.holders.settings import HolderSettings

_MAX_ANSWER_BYTES: Final = 64 * 1024
_MATCH: Final = "match"
_MISMATCHES: Final = {
    "mismatch": "the register has other data for that holder",
    "unknown": "the register does not know that holder",
    "inactive": "the register says that the holder is no longer active",
}


class RegisterCheck(Protocol):
    """Asks a register about one holder."""

    async def check(self, claim: HolderClaim) -> None:
        """Returns where the register has the holder as claimed.

        Raises Refused (code "register_mismatch", "register_unknown", "register_inactive") where it does not,
        Unavailable where it cannot be asked.
        """
        ...


def _unavailable() -> Unavailable:
    return Unavailable("the register cannot be asked now", code="register_unavailable", retry_after_s=5)


class LimitedRegister:
    """A check within `timeout_s`, at most `max_concurrent` at a time; the next is refused, not kept waiting."""

    def __init__(
        self,
        inner: RegisterCheck,
        timeout_s: float,
        max_concurrent: int,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._inner = inner
        self._timeout_s = timeout_s
        self._free = max_concurrent
        self._checks = Counter(
            "qianyan_register_checks",
            "Holders looked up in the register, by outcome (match, refused, unavailable, busy).",
            ["outcome"],
            registry=registry,
        )

    async def check(self, claim: HolderClaim) -> None:
        """See RegisterCheck; raises Busy as well."""
        try:
            await self._bounded(claim)
        except QianyanError as error:
            self._checks.labels(error.kind).inc()
            raise
        self._checks.labels("match").inc()

    async def _bounded(self, claim: HolderClaim) -> None:
        if self._free <= 0:
            raise Busy("the register is asked as often as it may be", code="register_busy", retry_after_s=1)
        self._free -= 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._inner.check(claim)
        except TimeoutError as error:
            raise _unavailable() from error
        finally:
            self._free += 1


class HttpRegister:
    """POSTs `{"kind", "number", "name"}` and reads `{"result": "match" | "mismatch" | "unknown" | "inactive"}`.

    An answer that is anything else counts as none.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def check(self, claim: HolderClaim) -> None:
        """See RegisterCheck."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        question = orjson.dumps({"kind": claim.kind.value, "number": claim.number, "name": claim.name})
        try:
            async with self._session.post(
                self._url, data=question, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise _unavailable()
                result = _result(await _read(answer))
        except (aiohttp.ClientError, OSError) as error:
            raise _unavailable() from error
        if result in _MISMATCHES:
            raise Refused(_MISMATCHES[result], code=f"register_{result}", field="holder")
        if result != _MATCH:
            raise _unavailable()

    async def close(self) -> None:
        """Closes its connections."""
        if self._session is not None:
            await self._session.close()


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise _unavailable()
    return body


def _result(body: bytes) -> str:
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unavailable() from error
    result = value.get("result") if isinstance(value, dict) else None
    return result if isinstance(result, str) else ""


def from_settings(
    settings: HolderSettings, registry: CollectorRegistry | None = None
) -> tuple[HttpRegister, LimitedRegister] | None:
    """The register that the settings name, and the limited one to ask it by; None where they name none."""
    if not settings.register_url:
        return None
    register = HttpRegister(settings.register_url)
    limited = LimitedRegister(register, settings.register_timeout_s, settings.register_max_concurrent, registry)
    return register, limited
