"""The directory of files for a web server: whole files, dated, gone when they end, one writer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.clock import system_clock
from crl.files import CrlFiles
from crl.metrics import CrlMetrics
from crl.service import CrlService
from crl.settings import CrlSettings
from signer.engine.verify import verify_signature
from tests.crl_world import PUBLIC_URL, SetClock, World, listed, make_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as world:
        await world.add_authority(partitions=2)
        await world.issue(1, 2)
        yield world


@pytest.fixture
def clock(world: World) -> SetClock:
    assert isinstance(world.clock, SetClock)
    return world.clock


def files_of(world: World, directory: Path, registry: CollectorRegistry | None = None) -> CrlFiles:
    return CrlFiles(world.database, world.follower, directory, world.clock, CrlMetrics.make(registry))


async def test_every_crl_delta_and_certificate_is_there_as_published(
    world: World, clock: SetClock, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    service, directory = world.service(), tmp_path / "www"
    files = files_of(world, directory, registry)
    await service.build_due()
    assert await files.sync() == 3
    clock.advance(5)
    await world.revoke(1)
    clock.advance(5)
    await service.build_due()
    assert await files.sync() == 2
    newest = await world.newest()
    path = directory / "crl" / "issuing" / "0.crl"
    assert path.read_bytes() == newest.crl
    assert path.stat().st_mtime * 1000 == newest.this_update_ms
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(listed((directory / "crl" / "issuing" / "0-delta.crl").read_bytes())) == [1]
    assert (directory / "ca" / "issuing.cer").read_bytes() == world.certificate
    assert sorted(p.name for p in path.parent.iterdir()) == ["0-delta.crl", "0.crl", "1.crl"]
    assert registry.get_sample_value("qianyan_crl_visible_seconds_count", {"channel": "file"}) == 1
    assert registry.get_sample_value("qianyan_crl_visible_seconds_sum", {"channel": "file"}) == pytest.approx(5)
    assert await files.sync() == 0


async def test_a_restart_writes_only_what_is_not_there(world: World, tmp_path: Path) -> None:
    await world.service().build_due()
    first = files_of(world, tmp_path / "www")
    assert await first.sync() == 3
    first._lock.close()  # type: ignore[union-attr]
    (tmp_path / "www" / "crl" / "issuing" / "1.crl").write_bytes(b"torn")
    assert await files_of(world, tmp_path / "www").sync() == 1


async def test_a_file_past_its_next_update_is_taken_away(world: World, clock: SetClock, tmp_path: Path) -> None:
    files, path = files_of(world, tmp_path / "www"), tmp_path / "www" / "crl" / "issuing" / "0.crl"
    await world.service().build_due()
    await files.sync()
    clock.advance(86_398)
    await files.sync()
    assert path.exists()
    clock.advance(1)
    await files.sync()
    assert not path.exists()
    await world.service().build_due()
    await files.sync()
    assert path.exists()


async def test_one_writer_at_a_time(world: World, tmp_path: Path) -> None:
    await world.service().build_due()
    first, second = files_of(world, tmp_path / "www"), files_of(world, tmp_path / "www")
    assert await first.sync() == 3
    assert await second.sync() == 0
    assert second._lock is None


async def test_a_directory_that_cannot_be_written_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crl.files._RETRY_S", 0.02)
    async with make_world(tmp_path, system_clock) as world:
        await world.add_authority()
        registry, directory = CollectorRegistry(), tmp_path / "www"
        directory.write_bytes(b"in the way")
        service = CrlService(
            world.database,
            world.follower,
            lambda _: world.signer,
            verify_signature,
            world.clock,
            CrlSettings(poll_s=0.02),
            public_url=PUBLIC_URL,
            registry=registry,
            directory=directory,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(service.run(stop))
        async with asyncio.timeout(60):
            while not registry.get_sample_value("qianyan_crl_files_failing"):
                await world.follower.ensure_current()
                await asyncio.sleep(0.01)
            os.unlink(directory)
            while not (directory / "crl" / "issuing" / "0.crl").exists():
                await world.follower.ensure_current()
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.wait_for(running, 20)
        assert registry.get_sample_value("qianyan_crl_files_failing") == 0
        assert (directory / "crl" / "issuing" / "0.crl").read_bytes() == (await world.newest()).crl
