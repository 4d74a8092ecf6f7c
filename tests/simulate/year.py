"""A year of revocations, in minutes: the clock is set, everything else is the service itself.

python tests/simulate/year.py [--holders N] [--days D] [--share S] [--partitions P] [--step SECONDS]
So many holders, each with two certificates; a share of them revoked (both certificates), held or released in working
hours, spread over the year; certificates end and new ones come. The builder looks every `step` seconds of the set
clock, as it does every `crl.poll_s` of a real one. For each change the delay to each channel is taken: the full CRL,
the delta, the file. What is never allowed is checked all along: a number that does not rise, a CRL past its nextUpdate,
an entry lost. Prints the longest delay to each channel; exits 1 where one passes a day or a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog
from prometheus_client import CollectorRegistry

from core.model import CertificateState, RevocationReason, serial_to_bytes
from core.store import certificates, crls, listed
from core.store.database import Database, open_database
from core.store.follow import FeedFollower
from crl._entries import Entries
from crl.files import CrlFiles
from crl.metrics import CrlMetrics
from crl.service import CrlService, ScopeStatus
from crl.view import read_crl
from tests.crl_world import DAY_MS, NOON_MS, SetClock, World, make_world

DAY_S = 86_400
#: Working hours, in seconds of the day.
OPEN_S, CLOSE_S = 9 * 3600, 18 * 3600


@dataclass(slots=True)
class Plan:
    """What is simulated. `per_day`: holders whose status changes on a working day."""

    holders: int = 1_000_000
    days: int = 365
    share: float = 0.05
    partitions: int = 1
    step_s: float = 30.0

    @property
    def per_day(self) -> float:
        """Five working days in seven."""
        return self.holders * self.share * 7 / 5 / 365


@dataclass(slots=True)
class Outcome:
    """What came of it. `longest_s`: by channel; `faults`: what was never to happen."""

    longest_s: dict[str, float] = field(default_factory=dict)
    changes: int = 0
    builds: int = 0
    entries: int = 0
    faults: list[str] = field(default_factory=list)


def _fill(path: Path, plan: Plan, chance: random.Random) -> list[int]:
    """Only the certificates whose status will change, and as many again: the rest is in no CRL. Returns serials."""
    wanted = round(plan.holders * plan.share * plan.days / 365) * 2 + 100
    serials = [chance.getrandbits(126) | 1 << 126 for _ in range(wanted * 2)]
    names = (
        "id, authority_id, serial, usage, profile, subject, public_key, not_before_ms, not_after_ms, partition,"
        " status_month, status_index, certificate, issued_at_ms, state"
    )
    connection = sqlite3.connect(path)
    with connection:
        connection.executemany(
            f"INSERT INTO certificates ({names}) VALUES ({','.join('?' * 15)})",
            (
                (number, "issuing", serial_to_bytes(serial), "sign", "person", b"", b"", NOON_MS,
                 NOON_MS + chance.randint(20, 700) * DAY_MS, serial % plan.partitions, 1, number, b"", NOON_MS,
                 "good")
                for number, serial in enumerate(serials, 1)
            ),
        )  # fmt: skip
        connection.execute(
            "INSERT INTO certificate_serials SELECT id, authority_id, serial, status_month FROM certificates"
        )
    connection.close()
    chance.shuffle(serials)
    return serials


class Year:
    """One run."""

    def __init__(self, world: World, service: CrlService, files: CrlFiles, plan: Plan, chance: random.Random) -> None:
        self._world, self._service, self._files, self._plan = world, service, files, plan
        self._database: Database = world.database
        self._chance = chance
        assert isinstance(world.clock, SetClock)
        self._clock = world.clock
        self._held: list[int] = []
        self._numbers: dict[int, int] = {}
        self._pending: dict[str, list[int]] = {"full": [], "delta": [], "file": []}
        self.outcome = Outcome()

    async def run(self, serials: list[int]) -> Outcome:
        """Day after day."""
        for day in range(self._plan.days):
            start_ms = NOON_MS + day * DAY_MS
            events = self._events(day)
            for at_s in [*events, DAY_S - 1]:
                await self._until(start_ms + round(at_s * 1000))
                if at_s < DAY_S - 1 and len(serials) > 2:
                    await self._change(serials)
            await self._audit()
        await self._until(self._clock() + 600_000)
        for channel, left in self._pending.items():
            if left:
                self.outcome.faults.append(f"{len(left)} changes never reached the {channel}")
        return self.outcome

    def _events(self, day: int) -> list[float]:
        """When holders' statuses change on that day."""
        if day % 7 >= 5:
            return []
        count = int(self._plan.per_day) + (self._chance.random() < self._plan.per_day % 1)
        return sorted(self._chance.uniform(OPEN_S, CLOSE_S) for _ in range(count))

    async def _until(self, at_ms: int) -> None:
        """Lets the builder look at every step of the clock at which something is due, up to `at_ms`."""
        status = await self._service.status()
        while True:
            due_ms = min(scope.next_build_ms for scope in status)
            step_ms = round(self._plan.step_s * 1000)
            look_ms = -(-max(due_ms, self._clock()) // step_ms) * step_ms
            if look_ms > at_ms:
                break
            self._clock.now_ms = max(self._clock(), look_ms)
            self.outcome.builds += await self._service.build_due()
            await self._files.sync()
            status = await self._service.status()
            self._note(status)
        self._clock.now_ms = max(self._clock(), at_ms)

    async def _change(self, serials: list[int]) -> None:
        """A holder's two certificates: revoked mostly, held now and then; some holds end."""
        async with self._database.write() as connection:
            if self._held and self._chance.random() < 0.1:
                chosen = [self._held.pop(self._chance.randrange(len(self._held)))]
                for serial in chosen:
                    record = await certificates.find(connection, serial)
                    await certificates.release(connection, record, at_ms=self._clock())
            else:
                chosen = [serials.pop(), serials.pop()]
                hold = self._chance.random() < 0.15
                reason = RevocationReason.CERTIFICATE_HOLD if hold else RevocationReason.SUPERSEDED
                for serial in chosen:
                    record = await certificates.find(connection, serial)
                    assert record.state is CertificateState.GOOD
                    await certificates.revoke(connection, record, reason, at_ms=self._clock())
                self._held += chosen if hold else []
        self.outcome.changes += len(chosen)
        for channel in self._pending:
            self._pending[channel].append(self._clock())

    def _note(self, status: list[ScopeStatus]) -> None:
        """Takes the delay of what the channels show by now, all at the one moment of the set clock."""
        shown = all(not scope.waiting for scope in status)
        for channel, waiting in self._pending.items():
            if shown and waiting:
                longest = (self._clock() - min(waiting)) / 1000
                self.outcome.longest_s[channel] = max(self.outcome.longest_s.get(channel, 0.0), longest)
                waiting.clear()
            if channel == "delta" and any(scope.delta_number != scope.number for scope in status if scope.number != 1):
                self.outcome.faults.append("a full CRL without its delta")
        for scope in status:
            number = scope.number or 0
            if number < self._numbers.get(scope.partition, 0):
                self.outcome.faults.append(f"number {number} of partition {scope.partition} went back")
            self._numbers[scope.partition] = number
            if scope.seconds_left is not None and scope.seconds_left < 0:
                self.outcome.faults.append(f"partition {scope.partition} was past its nextUpdate")

    async def _audit(self) -> None:
        """At a day's end the newest CRLs list exactly what the store has, read by neither builder nor check."""
        self.outcome.entries = 0
        for partition in range(self._plan.partitions):
            async with self._database.read() as connection:
                record = await crls.latest(connection, "issuing", partition)
                assert record is not None
                entries = Entries()
                await listed.load(connection, "issuing", partition, entries, expired_after_ms=record.this_update_ms)
            self.outcome.entries += record.entries
            unlisted = len(entries) - len(read_crl(record.crl, second_max_bytes=0).entries)
            if unlisted > 0:
                self.outcome.faults.append(f"partition {partition} lacks {unlisted} of {len(entries)}")


async def simulate(directory: Path, plan: Plan, seed: int = 1) -> Outcome:
    """The whole run in `directory`."""
    chance = random.Random(seed)
    async with make_world(directory) as made:
        await made.add_authority(partitions=plan.partitions)
        signer, certificate = made.signer, made.certificate
    serials = _fill(directory / "store.sqlite3", plan, chance)
    database = await open_database(f"sqlite+aiosqlite:///{directory / 'store.sqlite3'}")
    follower = await FeedFollower.start(database)
    world = World(database, follower, SetClock())
    world.signer, world.certificate = signer, certificate
    metrics = CrlMetrics.make(CollectorRegistry())
    files = CrlFiles(database, follower, directory / "www", world.clock, metrics)
    try:
        service = world.service(second_parser_max_bytes=0, keep=24)
        return await Year(world, service, files, plan, chance).run(serials)
    finally:
        follower.close()
        await database.close()


def main() -> None:
    """See the module."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = Plan()
    parser.add_argument("--holders", type=int, default=plan.holders)
    parser.add_argument("--days", type=int, default=plan.days)
    parser.add_argument("--share", type=float, default=plan.share)
    parser.add_argument("--partitions", type=int, default=plan.partitions)
    parser.add_argument("--step", dest="step_s", type=float, default=plan.step_s)
    parser.add_argument("--directory", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    options = vars(parser.parse_args())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.pop("directory")) as directory:
        outcome = asyncio.run(simulate(Path(directory), Plan(**options)))
    minutes = (time.perf_counter() - began) / 60
    print(f"{options['days']} days of {options['holders']:,} holders in {minutes:.1f} minutes:")
    print(f"{outcome.changes:,} changes, {outcome.builds:,} CRLs, {outcome.entries:,} entries at the end")
    for channel, seconds in outcome.longest_s.items():
        print(f"longest delay to the {channel:5}: {seconds:7.1f} s")
    for fault in outcome.faults[:20]:
        print(f"FAULT: {fault}")
    if outcome.faults or max(outcome.longest_s.values()) > DAY_S:
        sys.exit(1)


if __name__ == "__main__":
    main()
