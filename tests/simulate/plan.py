"""What a simulated year consists of: who is revoked when, and what came of it. Pure; the same seed, the same year."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

DAY_MS: Final = 86_400_000
DAY_S: Final = 86_400
#: Working hours, in seconds of the day; revocations come then.
OPEN_S: Final = 9 * 3600
CLOSE_S: Final = 18 * 3600
#: What one in so many does: a hold first; a certificate that was issued in the year itself.
HOLDS: Final = 0.12
NEW: Final = 0.3
#: How long a hold lasts at most, in days.
HOLD_DAYS: Final = 30
#: Certificates are good for two years, so that half of the stock ends, and is issued anew, in one.
LIFE_DAYS: Final = 730

CHANNELS: Final = ("ocsp", "full", "delta", "file", "directory", "directory crl")
Kind = Literal["revoked", "held", "released"]


@dataclass(slots=True)
class Plan:
    """How much is simulated. share: of the holders, revoked or held in a year. moments: a working day's transactions.

    earlier: of the holders, revoked in the year before. period: of CRLs where nothing changes, in seconds. directory:
    whether a real LDAP server is published to.
    """

    holders: int = 1_000_000
    days: int = 365
    share: float = 0.05
    earlier: float = 0.01
    moments: int = 12
    period: int = 4 * 3600
    directory: bool = True
    seed: int = 1

    @property
    def partition_day(self) -> int:
        """When a second partition is opened."""
        return self.days // 3

    @property
    def roll_day(self) -> int:
        """When a new authority, with a new key, takes over issuance."""
        return self.days * 2 // 3

    @property
    def issued_a_day(self) -> int:
        """Certificates that end, and as many that are issued, each day."""
        return round(self.holders * 2 / LIFE_DAYS)


@dataclass(slots=True, eq=False)
class Holder:
    """Two certificates whose status will change. `made`: the day of issue, None for the stock of the year before."""

    serials: tuple[int, int]
    ends_day: int
    made: int | None = None
    scopes: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class Moment:
    """One transaction, `at_s` seconds into the year."""

    at_s: float
    changes: list[tuple[Holder, Kind]] = field(default_factory=list)


@dataclass(slots=True)
class Timetable:
    """Everything that will happen. `issued`: by day, the holders among that day's new certificates."""

    holders: list[Holder]
    moments: list[Moment]
    issued: list[list[Holder]]

    def of_day(self, day: int) -> Iterator[Moment]:
        """That day's moments at which anything happens."""
        return (one for one in self.moments if day * DAY_S <= one.at_s < (day + 1) * DAY_S and one.changes)


def new_serial(chance: random.Random) -> int:
    """16 octets, as the service gives them."""
    return chance.getrandbits(126) | 1 << 126


def make_timetable(plan: Plan, chance: random.Random) -> Timetable:
    """Draws the year."""
    moments = [
        Moment(day * DAY_S + at_s)
        for day in range(plan.days)
        if day % 7 < 5
        for at_s in sorted(chance.uniform(OPEN_S, CLOSE_S) for _ in range(plan.moments))
    ]
    table = Timetable([], moments, [[] for _ in range(plan.days)])
    for _ in range(round(plan.holders * plan.share * plan.days / 365)):
        place = chance.randrange(len(moments))
        day = int(moments[place].at_s // DAY_S)
        holder = Holder((new_serial(chance), new_serial(chance)), 0)
        if day and chance.random() < NEW:
            holder.made = chance.randrange(day)
            holder.ends_day = holder.made + LIFE_DAYS
            table.issued[holder.made].append(holder)
        else:
            holder.ends_day = chance.randint(day + 2, LIFE_DAYS)
        table.holders.append(holder)
        if chance.random() >= HOLDS:
            moments[place].changes.append((holder, "revoked"))
            continue
        moments[place].changes.append((holder, "held"))
        until = moments[place].at_s + chance.uniform(0.1, min(HOLD_DAYS, plan.days / 4)) * DAY_S
        after = next((at for at in range(place + 1, len(moments)) if moments[at].at_s >= until), None)
        if after is not None and moments[after].at_s < holder.ends_day * DAY_S:
            moments[after].changes.append((holder, "released" if chance.random() < 0.5 else "revoked"))
    return table


@dataclass(slots=True)
class Outcome:
    """What came of it. delays_s: for each change of a certificate, by channel. faults: what was never to happen."""

    delays_s: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in CHANNELS})
    changes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("revoked", "held", "released"), 0))
    certificates: int = 0
    builds: int = 0
    entries: int = 0
    gone: int = 0
    faults: list[str] = field(default_factory=list)

    def longest_s(self) -> dict[str, float]:
        """The longest delay to each channel that was looked at."""
        return {name: max(delays) for name, delays in self.delays_s.items() if delays}

    def lines(self) -> Iterator[str]:
        """The delays as a table."""
        yield f"{'channel':14}{'changes':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}{'maximum':>10}  (seconds)"
        for name, delays in self.delays_s.items():
            if delays:
                ordered = sorted(delays)
                shown = (ordered[min(len(ordered) - 1, int(len(ordered) * p))] for p in (0.5, 0.9, 0.99, 0.999))
                marks = "".join(f"{one:9.3f}" for one in shown)
                yield f"{name:14}{len(ordered):9,}{marks}{ordered[-1]:10.3f}"
