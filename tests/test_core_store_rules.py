"""Counters, the clock, CRL numbers, idempotency, keys, tokens and the audit chain, on a real store."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from core.audit import AuditEvent
from core.errors import Conflict, NotFound, Refused, Unavailable
from core.model import KeyPurpose, KeyState, RevocationReason
from core.store import audit, authorities, callers, certificates, counters, crls, feed, idempotency, keys, tokens
from core.store.crls import CrlRecord
from core.store.database import Database
from core.store.idempotency import Answer
from core.store.keys import KeyRecord
from core.store.schema import audit as audit_table
from core.store.schema import counters as counters_table
from tests.store_world import BACKENDS, NOW_MS, abandoned, authority, certificate, fresh_store


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


# ---- counters and the clock


async def test_numbers_are_consecutive_and_given_back_on_rollback(database: Database) -> None:
    async with database.write() as connection:
        assert [await counters.take(connection, "x", n) for n in (1, 3, 1)] == [1, 2, 5]
    async with abandoned(database) as connection:
        assert await counters.take(connection, "x") == 6
    async with database.write() as connection:
        assert await counters.take(connection, "x") == 6
        assert await counters.current(connection, "y") == 0


async def advance(database: Database, now_ms: int) -> int:
    async with database.write() as connection:
        return await counters.advance_time(connection, now_ms)


async def test_time_never_goes_back(database: Database) -> None:
    assert await advance(database, NOW_MS) == NOW_MS
    assert await advance(database, NOW_MS + 10) == NOW_MS + 10
    assert await advance(database, NOW_MS - 900) == NOW_MS + 10  # two nodes' clocks differ a little
    with pytest.raises(Unavailable, match="2 s behind") as refused:
        await advance(database, NOW_MS - 1_995)
    assert refused.value.code == "clock_behind"
    assert await advance(database, NOW_MS + 11) == NOW_MS + 11


# ---- CRLs


def crl(number: int, feed_seq: int = 1, *, partition: int = 0, base_number: int | None = None) -> CrlRecord:
    return CrlRecord("issuing", partition, number, base_number, NOW_MS, NOW_MS + 1000, feed_seq, 2, b"crl" * number)


async def publish(database: Database, record: CrlRecord) -> None:
    async with database.write() as connection:
        await crls.publish(connection, record, at_ms=NOW_MS)


async def test_crl_numbers_strictly_increase_per_scope(database: Database) -> None:
    await publish(database, crl(5))
    for number in (5, 4, 1):
        with pytest.raises(Conflict) as refused:
            await publish(database, crl(number))
        assert refused.value.code == "crl_number"
    await publish(database, crl(1, partition=1))
    await publish(database, crl(6))
    async with database.read() as connection:
        newest = await crls.latest(connection, "issuing", 0)
        assert newest == crl(6)
        assert await crls.latest(connection, "issuing", 2) is None
        kinds = [(e.kind, e.subject_id) for e in await feed.read_after(connection, 1)]
    assert kinds == [("crl", "0"), ("crl", "1"), ("crl", "0")]


async def test_a_crl_from_older_data_is_refused(database: Database) -> None:
    await publish(database, crl(1, feed_seq=9))
    with pytest.raises(Conflict) as refused:
        await publish(database, crl(2, feed_seq=8))
    assert refused.value.code == "crl_feed"
    await publish(database, crl(2, feed_seq=9))


async def test_summaries_are_of_the_newest_full_crl(database: Database) -> None:
    for record in (crl(1), crl(2, 4), crl(1, partition=1)):
        await publish(database, record)
    async with database.read() as connection:
        found = sorted(await crls.summaries(connection), key=lambda summary: summary.partition)
    assert [(s.partition, s.number, s.feed_seq, s.entries, s.size) for s in found] == [(0, 2, 4, 2, 6), (1, 1, 1, 2, 3)]


async def test_pruning_keeps_the_newest(database: Database) -> None:
    for number in (1, 2, 3, 7):
        await publish(database, crl(number))
    await publish(database, crl(1, partition=1))
    async with database.write() as connection:
        assert await crls.prune(connection, "issuing", 0, keep=2) == 2
        assert await crls.prune(connection, "issuing", 0, keep=2) == 0
        assert await crls.prune(connection, "issuing", 0, keep=0) == 1  # never the one in force
        assert await crls.latest(connection, "issuing", 0) == crl(7)
        assert await crls.latest(connection, "issuing", 1) is not None


async def test_status_changes_tell_the_scope_of_each(database: Database) -> None:
    async with database.write() as connection:
        for index, (serial, partition) in enumerate(((1, 0), (2, 1), (3, 0))):
            await certificates.record(connection, certificate(serial, index, partition=partition), at_ms=NOW_MS)
        for serial in (2, 1):
            record = await certificates.find(connection, serial)
            await certificates.revoke(connection, record, RevocationReason.CERTIFICATE_HOLD, at_ms=NOW_MS + serial)
        await certificates.release(connection, await certificates.find(connection, 1), at_ms=NOW_MS + 9)
    async with database.read() as connection:
        changes = [(c.seq, c.kind, c.partition, c.serial, c.at_ms) for c in await crls.status_changes(connection, 0)]
        assert changes == [
            (5, "held", 1, 2, NOW_MS + 2),
            (6, "held", 0, 1, NOW_MS + 1),
            (7, "released", 0, 1, NOW_MS + 9),
        ]
        assert [c.seq for c in await crls.status_changes(connection, 0, ("issuing", 0))] == [6, 7]
        assert [c.seq for c in await crls.status_changes(connection, 6)] == [7]


# ---- idempotency


async def test_the_same_key_gives_the_same_answer_and_another_request_is_refused(database: Database) -> None:
    answer = Answer(201, b'{"serial": "01"}')
    async with database.write() as connection:
        assert await idempotency.recall(connection, "token:a", "k", b"d" * 32) is None
        await idempotency.remember(connection, "token:a", "k", b"d" * 32, answer, at_ms=NOW_MS)
    async with database.read() as connection:
        assert await idempotency.recall(connection, "token:a", "k", b"d" * 32) == answer
        assert await idempotency.recall(connection, "token:b", "k", b"d" * 32) is None
        with pytest.raises(Conflict) as refused:
            await idempotency.recall(connection, "token:a", "k", b"e" * 32)
    assert refused.value.code == "idempotency_key"


# ---- keys, authorities and tokens


def key(state: KeyState = KeyState.ACTIVE) -> KeyRecord:
    return KeyRecord("k", KeyPurpose.DATA, state, b"point", "app", NOW_MS, NOW_MS)


@pytest.mark.parametrize(
    ("steps", "allowed"),
    [
        ("frozen active", True),
        ("frozen compromised", True),
        ("retired compromised", True),
        ("compromised active", False),
        ("compromised frozen", False),
        ("retired active", False),
        ("active", False),
    ],
)
async def test_key_states(database: Database, steps: str, allowed: bool) -> None:
    *before, last = [KeyState(step) for step in steps.split()]
    async with database.write() as connection:
        await keys.add(connection, key())
        for state in before:
            await keys.change_state(connection, "k", state, at_ms=NOW_MS)
        if allowed:
            assert (await keys.change_state(connection, "k", last, at_ms=NOW_MS + 7)).changed_at_ms == NOW_MS + 7
        else:
            with pytest.raises(Refused) as refused:
                await keys.change_state(connection, "k", last, at_ms=NOW_MS)
            assert refused.value.code == "key_state"
        entries = [e for e in await feed.read_after(connection, 1) if e.kind == "key"]
    assert len(entries) == 1 + len(before) + allowed
    assert {entry.subject_id for entry in entries} == {"k"}


async def test_keys_that_are_there_or_are_not(database: Database) -> None:
    async with database.write() as connection:
        await keys.add(connection, key())
        assert await keys.list_all(connection) == [key()]
        with pytest.raises(NotFound):
            await keys.get(connection, "other")
    with pytest.raises(Conflict):
        async with database.write() as connection:
            await keys.add(connection, key())


async def test_an_authority_gets_its_certificate_once(database: Database) -> None:
    async with database.write() as connection:
        await authorities.install_certificate(connection, "issuing", b"certificate", at_ms=NOW_MS)
        with pytest.raises(Conflict) as refused:
            await authorities.install_certificate(connection, "issuing", b"another", at_ms=NOW_MS)
        assert refused.value.code == "certificate_installed"
        assert (await authorities.get(connection, "issuing")).certificate == b"certificate"
        assert await authorities.list_all(connection) == [replace(authority(), certificate=b"certificate")]
        with pytest.raises(NotFound):
            await authorities.get(connection, "nobody")


async def test_tokens(database: Database) -> None:
    async with database.write() as connection:
        await tokens.add(connection, "t", b"d" * 32, frozenset({"sign", "read"}), at_ms=NOW_MS)
        (known,) = await callers.load_all(connection)
        assert (known.id, known.digest, known.scopes) == ("token:t", b"d" * 32, frozenset({"sign", "read"}))
        await tokens.withdraw(connection, "t", at_ms=NOW_MS)
        assert await callers.load_all(connection) == []
        with pytest.raises(NotFound):
            await tokens.withdraw(connection, "t", at_ms=NOW_MS)
        assert [e.kind for e in await feed.read_after(connection, 1)] == ["token", "token"]


# ---- the audit chain


async def write_audit(database: Database, count: int = 5) -> bytes:
    async with database.write() as connection:
        for i in range(count):
            event = AuditEvent("token:ra", "certificate.issue", f"0{i}", detail={"profile": "机构", "n": i})
            await audit.append(connection, event, at_ms=NOW_MS + i)
        return (await audit.verify(connection)).head


async def broken_at(database: Database) -> int | None:
    async with database.read() as connection:
        return (await audit.verify(connection)).broken_at


async def test_an_untouched_record_verifies(database: Database) -> None:
    head = await write_audit(database)
    async with database.read() as connection:
        verification = await audit.verify(connection)
        assert (verification.rows, verification.broken_at, verification.head) == (5, None, head)
        assert (await connection.execute(select(audit_table.c.detail))).scalars().first() == '{"n":0,"profile":"机构"}'
    assert len(head) == 32
    assert await write_audit(database) != head


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at_ms", NOW_MS),
        ("actor", "token:x"),
        ("action", "certificate.revoke"),
        ("subject", "ff"),
        ("outcome", "refused"),
        ("detail", '{"n":9}'),
        ("hash", bytes(32)),
    ],
)
async def test_a_changed_row_shows(database: Database, column: str, value: object) -> None:
    await write_audit(database)
    async with database.write() as connection:
        await connection.execute(update(audit_table).where(audit_table.c.seq == 3).values({column: value}))
    assert await broken_at(database) == 3


@pytest.mark.parametrize("seq", [1, 3, 5])
async def test_a_removed_row_shows(database: Database, seq: int) -> None:
    await write_audit(database)
    async with database.write() as connection:
        await connection.execute(delete(audit_table).where(audit_table.c.seq == seq))
    assert await broken_at(database) == seq


async def test_reordered_rows_show(database: Database) -> None:
    await write_audit(database)
    async with database.write() as connection:
        for old, new in ((2, 99), (3, 2), (99, 3)):
            await connection.execute(update(audit_table).where(audit_table.c.seq == old).values(seq=new))
    assert await broken_at(database) == 2


async def test_an_emptied_record_shows(database: Database) -> None:
    await write_audit(database)
    async with database.write() as connection:
        await connection.execute(delete(audit_table))
    assert await broken_at(database) == 1


async def test_a_row_put_in_shows(database: Database) -> None:
    await write_audit(database)
    async with database.write() as connection:
        row = (await connection.execute(select(audit_table).where(audit_table.c.seq == 5))).one()
        await connection.execute(insert(audit_table).values({**row._mapping, "seq": 6}))
    assert await broken_at(database) == 6


async def test_a_truncated_record_with_its_counter_set_back_is_only_seen_by_its_head(database: Database) -> None:
    """Whoever can write everything can cut the end off; the head hash, kept elsewhere, is what then differs."""
    head = await write_audit(database)
    async with database.write() as connection:
        await connection.execute(delete(audit_table).where(audit_table.c.seq == 5))
        await connection.execute(update(counters_table).where(counters_table.c.name == "audit").values(value=4))
        verification = await audit.verify(connection)
    assert verification.broken_at is None
    assert verification.head != head
