"""A year of revocations, in an hour: the clock jumps to what is due next, everything else is the service itself.

python tests/simulate/year.py [--holders N] [--days D] [--share S] [--moments M] [--no-directory] [--directory DIR] …
So many holders with two certificates each; a share of them is revoked (both certificates) in the year, in M
transactions a working day, some by way of a hold, some of these resumed. Day by day the certificates of two years ago
end and new ones are issued; after a third of the year a second partition is opened, after two thirds an authority with
a new key takes over. Store, builder, check, publication, files, OCSP responder, outbox and publisher are the service's
own, and the LDAP server is a real one (slapd). The clock runs as the machine's does while they work, and
jumps where nothing is due. For each change of each certificate the delay to each channel is taken, from the commit to
what the channel then hands out. What may never happen is looked for all along: a number that goes back, a CRL past its
nextUpdate, a change that does not show, an entry lost. Prints the delays; exits 1 where one passes a day or a check
fails. Needs some 3 GB in DIR (/dev/shm where there is one) for a million
holders.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import resource
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog

from core.audit import AuditEvent
from core.model import RevocationReason, serial_to_hex
from core.store import audit, certificates, crl_points, outbox
from core.store.certificates import NewCertificate
from crl.view import read_crl
from status.directory.check import Checker
from tests.crl_world import PUBLIC_URL
from tests.simulate.channels import Change, Channels
from tests.simulate.plan import DAY_MS, DAY_S, LIFE_DAYS, Moment, Outcome, Plan, Timetable, make_timetable
from tests.simulate.plan import new_serial as random_serial
from tests.simulate.scene import Scene, open_scene
from tests.simulate.stock import ISSUING, USAGES, issue, new_row

SUCCESSOR = "issuing-2"
_AT_ONCE = 2_000
#: How long the certificate of an entry may have ended, in a CRL.
_GONE_AFTER_MS = 3 * 3_600_000
_PATIENCE_MS = 3_600_000

#: Called after each day with its number (-1: all is there to begin) and what came of the year so far.
_Progress = Callable[[int, Outcome], None]


def _quiet(_day: int, _so_far: Outcome) -> None:
    """No progress shown."""


class Year:
    """One run."""

    def __init__(self, scene: Scene, plan: Plan, table: Timetable, store: Path) -> None:
        self._scene, self._plan, self._table, self._store = scene, plan, table, store
        self._chance = random.Random(plan.seed + 2)
        self._issuer = ISSUING
        self._index = plan.holders * 2
        self.outcome = Outcome(certificates=plan.holders * 2)
        self._channels = Channels(scene, self.outcome)

    async def run(self, progress: _Progress) -> Outcome:
        """Day after day; `progress` is told of each that is over."""
        await self._advance(self._scene.begin_ms)
        for day in range(self._plan.days):
            start_ms = self._scene.begin_ms + day * DAY_MS
            await self._advance(start_ms)
            if day == self._plan.partition_day:
                await self._open_partition()
            if day == self._plan.roll_day:
                await self._scene.add_authority(SUCCESSOR)
                self._issuer = SUCCESSOR
                await self._issue(day, anchors=[(SUCCESSOR, 0)])
            await self._issue(day)
            for moment in self._table.of_day(day):
                await self._advance(self._scene.begin_ms + round(moment.at_s * 1000))
                await self._play(moment)
            await self._advance(start_ms + DAY_MS - 1)
            if day % 7 == 6 or day == self._plan.days - 1:
                await asyncio.to_thread(self._audit, await self._served())
            progress(day, self.outcome)
        await self._end()
        return self.outcome

    async def _advance(self, to_ms: float) -> None:
        """Lets the builder look whenever something is due, as late as its rhythm has it, up to `to_ms`."""
        scene = self._scene
        while True:
            due_ms = await scene.crl.next_due_ms()
            if due_ms is None or due_ms > max(to_ms, scene.clock()):
                break
            scene.clock.jump(due_ms + self._chance.uniform(0, scene.crl.settings.poll_s) * 1000)
            self._channels.ended()
            built = await scene.crl.build_due()
            if built:
                self.outcome.builds += built
                await scene.files.sync()
                await self._channels.crls()
        scene.clock.jump(to_ms)

    async def _play(self, moment: Moment) -> None:
        """One transaction, and what every channel says after it."""
        scene = self._scene
        first, kind = moment.changes[0]
        if kind != "released":
            await self._channels.ask(first.scopes[0][0], [first.serials[0]])  # an answer is kept that must not be given
        changes = await self._commit(moment)
        async with scene.database.read() as connection:
            head = await outbox.head(connection)
        await self._channels.ocsp(changes)
        self._channels.pending += changes
        until_ms = scene.clock() + _PATIENCE_MS
        while self._channels.pending and scene.clock() < until_ms:
            due_ms = await scene.crl.next_due_ms()
            await self._advance(until_ms if due_ms is None else due_ms)
        if self._channels.pending:
            self._channels.fault(f"{len(self._channels.pending)} changes are on no CRL after an hour")
        async with scene.database.read() as connection:
            crl_head = await outbox.head(connection)
        await self._channels.directory(changes, head, crl_head)

    async def _commit(self, moment: Moment) -> list[Change]:
        """As the service does it: status, feed, outbox and record in one transaction."""
        done = []
        at_ms = self._scene.clock()
        async with self._scene.database.write() as connection:
            for holder, kind in moment.changes:
                reason = RevocationReason.CERTIFICATE_HOLD if kind == "held" else self._reason()
                for serial, scope in zip(holder.serials, holder.scopes, strict=True):
                    record = await certificates.find(connection, serial, scope[0])
                    if kind == "released":
                        await certificates.release(connection, record, at_ms=at_ms)
                    else:
                        await certificates.revoke(connection, record, reason, at_ms=at_ms)
                    reference = f"{scope[0]}/{serial_to_hex(serial)}"
                    await outbox.put(connection, "certificate", reference, at_ms=at_ms)
                    event = AuditEvent("year", f"certificate.{kind}", reference)
                    await audit.append(connection, event, at_ms=at_ms)
                    self.outcome.changes[kind] += 1
                    done.append(Change(scope, serial, kind, at_ms))
        return done

    def _reason(self) -> RevocationReason:
        known = (RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE, RevocationReason.UNSPECIFIED)
        return self._chance.choice(known)

    async def _open_partition(self) -> None:
        """From now on certificates of the first authority go to two partitions."""
        async with self._scene.database.write() as connection:
            await crl_points.open_first(connection, ISSUING, 2, PUBLIC_URL, at_ms=self._scene.clock())
        self._scene.scopes.append((ISSUING, 1))
        await self._issue(self._plan.partition_day, anchors=[(ISSUING, 1)])

    async def _issue(self, day: int, *, anchors: list[tuple[str, int]] | None = None) -> None:
        """The day's new certificates; or, for new partitions, a first one each, which shows what their IDP must be."""
        ends_ms = self._scene.begin_ms + (day + LIFE_DAYS) * DAY_MS
        rows = [self._row(scope, random_serial(self._chance), "sign", ends_ms) for scope in anchors or ()]
        if anchors is None:
            scopes = [scope for scope in self._scene.scopes if scope[0] == self._issuer]
            for holder in self._table.issued[day]:
                holder.scopes = [scopes[serial % len(scopes)] for serial in holder.serials]
                for serial, scope, usage in zip(holder.serials, holder.scopes, USAGES, strict=True):
                    rows.append(self._row(scope, serial, usage, ends_ms))
            serials = [random_serial(self._chance) for _ in range(len(rows), self._plan.issued_a_day)]
            others = [(*scopes[serial % len(scopes)], serial, ends_ms) for serial in serials]
            await asyncio.to_thread(issue, self._store, others, self._scene.clock(), self._index)
            self._index += len(others)
            self.outcome.certificates += len(others)
        await self._record(rows)

    async def _record(self, rows: list[NewCertificate]) -> None:
        """As issuance in bulk does."""
        at_ms = self._scene.clock()
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            async with self._scene.database.write() as connection:
                await certificates.load(connection, some, at_ms=at_ms)
                for row in some:
                    reference = f"{row.authority_id}/{serial_to_hex(row.serial)}"
                    await outbox.put(connection, "certificate", reference, at_ms=at_ms)
        self.outcome.certificates += len(rows)

    def _row(self, scope: tuple[str, int], serial: int, usage: str, ends_ms: int) -> NewCertificate:
        url = f"{PUBLIC_URL}/crl/{scope[0]}/{scope[1]}.crl"
        made = self._scene.branches[scope[0]].maker.make(serial, url, ends_ms - LIFE_DAYS * DAY_MS, ends_ms)
        self._index += 1
        return new_row(scope[0], serial, usage, scope[1], ends_ms, self._index, made)

    async def _served(self) -> dict[tuple[str, int], bytes]:
        return {scope: (await self._scene.crl.published.current(scope)).body for scope in self._scene.scopes}

    def _audit(self, served: dict[tuple[str, int], bytes]) -> None:
        """The newest CRLs list exactly what the store has, asked by neither builder's nor check's queries."""
        self.outcome.entries = 0
        connection = sqlite3.connect(f"file:{self._store}?mode=ro", uri=True)
        for (authority_id, partition), crl in served.items():
            view = read_crl(crl, second_max_bytes=0)
            self.outcome.entries += len(view.entries)
            rows = connection.execute(
                "SELECT serial, not_after_ms FROM certificates WHERE authority_id = ? AND partition = ?"
                " AND revoked_at_ms IS NOT NULL",
                (authority_id, partition),
            ).fetchall()
            here = [int.from_bytes(serial, "big") for serial, end_ms in rows if end_ms >= view.this_update_ms]
            lost = sum(view.entries.find(serial) is None for serial in here)
            if lost:
                self._channels.fault(f"{authority_id}/{partition} lacks {lost} of {len(here)}")
            most = sum(end_ms >= view.this_update_ms - _GONE_AFTER_MS for _, end_ms in rows)
            if len(view.entries) > most:
                self._channels.fault(f"{authority_id}/{partition} has {len(view.entries)} entries in place of {most}")
            self.outcome.gone += len(rows) - len(view.entries) if self._last(view.this_update_ms) else 0
        connection.close()

    def _last(self, at_ms: int) -> bool:
        return at_ms >= self._scene.begin_ms + (self._plan.days - 1) * DAY_MS

    async def _end(self) -> None:
        """The builds that failed, and the directory as a whole."""
        for outcome in ("superseded", "unavailable", "refused", "internal", "conflict"):
            failed = self._scene.registry.get_sample_value("qianyan_crl_builds_total", {"outcome": outcome})
            if failed:
                self._channels.fault(f"{failed:.0f} builds were {outcome}")
        if self._scene.publication is not None and self._scene.target is not None:
            async with self._scene.database.read() as connection:
                head = await outbox.head(connection)
            await self._channels.directory([], head, head)
            report = await Checker(self._scene.publication, self._scene.target, repair=False).run()
            if not report.good:
                self._channels.fault(f"the directory differs from the store: {report.examples[:5]}")


