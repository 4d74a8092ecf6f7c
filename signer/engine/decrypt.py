"""Decrypts with keys for encryption, under the same admission and accounts as signatures.

Owns how many ciphertexts are under way. Knows keys by id and bytes; not HTTP or messages. Work is done in pieces, and
before each piece the change feed is looked at: a key that is frozen decrypts no further piece, also within one request.
Plaintexts are bytearrays; those that do not leave are wiped here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from core.errors import Busy, TooLarge, Unavailable
from core.model import KeyPurpose
from signer.engine.admission import Admission, Ticket
from signer.engine.backend import DECRYPT_CHUNK, KeyHandle, Readings, SoftwareBackend
from signer.engine.metrics import EngineMetrics
from signer.engine.pbes2 import wipe
from signer.engine.settings import EngineSettings

#: What is decrypted on the event loop itself: so few that a thread would cost as much, and not long.
_INLINE_MAX: Final = 1
_INLINE_MAX_BYTES: Final = 4_096


class Decryptor:
    """See the module. `close()` answers what was accepted."""

    def __init__(
        self, admission: Admission, backend: SoftwareBackend, settings: EngineSettings, metrics: EngineMetrics
    ) -> None:
        self._admission = admission
        self._backend = backend
        self._max_pending = settings.max_decrypting
        self._metrics = metrics
        self._pending = 0
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qianyan-decrypt")

    async def decrypt(self, key_id: str, ciphertexts: Sequence[Readings], caller: str) -> list[bytearray | None]:
        """See SigningEngine.decrypt."""
        count = len(ciphertexts)
        if self._closing:
            raise Unavailable("the service is stopping", code="stopping", retry_after_s=1)
        if count > self._max_pending:
            raise TooLarge(f"at most {self._max_pending} ciphertexts are taken at a time", code="batch_too_large")
        if self._pending + count > self._max_pending:
            raise Busy("too many ciphertexts are waiting", code="decrypt_queue", retry_after_s=1)
        self._pending += count
        self._idle.clear()
        try:
            key = await self._admission.key(key_id, KeyPurpose.ENCRYPT, caller, "decrypt")
            ticket = Ticket(key, caller, caller, "decrypt")
            if not key.counted:
                return await self._all(ticket, ciphertexts)
            async with self._admission.claimed(ticket, count):
                return await self._all(ticket, ciphertexts)
        finally:
            self._pending -= count
            if not self._pending:
                self._idle.set()

    async def close(self) -> None:
        """Refuses what comes from now on and returns when all that was accepted is answered."""
        self._closing = True
        await self._idle.wait()
        self._executor.shutdown(wait=False)

    async def _all(self, ticket: Ticket, ciphertexts: Sequence[Readings]) -> list[bytearray | None]:
        found: list[bytearray | None] = []
        try:
            for at in range(0, len(ciphertexts), DECRYPT_CHUNK):
                found += await self._piece(ticket, ciphertexts[at : at + DECRYPT_CHUNK])
        except BaseException:
            for plaintext in found:
                if plaintext is not None:
                    wipe(plaintext)
            raise
        return found

    async def _piece(self, ticket: Ticket, piece: Sequence[Readings]) -> list[bytearray | None]:
        demand = [(ticket, len(piece))]
        if not self._admission.ready(demand):
            await self._admission.prepare(demand)
        handle = self._admission.admit(ticket, len(piece))
        if len(piece) <= _INLINE_MAX and sum(len(text) for _, text in piece[0]) <= _INLINE_MAX_BYTES:
            found = self._decrypted(handle, piece)
        else:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._executor, self._decrypted, handle, piece)
        self._admission.used(ticket, len(piece))
        return found

    def _decrypted(self, handle: KeyHandle, piece: Sequence[Readings]) -> list[bytearray | None]:
        started = time.perf_counter()
        found = self._backend.decrypt(handle, piece)
        self._metrics.decrypt_seconds.observe(time.perf_counter() - started)
        self._metrics.decrypted.labels(outcome="ok").inc(sum(text is not None for text in found))
        self._metrics.decrypted.labels(outcome="failed").inc(sum(text is None for text in found))
        return found
