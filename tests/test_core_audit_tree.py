"""Checkpoints, proofs and the walk over the audit record, on a real store and with a real key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from core import merkle
from core.audit import GENESIS, AuditEvent, chain
from core.audit_keeper import AuditKeeper, Walk, walk
from core.checkpoint import Checkpoint
from core.errors import Malformed, NotFound, Refused
from core.store import audit, audit_tree, counters
from core.store.database import Database
from core.store.schema import audit as audit_table
from core.store.schema import audit_checkpoints, audit_tiles
from core.store.schema import counters as counters_table
from signer._native import sm2
from signer.engine.verify import verify_signature
from tests.store_world import NOW_MS, fresh_store


class Key:
    """A core.ports.Signer over a key of its own."""

    key_id = "audit"

    def __init__(self) -> None:
        self._key = sm2.PrivateKey.generate()
        self.public_key = self._key.public_key.to_bytes()
        self.signatures = 0

    async def sign(self, message: bytes) -> bytes:
        self.signatures += 1
        return sm2.signature_to_der(self._key.sign(message))


KEY = Key()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path) as database:
        yield database


@pytest.fixture
def keeper(database: Database) -> AuditKeeper:
    return AuditKeeper(database, KEY, lambda: NOW_MS)


async def rows(database: Database, count: int, *, action: str = "certificate.issue", subject: str = "s") -> None:
    async with database.write() as connection:
        for number in range(count):
            await audit.append(connection, AuditEvent("system", action, subject, detail={"n": number}), at_ms=NOW_MS)


async def many_rows(database: Database, count: int) -> None:
    """As `rows` into an empty record, in one statement."""
    event, previous, made = AuditEvent("system", "certificate.issue", "s"), GENESIS, []
    for seq in range(1, count + 1):
        previous = chain(previous, seq, NOW_MS, event, "{}")
        made.append((seq, NOW_MS, event.actor, event.action, event.subject, event.outcome, "{}", previous))
    async with database.write() as connection:
        names = [column.name for column in audit_table.columns]
        await connection.execute(audit_table.insert(), [dict(zip(names, row, strict=True)) for row in made])
        await counters.take(connection, "audit", count)


async def walked(database: Database, **more: object) -> Walk:
    async with database.read() as connection:
        return await walk(connection, verify_signature, **more)  # type: ignore[arg-type]


async def leaves(database: Database) -> list[bytes]:
    async with database.read() as connection:
        found = await connection.execute(audit_table.select().order_by(audit_table.c.seq))
        return [merkle.leaf_hash(audit_tree.row_bytes(row)) for row in found]


def plain_root(hashes: list[bytes]) -> bytes:
    return merkle.root(len(hashes), lambda level, index: merkle.fold(hashes[index << level : (index + 1) << level]))


async def test_a_checkpoint_says_what_the_rows_are(database: Database, keeper: AuditKeeper) -> None:
    for count in (1, 4, 250, 1, 1, 300):  # up to, at, and past full tiles
        await rows(database, count)
        made = await keeper.checkpoint()
        hashes = await leaves(database)
        assert made.size == len(hashes)
        assert made.root == plain_root(hashes)
        made.check(verify_signature, KEY.public_key)
        assert Checkpoint.decode(made.encode()) == made
    found = await walked(database)
    assert (found.rows, found.checkpoints, found.problem) == (557, 6, None)
    assert (found.root, found.head) == (made.root, made.head)


async def test_tiles_of_the_second_level_are_right(database: Database, keeper: AuditKeeper) -> None:
    await many_rows(database, 256 * 256 + 3)
    made = await keeper.checkpoint()
    hashes = await leaves(database)
    assert made.root == plain_root(hashes)
    async with database.read() as connection:
        found = await connection.execute(audit_tiles.select().where(audit_tiles.c.level == 1))
        (tile,) = found.all()
        assert audit_tree.split(tile.hashes) == [merkle.fold(hashes[i : i + 256]) for i in range(0, 65536, 256)]
        for seq in (1, 256, 257, 40_000, 65_536, 65_537, 65_539):
            proof = await audit_tree.inclusion_proof(connection, seq, made.size)
            merkle.check_inclusion(hashes[seq - 1], seq - 1, made.size, proof, made.root)
        for size in (1, 255, 256, 300, 65_536, 65_538):
            proof = await audit_tree.consistency_proof(connection, size, made.size)
            merkle.check_consistency(size, made.size, plain_root(hashes[:size]), made.root, proof)


async def test_nothing_outside_the_record_is_proved(database: Database) -> None:
    await rows(database, 3)
    async with database.read() as connection:
        for seq in (0, 4):
            with pytest.raises(NotFound, match="not among"):
                await audit_tree.inclusion_proof(connection, seq, 3)
        with pytest.raises(NotFound, match="lacks rows"):
            await audit_tree.root(connection, 4)
        with pytest.raises(NotFound, match="does not continue"):
            await audit_tree.consistency_proof(connection, 4, 3)


async def test_an_empty_record_has_no_checkpoint(database: Database, keeper: AuditKeeper) -> None:
    with pytest.raises(NotFound, match="no rows"):
        await keeper.checkpoint()
    assert (await walked(database)).problem is None


async def test_the_use_of_its_own_key_is_no_reason_for_another(database: Database, keeper: AuditKeeper) -> None:
    await rows(database, 2)
    first = await keeper.checkpoint()
    before = KEY.signatures
    await rows(database, 3, action="sign.reserve", subject="audit")
    assert await keeper.checkpoint() == first
    assert KEY.signatures == before
    await rows(database, 1, action="sign.reserve", subject="another")
    assert (await keeper.checkpoint()).size == 6


async def test_another_worker_was_faster(database: Database) -> None:
    await rows(database, 2)

    class Slow(Key):
        async def sign(self, message: bytes) -> bytes:
            signature = await super().sign(message)
            if self.signatures == 1:
                await rows(database, 1)
                self.other = await AuditKeeper(database, self, lambda: NOW_MS).checkpoint()
            return signature

    key = Slow()
    made = await AuditKeeper(database, key, lambda: NOW_MS).checkpoint()
    assert made == key.other
    assert made.size == 3


async def change(database: Database, *statements: object) -> None:
    async with database.write() as connection:
        for statement in statements:
            await connection.execute(statement)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ([update(audit_table).where(audit_table.c.seq == 7).values(actor="x")], "row 7 does not fit"),
        ([update(audit_table).where(audit_table.c.seq == 7).values(detail="{}")], "row 7 does not fit"),
        ([delete(audit_table).where(audit_table.c.seq == 7)], "row 7 does not fit"),
        (
            [
                update(audit_table).where(audit_table.c.seq == 7).values(seq=1_000),
                update(audit_table).where(audit_table.c.seq == 8).values(seq=7),
                update(audit_table).where(audit_table.c.seq == 1_000).values(seq=8),
            ],
            "row 7 does not fit",
        ),
        ([delete(audit_table).where(audit_table.c.seq == 300)], "up to 300 were there and are cut off"),
        (
            [
                delete(audit_table).where(audit_table.c.seq > 290),
                update(counters_table).where(counters_table.c.name == "audit").values(value=290),
                delete(audit_checkpoints),
            ],
            None,  # nothing in the store tells: what was taken away does (see below)
        ),
        ([update(audit_tiles).values(hashes=bytes(256 * 32))], "tiles"),
    ],
)
async def test_what_was_changed_shows(
    database: Database, keeper: AuditKeeper, statements: list[object], said: str | None
) -> None:
    await rows(database, 300)
    kept = await keeper.checkpoint()
    assert (await walked(database)).problem is None
    await change(database, *statements)
    found = await walked(database)
    if said is None:
        assert found.problem is None
        found = await walked(database, kept=[kept])
        said = "up to 300 were there and are cut off"
    assert found.problem is not None
    assert said in found.problem


async def test_a_record_written_anew_with_every_hash_right_shows_by_a_checkpoint(
    database: Database, keeper: AuditKeeper
) -> None:
    await rows(database, 5)
    kept = await keeper.checkpoint()
    await change(
        database,
        delete(audit_table),
        delete(audit_checkpoints),
        delete(counters_table).where(counters_table.c.name == "audit"),
    )
    await rows(database, 5, subject="forged")
    assert (await walked(database)).problem is None
    found = await walked(database, kept=[kept])
    assert found.problem == "a checkpoint is of another record"


async def test_a_checkpoint_of_another_key_or_with_another_signature_shows(
    database: Database, keeper: AuditKeeper
) -> None:
    await rows(database, 5)
    made = await keeper.checkpoint()
    other = Key()
    assert "another key" in ((await walked(database, public_key=other.public_key)).problem or "")
    forged = replace(made, signature=await other.sign(made.signed_bytes()))
    assert "does not verify" in ((await walked(database, kept=[forged])).problem or "")
    with pytest.raises(Refused):
        forged.check(verify_signature, KEY.public_key)


async def test_only_what_encode_writes_is_a_checkpoint(database: Database, keeper: AuditKeeper) -> None:
    await rows(database, 5)
    data = (await keeper.checkpoint()).encode()
    for wrong in (
        b"",
        data[:-1],
        data + b"\n",
        data.replace(b"\n5\n", b"\n05\n"),
        data.replace(b"\n5\n", b"\n-5\n"),
        data.replace(b"v1", b"v2"),
        data.replace(b"Z\n", b"\n"),
        data.upper(),
        bytes(5_000),
        b"\xff" + data,
    ):
        with pytest.raises(Malformed):
            Checkpoint.decode(wrong)
