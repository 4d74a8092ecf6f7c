"""What CRLs are made of in the store: rows that are listed, leases, and where partitions are; on both databases."""

from collections.abc import AsyncIterator
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa
from sqlalchemy import delete

from core.errors import Conflict, NotFound, Refused
from core.lease import Leases
from core.model import RevocationReason
from core.store import authorities, certificates, crl_points, crls, feed, leases, listed
from core.store.crls import CrlRecord
from core.store.database import Database, _alembic, open_database, upgrade_database
from crl._entries import Entries
from crl._reader import Listing
from crl.builder import CrlContents, make_draft
from crl.points import settled
from tests.crl_world import PUBLIC_URL, make_world
from tests.store_world import BACKENDS, NOW_MS, authority, certificate, fresh_store

SCOPE = ("issuing", 0)
HOLD = RevocationReason.CERTIFICATE_HOLD
COMPROMISE = RevocationReason.KEY_COMPROMISE


@pytest.fixture(params=BACKENDS)
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with fresh_store(tmp_path, request.param) as database:
        yield database


async def issue(database: Database, *serials: int, first: int = 0, **changes: object) -> None:
    async with database.write() as connection:
        for index, serial in enumerate(serials, first):
            await certificates.record(connection, certificate(serial, index, **changes), at_ms=NOW_MS)


async def revoke(database: Database, *serials: int, reason: RevocationReason = COMPROMISE, at_ms: int = NOW_MS) -> None:
    async with database.write() as connection:
        for serial in serials:
            record = await certificates.find(connection, serial)
            await certificates.revoke(connection, record, reason, at_ms=at_ms)


async def loaded(database: Database, scope: tuple[str, int] = SCOPE, after_ms: int = 0) -> Entries:
    entries = Entries()
    async with database.read() as connection:
        await listed.load(connection, *scope, entries, expired_after_ms=after_ms)
    return entries


def rows(entries: Entries, changes: list[listed.ListedRow] | None = None) -> list[tuple[int, int, int, int | None]]:
    contents = CrlContents(bytes.fromhex("3000"), bytes(20), 1, "http://a.cn/0.crl", NOW_MS, NOW_MS + 1000)
    return Listing(make_draft(entries, contents, changes or [], 0)).rows()


SERIALS = [0x80, 0x7F, 0x0100, 0xFFFF, 0x010000, 1, (1 << 159) - 1]


async def test_what_is_listed_is_loaded_in_the_order_of_numbers(database: Database) -> None:
    for index, serial in enumerate(SERIALS):
        await issue(database, serial, first=index, not_after_ms=NOW_MS + index)
    await issue(database, 0x55, first=60)
    await issue(database, 0x56, first=61, partition=1)
    await revoke(database, *SERIALS, 0x56)
    assert [row[0] for row in rows(await loaded(database))] == sorted(SERIALS)
    assert [row[0] for row in rows(await loaded(database, after_ms=NOW_MS + 3))] == [1, 0xFFFF, 0x010000, SERIALS[-1]]
    assert [row[0] for row in rows(await loaded(database, ("issuing", 1)))] == [0x56]
    assert rows(await loaded(database, ("issuing", 2))) == []


async def test_changes_bring_what_was_loaded_up_to_date(database: Database) -> None:
    await issue(database, *range(1, 40))
    await revoke(database, 3, 4, 5)
    await revoke(database, 6, 7, reason=HOLD)
    before = await loaded(database)
    async with database.read() as connection:
        position = await feed.head(connection)
    await revoke(database, 8, 7, at_ms=NOW_MS + 5000)
    async with database.write() as connection:
        await certificates.release(connection, await certificates.find(connection, 6), at_ms=NOW_MS + 7000)
        late = await certificates.find(connection, 9)
        await certificates.revoke(connection, late, COMPROMISE, at_ms=NOW_MS + 8000, invalidity_at_ms=1_000_000_000)
    async with database.read() as connection:
        changes = await listed.changes(connection, *SCOPE, after_seq=position)
        assert await listed.changes(connection, "issuing", 1, after_seq=0) == []
    assert sorted((row[0][0], at_ms - NOW_MS) for row, at_ms in changes) == [(6, 7000), (7, 5000), (8, 5000), (9, 8000)]
    assert rows(before, [row for row, _ in changes]) == rows(await loaded(database))
    now_s = NOW_MS // 1000
    assert rows(await loaded(database))[-2:] == [(8, now_s + 5, 1, None), (9, now_s + 8, 1, 1_000_000)]


