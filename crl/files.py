"""Keeps a directory of files for a web server or a CDN: every CRL and delta, and the certificates of authorities.

The paths are those of the URLs: `crl/AUTHORITY/PARTITION.crl`, `crl/AUTHORITY/PARTITION-delta.crl`, `ca/AUTHORITY.cer`.
A file appears whole or not at all: written beside, synced, renamed, its directory synced. One past its nextUpdate is
removed. Follows the feed; one process at a time, by a lock on the directory. Reads the store; never changes it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import structlog

from core.clock import Clock
from core.errors import QianyanError
from core.store import authorities, crls
from core.store.crls import CrlRecord
from core.store.database import Database
from core.store.feed import FeedEntry
from core.store.follow import FeedFollower
from crl.metrics import CrlMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()

#: How long to wait after a failure.
_RETRY_S: Final = 5.0
_MODE: Final = 0o644


class CrlFiles:
    """See the module."""

    def __init__(
        self, database: Database, follower: FeedFollower, directory: Path, clock: Clock, metrics: CrlMetrics
    ) -> None:
        self._database = database
        self._follower = follower
        self._directory = directory
        self._clock = clock
        self._metrics = metrics
        self._lock: IO[bytes] | None = None
        self._all = True
        self._dirty: set[tuple[str, int]] = set()
        #: When each file is to go, in milliseconds.
        self._ends: dict[Path, int] = {}
        #: Up to which feed position the files show the changes of each scope.
        self._shown: dict[tuple[str, int], int] = {}
        follower.subscribe(self._on_entry)

    def _on_entry(self, entry: FeedEntry) -> None:
        if entry.kind == "authority":
            self._all = True
        elif entry.kind == "crl" and entry.authority_id is not None and entry.subject_id is not None:
            self._dirty.add((entry.authority_id, int(entry.subject_id)))

    async def run(self, stop: asyncio.Event, poll_s: float) -> None:
        """Writes what is new until `stop` is set. A directory that cannot be written is tried again and again."""
        while not stop.is_set():
            wait_s = poll_s
            try:
                await self.sync()
                self._metrics.files_failing.set(0)
            except (OSError, QianyanError) as error:
                wait_s = _RETRY_S
                self._metrics.files_failing.set(1)
                log.error("crl.files_failed", directory=str(self._directory), detail=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await stop.wait()
        if self._lock is not None:
            self._lock.close()

    async def sync(self) -> int:
        """Writes every file that is newer in the store; returns how many. Raises OSError, Unavailable."""
        if not await asyncio.to_thread(self._own):
            return 0
        with suppress(OSError):  # what cannot be removed keeps nothing new from being written; it is said below
            await asyncio.to_thread(self._remove_ended)  # needs no store: it may be away until past nextUpdate
        await self._follower.ensure_current()
        written = 0
        if self._all:
            self._all = False
            try:
                written += await self._write_certificates()
            except BaseException:
                self._all = True
                raise
        while self._dirty:
            scope = self._dirty.pop()
            try:
                written += await self._write_scope(scope)
            except BaseException:
                self._dirty.add(scope)
                raise
        await asyncio.to_thread(self._remove_ended)
        self._metrics.files_written.inc(written)
        return written

    def _own(self) -> bool:
        """Whether this process has the directory: takes it where nobody has."""
        if self._lock is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = (self._directory / ".lock").open("wb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            except BaseException:
                lock.close()
                raise
            self._lock = lock
        return True

    async def _write_certificates(self) -> int:
        """The authorities' certificates; every scope is looked at again, too."""
        async with self._database.read() as connection:
            known = await authorities.list_all(connection)
        written = 0
        for authority in known:
            self._dirty.update((authority.id, partition) for partition in range(authority.partitions))
            if authority.certificate is not None:
                path = self._directory / "ca" / f"{authority.id}.cer"
                written += await asyncio.to_thread(_put, path, authority.certificate, authority.created_at_ms)
        return written

    async def _write_scope(self, scope: tuple[str, int]) -> int:
        written = 0
        for delta in (True, False):  # a client that sees the new full CRL finds its delta
            async with self._database.read() as connection:
                record = await crls.latest(connection, *scope, delta=delta)
            if record is not None:
                written += await asyncio.to_thread(self._put_crl, record)
        if written and record is not None:
            await self._note_visible(scope, record)
        return written

    async def _note_visible(self, scope: tuple[str, int], record: CrlRecord) -> None:
        """How long each change that the files newly show took to get there."""
        after_seq = self._shown.get(scope)
        self._shown[scope] = record.feed_seq
        if after_seq is None:
            return
        async with self._database.read() as connection:
            changes = await crls.status_changes(connection, after_seq, scope)
        now_ms = self._clock()
        observe = self._metrics.visible_seconds.labels("file").observe
        for change in changes:
            if change.seq <= record.feed_seq:
                observe(max(0, now_ms - change.at_ms) / 1000)

    def _put_crl(self, record: CrlRecord) -> bool:
        suffix = "" if record.base_number is None else "-delta"
        path = self._directory / "crl" / record.authority_id / f"{record.partition}{suffix}.crl"
        self._ends[path] = record.next_update_ms
        return record.next_update_ms >= self._clock() and _put(path, record.crl, record.this_update_ms)

    def _remove_ended(self) -> None:
        now_ms = self._clock()
        for path, end_ms in list(self._ends.items()):
            if end_ms < now_ms:
                with suppress(FileNotFoundError):
                    path.unlink()
                    log.error("crl.file_expired", path=str(path))
                del self._ends[path]


def _put(path: Path, content: bytes, at_ms: int) -> bool:
    """Puts a file there in one step, dated `at_ms`; False where it is there already, byte for byte."""
    with suppress(FileNotFoundError):
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), _MODE)
        os.utime(file.fileno(), (at_ms / 1000, at_ms / 1000))
        os.fsync(file.fileno())
        os.rename(file.name, path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _beside(path: Path) -> Iterator[IO[bytes]]:
    """A new file in the same directory, gone again where the block fails."""
    file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False)  # noqa: SIM115 - renamed inside
    try:
        with file:
            yield file
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
