"""All targets of the settings: their publishers, how they stand, and the outbox's age limit.

Owns the publishers' tasks while `run()` runs. Knows the store and the settings; `service` hands in how paths and
secrets are found.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from core.clock import Clock
from core.errors import NotFound, QianyanError
from core.store import outbox, publication
from core.store.database import Database
from core.store.publication import Aside, Target
from status.directory.ldap_sink import LdapSink
from status.directory.metrics import DirectoryMetrics
from status.directory.objects import ObjectSink
from status.directory.publisher import Publisher
from status.directory.settings import DirectorySettings, LdapTargetSettings, ObjectTargetSettings

log = structlog.get_logger()

_PRUNE_EVERY_S: Final = 3600.0
_PRUNE_AT_ONCE: Final = 5_000
_DAY_MS: Final = 86_400_000
_OBJECT_BATCH: Final = 128
#: How long what is under way may take when it stops.
_STOP_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How one target stands. `target` None: nothing was ever published to it. `lag_s`: age of what it lacks."""

    name: str
    where: str | None
    target: Target | None
    pending: int
    lag_s: float
    refused: int
    waiting: int
    aside: list[Aside]


class DirectoryService:
    """See the module. `resolve`: a path of the settings; `secret`: the first line of a secret file that they name."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        settings: DirectorySettings,
        resolve: Callable[[str], Path],
        secret: Callable[[str], bytes],
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.database = database
        self.clock = clock
        self.settings = settings
        self._resolve = resolve
        self._secret = secret
        self._metrics = DirectoryMetrics.make(registry)
        self._holder = f"{socket.gethostname()[:64]}:{os.getpid()}"

    def target(self, name: str | None) -> LdapTargetSettings:
        """A directory by its name, or the only one. Raises NotFound (code "target_unknown") saying which there are."""
        known = {target.name: target for target in self.settings.targets}
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        if name is None or name not in known:
            said = ", ".join(known) or "none; add a [[directory.targets]] table"
            raise NotFound(f"name a directory of the settings with --target: {said}", code="target_unknown")
        return known[name]

    def sink(self, target: LdapTargetSettings) -> LdapSink:
        """A connection of one's own to a directory. Raises SettingsError."""
        ca_file = None if target.ca_file is None else self._resolve(target.ca_file)
        password = b"" if target.password_file is None else self._secret(target.password_file)
        return LdapSink(target, ca_file, password, self.clock)

    def publisher(self, target: LdapTargetSettings | ObjectTargetSettings) -> Publisher:
        """Who publishes to a target. Raises SettingsError."""
        if isinstance(target, LdapTargetSettings):
            sink: LdapSink | ObjectSink = self.sink(target)
            batch, settle_s = target.batch, target.settle_s
        else:
            secret = b"" if target.secret_key_file is None else self._secret(target.secret_key_file)
            sink, batch, settle_s = ObjectSink(target, secret), _OBJECT_BATCH, 0.0
        return Publisher(
            target.name,
            sink,
            self.database,
            self.clock,
            self.settings,
            self._metrics,
            holder=self._holder,
            batch=batch,
            settle_s=settle_s,
        )

    def publishers(self) -> list[Publisher]:
        """One for each target, their secrets read; nothing is connected. Raises SettingsError."""
        found = [self.publisher(target) for target in self.settings.targets]
        return found + [self.publisher(target) for target in self.settings.objects]

    async def run(self, stop: asyncio.Event, publishers: Sequence[Publisher]) -> None:
        """Publishes to every target and prunes the outbox until `stop`.

        A target that is waited for when it stops gets a moment; what it may not have taken is delivered again.
        """
        tasks = {asyncio.create_task(self._keep_pruned(stop), name="outbox")}
        tasks |= {asyncio.create_task(one.run(stop), name=f"directory-{one.name}") for one in publishers}
        stopped = asyncio.create_task(stop.wait(), name="directory-stop")
        try:
            await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await asyncio.wait(tasks, timeout=_STOP_S)
        finally:
            stopped.cancel()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _keep_pruned(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                while not stop.is_set() and await self.prune() == _PRUNE_AT_ONCE:
                    pass  # others write between two steps
            except QianyanError as error:
                log.warning("outbox.not_pruned", code=error.code, detail=error.detail)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _PRUNE_EVERY_S)

    async def prune(self) -> int:
        """Removes some outbox rows that are old and taken by every target that there ever was; returns how many.

        Without any target they go by age alone: whoever gets one later begins with a load of everything.
        """
        async with self.database.write() as connection:
            positions = [target.position for target in await publication.list_all(connection)]
            through = min(positions) if positions else await outbox.head(connection)
            old = self.clock() - self.settings.keep_days * _DAY_MS
            return await outbox.prune(connection, through=through, older_than_ms=old, limit=_PRUNE_AT_ONCE)

    async def status(self, *, most: int = 20) -> list[Standing]:
        """Every target of the settings and of the store, with at most `most` of what each refused."""
        where = {t.name: t.url for t in self.settings.targets}
        where |= {t.name: f"{t.endpoint}/{t.bucket}" for t in self.settings.objects}
        standings = []
        async with self.database.read() as connection:
            known = {target.name: target for target in await publication.list_all(connection)}
            head = await outbox.head(connection)
            for name in sorted({*where, *known}):
                target = known.get(name)
                position = 0 if target is None else target.position
                oldest = await outbox.read_after(connection, position, limit=1)
                lag_ms = self.clock() - oldest[0].created_at_ms if oldest else 0
                refused, waiting = await publication.counts(connection, name)
                aside = await publication.list_aside(connection, name, limit=most)
                lag_s = max(0, lag_ms) / 1000
                standings.append(
                    Standing(name, where.get(name), target, head - position, lag_s, refused, waiting, aside)
                )
        return standings
