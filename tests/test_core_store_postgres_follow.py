"""Following the feed of a PostgreSQL store that is cut off, silent, lagging or taken back: nothing old is relied on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import delete, update

from core.errors import Unavailable
from core.store import feed, schema
from core.store.database import create_database
from core.store.settings import StoreSettings
from tests import postgres
from tests.postgres import Server
from tests.postgres_world import (
    Proxy,
    Writers,
    eventually,
    fill,
    following,
    issue,
    opened,
    until_current,
)
from tests.store_world import NOW_MS


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


async def test_a_cut_connection_is_made_anew_and_misses_nothing(url: str) -> None:
    async with Proxy(postgres.shared().port) as proxy:
        through = url.replace(f":{postgres.shared().port}/", f":{proxy.port}/")
        async with opened(url) as direct, opened(through) as database, following(database) as (follower, seen):
            assert follower.current()
            for serial in (1, 2, 3):
                proxy.cut(stay_down=False)
                await issue(direct, serial)
                await follower.ensure_current()
                assert [entry.serial for entry in seen] == list(range(1, serial + 1))
            proxy.cut()
            await issue(direct, 4)
            with pytest.raises(Unavailable) as refused:
                await follower.ensure_current()
            assert refused.value.code == "feed_unavailable"
            assert not follower.current(), "relied on a feed that could not be read for longer than its lease"
            with pytest.raises(Unavailable):
                async with database.read() as connection:
                    await feed.head(connection)
            proxy.mend()
            await until_current(follower)
            assert [entry.serial for entry in seen] == [1, 2, 3, 4]
            async with database.read() as connection:
                assert await feed.head(connection) == 5


async def test_without_notifications_polling_finds_it(url: str) -> None:
    async with opened(url) as other, opened(url) as database, following(database) as (_follower, seen):
        name = url.rsplit("/", 1)[1]
        await postgres.shared().execute(
            "CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS ''", name
        )
        await postgres.shared().execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
        async with opened(url) as silent:
            await issue(silent, 7)
        await issue(other, 8)

        async def both_seen() -> bool:
            return len(seen) == 2

        await eventually(both_seen)
        assert [entry.serial for entry in seen] == [7, 8]


async def test_own_commits_count_at_once_and_those_of_others_within_the_lease(url: str) -> None:
    slow = StoreSettings(feed_poll_ms=400, feed_max_age_ms=800)
    async with opened(url) as other, opened(url, slow) as database, following(database) as (follower, seen):
        await follower.ensure_current()
        assert follower.current()
        await issue(database, 1)
        # The notification may have been followed before this line: then there is nothing left that moved.
        assert follower.moved() or [entry.serial for entry in seen] == [1]
        await follower.ensure_current()
        assert [entry.serial for entry in seen] == [1]
        await issue(other, 2)
        await follower.ensure_current()
        assert [entry.serial for entry in seen] == [1, 2]
        assert database.settle_ms > slow.feed_max_age_ms


async def test_a_feed_that_went_back_is_not_relied_on(url: str) -> None:
    """A restored database: first shorter than what was followed, then as long again with another history."""
    async with opened(url) as database, following(database) as (follower, seen):
        for serial in (1, 2, 3):
            await issue(database, serial)
        await follower.ensure_current()

        async def take_back(to: int) -> None:
            async with database.write() as connection:
                await connection.execute(delete(schema.feed).where(schema.feed.c.seq > to))
                head = update(schema.counters).where(schema.counters.c.name == "feed")
                await connection.execute(head.values(value=to))

        async with database.read() as connection:
            last = (await feed.read_after(connection, 3))[0]
        await take_back(3)
        with pytest.raises(Unavailable) as refused:
            await follower.ensure_current()
        assert refused.value.code == "feed_backwards"
        # The same entry is there again: a replica that was behind has caught up.
        async with database.write() as connection:
            await feed.append(connection, [feed.FeedChange("issued", "issuing", 3)], at_ms=last.at_ms)
        await until_current(follower)
        await take_back(3)
        async with database.write() as connection:
            changes = [feed.FeedChange("issued", "issuing", serial) for serial in (50, 51)]
            await feed.append(connection, changes, at_ms=NOW_MS)
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                async with asyncio.timeout(60):
                    await follower.ensure_current()
            assert refused.value.code == "feed_backwards"
        with pytest.raises(Unavailable):
            follower.current()
        assert [entry.serial for entry in seen] == [1, 2, 3]


async def test_a_replica_that_is_cut_off_is_not_relied_on(server: Server) -> None:
    await (await create_database(server.url())).close()
    await fill(server.url())
    replica = await asyncio.to_thread(lambda: server.replica().start())
    try:
        lag = StoreSettings(replica_max_lag_s=1, feed_patience_s=1)
        async with opened(server.url()) as primary:
            await issue(primary, 1)
            await eventually(lambda: replica.execute("SELECT count(*) FROM certificates"))
            await issue(primary, 2)
            async with opened(replica.url(), lag) as database:
                writers = Writers(primary, 1)
                await writers.until(3)
                async with following(database) as (follower, seen):
                    with pytest.raises(Unavailable):
                        await issue(database, 99)
                    await writers.until(10)
                    await until_current(follower)
                    assert seen
                    await writers.end()
                    await asyncio.to_thread(server.stop)  # in order: the replica has all that there was

                    async def left_behind() -> bool:
                        try:
                            await follower.ensure_current()
                        except Unavailable as error:
                            return error.code == "replica_lag" and not follower.current()
                        return False

                    await eventually(left_behind)
                    assert follower.lag_ms > 1000
            # Started anew it has nothing to replay, and cannot tell by that how old it is.
            await asyncio.to_thread(replica.stop)
            await asyncio.to_thread(replica.start)
            assert await replica.execute("SELECT pg_last_xact_replay_timestamp()") is None
            async with opened(replica.url(), lag) as database:
                with pytest.raises(Unavailable) as refused:
                    async with following(database):
                        raise AssertionError("followed a replica whose primary is gone")
                assert refused.value.code == "replica_lag"
    finally:
        replica.remove()