async def test_copy_is_taken_in_pieces_of_any_length() -> None:
    """As the wire may cut it: PostgreSQL's manual, COPY, Binary Format."""

    def field(value: bytes | None) -> bytes:
        return b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value

    def row(serial: bytes, stamp: int, ends: int, invalidity: int | None) -> bytes:
        numbers = [stamp.to_bytes(8, "big"), ends.to_bytes(8, "big")]
        last = None if invalidity is None else invalidity.to_bytes(8, "big", signed=True)
        return b"\0\4" + field(serial) + b"".join(map(field, numbers)) + field(last)

    whole = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    whole += row(b"\1", 160, 900, None) + row(b"\2\3", 161, 900, 77) + row(b"\x90", 16 * 99, 900, -5) + b"\xff\xff"
    expected = [(1, 10, 0, None), (0x90, 99, 0, -5), (0x0203, 10, 1, 77)]
    for size in range(1, len(whole) + 1):
        entries = Entries()
        for at in range(0, len(whole), size):
            entries.load_copy(whole[at : at + size])
        assert rows(entries) == expected
    for bad in (b"PGCOPX" + whole[6:], whole.replace(b"\0\4\0\0\0\1", b"\0\3\0\0\0\1", 1)):
        with pytest.raises(ValueError, match=r"COPY|columns"):
            Entries().load_copy(bad)


def record(number: int, base_number: int | None = None, *, size: int = 10, feed_seq: int = 1) -> CrlRecord:
    times = (NOW_MS + number * 1000, NOW_MS + number * 1000 + 500)
    return CrlRecord("issuing", 0, number, base_number, *times, feed_seq, 2, bytes(size))


async def test_a_delta_has_the_number_of_its_full_crl_and_keeps_its_base(database: Database) -> None:
    async with database.write() as connection:
        await crls.publish(connection, record(1), at_ms=NOW_MS)
        for number in range(2, 7):
            await crls.publish(connection, record(number), delta=record(number, 1), at_ms=NOW_MS)
        assert await crls.latest(connection, *SCOPE) == record(6)
        assert await crls.latest(connection, *SCOPE, delta=True) == record(6, 1)
        assert [s.number for s in await crls.summaries(connection, delta=True)] == [6]
        assert await crls.prune(connection, *SCOPE, keep=2) == 3
        base = await crls.base_for(connection, *SCOPE, from_ms=NOW_MS)
        assert base is not None
        assert base.number == 1, "the base of the newest delta outlives its time"
        base = await crls.base_for(connection, *SCOPE, from_ms=NOW_MS + 2000)
        assert base is not None
        assert base.number == 5, "past its day another one is taken"
        assert await crls.base_for(connection, *SCOPE, from_ms=NOW_MS + 99_000) is None


async def test_what_is_kept_is_bounded_in_bytes_too(database: Database) -> None:
    async with database.write() as connection:
        for number in range(1, 7):
            await crls.publish(connection, record(number, size=1000), at_ms=NOW_MS)
        assert await crls.prune(connection, *SCOPE, keep=100, keep_bytes=3500) == 3
        assert await crls.prune(connection, *SCOPE, keep=100, keep_bytes=1) == 1, "the newest two stay"


async def test_a_lease_is_one_holders_and_fences_the_one_before(database: Database) -> None:
    async with database.write() as connection:
        first = await leases.acquire(connection, *SCOPE, "a")
    assert first is not None
    async with database.write() as connection:
        assert await leases.acquire(connection, *SCOPE, "b") is None
        await leases.renew(connection, first)
    async with database.write() as connection:
        assert await leases.acquire(connection, *SCOPE, "b", over=first) is None, "it has moved since"
        seen = await leases.get(connection, *SCOPE)
        assert seen is not None
        second = await leases.acquire(connection, *SCOPE, "b", over=seen)
    assert second is not None
    assert second.epoch == first.epoch + 1
    for late in (leases.renew, leases.require):
        with pytest.raises(Conflict) as refused:
            async with database.write() as connection:
                await late(connection, first)
        assert refused.value.code == "lease_lost"
    async with database.write() as connection:
        await leases.release(connection, first)
        assert await leases.list_all(connection) == [second]
        await leases.require(connection, second)
        assert await leases.acquire(connection, *SCOPE, "c") is not None


async def test_a_silent_holder_is_taken_over_after_its_life_by_a_watch_of_ones_own(database: Database) -> None:
    watch = [1000.0]
    silent = Leases(database, 15)
    other = Leases(database, 15, lambda: watch[0])
    lease = await silent.acquire(SCOPE)
    assert lease is not None
    assert await other.acquire(SCOPE) is None
    watch[0] += 14
    assert await other.acquire(SCOPE) is None
    async with database.write() as connection:
        await leases.renew(connection, lease)
    watch[0] += 14
    assert await other.acquire(SCOPE) is None, "it showed life"
    watch[0] += 15
    assert await other.acquire(SCOPE) is not None


