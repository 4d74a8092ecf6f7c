"""What other systems hand over badly: nothing revoked is ever called good for it, and nothing of it stops an import."""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from core import oids
from core.asn1 import der
from core.asn1.distribution import delta_crl_indicator
from core.asn1.x509 import Extension, split_signed
from core.clock import rfc3339
from core.errors import Malformed, Refused, SettingsError
from core.model import RevocationReason
from core.store import counters, restored
from core.store.database import Database
from signer.importing import adopt as adopting
from signer.importing import crl as crl_import
from signer.importing import sources
from signer.importing.certificates import Placing
from signer.importing.crl import CrlTaker
from signer.importing.job import Importer, Outcome, new_job
from tests.import_store_world import World, open_import_world
from tests.import_world import CRL_URL, DAY_MS, OldAuthority, pem, pem_file
from tests.store_world import BACKENDS, NOW_MS

KEY = RevocationReason.KEY_COMPROMISE
HOLD = RevocationReason.CERTIFICATE_HOLD
PLAIN = RevocationReason.UNSPECIFIED
THEN = NOW_MS - 30 * DAY_MS
HOUR_MS = 3_600_000
OTHER_URL = "http://crl.old.example.cn/other.crl"


@pytest.fixture(params=BACKENDS)
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with open_import_world(tmp_path, request.param) as world:
        yield world


on_sqlite = pytest.mark.parametrize("world", ["sqlite"], indirect=True)


def results(report: list[dict[str, object]]) -> list[str]:
    return [str(line.get("code", line["result"])) for line in report]


# ---- revocations


async def test_what_a_newer_crl_lacks_stays_revoked_and_is_told(world: World) -> None:
    """Revoked and lost, on hold and released or lost, expired, not known, of authorities, and revoked since."""
    old = world.old
    expired = old.leaf(0x14, ends_ms=NOW_MS - DAY_MS)
    leaves = [old.leaf(0x11), old.leaf(0x12), old.leaf(0x13), expired, old.leaf(0x15)]
    await world.certificates(pem_file(world.directory / "a.pem", leaves))
    listed = [(0x11, KEY, THEN), (0x12, HOLD, THEN), (0x13, KEY, THEN), (0x14, KEY, THEN), (0x16, KEY, THEN)]
    first = old.crl(listed, number=5, this_ms=NOW_MS - 2 * HOUR_MS)
    assert results(await world.crl(first)) == ["accepted"] * 5
    newer = old.crl([(0x13, KEY, THEN), (0x15, KEY, THEN)], number=6, this_ms=NOW_MS - HOUR_MS)
    report = await world.crl(newer)
    assert results(report) == ["known", "accepted", "unlisted", "unlisted", "unlisted"]
    assert {line["serial"]: line["status"] for line in report[2:]} == {"11": "revoked", "12": "held", "16": "undated"}
    assert await world.states(0x11, 0x12, 0x13, 0x14, 0x15, 0x16) == [
        *("revoked", "held", "revoked", "revoked", "revoked", "revoked")
    ]


@on_sqlite
async def test_only_what_a_list_is_of_can_be_missing_on_it(world: World) -> None:
    old = world.old
    await world.certificates(pem_file(world.directory / "a.pem", [old.leaf(1), old.leaf(2, url=OTHER_URL)]))
    await world.crl(old.crl([(1, KEY, THEN), (2, KEY, THEN)], number=5, this_ms=NOW_MS - 2 * HOUR_MS))
    report = await world.crl(old.crl([], number=6, url=OTHER_URL, this_ms=NOW_MS - HOUR_MS))
    assert [line["serial"] for line in report] == ["02"]
    point = der.tlv(der.context(0), der.tlv(der.context(1), _attribute(b"\x06\x03\x55\x04\x03", 0x0C, b"1")[2:]))
    relative = Extension(oids.ISSUING_DISTRIBUTION_POINT, True, der.sequence(point))
    assert await world.crl(old.crl([], number=7, more=(relative,))) == [], "which partition that is is not known"


