"""When a key may be used: windows of the week in one time zone, such as `Mon-Fri 08:00-18:00 Asia/Shanghai`.

    hours   = window *( ";" window ) zone
    window  = days time "-" time
    days    = "daily" / day [ "-" day ] *( "," day [ "-" day ] )      ; Mon Tue Wed Thu Fri Sat Sun
    time    = HH ":" MM                                               ; 00:00 to 24:00
    zone    = "UTC" / ( "+" / "-" ) HH ":" MM / a name of the IANA time zone database

A window whose end is before its beginning lasts into the next day (`Fri 22:00-06:00`). The beginning is inside, the
end is outside. Where clocks are put forward or back, the time on the wall counts.

Knows text and times; not keys. No window is ever open by accident: what cannot be read is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from core.errors import Refused

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW: Final = re.compile(r"([a-z]{3,5}(?:[-,][a-z]{3})*) +(\d\d):(\d\d)-(\d\d):(\d\d)", re.IGNORECASE)
_OFFSET: Final = re.compile(r"([+-])(\d\d):(\d\d)")
_ZONE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}")
_DAY_MINUTES: Final = 24 * 60
_WEEK_MINUTES: Final = 7 * _DAY_MINUTES
_WINDOWS_MAX: Final = 16
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Hours:
    """Minutes of the week, from Monday 00:00 in `zone`, as half-open spans within 0 to 10080."""

    zone: tzinfo
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Raises Refused (code "key_limits") saying what cannot be read."""
        windows, _, zone_text = text.strip().rpartition(" ")
        parts = [part.strip() for part in windows.split(";")]
        if not 1 <= len(parts) <= _WINDOWS_MAX:
            raise _wrong(f"there are more than {_WINDOWS_MAX} windows")
        spans: list[tuple[int, int]] = []
        for part in parts:
            spans += _spans(part)
        return cls(_zone(zone_text), tuple(spans))

    def open_at(self, at_ms: int) -> bool:
        """Whether `at_ms` is within a window."""
        wall = datetime.fromtimestamp(at_ms / 1000, self.zone)
        minute = wall.weekday() * _DAY_MINUTES + wall.hour * 60 + wall.minute
        return any(begin <= minute < end for begin, end in self.spans)


class Gate:
    """`Hours` that remembers the answer for the current minute: it is asked for each use."""

    __slots__ = ("_hours", "_minute", "_open")

    def __init__(self, hours: Hours) -> None:
        self._hours = hours
        self._minute = -1
        self._open = False

    def open_at(self, at_ms: int) -> bool:
        """Whether `at_ms` is within a window. Zones differ from UTC by whole minutes."""
        minute = at_ms // _MINUTE_MS
        if minute != self._minute:
            self._minute, self._open = minute, self._hours.open_at(at_ms)
        return self._open


def _spans(window: str) -> list[tuple[int, int]]:
    match = _WINDOW.fullmatch(window)
    if match is None:
        raise _wrong(f"{window[:40]!r} is not of the form 'Mon-Fri 08:00-18:00'")
    begin = _minute(match[2], match[3])
    end = _minute(match[4], match[5])
    if begin in (end, _DAY_MINUTES):
        raise _wrong(f"{window[:40]!r} begins when it ends; a whole day is 00:00-24:00")
    if end < begin:
        end += _DAY_MINUTES
    found = []
    for day in _days(match[1].lower()):
        first, last = day * _DAY_MINUTES + begin, day * _DAY_MINUTES + end
        found.append((first, min(last, _WEEK_MINUTES)))
        if last > _WEEK_MINUTES:  # from Sunday into Monday
            found.append((0, last - _WEEK_MINUTES))
    return found


def _minute(hour: str, minute: str) -> int:
    found = int(hour) * 60 + int(minute)
    if int(minute) > 59 or found > _DAY_MINUTES:
        raise _wrong(f"{hour}:{minute} is not a time of day")
    return found


def _days(text: str) -> list[int]:
    if text == "daily":
        return list(range(7))
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise _wrong(f"{part!r} is not a day or a span of days; days are {' '.join(_DAYS)}")
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % 7 if dash else 0
        found += [(begin + step) % 7 for step in range(length + 1)]
    return sorted(set(found))


def _zone(text: str) -> tzinfo:
    if text == "UTC":
        return UTC
    match = _OFFSET.fullmatch(text)
    if match is not None:
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        if int(match[3]) > 59 or offset > timedelta(hours=14):
            raise _wrong(f"{text} is not an offset from UTC")
        return timezone(-offset if match[1] == "-" else offset)
    if _ZONE_NAME.fullmatch(text) is None:
        raise _wrong("a time zone is missing at the end: 'UTC', '+08:00' or a name like 'Asia/Shanghai'")
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise _wrong(f"time zone {text!r} is not known on this machine") from error


def _wrong(why: str) -> Refused:
    return Refused(f"hours: {why}", code="key_limits", field="hours")
