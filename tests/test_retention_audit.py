"""The audit record in two places: old rows in an archive alone, all proofs as before, and every cut or change shows."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import orjson
import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from core import audit_archive, audit_keeper, audit_proof, audit_prune
from core.audit import AuditEvent
from core.audit_keeper import AuditKeeper, Walk
from core.checkpoint import Checkpoint
from core.clock import to_datetime
from core.errors import NotFound, Refused, SettingsError
from core.store import audit, certificates, copy, retention
from core.store.database import Database
from core.store.schema import audit as table
from core.store.schema import audit_tiles
from core.store.schema_retention import audit_prunings
from service.retention import End, certificate_of, ends_of, keep_until
from service.settings import RetentionSettings
from signer.engine.verify import verify_signature
from tests.store_world import BACKENDS, NOW_MS, certificate, fresh_store
from tests.test_core_audit_tree import KEY

DAY_MS = 86_400_000


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Database]:
    """For what is the same on both."""
    async with fresh_store(tmp_path) as database:
        yield database


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


async def rows(database: Database, count: int, *, at_ms: int, actor: str = "cli:张") -> Checkpoint:
    async with database.write() as connection:
        for number in range(count):
            event = AuditEvent(actor, "key.freeze" if number % 2 else "token.create", f"k{number % 7}")
            await audit.append(connection, event, at_ms=at_ms)
    return await AuditKeeper(database, KEY, lambda: at_ms).checkpoint()


async def export(database: Database, directory: Path) -> Path:
    async with database.read() as connection:
        await audit_archive.export(connection, directory)
    return directory


async def prune(database: Database, directory: Path, before_ms: int = NOW_MS) -> audit_prune.Pruned:
    return await audit_prune.prune(
        database,
        directory,
        verify_signature,
        KEY.public_key,
        lambda: NOW_MS + DAY_MS,
        before_ms=before_ms,
        actor="cli:x",
    )


async def walked(database: Database, archive: Path | None = None, kept: tuple[Checkpoint, ...] = ()) -> Walk:
    async with database.read() as connection:
        archived = None if archive is None else audit_archive.records(archive)
        return await audit_keeper.walk(
            connection, verify_signature, public_key=KEY.public_key, kept=kept, archived=archived
        )


async def pruned_store(database: Database, tmp_path: Path) -> tuple[Path, Checkpoint, Checkpoint]:
    """A record of 1,200 rows of which 768 are in the archive alone; an early checkpoint and the last one."""
    early = await rows(database, 300, at_ms=NOW_MS - 900 * DAY_MS)
    await rows(database, 500, at_ms=NOW_MS - 800 * DAY_MS)
    await rows(database, 400, at_ms=NOW_MS)
    archive = await export(database, tmp_path / "archive")
    done = await prune(database, archive)
    assert (done.rows, done.removed) == (768, 768), "whole tiles of what is older"
    return archive, early, await rows(database, 10, at_ms=NOW_MS + DAY_MS)


async def test_every_proof_goes_on_working(database: Database, tmp_path: Path) -> None:
    archive, early, last = await pruned_store(database, tmp_path)
    async with database.read() as connection:
        assert (await connection.execute(select(func.min(table.c.seq)))).scalar_one() == 769
        for seq in (1, 256, 700, 768, 769, 1_205):
            proof = await audit_proof.prove_row(connection, seq, lambda seq: audit_archive.record(archive, seq))
            assert audit_proof.check_proof(orjson.dumps(proof), verify_signature, KEY.public_key)["seq"] == seq
        with pytest.raises(NotFound, match="archive"):
            await audit_proof.prove_row(connection, 5)
        growth = await audit_proof.prove_growth(connection, early)
        audit_proof.check_proof(orjson.dumps(growth), verify_signature, KEY.public_key)
        assert (await audit.verify(connection)).broken_at is None
    assert (await copy.check(database)).faults == ()
    alone, together = await walked(database, kept=(early,)), await walked(database, archive, kept=(early,))
    assert (alone.problem, together.problem) == (None, None)
    assert alone.root == together.root == last.root
    assert alone.rows == together.rows == last.size


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_more_is_archived_and_removed_later(database: Database, tmp_path: Path) -> None:
    archive, _, _ = await pruned_store(database, tmp_path)
    await export(database, archive)
    assert audit_archive.verify_archive(archive, verify_signature, KEY.public_key).size > 1_200
    again = await prune(database, archive, NOW_MS + 2 * DAY_MS)
    assert (again.rows, again.removed) == (1_024, 256)
    assert (await prune(database, archive, NOW_MS + 2 * DAY_MS)).removed == 0
    assert (await walked(database, archive)).problem is None
    with pytest.raises(SettingsError, match="in an archive alone"):
        await export(database, tmp_path / "another")


async def test_an_interrupted_removal_goes_on(local: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await rows(local, 600, at_ms=NOW_MS - 800 * DAY_MS)
    archive = await export(local, tmp_path / "archive")
    monkeypatch.setattr(retention, "AT_ONCE", 100)
    removals = 0
    first = retention.remove

    async def dies(connection: AsyncConnection, size: int) -> int:
        nonlocal removals
        removals += 1
        if removals == 3:
            raise KeyboardInterrupt
        return await first(connection, size)

    monkeypatch.setattr(retention, "remove", dies)
    with pytest.raises(KeyboardInterrupt):
        await prune(local, archive)
    assert (await walked(local)).problem is None
    assert (await prune(local, archive)).removed == 512 - 200
    assert (await walked(local, archive)).problem is None


#: What is done to the store, and what `audit verify` says.
_ATTACKS: dict[str, tuple[Callable[[AsyncConnection], Awaitable[object]], str]] = {
    "a row after the cut": (lambda c: c.execute(delete(table).where(table.c.seq == 769)), "does not fit"),
    "more rows, noted by nobody": (lambda c: _cut_further(c), "not on record"),
    "a leaf": (lambda c: _touch_leaf(c), "of other rows"),
    "the head": (lambda c: c.execute(update(audit_prunings).values(head=bytes(32))), "does not fit"),
    "the end": (lambda c: c.execute(delete(table).where(table.c.seq > 1_205)), "cut off"),
    "the note": (lambda c: c.execute(delete(audit_prunings)), "does not fit"),
}


async def _cut_further(connection: AsyncConnection) -> None:
    head = (await connection.execute(select(table.c.hash).where(table.c.seq == 1_024))).scalar_one()
    await connection.execute(update(audit_prunings).values(size=1_024, head=head))
    await connection.execute(delete(table).where(table.c.seq <= 1_024))


async def _touch_leaf(connection: AsyncConnection) -> None:
    leaf = (audit_tiles.c.level == 0) & (audit_tiles.c.tile == 1)
    hashes = bytearray((await connection.execute(select(audit_tiles.c.hashes).where(leaf))).scalar_one())
    hashes[40] ^= 1
    await connection.execute(update(audit_tiles).where(leaf).values(hashes=bytes(hashes)))


async def test_cutting_or_changing_shows(database: Database, tmp_path: Path) -> None:
    _, _, last = await pruned_store(database, tmp_path)
    for name, (attack, said) in _ATTACKS.items():

        class Undone(Exception):
            pass

        found: list[Walk] = []
        try:
            async with database.write() as connection:
                await attack(connection)
                found.append(await audit_keeper.walk(connection, verify_signature, kept=[last]))
                raise Undone
        except Undone:
            pass
        assert found[0].problem is not None, name
        assert said in found[0].problem, (name, found[0].problem)
    assert (await walked(database, kept=(last,))).problem is None


async def test_only_a_whole_archive_of_this_record_lets_rows_go(local: Database, tmp_path: Path) -> None:
    await rows(local, 600, at_ms=NOW_MS - 800 * DAY_MS)
    archive = await export(local, tmp_path / "archive")
    manifest = audit_archive.read_manifest(archive)
    assert manifest is not None
    touched = Path(shutil.copytree(archive, tmp_path / "touched"))
    file = touched / manifest.files[0].name
    file.write_bytes(file.read_bytes().replace(b"k1", b"k2", 1))
    (tmp_path / "else").mkdir()
    async with fresh_store(tmp_path / "else") as other:
        await rows(other, 600, at_ms=NOW_MS - 800 * DAY_MS, actor="cli:other")
        foreign = await export(other, tmp_path / "foreign")
    for directory in (touched, foreign):
        with pytest.raises(Refused) as refused:
            await prune(local, directory)
        assert refused.value.code == "audit_archive"
    async with local.read() as connection:
        assert (await retention.newest(connection)).size == 0
        assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() >= 600


async def test_an_archive_is_searched_without_the_store(local: Database, tmp_path: Path) -> None:
    await rows(local, 40, at_ms=NOW_MS)
    await rows(local, 5, at_ms=NOW_MS + DAY_MS, actor="token:ra")
    archive = await export(local, tmp_path / "archive")
    found = list(audit_archive.search(archive, lambda row: row["actor"] == "token:ra", words=["token:ra"]))
    assert len(found) == 5
    assert not list(audit_archive.search(archive, lambda row: True, words=["nobody"]))


async def test_pages_go_on_behind_the_last_row(local: Database) -> None:
    await rows(local, 50, at_ms=NOW_MS)
    async with local.read() as connection:
        whole = await audit.find(connection, action="key.", subject="k1", limit=100)
        pages, before = [], None
        while page := await audit.find(connection, action="key.", subject="k1", before=before, limit=2):
            pages += page
            before = page[-1]["seq"]
    assert pages == whole
    assert len(whole) >= 3


async def test_the_indexes_serve_a_search(database: Database) -> None:
    await rows(database, 300, at_ms=NOW_MS)
    async with database.read() as connection:
        if connection.dialect.name == "postgresql":
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            await connection.exec_driver_sql("SET LOCAL enable_sort = off")
        for column in ("subject", "actor", "action"):
            explain = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
            asked = f"{explain} SELECT seq FROM audit WHERE {column} = 'x' ORDER BY seq DESC LIMIT 10"
            plan = str((await connection.exec_driver_sql(asked)).all())
            assert f"ix_audit_{column}" in plan, plan


async def test_until_when_rows_are_kept(local: Database) -> None:
    settings = RetentionSettings(government_profiles=("gov",), classes={"token.": 2, "key.freeze": 7})
    async with local.write() as connection:
        await certificates.record(connection, certificate(0xAB, 1, profile="gov"), at_ms=NOW_MS)
        await certificates.record(connection, certificate(0xAC, 2), at_ms=NOW_MS)
    async with local.read() as connection:
        ends = await ends_of(connection, [("issuing", 0xAB), ("issuing", 0xAC), ("issuing", 0xAD)])
    assert ends == {
        ("issuing", 0xAB): End(NOW_MS + DAY_MS, "gov"),
        ("issuing", 0xAC): End(NOW_MS + DAY_MS, "person"),
    }
    now = to_datetime(NOW_MS)
    for subject, action, kind, years, days in (
        ("issuing/ab", "certificate.issue", "government", 10, 1),
        ("issuing/ac", "certificate.revoke", "public", 5, 1),
        ("issuing/ad", "certificate.issue", "government", 10, 0),
        ("t1", "token.create", "token.", 2, 0),
        ("k1", "key.freeze", "key.freeze", 7, 0),
        ("store", "store.restored", "other", 5, 0),
    ):
        row = {"subject": subject, "action": action, "at_ms": NOW_MS}
        found, until = keep_until(row, ends, settings)
        assert (found, to_datetime(until).date()) == (
            kind,
            to_datetime(NOW_MS + days * DAY_MS).date().replace(year=now.year + years),
        )
    assert certificate_of({"subject": "issuing/not hex"}) is None