async def test_a_holder_that_ended_on_this_machine_is_taken_over_at_once(database: Database) -> None:
    kept = Leases(database, 600)
    async with database.write() as connection:
        gone = f"{kept._machine}/{(1 << 22) + 5}/0"
        assert await leases.acquire(connection, *SCOPE, gone) is not None
    assert await kept.acquire(SCOPE) is not None
    async with database.write() as connection:
        await leases.acquire(connection, "issuing", 1, f"elsewhere/0/{(1 << 22) + 5}/0")
    assert await kept.acquire(("issuing", 1)) is None, "another machine's processes are not ours to know"


async def test_partitions_open_and_close_and_keep_their_address(database: Database) -> None:
    async with database.write() as connection:
        await crl_points.settle(connection, *SCOPE, "http://old.cn/crl/issuing/0.crl")
        points = await crl_points.open_first(connection, "issuing", 4, "http://new.cn", at_ms=NOW_MS)
    assert [(p.partition, p.url, p.open) for p in points] == [
        (0, "http://old.cn/crl/issuing/0.crl", True),
        *((n, f"http://new.cn/crl/issuing/{n}.crl", True) for n in (1, 2, 3)),
    ]
    async with database.write() as connection:
        await crl_points.open_first(connection, "issuing", 2, "http://newer.cn", at_ms=NOW_MS)
        row = await authorities.get(connection, "issuing")
        assert row.partitions == 4, "what was opened never goes away"
        chosen = [await crl_points.choose(connection, row, serial, "http://x.cn") for serial in range(4)]
        assert [p.partition for p in chosen] == [0, 1, 0, 1]
        assert chosen[0].url == "http://old.cn/crl/issuing/0.crl"
        assert [p.open for p in await crl_points.list_all(connection, "issuing")] == [True, True, False, False]
        await crl_points.open_first(connection, "issuing", 3, "http://newer.cn", at_ms=NOW_MS)
        assert (await crl_points.choose(connection, row, 5, "http://x.cn")).url == "http://new.cn/crl/issuing/2.crl"
        with pytest.raises(Refused):
            await crl_points.open_first(connection, "issuing", 0, "http://a.cn", at_ms=NOW_MS)
        with pytest.raises(NotFound):
            await crl_points.open_first(connection, "nobody", 1, "http://a.cn", at_ms=NOW_MS)


async def test_a_partition_that_is_not_settled_is_settled_with_its_first_certificate(database: Database) -> None:
    async with database.write() as connection:
        row = authority("second", partitions=3)
        await authorities.add(connection, row)
        point = await crl_points.choose(connection, row, 7, "http://a.cn")
        assert (point.partition, point.url) == (1, "http://a.cn/crl/second/1.crl")
        assert (await crl_points.choose(connection, row, 10, "http://b.cn")).url == point.url


async def test_crls_of_a_store_of_before_stay_and_are_full_ones(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        alembic.command.upgrade(_alembic(connection), "0011")
        connection.exec_driver_sql(
            "INSERT INTO authorities (id, subject, public_key, partitions, created_at_ms)"
            " VALUES ('a', x'30', x'04', 1, 5)"
        )
        connection.exec_driver_sql("INSERT INTO crls VALUES ('a', 0, 7, NULL, 1, 2, 3, 4, x'3000')")
    engine.dispose()
    url = f"sqlite+aiosqlite:///{path}"
    await upgrade_database(url)
    database = await open_database(url)
    async with database.read() as connection:
        found = await crls.latest(connection, "a", 0)
        assert await crls.latest(connection, "a", 0, delta=True) is None
    await database.close()
    assert found == CrlRecord("a", 0, 7, None, 1, 2, 3, 4, b"\x30\x00")


async def test_an_address_that_was_not_written_down_is_found_in_the_crl(tmp_path: Path) -> None:
    """A store of before has CRLs and certificates, but no addresses: those that are in use are settled."""
    async with make_world(tmp_path) as world:
        await world.add_authority()
        await world.service().build("issuing", 0)
        async with world.database.write() as connection:
            await connection.execute(delete(crl_points.crl_points))
        point = await settled(world.database, SCOPE, "http://elsewhere.example.cn")
        assert point.url == f"{PUBLIC_URL}/crl/issuing/0.crl"
