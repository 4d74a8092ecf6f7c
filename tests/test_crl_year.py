"""A few simulated days: every change reaches every channel in seconds, and nothing that must not happen does."""

from pathlib import Path

from tests.simulate.year import Plan, simulate


async def test_two_days_in_little(tmp_path: Path) -> None:
    plan = Plan(holders=8_000, days=2, partitions=1, step_s=30)
    outcome = await simulate(tmp_path, plan)
    assert outcome.faults == []
    assert outcome.changes > 2
    assert outcome.builds >= 2 * 24
    assert set(outcome.longest_s) == {"full", "delta", "file"}
    assert max(outcome.longest_s.values()) <= 60
