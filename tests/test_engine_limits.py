"""Keys that obey: purpose, callers, rate, total and hours, over two engines on one store, while batches wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from core.clock import system_clock
from core.errors import Busy, Denied, QianyanError, Refused, TooLarge
from core.model import KeyPurpose, KeyState
from core.store import key_uses
from core.store.keys import KeyLimits
from signer._native import sm2
from signer.engine.engine import SigningEngine
from signer.engine.keyuse import allow_caller, change_key_limits, deny_caller
from signer.engine.settings import EngineSettings
from tests import postgres
from tests.engine_world import World, in_another_process, open_world, store_url

DIGEST = bytes(32)


async def code_of(asked: Coroutine[Any, Any, Any]) -> str:
    """ "ok", or the code of the refusal."""
    try:
        await asked
    except QianyanError as error:
        return error.code
    return "ok"


async def make(world: World, key_id: str = "k", purpose: KeyPurpose = KeyPurpose.DATA, **limits: Any) -> None:
    callers = limits.pop("callers", ["app"])
    await world.engine.create_key(key_id, purpose, "owner", "test", callers=callers, limits=KeyLimits(**limits))


async def limit(world: World, **limits: Any) -> None:
    await change_key_limits(world.database, "k", lambda _: KeyLimits(**limits), "test", system_clock)


async def sign(engine: SigningEngine, count: int = 1, caller: str = "app") -> str:
    return await code_of(engine.sign_digests("k", DIGEST * count, caller=caller))


async def uses(world: World) -> key_uses.KeyUses:
    async with world.database.read() as connection:
        return await key_uses.get(connection, "k")


async def until(world: World, holds: Callable[[key_uses.KeyUses], bool]) -> None:
    """Waits, as long as a slow machine may take."""
    async with asyncio.timeout(60):
        while not holds(await uses(world)):  # noqa: ASYNC110 - another engine writes it
            await asyncio.sleep(0.005)


# ---- purposes


async def test_a_key_does_what_it_is_for_and_nothing_else(tmp_path: Path) -> None:
    internal = (KeyPurpose.CERTIFICATE, KeyPurpose.OCSP, KeyPurpose.AUDIT, KeyPurpose.STATUS_SET)
    async with open_world(tmp_path) as world:
        for purpose in KeyPurpose:
            callers = () if purpose in internal else ["app"]
            await make(world, purpose.value, purpose, callers=callers)
        for purpose in KeyPurpose:
            for wanted in KeyPurpose:
                asked = world.engine.sign_digests(purpose, DIGEST, caller="app", purpose=wanted, listed=False)
                may = purpose is wanted and purpose is not KeyPurpose.ENCRYPT
                assert await code_of(asked) == ("ok" if may else "key_purpose")
            public = sm2.PublicKey.from_bytes(world.engine.public_key(purpose))
            asked_too = world.engine.decrypt(purpose, [[("der", public.encrypt(b"text"))]], caller="app")
            assert await code_of(asked_too) == ("ok" if purpose is KeyPurpose.ENCRYPT else "key_purpose")
        with pytest.raises(Refused):
            world.engine.signer("encrypt", KeyPurpose.ENCRYPT)
        assert world.engine.sign_now("encrypt", DIGEST, caller="system", purpose=KeyPurpose.ENCRYPT) is None
    async with open_world(tmp_path) as world:
        refused = await world.audit_rows("sign.refuse")
        assert {(row.subject, row.outcome) for row in refused} == {(p.value, "key_purpose") for p in KeyPurpose}
        refused = await world.audit_rows("decrypt.refuse")
        signing = set(KeyPurpose) - {KeyPurpose.ENCRYPT}
        assert {(row.subject, row.outcome) for row in refused} == {(p.value, "key_purpose") for p in signing}


async def test_what_a_key_may_not_be_made_with(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        for purpose, callers, limits, code in (
            (KeyPurpose.SEAL, ["*"], KeyLimits(), "key_callers"),
            (KeyPurpose.TIMESTAMP, ["*"], KeyLimits(), "key_callers"),
            (KeyPurpose.OCSP, ["app"], KeyLimits(), "key_callers"),
            (KeyPurpose.CERTIFICATE, [], KeyLimits(max_uses=5), "key_callers"),
            (KeyPurpose.DATA, ["two words"], KeyLimits(), "key_callers"),
            (KeyPurpose.DATA, [""], KeyLimits(), "key_callers"),
            (KeyPurpose.DATA, [f"caller{n}" for n in range(257)], KeyLimits(), "key_callers"),
            (KeyPurpose.DATA, ["app"], KeyLimits(max_rate=0), "key_limits"),
            (KeyPurpose.DATA, ["app"], KeyLimits(max_uses=-1), "key_limits"),
            (KeyPurpose.DATA, ["app"], KeyLimits(hours="always"), "key_limits"),
        ):
            asked = world.engine.create_key("k", purpose, "owner", "test", callers=callers, limits=limits)
            assert await code_of(asked) == code
        assert not (tmp_path / "keys" / "k.pem").exists()


# ---- callers


async def test_only_named_callers_use_a_key(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await make(world)
        with pytest.raises(Denied) as caught:
            await world.engine.sign_digests("k", DIGEST, caller="stranger")
        assert (caught.value.code, caught.value.authenticated) == ("key_caller", True)
        assert await sign(world.engine) == "ok"
        assert await code_of(world.engine.sign_digests("k", DIGEST, caller="svs", listed=False)) == "ok"
        await make(world, "nobody", callers=[])
        assert await code_of(world.engine.sign_digests("nobody", DIGEST, caller="app")) == "key_caller"
    async with open_world(tmp_path) as world:
        rows = await world.audit_rows("sign.refuse")
        assert [(row.actor, row.subject, row.outcome) for row in rows] == [
            ("stranger", "k", "key_caller"),
            ("app", "nobody", "key_caller"),
        ]


async def test_refusals_do_not_flood_the_audit_record(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings=EngineSettings(refusals_per_interval=5)) as world:
        await make(world)
        for _ in range(50):
            assert await sign(world.engine, caller="stranger") == "key_caller"
    async with open_world(tmp_path) as world:
        rows = await world.audit_rows("sign.refuse")
        assert len(rows) == 6
        assert '"count":45' in rows[-1].detail


async def test_a_change_of_callers_counts_in_another_process_at_once(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await make(world)
        assert await sign(world.engine) == "ok"
        for statement, app, other in (
            ("allow_caller(world.database, 'k', 'other', 't', system_clock)", "ok", "ok"),
            ("deny_caller(world.database, 'k', 'app', 't', system_clock)", "key_caller", "ok"),
            ("allow_caller(world.database, 'k', '*', 't', system_clock)", "ok", "ok"),
        ):
            imports = (
                "from core.clock import system_clock; from signer.engine.keyuse import allow_caller, deny_caller; "
            )
            await in_another_process(tmp_path, f"{imports}await {statement}")
            assert (await sign(world.engine, caller="app"), await sign(world.engine, caller="other")) == (app, other)
        rows = [row for action in ("key.allow", "key.deny") for row in await world.audit_rows(action)]
        assert len(rows) == 3
        assert await code_of(allow_caller(world.database, "k", "other", "t", system_clock)) == "key_caller_known"
        assert await code_of(deny_caller(world.database, "k", "app", "t", system_clock)) == "key_caller_unknown"
        assert await code_of(allow_caller(world.database, "none", "app", "t", system_clock)) == "key_unknown"


async def test_a_caller_denied_while_its_batch_waits_gets_nothing_more(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings=EngineSettings(inline_max=0, batch_max=64)) as world:
        await make(world)
        waiting = asyncio.ensure_future(sign(world.engine, 20_000))
        await asyncio.sleep(0)
        await deny_caller(world.database, "k", "app", "test", system_clock)
        assert await waiting == "key_caller"


# ---- total


async def test_a_total_is_exact_over_engines_and_restarts(tmp_path: Path) -> None:
    async with open_world(tmp_path) as one, open_world(tmp_path) as two:
        await make(one, max_uses=60)
        asked = [sign(engine, count) for count in (1, 2, 3) for engine in (one.engine, two.engine) for _ in range(4)]
        codes = await asyncio.gather(*asked)  # 48 uses
        assert set(codes) == {"ok"}
        assert (await uses(one)).reserved == 48
        codes = await asyncio.gather(*(sign(engine) for engine in (one.engine, two.engine) for _ in range(10)))
        assert Counter(codes) == {"ok": 12, "key_count": 8}
    async with open_world(tmp_path) as world:
        assert await sign(world.engine) == "key_count"
        assert await uses(world) == key_uses.KeyUses(60, 60)
        rows = await world.audit_rows("sign.usage")
        assert sum(int(row.detail.split('"signatures":')[1].split(",")[0]) for row in rows) == 60
        await limit(world, max_uses=61)
        assert [await sign(world.engine, 2), await sign(world.engine), await sign(world.engine)] == [
            "key_count",
            "ok",
            "key_count",
        ]


async def test_limits_hold_over_engines_on_postgresql(tmp_path: Path) -> None:
    url = await postgres.shared().new_database()
    clock = StoppedClock()
    async with (
        open_world(tmp_path, url=url, clock=clock) as one,
        open_world(tmp_path, url=url, clock=clock) as two,
    ):
        await make(one, max_uses=25)
        codes = await asyncio.gather(*(sign(engine) for _ in range(20) for engine in (one.engine, two.engine)))
        assert Counter(codes) == {"ok": 25, "key_count": 15}
        await limit(one, max_rate=10)
        codes = await asyncio.gather(*(sign(engine) for _ in range(20) for engine in (one.engine, two.engine)))
        assert Counter(codes) == {"ok": 10, "key_rate": 30}
        await deny_caller(one.database, "k", "app", "test", clock)
        assert await sign(two.engine) == "key_caller"
    async with open_world(tmp_path, url=url) as world:
        assert await uses(world) == key_uses.KeyUses(35, 35)


async def test_a_call_is_granted_whole_or_not_at_all(tmp_path: Path) -> None:
    settings = EngineSettings(inline_max=0, batch_max=16)
    async with open_world(tmp_path, settings=settings) as world:
        await make(world, max_uses=100)
        codes = await asyncio.gather(*(sign(world.engine, count) for count in (90, 11, 10)))
        assert codes == ["ok", "key_count", "ok"]
        assert (await uses(world)).reserved == 100


async def test_uses_that_were_not_made_are_given_back(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings=EngineSettings(inline_max=0, batch_max=64)) as world:
        await make(world, max_uses=131_072)
        waiting = asyncio.ensure_future(world.engine.sign_digests("k", DIGEST * 100_000, caller="app"))
        await until(world, lambda found: found.reserved > 0)
        await world.engine.set_key_state("k", KeyState.FROZEN, "test")
        assert await code_of(waiting_for(waiting)) == "key_frozen"
    async with open_world(tmp_path) as world:
        left = await uses(world)
        assert left.recorded == left.reserved < 100_000


async def waiting_for(future: asyncio.Future[Any]) -> Any:
    return await future


async def test_a_caller_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await make(world, max_uses=100)
        tasks = [asyncio.ensure_future(sign(world.engine, 10)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with open_world(tmp_path) as world:
        left = await uses(world)
        assert left.reserved == left.recorded
        assert await sign(world.engine, 100 - left.reserved) == "ok"


async def test_a_total_given_later_counts_what_was_used_before(tmp_path: Path) -> None:
    async with open_world(tmp_path) as one, open_world(tmp_path) as two:
        await make(one)
        assert [await sign(one.engine, 30), await sign(two.engine, 20)] == ["ok", "ok"]
        await limit(one, max_uses=60)
        await until(one, lambda found: found.reserved == 50)  # both give back what they had, the idle one by itself
        assert [await sign(one.engine, 11), await sign(two.engine, 10), await sign(one.engine)] == [
            "key_count",
            "ok",
            "key_count",
        ]
        await limit(one)
        assert await sign(two.engine, 500) == "ok"


async def test_what_waits_when_a_key_gets_a_total_is_not_signed_beside_it(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings=EngineSettings(inline_max=0, batch_max=64)) as world:
        await make(world)
        waiting = asyncio.ensure_future(sign(world.engine, 20_000))
        await asyncio.sleep(0)
        await limit(world, max_uses=5)
        assert await waiting == "key_changed"


# ---- rate


class StoppedClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_ms = system_clock()

    def __call__(self) -> int:
        return self.now_ms


async def test_a_rate_holds_over_two_engines(tmp_path: Path) -> None:
    clock = StoppedClock()
    async with open_world(tmp_path, clock=clock) as one, open_world(tmp_path, clock=clock) as two:
        await make(one, max_rate=10)
        signed = 0
        for _ in range(4):
            codes = await asyncio.gather(*(sign(engine) for engine in (one.engine, two.engine) for _ in range(20)))
            assert set(codes) <= {"ok", "key_rate"}
            signed += codes.count("ok")
            clock.now_ms += 1_000
        assert signed == 40, "a full second's worth at first, and what three seconds filled up"
        clock.now_ms += 3_600_000
        codes = await asyncio.gather(*(sign(one.engine) for _ in range(30)))
        assert codes.count("ok") == 10, "an hour of rest saves up one second's worth"


async def test_who_is_too_fast_is_told_when_to_come_back(tmp_path: Path) -> None:
    clock = StoppedClock()
    async with open_world(tmp_path, clock=clock) as world:
        await make(world, max_rate=2)
        assert await sign(world.engine, 2) == "ok"
        with pytest.raises(Busy) as caught:
            await world.engine.sign_digests("k", DIGEST * 2, caller="app")
        assert (caught.value.code, caught.value.retry_after_s) == ("key_rate", 1)
        clock.now_ms += 1_000
        assert await sign(world.engine, 2) == "ok"
        with pytest.raises(TooLarge) as never:
            await world.engine.sign_digests("k", DIGEST * 3, caller="app")
        assert never.value.code == "key_rate"


async def test_strangers_do_not_use_up_a_rate(tmp_path: Path) -> None:
    async with open_world(tmp_path, clock=StoppedClock()) as world:
        await make(world, max_rate=1)
        assert [await sign(world.engine, caller="stranger") for _ in range(5)] == ["key_caller"] * 5
        assert await sign(world.engine) == "ok"


async def test_leases_spare_commits_and_break_no_rate(tmp_path: Path) -> None:
    clock = StoppedClock()
    async with open_world(tmp_path, clock=clock) as one, open_world(tmp_path, clock=clock) as two:
        await make(one, max_rate=1_000)
        codes = await asyncio.gather(*(sign(engine, 5) for _ in range(150) for engine in (one.engine, two.engine)))
        signed = codes.count("ok") * 5
        assert 100 <= signed <= 1_000
        assert len(await one.audit_rows("sign.reserve")) <= 2


# ---- hours


async def test_hours_are_looked_at_when_a_use_is_made(tmp_path: Path) -> None:
    clock = StoppedClock()
    clock.now_ms = 1_900_000_000_000  # Sunday 2030-03-17 17:46:40 UTC
    async with open_world(tmp_path, clock=clock) as world:
        await make(world, hours="Sun 17:00-18:00 UTC")
        assert await sign(world.engine) == "ok"
        clock.now_ms += 14 * 60_000
        with pytest.raises(Refused) as caught:
            await world.engine.sign_digests("k", DIGEST, caller="app")
        assert caught.value.code == "key_hours"
        await change_key_limits(world.database, "k", lambda _: KeyLimits(hours="Sun 18:00-19:00 UTC"), "t", clock)
        assert await sign(world.engine) == "ok"


async def test_hours_that_this_machine_cannot_read_close_the_key(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await make(world)
    import sqlite3

    with sqlite3.connect(store_url(tmp_path).split("///")[1]) as connection:
        connection.execute("UPDATE keys SET hours = 'daily 00:00-24:00 Mars/Base'")
    connection.close()
    async with open_world(tmp_path) as world:
        assert await sign(world.engine) == "key_hours_unreadable"
