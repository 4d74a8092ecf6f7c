"""A filled store of before the years, on PostgreSQL: moved a piece at a time while others write, whatever stops it.

What comes out has the schema of a new store to the last name, and every row as it was last written.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import alembic.command
import asyncpg
import orjson
import pytest
from click.testing import CliRunner
from sqlalchemy.ext.asyncio import create_async_engine

from core.errors import SettingsError, Unavailable
from core.store import partitions, upgrade_years, upgrading
from core.store.database import _alembic, create_database, head_revision, open_database, upgrade_database
from core.store.settings import StoreSettings, StoreTarget
from service.commands.store_command import UpgradeProgress
from service.commands.store_command import store as store_command
from tests import postgres
from tests.postgres_world import eventually

ROWS = 1_500
PIECE = 250
YEARS = (2026, 2029)
copies = itertools.count(1)

_FILL = """
INSERT INTO certificates (id, authority_id, serial, usage, profile, subject, public_key, not_before_ms, not_after_ms,
  partition, status_month, status_index, certificate, issued_at_ms, state, revoked_at_ms, reason, changed_seq, pair_id)
SELECT n, 'issuing', int4send({at} + n), CASE n % 2 WHEN 0 THEN 'encrypt' ELSE 'sign' END, 'person', 'name',
  int4send(n), 1, 5, n % 3, (ARRAY[2026, 2029])[n % 4 / 2 + 1] * 12 + n % 12, {at} + n, int4send(n), 1,
  CASE WHEN n % 10 = 0 THEN 'revoked' ELSE 'good' END, CASE WHEN n % 10 = 0 THEN 1000 + n END,
  CASE WHEN n % 10 = 0 THEN 4 END, 1, CASE n % 2 WHEN 0 THEN n - 1 END
FROM generate_series({first}, {last}) AS n
"""
_IDENTITY = ("id", "authority_id", "serial", "status_month")
_CONTENT = (
    "SELECT id, authority_id, serial, usage, pair_id, status_month, status_index, certificate, state, revoked_at_ms,"
    " reason FROM certificates ORDER BY id"
)


def name_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


async def connect(url: str) -> asyncpg.Connection:
    server = postgres.shared()
    return await asyncpg.connect(host=str(server.directory), port=server.port, user="qianyan", database=name_of(url))


async def make_old() -> str:
    """The name of a store of an earlier revision, as its own version filled it, with what refers to certificates."""
    url = await postgres.shared().new_database(empty=True)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: alembic.command.upgrade(_alembic(sync), "0018"))
    await engine.dispose()
    connection = await connect(url)
    await connection.execute(
        "INSERT INTO authorities (id, subject, public_key, partitions, created_at_ms)"
        " VALUES ('issuing', '0', '0', 3, 5)"
    )
    await connection.execute(_FILL.format(at=0, first=1, last=ROWS))
    await connection.execute("SELECT setval('certificates_id_seq', $1)", ROWS)
    await connection.execute(
        "INSERT INTO escrowed_keys SELECT id, '1', '1', 5 FROM certificates WHERE usage = 'encrypt'"
    )
    await connection.close()
    return name_of(url)


async def make_fresh() -> str:
    """The schema of a new store that has those years."""
    fresh = await create_database(await postgres.shared().new_database(empty=True))
    async with fresh.write() as writing:
        await partitions.make(writing, YEARS)
    await fresh.close()
    return schema(fresh.url)


def aside(work: Callable[[], Coroutine[Any, Any, str]]) -> str:
    """Runs it to its end outside of the test's event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work()).result()


@pytest.fixture(scope="module")
def template() -> str:
    return aside(make_old)


@pytest.fixture(scope="module")
def fresh() -> str:
    return aside(make_fresh)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_years, "PIECE", PIECE)


@pytest.fixture
async def old(template: str) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """A copy of the store of an earlier version, and a connection to it."""
    name = f"{template}_{next(copies)}"
    await postgres.shared().execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    url = postgres.shared().url(name)
    connection = await connect(url)
    yield url, connection
    await connection.close()


