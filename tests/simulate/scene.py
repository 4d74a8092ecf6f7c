"""The service's own parts on one store, under a clock that jumps: what the simulated year is played with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry

from core.asn1.names import build_name
from core.clock import system_clock
from core.model import KeyPurpose, KeyState
from core.ports import Signer
from core.store import authorities, crl_points, keys, publication
from core.store.authorities import Authority
from core.store.database import Database, create_database, open_database
from core.store.follow import FeedFollower
from core.store.keys import KeyRecord
from crl.files import CrlFiles
from crl.metrics import CrlMetrics
from crl.service import CrlService
from crl.settings import CrlSettings
from signer.engine.verify import verify_signature
from status.directory.ldif import LdifExport
from status.directory.service import DirectoryService
from status.directory.settings import LdapTargetSettings
from status.responder import Responder
from status.settings import OcspSettings
from tests.bench.directory_bench import slapadd
from tests.crl_world import PUBLIC_URL, KeySigner
from tests.directory_world import SUFFIX, Slapd, directory_settings
from tests.simulate.plan import DAY_MS, Plan, Timetable
from tests.simulate.stock import ISSUING, Maker, fill
from tests.status_world import certify

_TEN_YEARS_MS = 3_650 * DAY_MS


class JumpingClock:
    """Runs as the machine's does, and jumps where nothing is due: what is measured then is what was done."""

    def __init__(self, begin_ms: int) -> None:
        self._offset_ms = begin_ms - time.monotonic() * 1000

    def __call__(self) -> int:
        return int(time.monotonic() * 1000 + self._offset_ms)

    def jump(self, to_ms: float) -> None:
        """Forward only; nothing where that is past already."""
        self._offset_ms += max(0.0, to_ms - time.monotonic() * 1000 - self._offset_ms)


@dataclass(slots=True)
class Branch:
    """An authority: what its certificates and OCSP requests are made with."""

    name: x509.Name
    certificate: bytes
    public_key: bytes
    maker: Maker


class Scene:
    """See the module; open one with `open_scene`."""

    def __init__(
        self, database: Database, follower: FeedFollower, clock: JumpingClock, directory: Path, plan: Plan
    ) -> None:
        self.database = database
        self.follower = follower
        self.clock = clock
        self.begin_ms = clock()
        self.branches: dict[str, Branch] = {}
        self.signers: dict[str, Signer] = {}
        self.scopes: list[tuple[str, int]] = []
        self.registry = CollectorRegistry()
        self.files_directory = directory / "www"
        settings = CrlSettings(keep=24, period_s=plan.period)
        self.crl = CrlService(
            database, follower, self.signers.__getitem__, verify_signature, clock, settings,
            public_url=PUBLIC_URL, registry=self.registry,
        )  # fmt: skip
        self.files = CrlFiles(database, follower, self.files_directory, clock, CrlMetrics.make(CollectorRegistry()))
        self.responder = Responder(database, follower, self.signers.__getitem__, clock, OcspSettings())
        self.slapd: Slapd | None = None
        self.target: LdapTargetSettings | None = None
        self.publication: DirectoryService | None = None

    async def add_authority(self, authority_id: str) -> None:
        """An authority with one partition and a delegated OCSP signer, each with a key of its own."""
        name = build_name({"C": "CN", "O": "测试", "CN": f"签发机构 {authority_id}"})
        key, ocsp = KeySigner(authority_id), KeySigner(f"ocsp-{authority_id}")
        ends_ms = self.begin_ms + _TEN_YEARS_MS
        certificate = certify(name, key.public_key, name, key, 1, kind="ca", ends_ms=ends_ms)
        subject = build_name({"C": "CN", "CN": f"OCSP {authority_id}"})
        delegated = certify(subject, ocsp.public_key, name, key, 2, kind="ocsp", ends_ms=ends_ms)
        now_ms = self.clock()
        async with self.database.write() as connection:
            for signer, purpose in ((key, KeyPurpose.CERTIFICATE), (ocsp, KeyPurpose.OCSP)):
                record = KeyRecord(signer.key_id, purpose, KeyState.ACTIVE, signer.public_key, "year", now_ms, now_ms)
                await keys.add(connection, record)
                self.signers[signer.key_id] = signer
            row = Authority(
                authority_id, None, key.key_id, name.public_bytes(), key.public_key, certificate, None, None, 1, now_ms
            )
            await authorities.add(connection, row)
            await authorities.set_ocsp_signer(connection, authority_id, ocsp.key_id, delegated, at_ms=now_ms)
            await crl_points.open_first(connection, authority_id, 1, PUBLIC_URL, at_ms=now_ms)
        self.scopes.append((authority_id, 0))
        self.branches[authority_id] = Branch(name, certificate, key.public_key, Maker(name.public_bytes(), key))

    async def position(self) -> int:
        """Up to which outbox row the directory has everything."""
        assert self.target is not None
        async with self.database.read() as connection:
            return (await publication.get(connection, self.target.name)).position


async def _open_directory(scene: Scene, directory: Path, opened: AsyncExitStack) -> None:
    """A real LDAP server, filled as docs/directory.md says, and its publisher at work."""
    server = Slapd(MAXSIZE=str(16 << 30))
    opened.callback(server.remove)
    await asyncio.to_thread(server.start)
    scene.slapd = server
    scene.target = server.target(f"ou=year,{SUFFIX}", operation_timeout_s=300)
    scene.publication = DirectoryService(
        scene.database, scene.clock, directory_settings(scene.target, poll_s=0.2, lease_s=600, look_s=600), Path,
        lambda name: Path(name).read_bytes().split(b"\n")[0],
    )  # fmt: skip
    file = directory / "all.ldif"
    with file.open("w") as text:
        await LdifExport(scene.database, scene.target, scene.clock, text, suffix=SUFFIX).write()
    server.kill()
    server.empty()
    await asyncio.to_thread(slapadd, server, file)
    file.unlink()
    await asyncio.to_thread(server.start)
    stop = asyncio.Event()
    task = asyncio.create_task(scene.publication.run(stop, scene.publication.publishers()))

    async def end() -> None:
        stop.set()
        await task

    opened.push_async_callback(end)


@asynccontextmanager
async def open_scene(directory: Path, plan: Plan, table: Timetable) -> AsyncIterator[Scene]:
    """Everything in `directory`, on the eve of the year's first day."""
    url = f"sqlite+aiosqlite:///{directory / 'store.sqlite3'}"
    clock = JumpingClock(system_clock() // DAY_MS * DAY_MS)
    database = await create_database(url)
    follower = await FeedFollower.start(database)
    first = Scene(database, follower, clock, directory, plan)
    await first.add_authority(ISSUING)
    follower.close()
    await database.close()
    old = [holder for holder in table.holders if holder.made is None]
    for holder in old:
        holder.scopes = [(ISSUING, 0)] * 2
    point = f"{PUBLIC_URL}/crl/{ISSUING}/0.crl"
    path = directory / "store.sqlite3"
    await asyncio.to_thread(fill, path, plan, old, point, first.begin_ms, first.branches[ISSUING].maker)
    async with AsyncExitStack() as opened:
        database = await open_database(url)
        opened.push_async_callback(database.close)
        follower = await FeedFollower.start(database)
        opened.callback(follower.close)
        scene = Scene(database, follower, clock, directory, plan)
        scene.begin_ms, scene.branches, scene.scopes = first.begin_ms, first.branches, first.scopes
        scene.signers.update(first.signers)
        opened.push_async_callback(scene.responder.close)
        if plan.directory:
            await _open_directory(scene, directory, opened)
        yield scene
