"""Counts the requests under way, so that a stop can wait for them.

aiohttp's own shutdown drops what arrives on a connection from its first moment on, so a request whose body is still
coming would never be answered. Here the listeners close first, requests under way end in their own time, each answer
closes its connection, and only then is aiohttp told to shut down.
"""

from __future__ import annotations

import asyncio


class Drain:
    """See the module; only the event-loop thread touches it. A request counts itself in `under_way`."""

    def __init__(self) -> None:
        self.under_way = 0
        self.draining = False
        self._idle = asyncio.Event()

    def end(self) -> None:
        """A request has ended."""
        self.under_way -= 1
        if self.draining and self.under_way == 0:
            self._idle.set()

    async def wait(self, timeout_s: float) -> int:
        """Waits until nothing is under way, at most `timeout_s`; returns how many requests were left."""
        self.draining = True
        if self.under_way == 0:
            return 0
        self._idle.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return self.under_way
        return 0