def schema(url: str) -> str:
    """Everything that pg_dump says of it, but who wrote it."""
    dump = subprocess.run(
        [postgres.BINARIES / "pg_dump", "--schema-only", "-h", postgres.shared().directory,
         "-p", str(postgres.shared().port), "-U", "qianyan", name_of(url)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return "\n".join(line for line in dump.splitlines() if "restrict" not in line)


async def check_upgraded(url: str, rows: list[Any], fresh: str) -> None:
    connection = await connect(url)
    assert await connection.fetch(_CONTENT) == rows
    identities = await connection.fetch(f"SELECT {', '.join(_IDENTITY)} FROM certificate_serials ORDER BY 1")
    assert [tuple(row) for row in identities] == [tuple(row[name] for name in _IDENTITY) for row in rows]
    assert await connection.fetchval("SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == 0
    assert await connection.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    headed = (
        "SELECT count(*) FROM certificates AS c JOIN statistics_segments AS s ON s.id = c.segment AND s.usage = c.usage"
    )
    assert await connection.fetchval(headed) == len(rows)
    await connection.close()
    assert schema(url) == fresh
    database = await open_database(url)
    await database.close()


class Broken(Exception):
    """The upgrade ends here, as if it were killed between two commits."""


async def test_it_goes_on_where_it_was_broken_off(old: tuple[str, asyncpg.Connection], fresh: str) -> None:
    """After every single piece. Nothing is done twice, and the pieces are as small as was promised."""
    url, connection = old
    rows = await connection.fetch(_CONTENT)
    seen: list[tuple[str, int, int]] = []

    def once(*stands: Any) -> None:
        seen.append(stands)
        if stands[0] == "rows" or stands[1] % 4 == 0 or stands[0] == "references":
            raise Broken

    while "references" not in {step for step, *_ in seen}:
        with pytest.raises(Broken):
            await upgrade_database(url, once)
    moved = [done for step, done, _ in seen if step == "rows"]
    assert moved == list(range(PIECE, ROWS + 1, PIECE))
    built = [done for step, done, total in seen if step == "indexes" and done]
    assert built == list(range(1, 2 + 6 * len(YEARS) + 1))
    assert await upgrade_database(url) == (head_revision(), head_revision())
    await check_upgraded(url, rows, fresh)


async def test_references_that_were_not_looked_through_are(old: tuple[str, asyncpg.Connection], fresh: str) -> None:
    """Broken off after the tables changed places."""
    url, connection = old
    rows = await connection.fetch(_CONTENT)

    def stop_at_references(step: str, *_: int) -> None:
        if step == "references":
            raise Broken

    with pytest.raises(Broken):
        await upgrade_database(url, stop_at_references)
    assert await connection.fetchval("SELECT count(*) FROM pg_constraint WHERE NOT convalidated") > 0
    await upgrade_database(url)
    await check_upgraded(url, rows, fresh)


async def test_others_write_meanwhile(old: tuple[str, asyncpg.Connection], fresh: str) -> None:
    """Issued, revoked, released and removed between any two pieces, before and behind what is copied; another is in the
    middle of a transaction all the time, and neither waits for the other."""
    url, connection = old
    lingering = await connect(url)
    numbers = iter(range(ROWS + 1, ROWS + 10_000))
    pieces = 0

    async def write() -> None:
        number = next(numbers)
        await connection.execute(_FILL.format(at=0, first=number, last=number))
        for other in (number % 97 + 9, ROWS - number % 89):
            await connection.execute(
                "UPDATE certificates SET state = 'held', revoked_at_ms = 7, reason = 6"
                " WHERE id = $1 AND state = 'good'",
                other,
            )
            await connection.execute(
                "UPDATE certificates SET state = 'good', revoked_at_ms = NULL, reason = NULL WHERE id = $1 - 7"
                " AND state = 'held'",
                other,
            )

    def between(step: str, *_: int) -> None:
        nonlocal pieces
        if step != "audit":  # nothing was locked before
            pieces += 1
            waiting.set()

    waiting, stop = asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        transaction = None
        while not stop.is_set():
            await waiting.wait()
            waiting.clear()
            await write()
            if transaction is not None:
                await transaction.commit()
            transaction = lingering.transaction()
            await transaction.start()
            number = next(numbers)
            await lingering.execute(_FILL.format(at=0, first=number, last=number))
            await lingering.execute("UPDATE certificates SET certificate = 'late' WHERE id = $1", pieces * 41)
        if transaction is not None:
            await transaction.commit()

    task = asyncio.create_task(busy())
    try:
        before, after = await upgrade_database(url, between, prepare=True)
    finally:
        stop.set()
        waiting.set()
        await task
    assert (before, after) == ("0018", "0017")
    await write()  # after the last piece
    rows = await connection.fetch(_CONTENT)
    assert len(rows) > ROWS + 15
    assert any(row["certificate"] == b"late" for row in rows)
    assert await upgrade_database(url) == ("0017", head_revision())
    await check_upgraded(url, rows, fresh)
    await lingering.close()


async def test_an_index_that_was_broken_off_is_built_anew(old: tuple[str, asyncpg.Connection], fresh: str) -> None:
    """A build that is cancelled while it waits for a writer leaves an invalid index."""
    url, connection = old
    rows = await connection.fetch(_CONTENT)
    builder = await connect(url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE audit IN ROW EXCLUSIVE MODE")
        build = asyncio.create_task(
            builder.execute("CREATE INDEX CONCURRENTLY ix_audit_actor ON audit (actor, seq)", timeout=120)
        )
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'"
        await eventually(lambda: connection.fetchval(waiting, builder.get_server_pid()))
        await connection.execute("SELECT pg_cancel_backend($1)", builder.get_server_pid())
        with pytest.raises(asyncpg.QueryCanceledError):
            await build
    await builder.close()
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_audit_actor'::regclass"
    assert await connection.fetchval(valid) is False
    await upgrade_database(url)
    await check_upgraded(url, rows, fresh)


async def test_a_copy_that_lacks_a_revocation_is_not_taken(old: tuple[str, asyncpg.Connection], fresh: str) -> None:
    url, connection = old
    await upgrade_database(url, prepare=True)
    await connection.execute(
        "UPDATE certificates_moved SET state = 'good', revoked_at_ms = NULL, reason = NULL WHERE id = 500"
    )
    with pytest.raises(SettingsError, match="--afresh"):
        await upgrade_database(url)
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == "0017"
    assert await connection.fetchval("SELECT state FROM certificates WHERE id = 500") == "revoked"
    rows = await connection.fetch(_CONTENT)
    await upgrade_database(url, afresh=True)
    await check_upgraded(url, rows, fresh)


async def test_it_waits_for_a_lock_no_longer_than_it_may(
    old: tuple[str, asyncpg.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that never ends keeps it from beginning; it says so and has changed nothing."""
    url, connection = old
    monkeypatch.setattr(upgrading, "_ATTEMPTS", 2)
    target = StoreTarget(url, StoreSettings(url=url, lock_timeout_s=0.1))
    async with connection.transaction():
        await connection.execute("UPDATE certificates SET pair_id = pair_id WHERE id = 1")
        with pytest.raises(Unavailable):
            await upgrade_database(target)
    assert await connection.fetchval("SELECT to_regclass('certificates_moving') IS NULL")


async def test_the_command_tells_how_far_it_is(old: tuple[str, asyncpg.Connection], tmp_path: Path) -> None:
    url, _ = old
    config = tmp_path / "qianyan.toml"
    config.write_text(f'[store]\nurl = "{url}"\n[issuance]\npublic_url = "http://pki.example"\n')

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(store_command, ["upgrade", *arguments, "--config", str(config), "--json"])

    prepared = await asyncio.to_thread(call, "--prepare")
    assert prepared.exit_code == 0, (prepared.output, prepared.exception)
    assert orjson.loads(prepared.stdout) == {"from": "0018", "to": "0017", "prepared": True}
    told = [orjson.loads(line) for line in prepared.stderr.splitlines()]
    assert [one["step"] for one in told if one["done"] == one["total"] > 0] == ["audit", "rows", "indexes"]
    assert {"step": "indexes", "done": 14, "total": 14} in told
    finished = await asyncio.to_thread(call)
    assert orjson.loads(finished.stdout) == {"from": "0017", "to": head_revision(), "prepared": False}


def test_progress_is_said_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter((0.0, 0.5, 2.5, 2.6, 2.7))
    told = UpgradeProgress(as_json=False, clock=lambda: next(times))
    for step, done in (("rows", 1), ("rows", 2), ("rows", 3), ("rows", 10), ("indexes", 1)):
        told(step, done, 10)
    assert capsys.readouterr().err.splitlines() == [
        "rows: 1 of 10 (10 %)", "rows: 3 of 10 (30 %)", "rows: 10 of 10 (100 %)", "indexes: 1 of 10 (10 %)",
    ]  # fmt: skip
