"""Sees a load or a repair through for a command: by whoever holds the lease, itself where nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from core.errors import Unavailable
from core.store import publication
from status.directory.service import DirectoryService
from status.directory.settings import LdapTargetSettings

_LOOK_EVERY_S: Final = 0.2


async def drive(
    service: DirectoryService,
    target: LdapTargetSettings,
    progress: Callable[[int], None] = lambda _done: None,
    *,
    patience_s: float = 60.0,
) -> None:
    """Returns when nothing is loaded or tried again any more; `progress` gets the last certificate's row number.

    Raises Unavailable with the publisher's trouble where nothing has moved for `patience_s`.
    """
    stop = asyncio.Event()
    task = asyncio.create_task(service.publisher(target).run(stop), name=f"drive-{target.name}")
    moved, state = time.monotonic(), None
    try:
        while True:
            async with service.database.read() as connection:
                now = await publication.get(connection, target.name)
                _, waiting = await publication.counts(connection, target.name)
            progress(now.loading_after)
            if now.loading_to is None and not waiting:
                return
            if state != (now.loading_after, waiting):
                moved, state = time.monotonic(), (now.loading_after, waiting)
            elif time.monotonic() - moved > patience_s:
                said = now.trouble or f"publisher {now.holder or 'none'} does not get on with it"
                raise Unavailable(f"{target.name}: {said}", code="directory_down")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), _LOOK_EVERY_S)
    finally:
        stop.set()
        await task
