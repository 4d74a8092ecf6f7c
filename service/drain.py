"""Counts the requests under way, so that a stop can wait for them.

aiohttp's own shutdown drops what arrives on a connection from its first moment on, so a request whose body is still
coming would never be answered. Here the listeners close first, requests under way end in their own time, each answer
closes its connection, and only then is aiohttp told to shut down.
"""

from __future__ import annotations

import asyncio


class Drain:
    """See the module; only the event-loop thread touches it."""

    def __init__(self) -> None:
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def __enter__(self) -> None:
        self._under_way += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1
        if self._under_way == 0:
            self._idle.set()

    async def wait(self, timeout_s: float) -> int:
        """Waits until nothing is under way, at most `timeout_s`; returns how many requests were left."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return self._under_way
        return 0
