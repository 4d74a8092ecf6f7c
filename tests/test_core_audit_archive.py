"""Proofs and archives of the audit record: made from a real store, checked without it, and refused where touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from core import audit_archive, audit_proof
from core.audit import AuditEvent
from core.audit_keeper import AuditKeeper
from core.checkpoint import Checkpoint
from core.errors import Malformed, NotFound, QianyanError, Refused, SettingsError
from core.store import audit
from core.store.database import Database
from signer.engine.verify import verify_signature
from tests.store_world import NOW_MS, fresh_store
from tests.test_core_audit_tree import KEY, Key

DAY_MS = 86_400_000


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path) as database:
        yield database


async def rows(database: Database, count: int, *, at_ms: int = NOW_MS) -> Checkpoint:
    async with database.write() as connection:
        for number in range(count):
            await audit.append(connection, AuditEvent("令牌", "key.freeze", f"k{number}"), at_ms=at_ms)
    return await AuditKeeper(database, KEY, lambda: at_ms).checkpoint()


async def prove(database: Database, what: int | Checkpoint) -> bytes:
    async with database.read() as connection:
        if isinstance(what, int):
            return orjson.dumps(await audit_proof.prove_row(connection, what))
        return orjson.dumps(await audit_proof.prove_growth(connection, what))


def check(data: bytes, key: bytes = KEY.public_key) -> dict[str, object]:
    return audit_proof.check_proof(data, verify_signature, key)


async def test_a_row_is_proved_to_who_has_nothing_but_the_key(database: Database) -> None:
    await rows(database, 600)
    for seq in (1, 256, 257, 600):
        document = check(await prove(database, seq))
        assert orjson.loads(str(document["record"]))[0] == seq
    with pytest.raises(NotFound):
        await prove(database, 601)


async def test_growth_is_proved(database: Database) -> None:
    earlier = await rows(database, 300)
    await rows(database, 400)
    assert check(await prove(database, earlier))["kind"] == "consistency"


async def test_no_byte_of_a_proof_can_be_another(database: Database) -> None:
    earlier = await rows(database, 5)
    await rows(database, 6)
    for data in (await prove(database, 7), await prove(database, earlier)):
        whole = orjson.loads(data)
        for position in range(len(data)):
            touched = data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :]
            try:
                found = check(touched)
            except QianyanError:
                continue
            # Hexadecimal may be written in other letters, and JSON with other space: the meaning is the same.
            assert orjson.loads(orjson.dumps(found).lower()) == orjson.loads(orjson.dumps(whole).lower()), position


async def test_a_proof_by_another_key_or_of_another_shape_is_refused(database: Database) -> None:
    await rows(database, 5)
    data = await prove(database, 3)
    with pytest.raises(Refused):
        check(data, Key().public_key)
    document = orjson.loads(data)
    for change in ({"kind": "x"}, {"proof": "x"}, {"proof": [1]}, {"proof": ["00"]}, {"record": 1}, {"seq": "3"}):
        with pytest.raises(Malformed):
            check(orjson.dumps(document | change))
    with pytest.raises(Malformed):
        check(b"[]")
    with pytest.raises(Malformed):
        check(b"{")


async def export(database: Database, directory: Path) -> audit_archive.Manifest:
    async with database.read() as connection:
        return await audit_archive.export(connection, directory)


async def test_an_archive_goes_on_where_it_ended_and_is_whole_by_itself(database: Database, tmp_path: Path) -> None:
    out = tmp_path / "archive"
    with pytest.raises(SettingsError, match="no checkpoint"):
        await export(database, out)
    await rows(database, 20)
    first = await export(database, out)
    assert (await export(database, out)).files == first.files
    await rows(database, 10, at_ms=NOW_MS + 40 * DAY_MS)
    await rows(database, 3, at_ms=NOW_MS + 80 * DAY_MS)
    manifest = await export(database, out)
    assert [one.last for one in manifest.files] == [20, 30, 33]
    assert len({one.name[:13] for one in manifest.files}) == 3  # a month each
    found = audit_archive.verify_archive(out, verify_signature, KEY.public_key)
    assert found.size == 33
    rows_found = list(audit_archive.search(out, lambda row: row["subject"] == "k2"))
    assert [row["seq"] for row in rows_found] == [3, 23, 33]
    assert rows_found[0]["actor"] == "令牌"


@pytest.mark.parametrize("what", ["changed", "missing", "extra", "cut", "reordered", "unsigned", "forged"])
async def test_an_archive_that_was_touched_shows(database: Database, tmp_path: Path, what: str) -> None:
    out = tmp_path / "archive"
    await rows(database, 20)
    await rows(database, 5, at_ms=NOW_MS + 40 * DAY_MS)
    manifest = await export(database, out)
    value = orjson.loads((out / "manifest.json").read_bytes())
    last = out / manifest.files[1].name
    key = KEY.public_key
    if what == "changed":
        last.write_bytes(last.read_bytes().replace(b"freeze", b"resume", 1))
    elif what == "missing":
        last.unlink()
    elif what == "extra":
        last.write_bytes(last.read_bytes() + b"x\n")
    elif what == "cut":
        value["files"].pop()
    elif what == "reordered":
        value["files"].reverse()
    elif what == "unsigned":
        value["checkpoint"] = value["checkpoint"].replace("\n25\n", "\n24\n")
    else:
        key = Key().public_key
    (out / "manifest.json").write_bytes(orjson.dumps(value))
    with pytest.raises(Refused):
        audit_archive.verify_archive(out, verify_signature, key)


async def test_another_records_archive_is_not_gone_on_with(database: Database, tmp_path: Path) -> None:
    out = tmp_path / "archive"
    await rows(database, 5)
    await export(database, out)
    (tmp_path / "other").mkdir()
    async with fresh_store(tmp_path / "other") as other:
        await rows(other, 9, at_ms=NOW_MS + 1)
        with pytest.raises(SettingsError, match="another record"):
            await export(other, out)


async def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    names = ("name", "from_time", "to_time", "sm3", "head")
    one = dict.fromkeys(names, "../x") | {"first": 1, "last": 1}
    (tmp_path / "manifest.json").write_bytes(orjson.dumps({"files": [one], "checkpoint": ""}))
    with pytest.raises(Malformed):
        audit_archive.read_manifest(tmp_path)
