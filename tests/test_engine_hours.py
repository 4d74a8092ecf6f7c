"""Hours in which a key may be used: what is written, what it means, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from core.clock import from_datetime
from core.errors import Refused
from signer.engine.hours import Gate, Hours

CHINA = timezone(timedelta(hours=8))


def at(text: str, zone: timezone = CHINA) -> int:
    return from_datetime(datetime.fromisoformat(text).replace(tzinfo=zone))


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "+08:00"])
def test_office_hours(zone: str) -> None:
    hours = Hours.parse(f"Mon-Fri 08:00-18:00 {zone}")
    assert [hours.open_at(at(f"2026-11-20 {time}")) for time in ("07:59:59", "08:00", "17:59:59", "18:00")] == [
        False,
        True,
        True,
        False,
    ]
    assert not hours.open_at(at("2026-11-21 12:00")), "a Saturday"
    assert hours.open_at(at("2026-11-20 00:30", UTC)), "half past eight there"


@pytest.mark.parametrize(
    ("text", "open_at", "closed_at"),
    [
        ("Fri 22:00-06:00 +08:00", ["2026-11-20 22:00", "2026-11-21 05:59"], ["2026-11-20 05:00", "2026-11-21 22:00"]),
        ("Sun 23:00-01:00 +08:00", ["2026-11-22 23:30", "2026-11-23 00:30"], ["2026-11-22 00:30", "2026-11-23 01:00"]),
        ("Sat-Mon 00:00-24:00 +08:00", ["2026-11-21 00:00", "2026-11-23 23:59"], ["2026-11-24 00:00"]),
        (
            "mon,WED 09:00-10:00; daily 12:00-13:00 +08:00",
            ["2026-11-18 09:30", "2026-11-20 12:00"],
            ["2026-11-17 09:30"],
        ),
    ],
)
def test_windows(text: str, open_at: list[str], closed_at: list[str]) -> None:
    hours = Hours.parse(text)
    assert all(hours.open_at(at(time)) for time in open_at)
    assert not any(hours.open_at(at(time)) for time in closed_at)


def test_the_wall_clock_counts_where_clocks_are_changed() -> None:
    hours = Hours.parse("daily 08:00-09:00 Europe/Berlin")
    assert hours.open_at(at("2026-01-15 07:30", UTC))
    assert hours.open_at(at("2026-07-15 06:30", UTC))
    assert not hours.open_at(at("2026-07-15 07:30", UTC))


def test_a_gate_answers_as_its_hours_do() -> None:
    hours = Hours.parse("Mon-Fri 08:00-18:00 Asia/Shanghai")
    gate = Gate(hours)
    start = at("2026-11-20 17:58:30")
    moments = [start + step * 15_000 for step in range(20)]
    assert [gate.open_at(moment) for moment in moments] == [hours.open_at(moment) for moment in moments]


@pytest.mark.parametrize(
    "text",
    [
        "", "Mon", "Mon 08:00-18:00", "Mon 8:00-18:00 UTC", "Mon 08:00-24:01 UTC", "Mon 08:60-09:00 UTC",
        "Moo 08:00-18:00 UTC", "Mon- 08:00-18:00 UTC", "Mon 08:00-08:00 UTC", "Mon 24:00-08:00 UTC",
        "Mon 08:00-18:00 Mars/Base", "Mon 08:00-18:00 ../../etc/passwd", "Mon 08:00-18:00 +24:00",
        "Mon 08:00-18:00; UTC", "; ".join(["Mon 08:00-18:00"] * 17) + " UTC",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        Hours.parse(text)
    assert (caught.value.code, caught.value.field) == ("key_limits", "hours")
