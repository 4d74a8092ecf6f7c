"""A PostgreSQL that is killed, failed over, or would forget: what was answered stays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from core.errors import SettingsError, Unavailable
from core.store.database import create_database, open_database
from core.store.settings import StoreSettings
from tests import postgres
from tests.postgres import Server
from tests.postgres_world import (
    Writers,
    check_whole,
    eventually,
    fill,
    following,
    issue,
    opened,
    until_current,
)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own, to be killed."""
    made = Server.make().initialise().start()
    yield made
    made.remove()


@pytest.fixture
async def url() -> str:
    """A database of the test's own on the shared server, with one authority."""
    made = await postgres.shared().new_database()
    await fill(made)
    return made


async def test_what_was_confirmed_survives_a_kill_under_load(server: Server) -> None:
    await (await create_database(server.url())).close()
    await fill(server.url())
    async with opened(server.url()) as database, following(database) as (follower, seen):
        writers = Writers(database, 6)
        for round_ in range(2):
            await writers.until(len(writers.confirmed) + 25)
            server.kill()
            await eventually(writers.met_a_refusal)
            with pytest.raises(Unavailable):
                await follower.ensure_current()
            assert not follower.current(), f"relied on in round {round_}"
            writers.refused.clear()
            await asyncio.to_thread(server.start)
            await writers.until(len(writers.confirmed) + 5)
        await writers.end()
        await until_current(follower)
        stored = await check_whole(database)
        assert writers.confirmed <= stored
        assert {entry.serial for entry in seen} == stored


async def test_fail_over_to_a_synchronous_replica_loses_nothing(server: Server) -> None:
    await (await create_database(server.url())).close()
    await fill(server.url())
    replica = await asyncio.to_thread(lambda: server.replica().start())
    try:
        server.configure(synchronous_standby_names="replica")
        server.reload()
        await eventually(lambda: server.execute("SELECT true FROM pg_stat_replication WHERE sync_state = 'sync'"))
        hosts = f"127.0.0.1:{server.port},127.0.0.1:{replica.port}"
        url = f"postgresql+asyncpg://qianyan@{hosts}/postgres"
        async with opened(url) as database, following(database) as (follower, seen):
            writers = Writers(database, 4)
            await writers.until(25)
            server.kill()
            await asyncio.to_thread(replica.promote)
            await writers.until(len(writers.confirmed) + 10)
            await writers.end()
            await until_current(follower)
            stored = await check_whole(database)
            assert writers.confirmed <= stored
            assert {entry.serial for entry in seen} == stored
    finally:
        replica.remove()


async def test_a_commit_that_the_standby_did_not_confirm_is_not_confirmed(server: Server) -> None:
    await (await create_database(server.url())).close()
    await fill(server.url())
    async with opened(server.url(), StoreSettings(statement_timeout_s=0.5)) as database:
        await issue(database, 1)
        server.configure(synchronous_standby_names="nobody")
        server.reload()
        await eventually(lambda: server.execute("SELECT current_setting('synchronous_standby_names') = 'nobody'"))
        with pytest.raises(Unavailable):  # neither the server's time limit nor ours confirms it
            await issue(database, 2)
    async with opened(server.url()) as database:
        waiting = asyncio.create_task(issue(database, 3))
        cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await eventually(lambda: server.execute(cancel))
        with pytest.raises(Unavailable) as refused:
            await waiting
        assert refused.value.code == "store_not_replicated"


async def test_a_server_that_would_forget_is_not_used(server: Server) -> None:
    await (await create_database(server.url())).close()
    await server.execute("ALTER SYSTEM SET synchronous_commit = off")
    server.reload()
    async with opened(server.url()) as database, database.read() as connection:
        assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "on"
    server.stop()
    server.configure(full_page_writes="off")
    await asyncio.to_thread(server.start)
    with pytest.raises(SettingsError, match="full_page_writes"):
        await open_database(server.url())


async def test_several_hosts_are_only_taken_where_they_can_be_written(url: str) -> None:
    for ending in ("target_session_attrs=any", "target_session_attrs=prefer-standby"):
        with pytest.raises(SettingsError, match="read-write"):
            await open_database(f"postgresql+asyncpg://q@127.0.0.1:1,127.0.0.1:2/x?{ending}")
    with pytest.raises(SettingsError, match="cannot be opened"):
        await open_database("postgresql+asyncpg://q@127.0.0.1:1/x")