async def simulate(directory: Path, plan: Plan, progress: _Progress = _quiet) -> Outcome:
    """The whole run in `directory`."""
    table = make_timetable(plan, random.Random(plan.seed))
    async with open_scene(directory, plan, table) as scene:
        year = Year(scene, plan, table, directory / "store.sqlite3")
        progress(-1, year.outcome)
        return await year.run(progress)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for one in fields(Plan):
        if one.name != "directory":
            parser.add_argument(f"--{one.name}", type=type(one.default), default=one.default)
    parser.add_argument("--no-directory", action="store_true", help="without an LDAP server")
    parser.add_argument("--directory", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    return parser.parse_args()


def main() -> None:
    """See the module."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which takes slapd and the directory along
    options = vars(_options())
    place = options.pop("directory")
    plan = Plan(directory=not options.pop("no_directory"), **options)
    began = time.perf_counter()

    def progress(day: int, so_far: Outcome) -> None:
        if (day + 1) % max(1, plan.days // 50) == 0:
            minutes = (time.perf_counter() - began) / 60
            done = f"{sum(so_far.changes.values()):,} changes, {so_far.builds:,} CRLs, {len(so_far.faults)} faults"
            print(f"day {day + 1:4} of {plan.days}  {minutes:6.1f} min  {done}", file=sys.stderr)

    with tempfile.TemporaryDirectory(dir=place) as directory:
        outcome = asyncio.run(simulate(Path(directory), plan, progress))
    minutes = (time.perf_counter() - began) / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{plan.days} days of {plan.holders:,} holders in {minutes:.1f} minutes, {peak:,} MiB at most:")
    said = ", ".join(f"{count:,} {kind}" for kind, count in outcome.changes.items())
    print(f"{outcome.certificates:,} certificates: {said}; {outcome.builds:,} CRLs, each with its delta")
    print(f"{outcome.entries:,} entries at the end, {outcome.gone:,} had left with their certificates' end")
    print(*outcome.lines(), sep="\n")
    for fault in outcome.faults[:20]:
        print(f"FAULT: {fault}")
    if outcome.faults or max(outcome.longest_s().values()) > DAY_S:
        sys.exit(1)


if __name__ == "__main__":
    main()