@on_sqlite
async def test_an_older_crl_brings_no_hold_back(world: World) -> None:
    old = world.old
    await world.certificates(pem_file(world.directory / "a.pem", [old.leaf(1)]))
    older = old.crl([(1, HOLD, THEN)], number=5, this_ms=NOW_MS - 2 * HOUR_MS)
    await world.crl(old.crl([], number=6, this_ms=NOW_MS - HOUR_MS))
    with pytest.raises(Refused, match="newer one") as refused:
        await world.crl(older)
    assert refused.value.code == "crl_older"
    assert await world.states(1) == ["good"]
    await world.crl(older, allow_older=True)
    assert await world.states(1) == ["held"]
    async with world.database.read() as connection:
        assert await counters.current(connection, restored.crl_floor("old", 1)) == 6


@on_sqlite
async def test_entries_that_say_odd_things_are_revocations_all_the_same(world: World) -> None:
    old = world.old
    unknown = Extension("1.2.3.4", True, b"\x05\x00")
    of_deltas = Extension(oids.CRL_REASON, False, der.enumerated(8))
    unused = Extension(oids.CRL_REASON, False, der.enumerated(7))
    twice = Extension(oids.CRL_REASON, False, der.enumerated(6))
    huge = 1 << 167
    entries = [(n, PLAIN, THEN) for n in (1, 2, 3, 4)] + [(5, KEY, NOW_MS + DAY_MS), (0, KEY, THEN), (huge, KEY, THEN)]
    entries += [(6, HOLD, THEN), (6, KEY, THEN), (7, HOLD, THEN), (7, HOLD, THEN - DAY_MS)]
    said = {1: (unknown,), 2: (of_deltas,), 3: (unused,), 4: (twice, twice)}
    report = await world.crl(old.crl(entries, number=5, said=said))
    by_serial = {str(line["serial"]): line for line in report}
    assert [line["result"] for line in report].count("refused") == 2
    assert by_serial["00"]["code"] == by_serial[f"{huge:x}"]["code"] == "crl_entry"
    assert await world.states(1, 2, 3, 4, 5, 6, 7) == [
        *("revoked", "held", "revoked", "revoked", "revoked", "revoked", "held")
    ]
    warned = {serial: set(line.get("warnings", ())) - {"certificate_unknown"} for serial, line in by_serial.items()}  # type: ignore[call-overload]
    assert warned["01"] == {"entry_extension"}
    assert warned["02"] == {"reason_of_deltas"}
    assert warned["03"] == warned["04"] == {"entry_unreadable"}
    assert warned["05"] == {"revoked_in_future"}
    assert (await world.find(5)).revoked_at_ms == NOW_MS, "now, not some day"
    assert (await world.find(7)).revoked_at_ms == THEN - DAY_MS
    with pytest.raises(Refused) as refused:
        await adopting.finish(world.database, "old", lambda: NOW_MS, "test")
    assert refused.value.code == "import_refused"
    await adopting.finish(world.database, "old", lambda: NOW_MS, "test", accept_refused=True)


@on_sqlite
async def test_lists_that_are_not_what_they_seem(world: World) -> None:
    old = world.old
    stranger = der.sequence(der.tlv(der.context(4), OldAuthority(NOW_MS).name))
    another = Extension("2.5.29.29", True, stranger)
    for made, code in (
        (old.crl([(1, KEY, THEN), (2, KEY, THEN)], number=3, said={2: (another,)}), "crl_scope"),
        (old.crl([], number=3, more=(Extension("1.2.3.4", True, b"\x05\x00"),)), "crl_extension"),
        (old.crl([], number=3, more=(delta_crl_indicator(2),)), "crl_delta"),
        (old.crl([], number=3, this_ms=NOW_MS + DAY_MS), "crl_future"),
        (old.crl([(1, KEY, THEN)], number=3)[:-20], "crl"),
    ):
        with pytest.raises(Refused) as refused:
            await world.crl(made)
        assert refused.value.code == code
    assert await world.states(1, 2) == [None, None]


