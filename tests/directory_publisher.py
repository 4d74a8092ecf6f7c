"""A publisher in a process of its own: `python -m tests.directory_publisher URL SETTINGS [STEP [TIME]]`.

STEP says where it ends itself as `kill -9` would, the TIMEth time (from 1) that it comes there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from core.store import publication
from core.store.database import open_database
from status.directory.entries import Change
from status.directory.ldap_sink import LdapSink
from status.directory.publisher import Publisher
from status.directory.session import Session
from status.directory.settings import DirectorySettings
from tests.directory_world import new_service


class Fuse:
    """Kills the process the n-th time it is asked to."""

    def __init__(self, left: int) -> None:
        self.left = left

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _around(holder: Any, name: str, fuse: Fuse, *, before: bool) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(holder, name)

    async def replaced(*arguments: Any, **named: Any) -> Any:
        if before:
            fuse.burn()
        result = await original(*arguments, **named)
        if not before:
            fuse.burn()
        return result

    setattr(holder, name, replaced)


def _half_written(fuse: Fuse) -> None:
    original = Session.write

    def replaced(self: Session, changes: list[Change], guard: Callable[[], None]) -> Any:
        fuse.left -= 1
        if fuse.left == 0:
            original(self, changes[: (len(changes) + 1) // 2], guard)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, changes, guard)

    Session.write = replaced  # type: ignore[assignment, method-assign]


#: Where a publisher can die, as a wrapper that makes it.
STEPS: dict[str, Callable[[Fuse], None]] = {
    "connected": lambda fuse: _around(LdapSink, "open", fuse, before=False),
    "before_writing": lambda fuse: _around(LdapSink, "apply", fuse, before=True),
    "half_written": _half_written,
    "written": lambda fuse: _around(LdapSink, "apply", fuse, before=False),
    "before_commit": lambda fuse: _around(publication, "change", fuse, before=False),
    "committed": lambda fuse: _around(Publisher, "_deliver", fuse, before=False),
    "before_mark": lambda fuse: _around(LdapSink, "mark", fuse, before=True),
    "marked": lambda fuse: _around(LdapSink, "mark", fuse, before=False),
}


async def main(url: str, settings: DirectorySettings, step: str | None, time: int) -> None:
    """Publishes until it is killed."""
    if step is not None:
        STEPS[step](Fuse(time))
    database = await open_database(url)
    service = new_service(database, settings)
    await service.run(asyncio.Event(), service.publishers())


if __name__ == "__main__":
    _url, _file, _step, _time, *_ = [*sys.argv[1:], None, None]
    _settings = DirectorySettings.model_validate_json(Path(str(_file)).read_text())
    asyncio.run(main(str(_url), _settings, _step, int(_time or 1)))
