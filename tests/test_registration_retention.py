"""Signed requests are kept as long as their class asks, not a day less, and then go as a whole, on record."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import func, select

from core import requests_archive
from core.errors import Malformed, Refused
from core.store import counters, request_retiring, sealed
from core.store.database import open_database
from core.store.registration_requests import RequestRecord
from core.store.request_retiring import About
from core.store.schema_registration import ra_evidence, ra_issued, ra_requests
from service import request_retention
from service.maintenance import RequestRetirement
from service.request_retention import Retired, Wish, keep_until
from service.retention import years_after
from service.settings import Loaded, RetentionSettings, ServiceSettings
from signer.issuance.settings import IssuanceSettings
from tests.issuance_support import audit_rows
from tests.registration_world import ACTOR, World, content_of, issue_payload, registration_in
from tests.store_world import BACKENDS, new_store

DAY_MS = 86_400_000
PUBLIC = RetentionSettings(public_years=5, government_years=10, other_years=2)
GOVERNMENT = PUBLIC.model_copy(update={"government_profiles": ("organisation",)})


@pytest.fixture(params=BACKENDS)
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    database = None
    if request.param == "postgres":
        empty = await new_store(tmp_path, "postgres")
        await empty.close()
        database = await open_database(empty.target)
    async with registration_in(tmp_path, database=database) as made:
        yield made


async def some_requests(world: World) -> str:
    """Issued by two steps, its key recovered, revoked; one rejected, one never approved. The serial."""
    content = content_of("issue", issue_payload(), request_id="issue")
    await world.submit(content, world.operator)
    status, answer = await world.approve(content, world.approver)
    assert status == 201, answer
    serial: str = answer["result"]["certificates"][0]["serial"]
    recover = content_of("recover", {"serial": serial, "reference": "c-1"}, request_id="recover")
    await world.submit(recover)
    assert (await world.approve(recover, world.people["chen"]))[0] == 201
    payload = {"serial": serial, "reason": "holder_gone"}
    assert (await world.submit(content_of("revoke", payload, request_id="revoke")))[0] == 200
    rejected = content_of("issue", issue_payload(), request_id="rejected")
    await world.submit(rejected, world.operator)
    assert (await world.reject(rejected, world.approver))[0] == 200
    assert (await world.submit(content_of("issue", issue_payload(), request_id="waits"), world.operator))[0] == 202
    return serial


async def retired(world: World, settings: RetentionSettings, at_ms: int | None = None, **more: object) -> Retired:
    """As the service would at that time."""
    database, clock = world.installation.database, world.installation.clock
    if at_ms is not None:
        clock.offset_ms += at_ms - clock()
        async with database.write() as connection:
            await counters.advance_time(connection, clock())
    return await request_retention.retire(database, Wish(settings, ACTOR, **more), clock)  # type: ignore[arg-type]


async def left(world: World) -> tuple[set[str], int, int]:
    """Which requests there are, and how many messages and assignments."""
    async with world.installation.database.read() as connection:
        names = set((await connection.execute(select(ra_requests.c.request_id))).scalars())
        counts = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (ra_evidence, ra_issued)
        ]
        return names, counts[0], counts[1]


async def ends_of(world: World, serial: str) -> int:
    record = await world.desk.issuer.find(int(serial, 16))
    return record.certificate.not_after_ms


async def test_not_a_moment_before_and_then_as_a_whole(world: World, tmp_path: Path) -> None:
    serial = await some_requests(world)
    ends_ms, archive = await ends_of(world, serial), tmp_path / "archive"
    start = world.installation.clock()
    before = await left(world)
    messages = {name: await world.office.requests.evidence("gz", name) for name in ("issue", "revoke", "rejected")}
    assert before[1:] == (8, 2)

    assert (await retired(world, PUBLIC)).requests == 0
    assert (await retired(world, PUBLIC, years_after(start, 2) - DAY_MS)).requests == 0
    looked = await retired(world, PUBLIC, years_after(start, 2) + 8 * DAY_MS, dry_run=True)
    assert (looked.requests, looked.by_class) == (2, {"other": 2}), "rejected, and never approved"
    assert await left(world) == before
    assert (await retired(world, PUBLIC, archive=archive)).requests == 2
    assert await left(world) == ({"issue", "recover", "revoke"}, 5, 2)

    for settings, years in ((GOVERNMENT, 10), (PUBLIC, 5)):
        only = settings.model_copy(update={"government_years": years, "public_years": years})
        assert (await retired(world, only, years_after(ends_ms, 5) - DAY_MS, dry_run=True)).requests == 0
    done = await retired(world, GOVERNMENT, years_after(ends_ms, 5) + DAY_MS, archive=archive)
    assert (done.requests, done.issued) == (0, 0), "a government department's for ten years"
    done = await retired(world, PUBLIC, archive=archive)
    assert (done.requests, done.messages, done.by_class) == (3, 5, {"public": 3})
    assert await left(world) == (set(), 0, 2), "an assignment ends with its certificate's month"
    assert (await retired(world, PUBLIC, years_after(ends_ms, 5) + 32 * DAY_MS, archive=archive)).issued == 2
    assert await left(world) == (set(), 0, 0)

    manifests = [requests_archive.check(path) for path in requests_archive.manifests(archive)]
    assert [(one.requests, one.messages, one.issued) for one in manifests] == [(2, 3, 0), (3, 5, 0), (0, 0, 2)]
    rows = [json.loads(row[3]) for row in await audit_rows(world.installation.database) if row[0] == "request.retire"]
    assert [(row["requests"], row["file"], row["sm3"]) for row in rows] == [
        (one.requests, one.file, one.sm3) for one in manifests
    ]
    vault = world.desk.vault
    for name, kept in messages.items():
        (found,) = requests_archive.find(archive, name, "gz")
        opened = [
            await vault.open_octets(f"request gz {name}", bytes.fromhex(one["sealed"])) for one in found["evidence"]
        ]
        assert opened == [message for _, _, message in kept]
    async with world.installation.database.read() as connection:
        assert await counters.current(connection, sealed.archived_counter(1)) == 8


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_what_was_changed_meanwhile_stays(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await some_requests(world)
    start, database = world.installation.clock(), world.installation.database
    before = await left(world)
    plain = requests_archive.check

    def changing(path: Path) -> requests_archive.RequestsArchive:
        with sqlite3.connect(tmp_path / "store.sqlite3") as connection:
            connection.execute("DELETE FROM ra_evidence WHERE request_id = 'waits'")
        return plain(path)

    monkeypatch.setattr(requests_archive, "check", changing)
    with pytest.raises(Refused) as told:
        await retired(world, PUBLIC, years_after(start, 2) + 8 * DAY_MS, archive=tmp_path / "archive")
    assert told.value.code == "retention_changed"
    assert (await left(world))[0] == before[0]
    monkeypatch.undo()
    assert (await retired(world, PUBLIC)).requests == 2, "without an archive: for good"
    (row,) = [json.loads(row[3]) for row in await audit_rows(database) if row[0] == "request.retire"]
    assert row == {"requests": 2, "messages": 2, "issued": 0}


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_the_service_does_it_by_itself_once_a_day(world: World, tmp_path: Path) -> None:
    await some_requests(world)
    clock, database = world.installation.clock, world.installation.database

    def node(kept: str) -> Any:
        settings = PUBLIC.model_copy(update={"requests": kept, "requests_archive": "archive"})
        whole = ServiceSettings(issuance=IssuanceSettings(public_url="http://p"), retention=settings)
        loaded = Loaded(whole, tmp_path / "qianyan.toml")
        return SimpleNamespace(loaded=loaded, database=database, clock=clock)

    at_ms = years_after(clock(), 2) + 8 * DAY_MS
    assert (await retired(world, PUBLIC, at_ms, dry_run=True)).requests == 2
    assert await RequestRetirement().retire(node("keep")) is None
    assert len((await left(world))[0]) == 5, "nothing goes unless somebody has decided so"
    job = RequestRetirement()
    done = await job.retire(node("archive"))
    assert done is not None
    assert (done.requests, len(requests_archive.manifests(tmp_path / "archive"))) == (2, 1)
    assert await job.retire(node("archive")) is None
    clock.offset_ms += DAY_MS
    again = await job.retire(node("remove"))
    assert again is not None
    assert again.requests == 0


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_a_clock_far_ahead_is_not_believed(world: World) -> None:
    await some_requests(world)
    before = await left(world)
    world.installation.clock.offset_ms = 20 * 366 * DAY_MS
    assert (await retired(world, PUBLIC)).requests == 0
    assert await left(world) == before


def test_an_archive_that_was_changed_is_not_read(tmp_path: Path) -> None:
    writer = requests_archive.ArchiveWriter(tmp_path, 0)
    writer.request({"request_id": "r", "ra_id": "gz"}, [], "public", 0)
    made = writer.finish()
    (manifest,) = requests_archive.manifests(tmp_path)
    assert list(requests_archive.find(tmp_path, "r", "sz")) == []
    path = tmp_path / made.file
    good = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(good) + b"{}\n"))
    with pytest.raises(Refused):
        requests_archive.check(manifest)
    path.write_bytes(good)
    manifest.write_bytes(b"{}")
    with pytest.raises(Malformed):
        requests_archive.check(manifest)
    abandoned = requests_archive.ArchiveWriter(tmp_path, 0)
    abandoned.abandon()
    assert not list(tmp_path.glob("*.part"))


def record(state: str, at_ms: int) -> RequestRecord:
    decided = None if state == "entered" else at_ms
    return RequestRecord("gz", "r", "issue", state, b"", b"", "li", 0, at_ms, None, None, "wang", decided)


def test_how_long_by_class() -> None:
    at_ms = 1_700_000_000_000
    settings = GOVERNMENT.model_copy(update={"classes": {"request.": 3, "request.rejected": 4}})
    assert keep_until(record("entered", at_ms), (), settings) == ("request.", years_after(at_ms, 3))
    assert keep_until(record("rejected", at_ms), (), settings) == ("request.rejected", years_after(at_ms, 4))
    assert keep_until(record("entered", at_ms), (), PUBLIC) == ("other", years_after(at_ms, 2))
    unknown = keep_until(record("done", at_ms), (), PUBLIC)
    assert unknown == ("government", years_after(at_ms, 10)), "rather too long than too short"
    both = [About(at_ms + DAY_MS, "person"), About(at_ms, "organisation")]
    assert keep_until(record("done", at_ms), both, settings) == ("government", years_after(at_ms, 10))
    ended = keep_until(record("done", at_ms), [About(at_ms - DAY_MS, "person")], settings)
    assert ended == ("public", years_after(at_ms, 5)), "from the request on, where it came after the end"
    assert request_retiring.month_end_ms(2026 * 12 + 11) == 1_798_761_600_000


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_an_appointment_is_kept_after_what_was_signed_under_it(world: World) -> None:
    async with world.installation.database.read() as connection:
        result = b'{"person": "li", "roles": ["operator"]}'
        made = replace(record("done", 0), kind="appoint", result=result)
        about = (await request_retiring.about(connection, [made]))["gz", "r"]
    ends_ms = max(one.ends_ms for one in about)
    assert ends_ms > world.installation.clock()
    assert keep_until(made, about, PUBLIC) == ("government", years_after(ends_ms, 10))


def test_settings() -> None:
    with pytest.raises(ValueError, match="requests_archive"):
        RetentionSettings(requests="archive")
    assert RetentionSettings().requests == "keep"
