"""Verifies the signatures of requests: those that wait at the same time in one native call.

Owns the pending list; only the event-loop thread touches it. There is no timer: a batch is what came in one pass of the
loop. A short one is verified at once, a long one in a thread with the GIL released. Knows keys, digests and futures;
not people, requests or the store. Every future is resolved exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import Busy, Malformed
from signer._native import sm2
from signer.registration.metrics import RegistrationMetrics

#: As many signatures as take less time than a thread to be woken for them.
_INLINE_MAX: Final = 8
_PENDING_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class Claim:
    """One signature: the key, e = SM3(Z ‖ M), r ‖ s."""

    key: sm2.PublicKey
    digest: bytes
    signature: bytes

    @classmethod
    def of(cls, key: sm2.PublicKey, message: bytes, signature: bytes) -> Claim:
        """Under the default user id; `signature` is DER. Raises Malformed (code "cms_signature")."""
        try:
            return cls(key, key.digest(message), sm2.signature_from_der(signature))
        except sm2.InvalidEncoding as error:
            raise Malformed("a signature is not a DER SM2Signature", code="cms_signature") from error


class Checker:
    """See the module."""

    def __init__(self, metrics: RegistrationMetrics) -> None:
        self._metrics = metrics
        self._pending: list[tuple[Sequence[Claim], asyncio.Future[bool]]] = []
        self._count = 0
        self._running: set[asyncio.Task[None]] = set()

    async def hold(self, claims: Sequence[Claim]) -> bool:
        """Whether every one of them is good. Raises Busy (code "verify_queue")."""
        if self._count + len(claims) > _PENDING_MAX:
            raise Busy("too many signatures are under verification", code="verify_queue", retry_after_s=1)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._flush)
        self._pending.append((claims, future))
        self._count += len(claims)
        return await future

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        claims = [claim for group, _ in batch for claim in group]
        self._metrics.batch.observe(len(claims))
        if len(claims) <= _INLINE_MAX:
            self._settle(batch, _verify(claims))
            return
        task = asyncio.get_running_loop().create_task(self._in_thread(batch, claims), name="request signatures")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _in_thread(
        self, batch: list[tuple[Sequence[Claim], asyncio.Future[bool]]], claims: Sequence[Claim]
    ) -> None:
        try:
            results = await asyncio.to_thread(_verify, claims)
        except BaseException as error:
            for group, future in batch:
                self._count -= len(group)
                if not future.done():
                    future.set_exception(error)
            raise
        self._settle(batch, results)

    def _settle(self, batch: list[tuple[Sequence[Claim], asyncio.Future[bool]]], results: bytes) -> None:
        at = 0
        for group, future in batch:
            good = all(results[at : at + len(group)])
            at += len(group)
            self._count -= len(group)
            if not future.done():
                future.set_result(good)


def _verify(claims: Sequence[Claim]) -> bytes:
    digests = b"".join(claim.digest for claim in claims)
    signatures = b"".join(claim.signature for claim in claims)
    return sm2.verify_many([claim.key for claim in claims], digests, signatures)