@on_sqlite
async def test_each_address_needs_its_crl_before_it_is_finished(world: World) -> None:
    old = world.old

    async def finish(**options: bool) -> int:
        return await adopting.finish(world.database, "old", lambda: NOW_MS, "test", **options)

    gone = old.leaf(3, url="http://crl.old.example.cn/gone.crl", ends_ms=NOW_MS - DAY_MS)
    leaves = [old.leaf(1), old.leaf(2, url=OTHER_URL), gone]
    await world.certificates(pem_file(world.directory / "a.pem", leaves))
    await world.crl(old.crl([], number=5, url=CRL_URL))
    with pytest.raises(Refused, match=OTHER_URL):
        await finish()
    await world.crl(old.crl([(2, KEY, THEN)], number=50, url=OTHER_URL))
    assert await finish()
    async with world.database.read() as connection:
        floors = [await counters.current(connection, restored.crl_floor("old", partition)) for partition in (1, 2)]
    assert floors == [5, 50]


@on_sqlite
async def test_addresses_that_come_after_the_crl_go_on_above_its_number(world: World) -> None:
    await world.crl(world.old.crl([(9, KEY, THEN)], number=400))
    await world.certificates(pem_file(world.directory / "a.pem", [world.old.leaf(1), world.old.leaf(9)]))
    async with world.database.read() as connection:
        assert await counters.current(connection, restored.crl_floor("old", 1)) == 400
    await adopting.finish(world.database, "old", lambda: NOW_MS, "test")


class Died(Exception):
    """As a kill would: nothing behind it happens."""


