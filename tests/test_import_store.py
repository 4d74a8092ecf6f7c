"""Imports on both databases: what is checked, what becomes of each item, and that nothing is twice or milder."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.asn1.distribution import delta_crl_indicator
from core.clock import rfc3339
from core.errors import Refused
from core.model import CertificateState, RevocationReason
from core.store import counters, imports, restored
from signer.importing import adopt as adopting
from signer.importing.job import new_job
from status.directory import content
from tests.import_store_world import World, open_import_world
from tests.import_world import CRL_URL, DAY_MS, ENCRYPTS, OldAuthority, pem, pem_file
from tests.store_world import BACKENDS, NOW_MS

KEY = RevocationReason.KEY_COMPROMISE
HOLD = RevocationReason.CERTIFICATE_HOLD
THEN = NOW_MS - 30 * DAY_MS


@pytest.fixture(params=BACKENDS)
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with open_import_world(tmp_path, request.param) as world:
        yield world


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_each_certificate_is_checked(world: World) -> None:
    old, stranger = world.old, OldAuthority(NOW_MS)
    touched = bytearray(old.leaf(0x21))
    touched[-1] ^= 1
    more = {
        "good": old.leaf(0x20),
        "certificate_signature": bytes(touched),
        "certificate_issuer": OldAuthority(NOW_MS, key=stranger.key).leaf(0x23),
        "certificate_dates": old.leaf(0x24, begins_ms=NOW_MS, ends_ms=NOW_MS - DAY_MS),
        "certificate_not_yet_valid": old.leaf(0x25, begins_ms=NOW_MS + 3 * DAY_MS),
        "certificate": b"\x30\x03\x02\x01\x01",
        "serial_taken": old.leaf(0x20, name="另一家"),
    }
    path = pem_file(world.directory / "all.pem", more.values())
    path.write_bytes(b"text before\n" + path.read_bytes() + pem("PRIVATE KEY", b"not looked at") + b"-----BEGIN CERTIF")
    report = await world.certificates(path)
    said = [str(line.get("code", line["result"])) for line in report]
    assert said[:7] == ["accepted", *(name for name in more if name != "good")]
    assert [line["item"] for line in report] == list(range(len(report)))
    assert report[0]["where"] == "all.pem:2"
    assert await world.states(0x20, 0x21) == ["good", None]
    kept = await world.find(0x20)
    assert (kept.usage, kept.certificate, kept.issued_at_ms) == ("sign", more["good"], kept.not_before_ms)


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_der_folders_and_key_usage(world: World) -> None:
    folder = world.directory / "folder" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.der").write_bytes(world.old.leaf(0x31, usage=ENCRYPTS, url=None))
    (folder / "b.cer").write_bytes(world.old.leaf(0x32, usage=None))
    (folder / "notes.txt").write_text("not read")
    report = await world.certificates(world.directory / "folder")
    assert [line["result"] for line in report] == ["accepted", "accepted"]
    assert report[1]["warnings"] == ["no_key_usage"]
    first, second = await world.find(0x31), await world.find(0x32)
    assert (first.usage, first.partition, second.usage, second.partition) == ("encrypt", 0, "sign", 1)


async def test_a_table_says_more_than_the_certificate(world: World) -> None:
    path = world.directory / "table.csv"
    rows = [
        "certificate,serial,status,revoked_at,reason,region",
        f"{base64.b64encode(world.old.leaf(0x41)).decode()},41,good,,,湖北省",
        f"{base64.b64encode(world.old.leaf(0x42)).decode()},,revoked,{rfc3339(THEN)},keyCompromise,",
        f",43,revoked,{rfc3339(THEN)},1,",
        ",44,good,,,",
        f"{base64.b64encode(world.old.leaf(0x45)).decode()},46,good,,,",
        f",47,revoked,{rfc3339(THEN)},nonsense,",
        "x,48",
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    report = await world.certificates(path)
    assert [str(line.get("code", line["result"])) for line in report] == [
        *("accepted", "accepted", "accepted", "certificate_missing", "line", "line", "unreadable")
    ]
    assert await world.states(0x41, 0x42, 0x43, 0x44) == ["good", "revoked", "revoked", None]
    assert (await world.find(0x42)).revoked_at_ms == THEN
    assert (await world.find(0x42)).reason is KEY


async def test_a_pair_is_linked(world: World) -> None:
    leaves = [world.old.leaf(0x51), world.old.leaf(0x52, usage=ENCRYPTS), world.old.leaf(0x53, name="单个")]
    await world.certificates(pem_file(world.directory / "pairs.pem", leaves), pairs=True)
    first, second, alone = [await world.find(serial) for serial in (0x51, 0x52, 0x53)]
    assert (first.pair_id, second.pair_id, alone.pair_id) == (second.id, first.id, None)


async def test_crl_entries_count_whether_the_certificate_is_known_or_not(world: World) -> None:
    await world.certificates(pem_file(world.directory / "a.pem", [world.old.leaf(0x61), world.old.leaf(0x62)]))
    report = await world.crl(
        world.old.crl([(0x61, KEY, THEN), (0x62, HOLD, THEN), (0x63, RevocationReason.UNSPECIFIED, THEN)], number=700)
    )
    assert [line["result"] for line in report] == ["accepted"] * 3
    assert report[2]["warnings"] == ["certificate_unknown"]
    assert await world.states(0x61, 0x62, 0x63) == ["revoked", "held", "revoked"]
    unknown = await world.find(0x63)
    assert (unknown.certificate, unknown.partition) == (b"", 1), "listed where the authority's CRL always was"
    async with world.database.read() as connection:
        shown = await content.load(connection, [("certificate", f"old/{serial:x}") for serial in (0x61, 0x63)])
    assert [reference for reference, _ in shown] == [("certificate", "old/61")], (
        "a directory has no place for the other"
    )
    # The next one: what was on hold is revoked for good; what it does not list stays.
    await world.crl(world.old.crl([(0x62, KEY, THEN + DAY_MS), (0x63, HOLD, THEN)], number=701, url=CRL_URL))
    assert await world.states(0x61, 0x62, 0x63) == ["revoked", "revoked", "revoked"]
    async with world.database.read() as connection:
        floors = [await counters.current(connection, restored.crl_floor("old", partition)) for partition in (0, 1)]
    assert floors == [700, 701]


async def test_a_serial_known_as_revoked_gets_its_certificate_later(world: World) -> None:
    await world.crl(world.old.crl([(0x71, KEY, THEN), (0x72, HOLD, THEN)], number=9))
    with pytest.raises(Refused, match="not known here"):
        await world.release(0x72)
    before = await world.find(0x71)
    leaf = world.old.leaf(0x71, usage=ENCRYPTS)
    report = await world.certificates(pem_file(world.directory / "late.pem", [leaf, leaf, world.old.leaf(0x72)]))
    assert [line["result"] for line in report] == ["accepted", "known", "accepted"]
    after = await world.find(0x71)
    assert (after.id, after.certificate, after.usage, after.partition) == (before.id, leaf, "encrypt", 1)
    assert (after.state, after.revoked_at_ms) == (CertificateState.REVOKED, THEN)
    assert after.not_after_ms < before.not_after_ms
    await world.release(0x72)
    assert await world.states(0x72) == ["good"]


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_a_crl_that_cannot_be_relied_on_is_refused(world: World) -> None:
    old = world.old
    touched = bytearray(old.crl([(5, KEY, THEN)], number=1))
    touched[-1] ^= 1
    for made, code in (
        (bytes(touched), "signature"),
        (OldAuthority(NOW_MS).crl([], number=1), "signature"),
        (old.crl([], number=1, ended=True), "crl_ended"),
        (old.crl([], number=3, more=(delta_crl_indicator(2),)), "crl_delta"),
        (b"\x30\x00", "crl"),
    ):
        with pytest.raises(Refused) as refused:
            await world.crl(made)
        assert refused.value.code == code
    assert await world.crl(old.crl([(5, KEY, THEN)], number=1, ended=True), allow_ended=True)


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_once_more_changes_nothing_and_finishing_needs_everything(world: World) -> None:
    path = pem_file(world.directory / "many.pem", [world.old.leaf(serial) for serial in range(0x100, 0x110)])
    first = await world.certificates(path)
    assert await world.certificates(path) == first, "the same input is the same import, and done"
    other = pem_file(world.directory / "other.pem", [world.old.leaf(0x100, name="x"), world.old.leaf(0x110)])
    assert [line["result"] for line in await world.certificates(other)] == ["refused", "accepted"]

    async def finish(**options: bool) -> int:
        return await adopting.finish(world.database, "old", lambda: NOW_MS, "test", **options)

    with pytest.raises(Refused, match="no CRL"):
        await finish()
    async with world.database.write() as connection:
        await imports.begin(connection, new_job("old", "crl", b"interrupted", "test", NOW_MS))
    with pytest.raises(Refused, match="has not ended"):
        await finish(without_crl=True)
