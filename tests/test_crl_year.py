"""The simulated year in little: every change reaches every channel, and nothing that must not happen does."""

import random
from pathlib import Path

from tests.simulate.channels import Change, Channels
from tests.simulate.plan import CHANNELS, DAY_S, Outcome, Plan, make_timetable
from tests.simulate.scene import open_scene
from tests.simulate.stock import ISSUING
from tests.simulate.year import simulate


async def test_four_days_with_a_new_partition_and_a_new_key(tmp_path: Path) -> None:
    plan = Plan(holders=3_000, days=4, share=1.5, moments=3, period=3600)
    outcome = await simulate(tmp_path, plan)
    assert outcome.faults == []
    assert min(outcome.changes.values()) > 0
    assert {name: len(delays) for name, delays in outcome.delays_s.items() if name != "delta"} == dict.fromkeys(
        set(CHANNELS) - {"delta"}, sum(outcome.changes.values())
    )
    assert outcome.delays_s["delta"]
    assert max(outcome.longest_s().values()) < DAY_S
    assert outcome.builds >= 24 * (4 + 3 + 2), "every hour, in each of the partitions that there are by then"
    assert outcome.gone > 0


async def test_the_simulation_sees_what_does_not_show(tmp_path: Path) -> None:
    """Told of a revocation that never was, it says so of every channel: none of its looks is for show."""
    plan = Plan(holders=300, days=2, directory=False)
    async with open_scene(tmp_path, plan, make_timetable(plan, random.Random(1))) as scene:
        outcome = Outcome()
        channels = Channels(scene, outcome)
        await scene.crl.build_due()
        false = Change((ISSUING, 0), 1 << 127, "revoked", scene.clock())
        await channels.ocsp([false])
        channels.pending.append(false)
        await scene.files.sync()
        await channels.crls()
        assert channels.pending == [false]
        assert [fault.split(" says")[0] for fault in outcome.faults] == ["OCSP"]
        scene.clock.jump(scene.clock() + 2 * DAY_S * 1000)
        channels.ended()
        await channels.crls()
        assert "is past its nextUpdate" in outcome.faults[1]
        assert "crl_expired" in outcome.faults[2]