class Dying(CrlTaker):
    """Dies when it has done so many steps; what it did is not committed yet."""

    lives = 0

    def _live(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            raise Died

    async def prepare(self, chunk: Any) -> Any:
        done = await super().prepare(chunk)
        self._live()
        return done

    async def write(self, connection: AsyncConnection, prepared: Any, at_ms: int) -> list[Outcome]:
        done = await super().write(connection, prepared, at_ms)
        self._live()
        return done

    async def conclude(self, database: Database) -> list[dict[str, Any]]:
        done = await super().conclude(database)
        self._live()
        return done


@on_sqlite
async def test_an_import_that_dies_at_each_step_ends_as_one_that_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signer.importing.job.CHUNK", 20)
    await world.certificates(pem_file(world.directory / "a.pem", [world.old.leaf(1)]))
    await world.crl(world.old.crl([(1, KEY, THEN)], number=1, this_ms=NOW_MS - HOUR_MS))
    count = 45
    path = world.directory / "large.crl"
    path.write_bytes(world.old.crl([(0x1000 + n, PLAIN, THEN) for n in range(count)], number=2))
    listed = crl_import.read(path.read_bytes(), world.issuer, NOW_MS)
    job, report, died = new_job("old", "crl", sources.digest_of([path]), "test", NOW_MS), world.directory / "r", 0
    report.write_text("somebody's")
    with pytest.raises(SettingsError, match="there already"):
        await Importer(world.database, lambda: NOW_MS, job, Dying(world.issuer, listed, Placing(), NOW_MS), report).run(
            listed.entries
        )
    report.unlink()
    while True:
        taker = Dying(world.issuer, listed, Placing(), NOW_MS)
        taker.lives = died % 4
        try:
            done = await Importer(world.database, lambda: NOW_MS, job, taker, report).run(listed.entries)
            break
        except Died:
            died += 1
            with pytest.raises(Refused) as refused:
                await adopting.finish(world.database, "old", lambda: NOW_MS, "test")
            assert refused.value.code == "import_running"
            if report.exists() and report.stat().st_size:
                with report.open("ab") as file:
                    file.write(b'{"half a line')
    assert died >= 3
    assert (done.position, done.accepted, done.known, done.refused) == (count, count, 0, 0)
    lines = [orjson.loads(line) for line in report.read_bytes().splitlines()]
    assert [line["item"] for line in lines[:-1]] == list(range(count))
    assert lines[-1] == {"result": "unlisted", "serial": "01", "status": "revoked"}
    assert set(await world.states(*range(0x1000, 0x1000 + count))) == {"revoked"}


# ---- certificates


async def test_a_serial_that_comes_twice_counts_as_the_strictest_says(world: World) -> None:
    def line(certificate: bytes, status: str) -> str:
        when = rfc3339(THEN) if status != "good" else ""
        return f"{base64.b64encode(certificate).decode()},{status},{when}"

    first, second = world.old.leaf(1), world.old.leaf(1, name="另一家")
    path = world.directory / "table.csv"
    rows = [
        *("certificate,status,revoked_at", line(first, "good"), line(first, "held"), line(first, "good")),
        *(line(second, "good"), line(second, "revoked"), line(first, "held")),
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    report = await world.certificates(path)
    assert results(report) == ["accepted", "accepted", "known", "serial_taken", "serial_taken", "known"]
    assert "warnings" not in report[3]
    assert report[4]["warnings"] == ["serial_revoked"]
    assert await world.states(1) == ["revoked"]
    assert (await world.find(1)).certificate == first
    path.write_text("\n".join([rows[0], line(second, "revoked"), line(first, "good")]), encoding="utf-8")
    assert results(await world.certificates(path)) == ["serial_taken", "known"]
    assert await world.states(1) == ["revoked"]


def _attribute(kind: bytes, tag: int, value: bytes) -> bytes:
    return der.tlv(0x31, der.sequence(kind, der.tlv(tag, value)))


async def test_names_and_dates_of_another_age(world: World) -> None:
    """T61String with octets of GBK, BMPString, none, what such strings cannot have; a date that never comes, and ones
    of long ago."""
    common, province = b"\x06\x03\x55\x04\x03", b"\x06\x03\x55\x04\x08"
    names = [
        der.sequence(_attribute(common, 0x14, "某企业".encode("gbk"))),
        der.sequence(_attribute(province, 0x1E, "广东省".encode("utf-16-be"))),
        der.sequence(),
        der.sequence(_attribute(common, 0x13, "某企业".encode("gbk"))),
        der.sequence(_attribute(common, 0x1E, b"\xd8\x00")),
    ]
    leaves = [world.old.leaf(0x10 + place, subject=name) for place, name in enumerate(names)]
    leaves.append(world.old.leaf(0x20, ends_ms=253_402_300_799_000))
    leaves.append(world.old.leaf(0x21, begins_ms=-600 * DAY_MS, ends_ms=300 * DAY_MS))
    leaves.append(world.old.leaf(0x22, begins_ms=-600 * DAY_MS, ends_ms=-300 * DAY_MS))
    report = await world.certificates(pem_file(world.directory / "names.pem", leaves))
    accepted, unread = ["accepted"], ["certificate"]
    assert results(report) == [*accepted * 3, *unread * 2, *accepted * 2, "certificate_dates"]
    assert report[5]["warnings"] == ["outlives_issuer"]
    assert report[6]["warnings"] == ["before_issuer"]
    for place in range(3):
        assert (await world.find(0x10 + place)).subject == names[place]
    await world.crl(world.old.crl([(0x10, KEY, THEN), (0x20, KEY, THEN)], number=1))
    assert await world.states(0x10, 0x11, 0x20) == ["revoked", "good", "revoked"]


@on_sqlite
@pytest.mark.filterwarnings("ignore:Parsed a:Warning")
async def test_serials_that_are_none(world: World) -> None:
    usual = world.old.leaf(0x7F)

    def with_serial(contents: bytes) -> bytes:
        tbs = der.Reader(split_signed(usual).tbs).enter(der.SEQUENCE)
        version, _, rest = tbs.take_tlv(), tbs.take_tlv(der.INTEGER), []
        while tbs:
            rest.append(tbs.take_tlv())
        return world.old.sign(der.sequence(version, der.tlv(der.INTEGER, contents), *rest))

    ones = b"\xff" * 20
    serials = [b"\x00", b"\xff", b"\x01" + bytes(20), b"\x00\x01" + ones, b"\x00" + ones, b"\x7f" + ones[1:]]
    path = pem_file(world.directory / "serials.pem", [with_serial(one) for one in serials])
    report = await world.certificates(path)
    assert results(report) == [*["certificate_serial"] * 3, "certificate", "accepted", "accepted"]


@on_sqlite
async def test_another_authority_of_the_same_name(world: World) -> None:
    double = OldAuthority(NOW_MS)
    assert double.name == world.old.name
    report = await world.certificates(pem_file(world.directory / "double.pem", [double.leaf(1)]))
    assert results(report) == ["certificate_issuer"], "the key identifier tells"
    with pytest.raises(Refused):
        await world.crl(double.crl([], number=1))


# ---- files


def test_memory_is_bounded_by_a_line(tmp_path: Path) -> None:
    """A line of 64 MiB: what is kept of it is less than a hundredth."""
    leaf = OldAuthority(NOW_MS).leaf(1)
    for name, head in (
        ("long.pem", pem("CERTIFICATE", leaf) + b"-----BEGIN CERTIFICATE-----\n"),
        ("long.der", b"\x30"),
    ):
        path = tmp_path / name
        path.write_bytes(head)
        with path.open("r+b") as file:
            file.truncate(64 << 20)
            file.seek(0, 2)
            file.write(b"\n" + pem("CERTIFICATE", leaf))
        tracemalloc.start()
        found = list(sources.items([path]))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 4 << 20
        faults = [item.fault for item in found]
        assert faults == ([None, "the block has no end", None] if name == "long.pem" else ["more than 65536 octets"])


def test_tables_that_are_cut_or_not_closed(tmp_path: Path) -> None:
    def read(content: bytes) -> list[str | None]:
        path = tmp_path / "table.csv"
        path.write_bytes(content)
        return [item.fault for item in sources.items([path])]

    head, good = b"serial,status,region\n", b"01,good,x\n"
    assert read(b"\xef\xbb\xbf" + head + good) == [None], "as spreadsheets save it"
    long_line = b"02,good," + b"x" * 3_000_000 + b"\n"
    assert [bool(fault) for fault in read(head + good + long_line + good)] == [False, True, False]
    region = "03,good,广东省\n"
    faults = read(head + region.encode() + region.encode("gbk") + good)
    assert [bool(fault) for fault in faults] == [False, True, False]
    assert "UTF-8" in str(faults[1])
    unclosed = head + good + b'04,"good,x\n' + good * 30_000 + good
    faults = read(unclosed)
    assert any("quotation mark" in str(fault) or "larger than" in str(fault) for fault in faults[1:3])
    assert faults[-1] is None, "it goes on behind it"
    assert [bool(fault) for fault in read(head + good + b"05,go")] == [False, True], "cut in the middle"
    for wrong in (b"serial,serial\n", b"colour\n", b"", "区域,serial\n".encode("gbk"), head[:-1] + b"," * 70_000):
        with pytest.raises(Malformed):
            read(wrong)


@on_sqlite
async def test_what_a_file_says_cannot_break_a_line_of_the_report(world: World) -> None:
    path = world.directory / '=cmd(){"a":1}\n.csv'
    path.write_text('serial,status,reason,revoked_at\n01,revoked,"=1+1\n""}{",2026-01-01\n', encoding="utf-8")
    await world.certificates(path)
    (report,) = world.directory.glob("*.jsonl")
    (line,) = report.read_bytes().splitlines()
    assert orjson.loads(line)["code"] == "line"
