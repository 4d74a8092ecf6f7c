"""Files of archives that were kept long enough go, on record; what is left is proved as before."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from core import audit_archive, audit_keeper, audit_prune, merkle, requests_archive
from core.audit import AuditEvent
from core.audit_keeper import AuditKeeper
from core.checkpoint import Checkpoint
from core.clock import rfc3339
from core.errors import Malformed, Refused
from core.model import KeyPurpose, KeyState
from core.store import audit, counters, keys
from core.store.database import Database
from core.store.keys import KeyRecord
from core.store.schema_certificates import certificates as certificates_table
from core.store.year_archive import write as write_year
from service import archive_purge
from service.archive_purge import Judged
from service.retention import request_of, years_after
from service.settings import RetentionSettings, ServiceSettings
from signer.engine.verify import verify_signature
from signer.issuance.settings import IssuanceSettings
from tests.issuance_support import audit_rows
from tests.store_world import NOW_MS, fresh_store
from tests.test_core_audit_tree import KEY
from tests.test_retention_audit import pruned_store, rows, walked

DAY_MS = 86_400_000
SETTINGS = ServiceSettings(issuance=IssuanceSettings(public_url="http://p"), retention=RetentionSettings(other_years=5))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path) as made:
        async with made.write() as connection:
            name = SETTINGS.audit.key
            record = KeyRecord(name, KeyPurpose.AUDIT, KeyState.ACTIVE, KEY.public_key, "software", NOW_MS, NOW_MS)
            await keys.add(connection, record)
        yield made


async def purged(database: Database, directory: Path, at_ms: int, *, delete: bool = True) -> list[Judged]:
    async with database.write() as connection:
        await counters.advance_time(connection, at_ms)
    return await archive_purge.purge(
        database, directory, SETTINGS, lambda: at_ms, verify_signature, actor="cli:x", delete=delete
    )


async def walk(database: Database, archive: Path, kept: tuple[Checkpoint, ...] = ()) -> audit_keeper.Walk:
    manifest = audit_archive.read_manifest(archive)
    assert manifest is not None
    async with database.read() as connection:
        return await audit_keeper.walk(
            connection,
            verify_signature,
            public_key=KEY.public_key,
            kept=kept,
            archived=audit_archive.records(archive),
            deleted=manifest.deleted,
        )


async def test_the_record_is_proved_without_its_beginning(database: Database, tmp_path: Path) -> None:
    archive, early, _ = await pruned_store(database, tmp_path)
    files = sorted(path.name for path in archive.glob("*.jsonl"))
    assert len(files) >= 3
    first_until = years_after(NOW_MS - 900 * DAY_MS, 5)
    before = await purged(database, archive, first_until - DAY_MS)
    assert not any(one.over for one in before)
    listed = await purged(database, archive, first_until + DAY_MS, delete=False)
    assert [one.over for one in listed] == [True, *[False] * (len(files) - 1)]
    assert not any(one.deleted for one in listed)
    assert sorted(path.name for path in archive.glob("*.jsonl")) == files, "only looked at"
    done = await purged(database, archive, first_until + DAY_MS)
    assert [one.file for one in done if one.deleted] == files[:1]
    assert sorted(path.name for path in archive.glob("*.jsonl")) == files[1:]
    (row,) = [row for row in await audit_rows(database) if row[0] == archive_purge.ACTION]
    assert (row[1], json.loads(row[3])["sm3"]) == (f"archive:{files[0]}", done[0].sm3)

    checkpoint = audit_archive.verify_archive(archive, verify_signature, KEY.public_key)
    assert checkpoint.size > 1_000
    found = await walk(database, archive, (early,))
    assert (found.problem, found.root) == (None, (await walked(database)).root)
    with pytest.raises(Refused, match="deleted"):
        audit_archive.record(archive, 5)
    assert json.loads(audit_archive.record(archive, 301))[0] == 301
    assert len(list(audit_archive.search(archive, lambda row: True))) == checkpoint.size - 300

    await rows(database, 300, at_ms=first_until + 2 * DAY_MS)
    async with database.read() as connection:
        await audit_archive.export(connection, archive)
    assert audit_archive.verify_archive(archive, verify_signature, KEY.public_key).size > checkpoint.size
    pruned = await audit_prune.prune(
        *(database, archive, verify_signature, KEY.public_key, lambda: first_until + 3 * DAY_MS),
        before_ms=first_until + 9 * DAY_MS,
        actor="cli:x",
    )
    assert pruned.removed > 0
    late = await purged(database, archive, years_after(first_until + 2 * DAY_MS, 30))
    assert [one.deleted for one in late] == [*[True] * (len(late) - 1), False], "never the last"
    assert (await walk(database, archive)).problem is None


async def test_a_changed_archive_stays(database: Database, tmp_path: Path) -> None:
    archive, _, _ = await pruned_store(database, tmp_path)
    far = years_after(NOW_MS, 20)
    await purged(database, archive, years_after(NOW_MS - 900 * DAY_MS, 5) + DAY_MS)
    manifest = archive / audit_archive.MANIFEST
    good = manifest.read_bytes()
    for name, value in (("head", "00" * 32), ("origin", "00" * 32), ("peaks", None), ("size", 299)):
        changed = orjson.loads(good)
        changed["deleted"][name] = [p[::-1] for p in changed["deleted"]["peaks"]] if value is None else value
        manifest.write_bytes(orjson.dumps(changed))
        with pytest.raises((Refused, Malformed)):
            await purged(database, archive, far)
    manifest.write_bytes(good)
    victim = sorted(archive.glob("*.jsonl"))[0]
    victim.write_bytes(victim.read_bytes().replace(b"key.freeze", b"key.frozen", 1))
    with pytest.raises(Refused, match="changed"):
        await purged(database, archive, far)
    assert sum(row[0] == archive_purge.ACTION for row in await audit_rows(database)) == 1


async def test_killed_between_the_manifest_and_the_file(database: Database, tmp_path: Path) -> None:
    archive, _, _ = await pruned_store(database, tmp_path)
    first = sorted(archive.glob("*.jsonl"))[0]
    content = first.read_bytes()
    at_ms = years_after(NOW_MS - 900 * DAY_MS, 5) + DAY_MS
    await purged(database, archive, at_ms)
    first.write_bytes(content)
    await purged(database, archive, at_ms)
    assert not first.exists()


async def test_other_archives(database: Database, tmp_path: Path) -> None:
    writer = requests_archive.ArchiveWriter(tmp_path, NOW_MS)
    writer.request({"request_id": "r", "ra_id": "gz"}, [], "public", NOW_MS)
    made = writer.finish()
    async with database.read() as connection:
        year = await write_year(connection, certificates_table.name, 2026, tmp_path, at_ms=NOW_MS)
    assert year.last_not_after_ms == 0
    early = await purged(database, tmp_path, NOW_MS - DAY_MS, delete=False)
    assert {one.file: one.over for one in early} == {made.file: False, year.file: True}
    done = await purged(database, tmp_path, NOW_MS + DAY_MS)
    assert all(one.deleted for one in done)
    assert not {name for name in os.listdir(tmp_path) if name.startswith(("requests-", "certificates-"))}
    noted = [row[1] for row in await audit_rows(database) if row[0] == archive_purge.ACTION]
    assert noted == [f"archive:{year.file}", f"archive:{made.file}"]
    assert rfc3339(NOW_MS) == made.keep_until


async def test_steps_of_a_request_are_kept_as_long_as_it(database: Database, tmp_path: Path) -> None:
    async with database.write() as connection:
        for action in ("request.done", "request.refuse"):
            await audit.append(connection, AuditEvent("ra:gz/li", action, "request:gz/abcd"), at_ms=NOW_MS)
    await AuditKeeper(database, KEY, lambda: NOW_MS).checkpoint()
    async with database.read() as connection:
        manifest = await audit_archive.export(connection, tmp_path / "a")
    judged = await archive_purge.judge(database, tmp_path / "a", manifest.files[-1], SETTINGS.retention, NOW_MS)
    assert (judged.kept_by, judged.until_ms) == ("government", years_after(NOW_MS, 10)), "its request is not here"
    assert request_of({"subject": "request:gz/abcd", "action": "request.refuse"}) is None
    assert request_of({"subject": "issuing/abcd", "action": "request.done"}) is None


def test_a_tree_from_its_subtrees() -> None:
    whole = merkle.Frontier()
    for number in range(77):
        again = merkle.Frontier.of(whole.size, whole.peaks)
        for tree in (whole, again):
            tree.add(merkle.leaf_hash(bytes([number])))
        assert again.root() == whole.root()
    with pytest.raises(ValueError, match="subtrees"):
        merkle.Frontier.of(3, whole.peaks[:1])
