"""A store that is written only where fail-over loses nothing: the setting, and what is seen of the standbys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from core.errors import Unavailable
from core.store import certificates
from core.store.database import Database, create_database, open_database
from core.store.postgres import Replication
from core.store.settings import StoreSettings, StoreTarget
from service.health import Health
from service.node import Node
from tests.postgres import Server
from tests.postgres_world import eventually, fill, issue


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own, whose settings change."""
    made = Server.make().initialise().start()
    yield made
    made.remove()


def target(server: Server) -> StoreTarget:
    return StoreTarget(server.url(), StoreSettings(url=server.url(), require_synchronous=True))


async def standing(server: Server, names: str) -> None:
    server.configure(synchronous_standby_names=names)
    server.reload()
    await eventually(lambda: server.execute(f"SELECT current_setting('synchronous_standby_names') = '{names}'"))


async def ready(database: Database) -> str:
    """What /readyz says of it."""
    return await Health(cast(Node, SimpleNamespace(database=database)))._replication()


async def test_after_a_fail_over_to_one_alone_nothing_is_written(server: Server) -> None:
    """The standby that took over has none of its own: what it has is read, and its next commit could be lost."""
    await (await create_database(server.url())).close()
    await fill(server.url())
    replica = await asyncio.to_thread(lambda: server.replica().start())
    try:
        await standing(server, "replica")
        await eventually(lambda: server.execute("SELECT true FROM pg_stat_replication WHERE sync_state = 'sync'"))
        hosts = f"postgresql+asyncpg://qianyan@127.0.0.1:{server.port},127.0.0.1:{replica.port}/postgres"
        database = await open_database(StoreTarget(hosts, StoreSettings(url=hosts, require_synchronous=True)))
        await issue(database, 1)
        server.kill()
        await asyncio.to_thread(replica.promote)

        async def refused_for(code: str) -> bool:
            try:
                await issue(database, 2)
            except Unavailable as error:
                return error.code == code
            raise AssertionError("written to one machine alone")

        await eventually(lambda: refused_for("store_not_synchronous"))
        async with database.read() as connection:
            assert (await certificates.find(connection, 1)).serial == 1
        await database.close()
    finally:
        replica.remove()


async def test_nothing_is_written_where_nobody_is_waited_for(server: Server) -> None:
    """Not made, not written, and read all the same; a connection that is open notices as a new one does."""
    with pytest.raises(Unavailable) as refused:
        await create_database(target(server))
    assert refused.value.code == "store_not_synchronous"
    await (await create_database(server.url())).close()
    await fill(server.url())
    database = await open_database(target(server))
    replica = await asyncio.to_thread(lambda: server.replica().start())
    try:
        await eventually(lambda: server.execute("SELECT count(*) = 1 FROM pg_stat_replication"))
        assert await database.replication() == Replication(False, 1, 0)
        with pytest.raises(Unavailable, match="synchronous_standby_names"):
            await issue(database, 1)
        async with database.read() as connection:
            assert await certificates.count(connection) == 0
        await standing(server, "replica")
        await eventually(lambda: server.execute("SELECT true FROM pg_stat_replication WHERE sync_state = 'sync'"))
        assert await database.replication() == Replication(True, 1, 1)
        await issue(database, 1)
        assert await ready(database) == "1 of 1 standbys are waited for"
        await standing(server, "")
        with pytest.raises(Unavailable) as refused:
            await issue(database, 2)
        assert refused.value.code == "store_not_synchronous"
        with pytest.raises(Unavailable, match="synchronous_standby_names"):
            await ready(database)
        behind = await open_database(replica.url())
        assert await behind.replication() is None
        await behind.close()
    finally:
        await database.close()
        replica.remove()
